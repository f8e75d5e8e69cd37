"""An account's secrets as people hand them over: an API key as a line, OAuth tokens as JSON. Pure.

No message here quotes what it was given.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ccflare_cli.pasting import unwrapped
from ccflare_core.accounts.account import Credential, Kind
from ccflare_core.clients.keys import PREFIX as KEY_PREFIX
from ccflare_core.errors import CCFlareError
from ccflare_core.program import typed

_WRAPPER = "claudeAiOauth"
"""Claude Code keeps its tokens under this name in ~/.claude/.credentials.json."""
_API_PREFIX, _ACCESS_PREFIX, _REFRESH_PREFIX = "sk-ant-api", "sk-ant-oat", "sk-ant-ort"
_KINDS = (
    (_API_PREFIX, "an API key: give it with --api-key"),
    (_ACCESS_PREFIX, "an OAuth token, as `claude setup-token` prints one: give it with --setup-token"),
    (_REFRESH_PREFIX, "a refresh token: give it with its access token, as JSON with --tokens"),
    ("sk-ant-admin", "an Admin API key, which gets no answer of a model: make an API key at the Console"),
    ("sk-ant-sid", f"a session of the web page: run `claude setup-token`, or `{typed('accounts login NAME')}`"),
    (KEY_PREFIX, "a client key of this proxy: an account needs a secret of the provider's"),
    ("{", "JSON: give it with --tokens"),
)
"""What may be handed over instead, by how it begins, and where it belongs."""
_PREFIX_ALONE = re.compile(r"sk-ant-[a-z]{3}\d*-?")
_EARLIEST, _LATEST = 946_684_800, 7_258_118_400  # the years 2000 and 2200
_MS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973


class BadSecret(CCFlareError):
    """What was handed over is no usable secret; the message says what is missing."""


class GivenTokens(NamedTuple):
    """What is needed of an OAuth login. `expires_at` is in epoch seconds, None if nobody said."""

    access_token: str
    refresh_token: str | None
    expires_at: float | None

    def __repr__(self) -> str:
        return f"Tokens(refresh_token={self.refresh_token is not None}, expires_at={self.expires_at})"


def parse_api_key(text: str) -> str:
    """The API key in `text`. Raises BadSecret if it is none."""
    return _checked(Kind.API_KEY, _of_kind(text, _API_PREFIX))


def parse_setup_token(text: str) -> str:
    """The token that `claude setup-token` printed. Raises BadSecret if this is none."""
    text = _of_kind(text, _ACCESS_PREFIX)
    if not text.startswith(_ACCESS_PREFIX):
        raise BadSecret(f"This is no setup token: `claude setup-token` prints one, which begins with {_ACCESS_PREFIX}.")
    return _checked(Kind.OAUTH, text)


def parse_tokens(text: str, now: float) -> GivenTokens:
    """The tokens in a JSON text, with the names of the OAuth standard or of Claude Code's own file.

    Raises BadSecret. `expires_in` counts from `now` (epoch seconds).
    """
    text = _of_kind(text, "{")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BadSecret(
            'The tokens are not JSON; give {"access_token": …, "refresh_token": …, "expires_at": …}.'
        ) from None
    if isinstance(data, dict) and isinstance(data.get(_WRAPPER), dict):
        data = data[_WRAPPER]
    if not isinstance(data, dict):
        raise BadSecret("The tokens are not a JSON object.")
    access, refresh = _text(data, "access_token", "accessToken"), _text(data, "refresh_token", "refreshToken")
    if access is None:
        raise BadSecret("The tokens have no access_token.")
    if access.startswith(_REFRESH_PREFIX) or (refresh or "").startswith(_ACCESS_PREFIX):
        raise BadSecret("The access token and the refresh token are in each other's place: swap them.")
    if refresh is not None:
        _checked(Kind.OAUTH, refresh)
    return GivenTokens(_checked(Kind.OAUTH, _of_kind(access, _ACCESS_PREFIX)), refresh, _expiry(data, now))


def _of_kind(text: str, wanted: str) -> str:
    """The secret in `text`. Raises BadSecret if it begins like another kind than the `wanted` one."""
    text = unwrapped(text)
    for prefix, told in _KINDS:
        if prefix != wanted and text.startswith(prefix):
            raise BadSecret(f"This is {told}.")
    return text


def _checked(kind: Kind, secret: str) -> str:
    if _PREFIX_ALONE.fullmatch(secret):
        raise BadSecret("This is only the beginning of a secret: copy all of it.")
    try:
        return Credential(kind, secret).secret
    except ValueError as error:
        raise BadSecret(f"It cannot be used: {error}.") from None


def _text(data: Mapping[str, Any], *names: str) -> str | None:
    value = next((data[name] for name in names if data.get(name) is not None), None)
    if value is not None and not isinstance(value, str):
        raise BadSecret(f"{names[0]} is not a text.")
    return value or None


def _expiry(data: Mapping[str, Any], now: float) -> float | None:
    at = next((data[name] for name in ("expires_at", "expiresAt") if data.get(name) is not None), None)
    lasts = next((data[name] for name in ("expires_in", "expiresIn") if data.get(name) is not None), None)
    if at is not None:
        seconds = _iso_seconds(at) if isinstance(at, str) else _epoch_seconds(at)
    elif lasts is not None:
        seconds = now + _number(lasts, "expires_in")
    else:
        return None
    if not _EARLIEST <= seconds <= _LATEST:
        raise BadSecret("The tokens' expiry is no plausible time; expires_at is in milliseconds.")
    return seconds


def _epoch_seconds(value: object) -> float:
    number = _number(value, "expires_at")
    return number / 1000 if number >= _MS_FROM else number


def _iso_seconds(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadSecret("expires_at is neither a number nor a time such as 2026-11-01T14:20:00Z.") from None
    if at.tzinfo is None:
        raise BadSecret("expires_at has no time zone; end it with Z if it is UTC.")
    return at.timestamp()


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        raise BadSecret(f"{name} is not a number.")
    return math.floor(value)
