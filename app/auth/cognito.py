"""Users of an Amazon Cognito user pool. Asks the pool at every login; keeps nothing between requests.

Refuses to guess: only what Cognito says about the user ends a login, never an outage or a fault of
the settings. Messages name Cognito's error, never what was typed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from app.auth.users import Identity
from app.config import CognitoFlow, CognitoPool
from app.errors import AuthError, LoginRefused, RateLimited, ServiceUnavailable
from storage.types import UserId

__all__ = ["CODE_SEPARATOR", "CognitoDirectory", "CognitoFlow", "CognitoPool", "WrongPassword"]

CODE_SEPARATOR = "/"
"""Between password and time-based code, for Anki has two fields only: `password/123456`."""

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

_CHALLENGES = {
    "NEW_PASSWORD_REQUIRED": "the password is a temporary one: sign in to the user pool and choose your own",
    "SOFTWARE_TOKEN_MFA": f"a time-based code is needed: enter password{CODE_SEPARATOR}code as the password",
    "SELECT_MFA_TYPE": "the account has several kinds of codes: make the authenticator app the preferred one",
    "SMS_MFA": "Anki cannot ask for a code sent by SMS: use an authenticator app",
    "EMAIL_OTP": "Anki cannot ask for a code sent by e-mail: use an authenticator app",
    "MFA_SETUP": "the account has to set up a second factor first",
}


class WrongPassword(AuthError):
    """Name and password do not belong together, as far as Cognito says."""


class _Proof(msgspec.Struct, frozen=True):
    """What lies sealed beside the host key. Global sign-out shows in nothing but the refresh token."""

    name: str
    refresh_token: str


class _Claims(msgspec.Struct, frozen=True):
    sub: str
    name: str = msgspec.field(name="cognito:username")


class CognitoDirectory:
    """See `app.auth.users.UserDirectory`. `client`: a boto3 client "cognito-idp" with short timeouts.

    A login is two tries at most: `password/123456` is a password and a code first, then a password.
    """

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
        """As the port says; LoginRefused when the password is right and Cognito wants more."""
        if not _is_sendable(username, password):
            raise WrongPassword("wrong user name or password")
        with_code = _WITH_CODE.fullmatch(password)
        if with_code:
            try:
                return self._log_in(username, with_code[1], with_code[2])
            except WrongPassword:
                pass  # then it is a password that looks so
        return self._log_in(username, password, None)

    def confirm(self, identity: Identity) -> Identity | None:
        """As the port says: the refresh token must still be good, and the user enabled."""
        proof = msgspec.msgpack.decode(identity.proof, type=_Proof)
        parameters = {"REFRESH_TOKEN": proof.refresh_token}
        try:
            answer = self._initiate("REFRESH_TOKEN_AUTH", parameters, proof.name)
            self._call("get_user", AccessToken=answer["AuthenticationResult"]["AccessToken"])
        except (AuthError, RateLimited):
            return None
        return identity

    def check(self) -> str | None:
        """What is wrong with the settings, found by a login that must fail; None when it fails well."""
        try:
            self._log_in(f"ankisyncd-{secrets.token_hex(8)}", secrets.token_urlsafe(24), None)
        except (AuthError, RateLimited):
            return None
        except ServiceUnavailable as exc:
            return str(exc)
        return "Cognito accepted a password made up at random"

    def _log_in(self, username: str, password: str, code: str | None) -> Identity:
        answer = self._initiate(self._pool.flow.value, {"USERNAME": username, "PASSWORD": password}, username)
        if code is not None and answer.get("ChallengeName") == "SOFTWARE_TOKEN_MFA":
            answer = self._answer_with_code(answer, username, code)
        if "AuthenticationResult" not in answer:
            challenge = answer.get("ChallengeName", "unknown")
            reason = _CHALLENGES.get(challenge, "Anki cannot answer what the user pool asks")
            raise LoginRefused(f"{reason} ({challenge})")
        tokens = answer["AuthenticationResult"]
        claims = _claims_of(tokens["IdToken"])
        return Identity(
            UserId(claims.sub), msgspec.msgpack.encode(_Proof(claims.name, tokens["RefreshToken"]))
        )

    def _initiate(self, flow: str, parameters: Mapping[str, str], name: str) -> dict[str, Any]:
        signed = {**parameters, **self._secret_hash(name)}
        client_id = self._pool.client_id
        if self._pool.flow is CognitoFlow.USER:
            return self._call("initiate_auth", ClientId=client_id, AuthFlow=flow, AuthParameters=signed)
        return self._call(
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
                return self._call("respond_to_auth_challenge", **common)
            return self._call("admin_respond_to_auth_challenge", UserPoolId=self._pool.pool_id, **common)
        except WrongPassword as exc:
            raise AuthError(f"the time-based code was refused: {exc}") from exc

    def _secret_hash(self, name: str) -> dict[str, str]:
        """Proves that the app client's secret is known.

        Source: AWS, "Computing secret hash values": HMAC-SHA256 under the secret, of name + client id.
        """
        if self._pool.client_secret is None:
            return {}
        message = (name + self._pool.client_id).encode()
        digest = hmac.digest(self._pool.client_secret.encode(), message, hashlib.sha256)
        return {"SECRET_HASH": base64.b64encode(digest).decode()}

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except ClientError as exc:
            _raise_meaning(exc)
        except BotoCoreError as exc:
            raise ServiceUnavailable(f"Cognito does not answer: {type(exc).__name__}") from exc
        return answer


def _raise_meaning(exc: ClientError) -> NoReturn:
    """Tell the user's faults from ours and Cognito's: only the first may cost a client its key."""
    code, message = exc.response["Error"]["Code"], exc.response["Error"].get("Message", "")
    words = message.lower()
    if code == "NotAuthorizedException" and "secret" in words:
        raise ServiceUnavailable("Cognito does not accept the client secret (COGNITO_CLIENT_SECRET)") from exc
    if code == "NotAuthorizedException" and "attempts exceeded" in words:
        raise RateLimited("Cognito has locked the account for a while", _LOCKED_S) from exc
    if code in {"NotAuthorizedException", "UserNotFoundException"}:
        raise WrongPassword(f"Cognito: {code}") from exc
    if code in _USER_FAULTS:
        raise AuthError(f"Cognito: {code}") from exc
    if code == "InvalidParameterException" and not re.search(r"flow|auth method|refresh|client|pool", words):
        raise AuthError(f"Cognito: {code}") from exc
    raise ServiceUnavailable(f"Cognito: {code} {message}".strip()) from exc


def _claims_of(id_token: str) -> _Claims:
    """The claims; their signature needs no check, for Cognito itself has just sent them over TLS."""
    payload = id_token.split(".")[1]
    return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)


def _is_sendable(username: str, password: str) -> bool:
    """Whether Cognito would look at them at all; what it finds malformed it answers like our own faults."""
    return (
        0 < len(username) <= _LONGEST_NAME
        and 0 < len(password) <= _LONGEST_PASSWORD
        and not any(char.isspace() or unicodedata.category(char).startswith("C") for char in username)
    )
