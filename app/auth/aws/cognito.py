"""The user directory of an Amazon Cognito user pool. Used by `authenticator`; every login calls the pool.

A login ends only if Cognito's answer is about the user, never because of an outage or wrong settings.
Messages have Cognito's error, never the user's input.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from app.auth.users import CannotConfirm, Identity
from app.config import CognitoFlow, CognitoPool
from app.errors import AppError, AuthError, LoginRefused, RateLimited, ServiceUnavailable
from storage.types import UserId

__all__ = [
    "CODE_SEPARATOR", "CognitoDirectory", "CognitoFlow", "CognitoPool", "PoolMisconfigured", "WrongPassword",
]  # fmt: skip

CODE_SEPARATOR = "/"
"""The character between password and time-based code, as Anki has only two fields: `password/123456`."""

_WITH_CODE = re.compile(rf"(.+){re.escape(CODE_SEPARATOR)}(\d{{6}})", re.DOTALL)
_LOCKED_S = 60
_LONGEST_NAME, _LONGEST_PASSWORD = 128, 256

_USER_FAULTS = {
    "UserNotFoundException",  # a pool that does not hide who exists
    "UserNotConfirmedException",
    "PasswordResetRequiredException",
    "UserLambdaValidationException",
    "CodeMismatchException",
    "ExpiredCodeException",
}
"""Errors that are due to the user, or to a Lambda trigger that checks users."""

_ENDED = {"UserNotFoundException", "UserNotConfirmedException", "PasswordResetRequiredException"}
_ENDED_WORDS = re.compile(
    r"(refresh|access) token has (been revoked|expired)|invalid refresh token"
    r"|user is disabled|user does not exist"
)
"""Errors, and messages of NotAuthorizedException, that mean that a login has ended. The message is needed,
as the same exception is also raised for faults of the app client."""

_SETTINGS = {
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidParameterException",
    "InvalidSignatureException",
    "InvalidUserPoolConfigurationException",
    "MissingAuthenticationToken",
    "ResourceNotFoundException",
    "UnrecognizedClientException",
}
"""Errors that last until a setting is changed."""

_CHALLENGES = {
    "NEW_PASSWORD_REQUIRED": "the password is a temporary one: sign in to the user pool and choose your own",
    "SOFTWARE_TOKEN_MFA": f"a time-based code is needed: enter password{CODE_SEPARATOR}code as the password",
    "SELECT_MFA_TYPE": "the account has several kinds of codes: make the authenticator app the preferred one",
    "SMS_MFA": "Anki cannot ask for a code sent by SMS: use an authenticator app",
    "EMAIL_OTP": "Anki cannot ask for a code sent by e-mail: use an authenticator app",
    "MFA_SETUP": "the account has to set up a second factor first",
}


class WrongPassword(AuthError):
    """Cognito's answer is that name or password is wrong."""


class PoolMisconfigured(ServiceUnavailable):
    """Pool, app client, credentials or permissions are not as the server needs them."""


class _Proof(msgspec.Struct, frozen=True):
    """The proof of a login. Only the refresh token shows whether there was a global sign-out."""

    name: str
    refresh_token: str
    client_id: str = ""
    """The app client of the token; empty in old proofs."""


class _Claims(msgspec.Struct, frozen=True):
    sub: str
    name: str = msgspec.field(name="cognito:username")


