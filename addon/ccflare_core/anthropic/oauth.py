"""The OAuth login of a Claude subscription, as values: what to send, what an answer means, when to act next.

Nothing here talks to the network or reads a clock. A login: `PendingLogin.begin`, `authorize_url`, the person
pastes what the page shows, `parse_code`, `check_state`, `exchange_request`, (send it), `read_answer`.
From then on: `refresh_request`, (send it), `read_answer`, when `next_refresh` or `backoff` say so.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from ccflare_core.errors import ConfigError, TokenRejected, TokenUnavailable
from ccflare_core.http.failure_words import OAUTH_CODES, known
from ccflare_core.http.messages import MAX_ANSWER_BYTES, Request, check_url

DAY = 86_400.0
PENDING_SECONDS = 600.0  # a begun login has to be finished within this time
LOGIN_SECONDS = 28 * DAY  # a login was seen to end 27 to 30 days after it was made, however often it was refreshed
WARNING_SECONDS = 5 * DAY  # before the login's expected end

# Real access tokens live about 8 hours. An `expires_in` outside these bounds is not believed and
# DEFAULT_LIFETIME taken: long enough that nobody refreshes per request, short enough that a wrong guess does
# little. A token that lives longer is refreshed early; one that dies before shows by the upstream's 401.
MIN_LIFETIME = 60.0
MAX_LIFETIME = 30 * DAY
DEFAULT_LIFETIME = 3600.0
MAX_LOGIN_LIFETIME = 366 * DAY

MAX_TOKEN_LENGTH = 8192
MAX_PASTE_LENGTH = 4096

_FATAL = frozenset({"invalid_grant", "invalid_refresh_token", "refresh_token_reused"})
_VISIBLE = re.compile(r"[\x21-\x7e]+")


class Mode(StrEnum):
    """What the login is for: a subscription's tokens, or an API key of the Console."""

    MAX = "max"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a login happens and who asks. The defaults are what Claude Code uses.

    `https://console.anthropic.com/v1/oauth/token` is an older name of the token endpoint and works too.
    Raises ConfigError naming every address that secrets must not be sent to.
    """

    authorize_url_max: str = "https://claude.ai/oauth/authorize"
    authorize_url_console: str = "https://platform.claude.com/oauth/authorize"
    token_url: str = "https://platform.claude.com/v1/oauth/token"  # noqa: S105 an address, not a token
    create_key_url: str = "https://api.anthropic.com/api/oauth/claude_cli/create_api_key"
    redirect_uri: str = "https://platform.claude.com/oauth/code/callback"
    client_id: str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
    scopes: tuple[str, ...] = (
        "org:create_api_key",
        "user:profile",
        "user:inference",
        "user:sessions:claude_code",
        "user:mcp_servers",
        "user:file_upload",
    )

    def __post_init__(self) -> None:
        problems = []
        for name in (
            "authorize_url_max",
            "authorize_url_console",
            "token_url",
            "create_key_url",
            "redirect_uri",
        ):
            try:
                check_url(getattr(self, name))
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise ConfigError(*problems)


# --- logging in -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A begun login that waits for the pasted code. Store the verifier sealed."""

    verifier: str = field(repr=False)
    state: str = field(repr=False)
    mode: Mode
    created_at: float

    @classmethod
    def begin(cls, mode: Mode, now: float, random: Callable[[int], bytes] = secrets.token_bytes) -> "PendingLogin":
        """A new login. State and verifier are drawn apart: the URL tells nothing about the verifier."""
        return cls(verifier=_base64url(random(32)), state=_base64url(random(32)), mode=mode, created_at=now)

    @property
    def challenge(self) -> str:
        """The S256 challenge of RFC 7636, section 4.2."""
        return _base64url(hashlib.sha256(self.verifier.encode("ascii")).digest())

    def is_expired(self, now: float) -> bool:
        """True from ten minutes on, and also when the clock was set back by more than a minute meanwhile."""
        return not -60.0 <= now - self.created_at < PENDING_SECONDS


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def authorize_url(endpoints: Endpoints, pending: PendingLogin) -> str:
    """The page on which the person allows the login; it is no secret."""
    base = endpoints.authorize_url_max if pending.mode is Mode.MAX else endpoints.authorize_url_console
    query = {
        "code": "true",  # shows the code for pasting instead of calling a local server
        "client_id": endpoints.client_id,
        "response_type": "code",
        "redirect_uri": endpoints.redirect_uri,
        "scope": " ".join(endpoints.scopes),
        "code_challenge": pending.challenge,
        "code_challenge_method": "S256",
        "state": pending.state,
    }
    return f"{base}{'&' if '?' in base else '?'}{urlencode(query)}"


