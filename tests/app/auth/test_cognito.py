"""Users of a Cognito user pool, as moto plays it. moto accepts any SECRET_HASH, so a hook checks each."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import traceback
from types import SimpleNamespace

import boto3
import msgspec
import pytest
from botocore.exceptions import ConnectTimeoutError, NoCredentialsError
from moto.cognitoidp import models as moto_models
from moto.cognitoidp import utils as moto_utils
from moto.cognitoidp.models import COGNITO_TOTP_MFA_SECRET
from moto.utilities.utils import load_resource

from app.auth.aws.cognito import CognitoDirectory, CognitoFlow, CognitoPool, PoolMisconfigured
from app.auth.hostkeys import unseal
from app.auth.users import Identity
from app.errors import AuthError, LoginRefused, RateLimited, ServiceUnavailable

PASSWORD = "Correct-Horse-1"
CALLS = ("InitiateAuth", "AdminInitiateAuth", "RespondToAuthChallenge", "AdminRespondToAuthChallenge")
FLOWS = list(CognitoFlow)
NOW_S = 1_700_000_000
"""The clock of the time-based codes stands still: a code must not run out between two lines."""


class Pool:
    """A pool with an app client, and every call that was made to it."""

    def __init__(
        self, aws: boto3.Session, flow: CognitoFlow, *, secret: bool = True, by_email: bool = False
    ) -> None:
        self.client = aws.client("cognito-idp")
        attributes = {"UsernameAttributes": ["email"]} if by_email else {}
        self.id = self.client.create_user_pool(PoolName="anki", **attributes)["UserPool"]["Id"]
        app = self.client.create_user_pool_client(
            UserPoolId=self.id, ClientName="server", GenerateSecret=secret
        )
        app = app["UserPoolClient"]
        self.settings = CognitoPool(self.id, app["ClientId"], app.get("ClientSecret"), flow)
        self.calls: list[tuple[str, dict]] = []
        self.faults: dict[str, list[Exception | tuple[str, str]]] = {}
        self.hashes: list[str] = []
        self.client.meta.events.register("before-call.cognito-identity-provider", self._record)
        self.directory = CognitoDirectory(self.client, self.settings)

    def add(self, name: str = "alice", password: str = PASSWORD, *, permanent: bool = True) -> str:
        made = self.client.admin_create_user(UserPoolId=self.id, Username=name)["User"]
        self.client.admin_set_user_password(
            UserPoolId=self.id, Username=name, Password=password, Permanent=permanent
        )
        return next(pair["Value"] for pair in made["Attributes"] if pair["Name"] == "sub")

    def admin(self, action: str, name: str = "alice") -> None:
        getattr(self.client, f"admin_{action}")(UserPoolId=self.id, Username=name)

    def fail(self, operation: str, *faults: Exception | tuple[str, str]) -> None:
        """Let the next calls of `operation` fail."""
        self.faults.setdefault(operation, []).extend(faults)

    def asked(self) -> list[str]:
        """The calls made since the last time."""
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names

    def _record(self, model, params, **_):
        body = json.loads(params["body"])
        self.calls.append((model.name, body))
        if model.name in CALLS:
            self._check_hash(body)
        if queue := self.faults.get(model.name):
            fault = queue.pop(0)
            if isinstance(fault, Exception):
                raise fault
            response = type("Raw", (), {"status_code": 400, "headers": {}})()
            return response, {
                "Error": {"Code": fault[0], "Message": fault[1]},
                "ResponseMetadata": {"HTTPStatusCode": 400},
            }
        return None

    def _check_hash(self, body: dict) -> None:
        given = body.get("AuthParameters") or body["ChallengeResponses"]
        secret = self.settings.client_secret
        if secret is None:
            assert "SECRET_HASH" not in given
            return
        name = given.get("USERNAME") or self.name_of_refresh
        message = name.encode() + self.settings.client_id.encode()
        digest = hmac.new(secret.encode(), message, hashlib.sha256).digest()
        assert given["SECRET_HASH"] == base64.b64encode(digest).decode()
        self.hashes.append(name)

    name_of_refresh = "alice"


@pytest.fixture(scope="module")
def signing_key():
    """The key with which moto signs for every pool: to read it takes longer than the rest of a test."""
    return moto_models.jwk.RSAKey.import_key(load_resource("cognitoidp/resources/jwks-private.json"))


@pytest.fixture
def aws(mocked, signing_key, monkeypatch):
    monkeypatch.setenv("MOTO_COGNITO_IDP_USER_POOL_ENABLE_TOTP", "true")
    monkeypatch.setattr(moto_utils, "time", SimpleNamespace(time=lambda: NOW_S))
    read_key = SimpleNamespace(RSAKey=SimpleNamespace(import_key=lambda _: signing_key))
    monkeypatch.setattr(moto_models, "jwk", read_key)
    return mocked


@pytest.fixture(params=FLOWS)
def pool(aws, request):
    return Pool(aws, request.param)


@pytest.fixture
def door(pool, server, clock):
    return server.make_door(pool.directory)


def initiate_of(pool):
    return "AdminInitiateAuth" if pool.settings.flow is CognitoFlow.ADMIN else "InitiateAuth"


def login(door, password=PASSWORD, name="alice"):
    return door.login(name, password, "192.0.2.1")


def test_a_right_password_gives_a_key_for_the_sub(pool, door):
    sub = pool.add()
    assert door.authenticate(login(door)) == sub


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("secret", [True, False])
def test_the_secret_hash_is_right_in_every_call_and_absent_without_a_secret(aws, server, clock, flow, secret):
    pool = Pool(aws, flow, secret=secret)
    pool.add()
    door = server.make_door(pool.directory)
    key = login(door)
    clock.pass_s(300)
    door.authenticate(key)
    prefix = "Admin" if flow is CognitoFlow.ADMIN else ""
    expected = [f"{prefix}InitiateAuth", f"{prefix}InitiateAuth", "GetUser"]
    assert [name for name in pool.asked() if not name.startswith(("AdminCreate", "AdminSet"))] == expected
    assert pool.hashes == (["alice", "alice"] if secret else [])


def test_the_password_is_asked_of_cognito_at_every_login(pool, door):
    pool.add()
    login(door)
    pool.asked()
    with pytest.raises(AuthError):
        login(door, "wrong")
    login(door)
    assert len(pool.asked()) == 2


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", PASSWORD)])
def test_wrong_password_and_unknown_user_are_the_same_to_the_client(pool, door, name, password):
    pool.add()
    with pytest.raises(AuthError) as caught:
        login(door, password, name)
    assert not isinstance(caught.value, LoginRefused)


@pytest.mark.parametrize(
    ("name", "password"),
    [("", PASSWORD), ("alice", ""), ("al ice", "x"), ("a" * 129, "x"), ("alice", "x" * 257)],
)
def test_what_cognito_would_call_malformed_is_not_sent(pool, door, name, password):
    with pytest.raises(AuthError):
        login(door, password, name)
    assert pool.asked() == []


def test_an_email_will_do_as_name_and_the_id_is_the_sub_all_the_same(aws, server, clock):
    pool = Pool(aws, CognitoFlow.ADMIN, by_email=True)
    sub = pool.add("alice@example.org")
    pool.name_of_refresh = sub
    door = server.make_door(pool.directory)
    key = login(door, name="alice@example.org")
    clock.pass_s(300)
    assert door.authenticate(key) == sub
    assert pool.hashes == ["alice@example.org", sub]


@pytest.mark.parametrize("action", ["disable_user", "user_global_sign_out"])
def test_who_was_disabled_or_signed_out_everywhere_loses_the_key_within_five_minutes(
    pool, door, clock, action
):
    pool.add()
    key = login(door)
    pool.admin(action)
    clock.pass_s(300)
    with pytest.raises(AuthError):
        door.authenticate(key)


@pytest.mark.parametrize(
    "answer",
    [
        ("UserNotFoundException", "User does not exist."),
        ("NotAuthorizedException", "User is disabled."),
        ("NotAuthorizedException", "Refresh Token has been revoked"),
        ("NotAuthorizedException", "Refresh Token has expired"),
        ("NotAuthorizedException", "Invalid Refresh Token"),
        ("PasswordResetRequiredException", "Password reset required for the user"),
    ],
)
def test_each_way_in_which_cognito_says_that_a_login_is_over_ends_the_key(
    pool, door, clock, initiate, answer
):
    """Among them that of a deleted user, which moto cannot give: it fails on the token of one."""
    pool.add()
    key = login(door)
    clock.pass_s(300)
    pool.fail(initiate, answer)
    for _ in range(2):
        with pytest.raises(AuthError):
            door.authenticate(key)


def test_a_global_sign_out_leaves_later_logins_alone(pool, door, clock):
    pool.add()
    login(door)
    pool.admin("user_global_sign_out")
    key = login(door)
    clock.pass_s(300)
    assert door.authenticate(key)


def test_cognito_is_not_asked_at_every_request(pool, door, clock):
    pool.add()
    key = login(door)
    pool.asked()
    for _ in range(10):
        door.authenticate(key)
    assert pool.asked() == []
    clock.pass_s(300)
    for _ in range(10):
        door.authenticate(key)
    assert len(pool.asked()) == 2


def test_a_temporary_password_is_told_to_the_user(pool, door):
    pool.add(permanent=False)
    with pytest.raises(LoginRefused, match="temporary"):
        login(door)


def totp_user(pool: Pool) -> str:
    """A user with an authenticator app, as moto knows it."""
    sub = pool.add()
    tokens = pool.client.admin_initiate_auth(
        UserPoolId=pool.id,
        ClientId=pool.settings.client_id,
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "alice", "PASSWORD": PASSWORD, **pool.directory._secret_hash("alice")},
    )["AuthenticationResult"]
    pool.client.associate_software_token(AccessToken=tokens["AccessToken"])
    pool.client.verify_software_token(AccessToken=tokens["AccessToken"], UserCode=current_code())
    pool.client.set_user_mfa_preference(
        AccessToken=tokens["AccessToken"], SoftwareTokenMfaSettings={"Enabled": True, "PreferredMfa": True}
    )
    pool.asked()
    pool.hashes.clear()
    return sub


def current_code() -> str:
    return moto_utils.cognito_totp(COGNITO_TOTP_MFA_SECRET).generate(NOW_S).decode()


def test_password_and_code_log_in_where_a_code_is_needed(pool, door):
    sub = totp_user(pool)
    assert door.authenticate(login(door, f"{PASSWORD}/{current_code()}")) == sub
    assert set(pool.hashes) == {"alice"}


def test_a_person_with_a_second_factor_lets_a_device_in_by_a_password_of_its_own(pool, door, clock):
    sub = totp_user(pool)
    session = door.sign_in("alice", f"{PASSWORD}/{current_code()}", "192.0.2.1", "Firefox")
    password = door.add_device_password(session, "phone")
    key = login(door, password)
    assert door.authenticate(key) == sub
    pool.client.admin_disable_user(UserPoolId=pool.id, Username="alice")
    clock.pass_s(300)
    with pytest.raises(AuthError):
        door.authenticate(key)
    with pytest.raises(AuthError):
        login(door, password)
    assert door.find_session(session) is None


def test_with_the_right_to_ask_neither_kind_of_password_costs_a_wrong_try(aws, server):
    pool = Pool(aws, CognitoFlow.ADMIN)
    totp_user(pool)
    pool.add("bob", "Slash-And-Digits/123456")
    pool.asked()
    door = server.make_door(pool.directory)
    login(door, f"{PASSWORD}/{current_code()}")
    assert pool.asked() == ["AdminGetUser", "AdminInitiateAuth", "AdminRespondToAuthChallenge"]
    login(door, "Slash-And-Digits/123456", "bob")
    assert pool.asked() == ["AdminGetUser", "AdminInitiateAuth"]


@pytest.mark.parametrize(
    "fault", [("AccessDeniedException", "not authorized"), ("TooManyRequestsException", "")]
)
def test_a_password_that_looks_like_one_with_a_code_costs_no_wrong_try(pool, door, fault):
    """Even if the server may not ask for the user, or cannot now."""
    pool.add(password="Slash-And-Digits/123456")
    pool.fail("AdminGetUser", fault)
    pool.asked()
    login(door, "Slash-And-Digits/123456")
    assert [name for name in pool.asked() if name.endswith("InitiateAuth")] == [initiate_of(pool)]


def test_an_unknown_name_is_asked_for_once(aws, server):
    pool = Pool(aws, CognitoFlow.ADMIN)
    with pytest.raises(AuthError):
        login(server.make_door(pool.directory), "x/123456", "nobody")
    assert pool.asked() == ["AdminGetUser", "AdminInitiateAuth"]


def test_without_the_code_the_user_is_told_how_to_give_it(pool, door):
    totp_user(pool)
    with pytest.raises(LoginRefused, match="password/code"):
        login(door)


def test_a_wrong_code_is_refused_and_costs_no_second_try(pool, door):
    totp_user(pool)
    wrong = "000000" if current_code() != "000000" else "111111"
    with pytest.raises(AuthError):
        login(door, f"{PASSWORD}/{wrong}")
    assert [name for name in pool.asked() if "RespondTo" in name] == [
        initiate_of(pool).replace("InitiateAuth", "RespondToAuthChallenge")
    ]


def test_a_code_does_not_make_up_for_a_wrong_password(pool, door):
    totp_user(pool)
    with pytest.raises(AuthError):
        login(door, f"wrong/{current_code()}")


def test_a_password_that_looks_like_one_with_a_code_works(pool, door):
    sub = pool.add(password="Slash-And-Digits/123456")
    assert door.authenticate(login(door, "Slash-And-Digits/123456")) == sub
    with pytest.raises(AuthError):
        login(door, "Slash-And-Digits/654321")


OUTAGES = [
    ("TooManyRequestsException", "Rate exceeded"),
    ("InternalErrorException", "Something failed"),
    ("NotAuthorizedException", "Unable to verify secret hash for client 4x"),
    ("NotAuthorizedException", "Client 4x is configured with secret but SECRET_HASH was not received"),
    ("ResourceNotFoundException", "User pool client 4x does not exist."),
    ("AccessDeniedException", "not authorized to perform: cognito-idp:AdminInitiateAuth"),
    ("InvalidParameterException", "USER_PASSWORD_AUTH flow not enabled for this client"),
    ("UnexpectedThing", "nobody knows"),
    ConnectTimeoutError(endpoint_url="https://cognito.example"),
]


@pytest.fixture(
    params=OUTAGES, ids=lambda fault: fault[0] if isinstance(fault, tuple) else type(fault).__name__
)
def outage(request):
    return request.param


@pytest.fixture
def initiate(pool):
    return initiate_of(pool)


def test_an_outage_or_a_fault_of_ours_is_never_a_wrong_password(pool, door, initiate, outage):
    pool.add()
    pool.fail(initiate, outage)
    with pytest.raises(ServiceUnavailable) as caught:
        login(door)
    assert caught.value.retry_after_s > 0
    assert login(door)


def test_during_an_outage_keys_go_on_and_work_after_it(pool, door, clock, initiate, outage):
    pool.add()
    key = login(door)
    clock.pass_s(300)
    pool.fail(initiate, outage)
    assert door.authenticate(key)
    clock.pass_s(20)
    pool.asked()
    assert door.authenticate(key)
    assert initiate in pool.asked()


@pytest.mark.parametrize(
    "fault",
    [
        ("NotAuthorizedException", "Password attempts exceeded"),
        ("NotAuthorizedException", "Client is not authorized to perform this operation"),
        ("NotAuthorizedException", "Something that Cognito never said before"),
        ("UserLambdaValidationException", "PreTokenGeneration failed with error"),
        ("UnexpectedLambdaException", "PreTokenGeneration failed"),
        ("InvalidLambdaResponseException", "Unrecognizable lambda output"),
        ("LimitExceededException", "Attempt limit exceeded"),
        ("ForbiddenException", "Request not allowed due to WAF block."),
        ("InvalidParameterException", "Refresh token rotation is on"),
    ],
)
def test_what_says_nothing_against_the_user_never_ends_a_key(pool, door, clock, initiate, fault, server):
    pool.add()
    key = login(door)
    clock.pass_s(300)
    pool.fail(initiate, fault)
    assert door.authenticate(key)
    clock.pass_s(4000)
    pool.fail(initiate, fault)
    with pytest.raises(ServiceUnavailable):
        door.authenticate(key)
    assert list(server.keys.list())
    assert door.authenticate(key)


def test_another_app_client_is_a_fault_of_the_settings_and_no_logout(aws, pool, door, clock, server):
    pool.add()
    key = login(door)
    other = Pool(aws, pool.settings.flow)
    elsewhere = server.make_door(CognitoDirectory(other.client, other.settings))
    clock.pass_s(300)
    assert elsewhere.authenticate(key)
    clock.pass_s(4000)
    with pytest.raises(ServiceUnavailable, match="COGNITO_CLIENT_ID"):
        elsewhere.authenticate(key)
    assert other.asked() == []
    assert door.authenticate(key)


def test_a_key_from_before_the_client_was_sealed_survives_a_wrong_client_and_is_sealed_anew(
    pool, door, clock, initiate, server, monkeypatch
):
    pool.add()
    verify = pool.directory.verify

    def verify_as_before(username, password):
        identity = verify(username, password)
        proof = msgspec.msgpack.decode(identity.proof)
        del proof["client_id"]
        return Identity(identity.user, msgspec.msgpack.encode(proof))

    monkeypatch.setattr(pool.directory, "verify", verify_as_before)
    key = login(door)
    clock.pass_s(300)
    pool.fail(initiate, ("NotAuthorizedException", "Invalid Refresh Token"))
    assert door.authenticate(key)
    clock.pass_s(20)
    assert door.authenticate(key)
    (record,) = server.keys.list()
    assert (
        msgspec.msgpack.decode(unseal(key, record.user, record.sealed))["client_id"]
        == pool.settings.client_id
    )


def test_a_key_of_the_local_user_list_is_not_ended_by_a_pool(pool, door, clock, server):
    server.users.add("bob", "secret")
    key = server.login("bob", "secret")
    clock.pass_s(300)
    assert door.authenticate(key)
    clock.pass_s(4000)
    with pytest.raises(ServiceUnavailable, match="ANKISYNCD_AUTH"):
        door.authenticate(key)
    assert list(server.keys.list())


def test_an_outage_longer_than_the_grace_is_said_as_such(pool, door, clock, initiate):
    pool.add()
    key = login(door)
    clock.pass_s(3900)
    pool.fail(initiate, ("InternalErrorException", ""))
    with pytest.raises(ServiceUnavailable):
        door.authenticate(key)
    assert door.authenticate(key)


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (("NotAuthorizedException", "Incorrect username or password."), AuthError),
        (("NotAuthorizedException", "User is disabled."), AuthError),
        (("UserNotFoundException", "User does not exist."), AuthError),
        (("UserNotConfirmedException", "User is not confirmed."), AuthError),
        (("PasswordResetRequiredException", "Password reset required"), AuthError),
        (("UserLambdaValidationException", "PreAuthentication failed"), AuthError),
        (("InvalidParameterException", "Missing required parameter USERNAME"), AuthError),
        (("NotAuthorizedException", "Password attempts exceeded"), RateLimited),
    ],
)
def test_what_cognito_says_about_the_user_is_told_apart(pool, door, initiate, fault, meaning):
    pool.add()
    pool.fail(initiate, fault)
    with pytest.raises(meaning):
        login(door)


@pytest.mark.parametrize("challenge", ["SMS_MFA", "EMAIL_OTP", "MFA_SETUP", "SELECT_MFA_TYPE", "NEVER_SEEN"])
def test_every_challenge_is_refused_with_a_reason(pool, door, initiate, challenge):
    pool.client.meta.events.register(
        f"before-call.cognito-identity-provider.{initiate}",
        lambda **_: (
            type("Raw", (), {"status_code": 200})(),
            {"ChallengeName": challenge, "Session": "s", "ChallengeParameters": {}, "ResponseMetadata": {}},
        ),
    )
    with pytest.raises(LoginRefused, match=challenge):
        login(door)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("ResourceNotFoundException", "User pool client 4x does not exist."), "does not exist"),
        (("NotAuthorizedException", "Unable to verify secret hash for client 4x"), "COGNITO_CLIENT_SECRET"),
        (("InvalidParameterException", "USER_PASSWORD_AUTH flow not enabled for this client"), "flow"),
        (
            ("AccessDeniedException", "not authorized to perform: cognito-idp:AdminInitiateAuth"),
            "AccessDenied",
        ),
        (NoCredentialsError(), "credentials"),
    ],
)
def test_the_check_at_the_start_says_what_is_wrong(pool, initiate, fault, said):
    assert pool.directory.check() is None
    pool.fail(initiate, fault)
    assert said in pool.directory.check()


@pytest.mark.parametrize(
    "fault",
    [
        ("TooManyRequestsException", "Rate exceeded"),
        ("InternalErrorException", ""),
        ConnectTimeoutError(endpoint_url="https://cognito.example"),
    ],
)
def test_a_pool_that_is_away_is_no_fault_of_the_settings(pool, initiate, fault):
    pool.fail(initiate, fault)
    with pytest.raises(ServiceUnavailable) as caught:
        pool.directory.check()
    assert not isinstance(caught.value, PoolMisconfigured)


def test_no_password_code_token_or_secret_shows(pool, door, clock, caplog, server):
    caplog.set_level(logging.DEBUG, "ankisyncd")
    totp_user(pool)
    code = current_code()
    key = login(door, f"{PASSWORD}/{code}")
    shown = [repr(pool.settings), repr(pool.directory), caplog.text]
    for password in ("Wrong-Password-1", f"{PASSWORD}/000000", f"Wrong-Password-2/{code}", PASSWORD):
        with pytest.raises(AuthError) as caught:
            login(door, password)
        shown.append("".join(traceback.format_exception(caught.value)))
    (record,) = server.keys.list()
    shown.append(repr(record))
    text = "\n".join(shown)
    proof = pool.directory.verify("alice", f"{PASSWORD}/{code}").proof
    token = msgspec.msgpack.decode(proof)["refresh_token"]
    for secret in (PASSWORD, "Wrong-Password", code, key, token, pool.settings.client_secret):
        assert secret not in text