class CognitoDirectory:
    """See `app.auth.users.UserDirectory`. `client`: a boto3 client "cognito-idp" with short timeouts.

    A login makes at most two attempts, as `password/123456` may be a password with a code, or a password
    of this form: see `_readings`.
    """

    verify_at_once = 16

    def __init__(
        self,
        client: Any,
        pool: CognitoPool,
        *,
        recheck_after_ms: int = 5 * 60 * 1000,
        outage_grace_ms: int = 60 * 60 * 1000,
    ) -> None:
        self._client, self._pool = client, pool
        self.recheck_after_ms, self.outage_grace_ms = recheck_after_ms, outage_grace_ms

    def verify(self, username: str, password: str) -> Identity:
        """See the port. Raises: LoginRefused if the password is right and Cognito needs more."""
        if not _is_sendable(username, password):
            raise WrongPassword("wrong user name or password")
        readings = self._readings(username, password)
        # Only a WrongPassword leads to the next reading; all other errors are final.
        for reading in readings[:-1]:
            with suppress(WrongPassword):
                return self._log_in(username, *reading)
        return self._log_in(username, *readings[-1])

    def knows(self, username: str) -> bool | None:
        """As the port says; None without the right to `AdminGetUser`."""
        try:
            self._ask("admin_get_user", UserPoolId=self._pool.pool_id, Username=username)
        except ClientError as exc:
            return False if exc.response["Error"]["Code"] == "UserNotFoundException" else None
        except PoolMisconfigured:  # without credentials, as USER_PASSWORD_AUTH allows
            return None
        return True

    def confirm(self, identity: Identity) -> Identity | None:
        """See the port: the refresh token must be valid, and the user enabled."""
        try:
            proof = msgspec.msgpack.decode(identity.proof, type=_Proof)
        except msgspec.MsgspecError:
            raise CannotConfirm("the login was made with another user directory (ANKISYNCD_AUTH)") from None
        client_id = self._pool.client_id
        if proof.client_id not in {"", client_id}:
            raise CannotConfirm("the login was made with another app client (COGNITO_CLIENT_ID)")
        parameters = {"REFRESH_TOKEN": proof.refresh_token}
        try:
            answer = self._initiate("REFRESH_TOKEN_AUTH", parameters, proof.name)
            self._ask("get_user", AccessToken=answer["AuthenticationResult"]["AccessToken"])
        except ClientError as exc:
            # moto's only sign of an invalid token is that its message contains it.
            is_named = proof.refresh_token in exc.response["Error"].get("Message", "")
            if is_named or _is_over(exc, client_is_known=bool(proof.client_id)):
                return None
            raise _outage_of(exc) from exc
        if proof.client_id == client_id:
            return identity
        renewed = msgspec.structs.replace(proof, client_id=client_id)
        return Identity(identity.user, msgspec.msgpack.encode(renewed))

    def check(self) -> str | None:
        """The fault of the settings, or None. Found by a login with random values, which must fail.

        Raises: ServiceUnavailable if the pool does not answer.
        """
        try:
            self._log_in(f"ankisyncd-{secrets.token_hex(8)}", secrets.token_urlsafe(24), None)
        except (AuthError, RateLimited):
            return None
        except PoolMisconfigured as exc:
            return str(exc)
        return "Cognito accepted a password made up at random"

    def _readings(self, username: str, password: str) -> list[tuple[str, str | None]]:
        """The possible (password, code) of an input, in the order in which they are tried.

        If the input ends like a code, the user's settings decide, since each wrong attempt counts for
        Cognito's own lock. Without the permission to read these, it is first tried as a password.
        """
        with_code = _WITH_CODE.fullmatch(password)
        if with_code is None:
            return [(password, None)]
        whole, split = (password, None), (with_code[1], with_code[2])
        if self._pool.flow is CognitoFlow.USER:
            return [whole, split]
        try:
            found = self._ask("admin_get_user", UserPoolId=self._pool.pool_id, Username=username)
        except ClientError as exc:
            code = exc.response["Error"]["Code"]
            return [whole] if code == "UserNotFoundException" else [whole, split]
        kinds = {*found.get("UserMFASettingList", ()), found.get("PreferredMfaSetting")}
        return [split] if "SOFTWARE_TOKEN_MFA" in kinds else [whole]

    def _log_in(self, username: str, password: str, code: str | None) -> Identity:
        parameters = {"USERNAME": username, "PASSWORD": password}
        try:
            answer = self._initiate(self._pool.flow.value, parameters, username)
        except ClientError as exc:
            raise _refusal_of(exc) from exc
        # The password is right, and Cognito asks for the code.
        if code is not None and answer.get("ChallengeName") == "SOFTWARE_TOKEN_MFA":
            answer = self._answer_with_code(answer, username, code)
        if "AuthenticationResult" not in answer:
            challenge = answer.get("ChallengeName", "unknown")
            reason = _CHALLENGES.get(challenge, "Anki cannot answer what the user pool asks")
            raise LoginRefused(f"{reason} ({challenge})")
        tokens = answer["AuthenticationResult"]
        claims = _claims_of(tokens["IdToken"])
        return Identity(
            UserId(claims.sub),
            msgspec.msgpack.encode(_Proof(claims.name, tokens["RefreshToken"], self._pool.client_id)),
        )

    def _initiate(self, flow: str, parameters: Mapping[str, str], name: str) -> dict[str, Any]:
        signed = {**parameters, **self._secret_hash(name)}
        client_id = self._pool.client_id
        if self._pool.flow is CognitoFlow.USER:
            return self._ask("initiate_auth", ClientId=client_id, AuthFlow=flow, AuthParameters=signed)
        return self._ask(
            "admin_initiate_auth",
            UserPoolId=self._pool.pool_id, ClientId=client_id, AuthFlow=flow, AuthParameters=signed,
        )  # fmt: skip

    def _answer_with_code(self, challenge: Mapping[str, Any], username: str, code: str) -> dict[str, Any]:
        name = challenge.get("ChallengeParameters", {}).get("USER_ID_FOR_SRP", username)
        responses = {"USERNAME": name, "SOFTWARE_TOKEN_MFA_CODE": code, **self._secret_hash(name)}
        common = {
            "ClientId": self._pool.client_id,
            "ChallengeName": "SOFTWARE_TOKEN_MFA",
            "Session": challenge["Session"],
            "ChallengeResponses": responses,
        }
        try:
            if self._pool.flow is CognitoFlow.USER:
                return self._ask("respond_to_auth_challenge", **common)
            return self._ask("admin_respond_to_auth_challenge", UserPoolId=self._pool.pool_id, **common)
        except ClientError as exc:
            error = _refusal_of(exc)
            if isinstance(error, WrongPassword):  # `verify` would try the other reading after a WrongPassword
                error = AuthError(f"the time-based code was refused: {error}")
            raise error from exc

    def _secret_hash(self, name: str) -> dict[str, str]:
        """The parameter SECRET_HASH, if the app client has a secret.

        Source: AWS, "Computing secret hash values": HMAC-SHA256 with the secret, of name + client id.
        """
        if self._pool.client_secret is None:
            return {}
        message = (name + self._pool.client_id).encode()
        digest = hmac.digest(self._pool.client_secret.encode(), message, hashlib.sha256)
        return {"SECRET_HASH": base64.b64encode(digest).decode()}

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call the SDK. Raises: ClientError, whose meaning depends on the operation; ServiceUnavailable."""
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except (HTTPClientError, NoConnectionError) as exc:
            raise ServiceUnavailable(f"Cognito does not answer: {type(exc).__name__}") from exc
        except BotoCoreError as exc:
            raise PoolMisconfigured(f"Cognito cannot be asked: {exc}") from exc
        return answer


def _refusal_of(error: ClientError) -> AppError:
    """The error that Cognito's answer to a login means."""
    code, words = _code_and_words(error)
    if code == "NotAuthorizedException":
        if "attempts exceeded" in words:
            return RateLimited("Cognito has locked the account for a while", _LOCKED_S)
        if "temporary password" in words:
            return LoginRefused("the temporary password has expired: ask for a new one")
        if re.search(r"secret|client|not authorized|scope", words):
            return _outage_of(error)
    if code in {"NotAuthorizedException", "UserNotFoundException"}:
        return WrongPassword(f"Cognito: {code}")
    is_of_name = code == "InvalidParameterException" and not re.search(
        r"flow|auth method|refresh|client|pool", words
    )
    if code in _USER_FAULTS or is_of_name:
        return AuthError(f"Cognito: {code}")
    return _outage_of(error)