def parse_code(pasted: str) -> tuple[str, str]:
    """(code, state) from what the page shows as `code#state`, or from the address of that page.

    Raises ValueError with one sentence for the person, which never quotes what was pasted.
    """
    text = pasted.strip()
    if not text:
        raise ValueError("nothing was pasted: copy the whole code that the page shows")
    if len(text) > MAX_PASTE_LENGTH or not _VISIBLE.fullmatch(text):
        raise ValueError("this is not the code: copy only the code that the page shows, in one line")
    if text.startswith(("https://", "http://")):
        code, state = _code_in_address(text)
    else:
        code, _, state = text.partition("#")
    if not code or not state or "#" in state:
        raise ValueError("the code is incomplete: copy all of it, the part before and after the '#'")
    return code, state


def _code_in_address(address: str) -> tuple[str, str]:
    query = parse_qs(address.partition("?")[2].partition("#")[0])
    if "error" in query:
        raise ValueError("the login was refused on the page: begin again and allow it")
    code, state = query.get("code", [""])[0], query.get("state", [""])[0]
    if not _VISIBLE.fullmatch(code + state):
        raise ValueError("this address holds no code: copy the code that the page shows")
    return code, state


def check_state(pending: PendingLogin, state: str) -> None:
    """Raises ValueError unless the pasted state is the one this login was begun with."""
    if not hmac.compare_digest(pending.state.encode(), state.encode("utf-8", "replace")):
        raise ValueError("the code belongs to another login: begin again and use the newest page only")


# --- requests -------------------------------------------------------------------------------------

_COMMON = (("User-Agent", "ccflare"), ("Accept", "application/json"))


def exchange_request(endpoints: Endpoints, pending: PendingLogin, code: str) -> Request:
    """Turns the pasted code into tokens. Call check_state first."""
    return _token_request(
        endpoints,
        {
            "code": code,
            "state": pending.state,
            "grant_type": "authorization_code",
            "client_id": endpoints.client_id,
            "redirect_uri": endpoints.redirect_uri,
            "code_verifier": pending.verifier,
        },
    )


def refresh_request(endpoints: Endpoints, refresh_token: str) -> Request:
    """Turns a refresh token into a new pair; the provider takes each refresh token once only.

    No scope is sent, so that what the login was granted stays as it is (RFC 6749, section 6).
    """
    fields = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": endpoints.client_id}
    return _token_request(endpoints, fields)


def _token_request(endpoints: Endpoints, fields: Mapping[str, str]) -> Request:
    headers = (*_COMMON, ("Content-Type", "application/json"))
    return Request("POST", endpoints.token_url, headers, json.dumps(fields).encode("ascii"))


def create_key_request(endpoints: Endpoints, access_token: str) -> Request:
    """Makes an API key at the provider (mode console). Raises ValueError for a token that fits no header."""
    if not is_token(access_token):
        raise ValueError("the access token has characters that no token has")
    headers = (
        *_COMMON,
        ("Authorization", f"Bearer {access_token}"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    )
    return Request("POST", endpoints.create_key_url, headers)


# --- answers --------------------------------------------------------------------------------------


class Owner(NamedTuple):
    """Whose login it is, as far as the provider told."""

    account_id: str | None = None
    email: str | None = None
    organization_id: str | None = None


NOBODY = Owner()
"""Of whom nothing was told."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A usable answer of the token endpoint. Times are epoch seconds.

    `refresh_token` is None if the provider sent none: the one in use stays. `login_expires_at` is None if the
    provider did not tell and the caller does not know when the login was made.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: float
    login_expires_at: float | None = None
    scopes: tuple[str, ...] = ()
    owner: Owner = field(default=NOBODY, repr=False)


def is_token(value: object) -> bool:
    """True for a string that can be put into a header as a credential."""
    return isinstance(value, str) and len(value) <= MAX_TOKEN_LENGTH and bool(_VISIBLE.fullmatch(value))


def read_answer(status: int, content_type: str, body: bytes, now: float, *, login_at: float | None = None) -> Tokens:
    """The tokens in an answer of the token endpoint. `login_at` is when the login was made.

    Raises TokenRejected only if a 4xx answer says so in its error *code* field (`error` in RFC 6749, section
    5.2, or Anthropic's `error.type`; a description may say anything), and TokenUnavailable for all else.
    """
    answer = _read_object(status, content_type, body)
    access, refresh = answer.get("access_token"), answer.get("refresh_token") or None
    if not is_token(access) or not (refresh is None or is_token(refresh)):
        raise TokenUnavailable("the token endpoint's answer holds no usable token; try again later")
    lifetime = _seconds(answer.get("expires_in"), MAX_LIFETIME) or DEFAULT_LIFETIME
    return Tokens(
        access_token=str(access),
        refresh_token=None if refresh is None else str(refresh),
        expires_at=now + lifetime,
        login_expires_at=_login_end(answer.get("refresh_token_expires_in"), now, login_at),
        scopes=_scopes(answer.get("scope")),
        owner=_owner(answer),
    )


def read_key(status: int, content_type: str, body: bytes) -> str:
    """The API key in an answer to create_key_request. Raises TokenUnavailable if there is none."""
    try:
        key = _read_object(status, content_type, body).get("raw_key")
    except TokenRejected as error:  # no refresh token was sent, so none can have been refused
        raise TokenUnavailable("the provider refused to make an API key; begin the login again") from error
    if not is_token(key):
        raise TokenUnavailable("the provider's answer holds no usable API key; look for a new key in the Console")
    return str(key)


def _read_object(status: int, content_type: str, body: bytes) -> dict[str, Any]:
    """The JSON object of a 2xx answer; raises TokenRejected or TokenUnavailable for any other."""
    answer = _parse_object(content_type, body)
    if answer is not None and 200 <= status < 300:
        return answer
    code = _error_code(answer or {})
    if 400 <= status < 500 and status != 429 and code in _FATAL:
        raise TokenRejected(f"the provider has ended this login ({code}): log in again")
    shown = (
        f" ({told})" if (told := known(code, OAUTH_CODES)) else "" if answer is not None else " without a JSON object"
    )
    raise TokenUnavailable(f"the provider answered {status}{shown}; try again later")


def _parse_object(content_type: str, body: bytes) -> dict[str, Any] | None:
    kind = content_type.partition(";")[0].strip().lower()
    if len(body) > MAX_ANSWER_BYTES or not (kind == "application/json" or kind.endswith("+json")):
        return None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _error_code(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    code = error.get("type") if isinstance(error, dict) else error
    return code if isinstance(code, str) else ""


def _seconds(value: object, highest: float) -> float | None:
    """A believable duration, or None; NaN and booleans fail the comparison."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if not isinstance(value, int | float) or not MIN_LIFETIME <= value <= highest:
        return None
    return float(value)


def _login_end(value: object, now: float, login_at: float | None) -> float | None:
    told = _seconds(value, MAX_LOGIN_LIFETIME)
    if told is not None:
        return now + told
    return None if login_at is None else login_at + LOGIN_SECONDS


def _scopes(value: object) -> tuple[str, ...]:
    words = value[:2000].split() if isinstance(value, str) else []
    return tuple(word for word in words if len(word) <= 100 and _VISIBLE.fullmatch(word))


def _owner(answer: Mapping[str, Any]) -> Owner:
    return Owner(
        account_id=_hint(answer, "account", "uuid"),
        email=_hint(answer, "account", "email_address"),
        organization_id=_hint(answer, "organization", "uuid"),
    )


def _hint(answer: Mapping[str, Any], part: str, name: str) -> str | None:
    holder = answer.get(part)
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable() else None


# --- when -----------------------------------------------------------------------------------------


def next_refresh(
    expires_at: float,
    now: float,
    before_seconds: float,
    random: Callable[[], float],
    *,
    obtained_at: float | None,
) -> float:
    """When to refresh: `before_seconds` ahead of the token's end or up to a fifth earlier, never in the past.

    Say when the token was obtained, if known: it then serves for at least 40 % of its life, so that a token
    that lives shorter than `before_seconds` is not refreshed over and over.
    """
    lead = before_seconds
    if obtained_at is not None:
        lead = min(lead, max(0.0, expires_at - obtained_at) / 2)
    return max(now, expires_at - lead * (1.0 + 0.2 * random()))


def backoff(failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after the n-th failure in a row: 60 s doubling to 30 min, with jitter."""
    steps = min(max(failures, 1) - 1, 8)
    return min(60.0 * 2.0**steps, 1500.0) * (1.0 + 0.2 * random())


def login_warning(login_expires_at: float | None, now: float) -> str | None:
    """What to tell about the login's end from five days before on, else None."""
    if login_expires_at is None or login_expires_at - now > WARNING_SECONDS:
        return None
    left = login_expires_at - now
    if left <= 0:
        return "the login has reached its expected end: log in again"
    span = f"{left / DAY:.0f} days" if left >= 1.5 * DAY else f"{max(1.0, left / 3600):.0f} h"
    return f"the login is expected to end in {span}: log in again before that"