def _is_over(error: ClientError, *, client_is_known: bool) -> bool:
    """Whether Cognito's answer to a refresh token means that the login has ended.

    A token of another app client gives "Invalid Refresh Token", too. `GetUser` is called with a token that
    was just created, and without settings, so its errors are about the user.
    """
    code, words = _code_and_words(error)
    # Wrong scopes are a fault of the app client.
    if code == "NotAuthorizedException" and error.operation_name == "GetUser":
        return "scope" not in words
    if code == "NotAuthorizedException":
        found = _ENDED_WORDS.search(words)
        return found is not None and (client_is_known or found[0] != "invalid refresh token")
    return code in _ENDED


def _outage_of(error: ClientError) -> ServiceUnavailable:
    """The error for an answer that is not about the user."""
    code, words = _code_and_words(error)
    said = f"{code} {error.response['Error'].get('Message', '')}".strip()
    if code == "NotAuthorizedException" and "secret" in words:
        return PoolMisconfigured("Cognito does not accept the client secret (COGNITO_CLIENT_SECRET)")
    if code in _SETTINGS or (
        code == "NotAuthorizedException" and re.search(r"client|authorized|scope", words)
    ):
        return PoolMisconfigured(f"Cognito: {said}")
    if code in {"NotAuthorizedException", "UserLambdaValidationException"}:
        return CannotConfirm(f"Cognito: {said}")
    return ServiceUnavailable(f"Cognito: {said}")


def _code_and_words(error: ClientError) -> tuple[str, str]:
    return error.response["Error"]["Code"], error.response["Error"].get("Message", "").lower()


def _claims_of(id_token: str) -> _Claims:
    """The claims. Their signature is not checked, as they come directly from Cognito over TLS."""
    payload = id_token.split(".")[1]
    return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)


def _is_sendable(username: str, password: str) -> bool:
    """Whether Cognito accepts this form; its errors for malformed values look like wrong settings."""
    return (
        0 < len(username) <= _LONGEST_NAME
        and 0 < len(password) <= _LONGEST_PASSWORD
        and not any(char.isspace() or unicodedata.category(char).startswith("C") for char in username)
    )
