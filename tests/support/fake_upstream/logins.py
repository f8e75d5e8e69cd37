"""The OAuth side: logins whose refresh tokens are single-use."""

import base64
import datetime
import hashlib
import itertools
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs

from fake_upstream.answer import Answer
from fake_upstream.errors import unauthorized
from fake_upstream.messages import json_answer, whole_answer
from fake_upstream.request import Request

PERSON, ORGANIZATION = "3f1c1f0e-0000-4000-8000-00000000beef", "3f1c1f0e-0000-4000-8000-00000000cafe"


@dataclass(slots=True, eq=False)
class _Family:
    """What began with one login: its live refresh token, and whether reuse of a spent one has killed it."""

    person: str
    organization: str
    live: str = ""
    dead: bool = False


class Logins:
    """The token endpoint: refresh tokens are single-use, and using a spent one ends the whole login.

    `person` and `organization` are the ids of whoever logs in next. The other attributes make it misbehave:
    `expires_in` is sent as it is, `gives_refresh_token=False` leaves it out (the old one then stays valid).
    To have it down or huge, script it: `answer(failure(503), path=TOKEN)`; to have it slow,
    `always(lambda r: stall_before_head(5, upstream.logins.token(r)), path=TOKEN)`.
    """

    def __init__(self) -> None:
        self.expires_in: object = 28_800
        self.gives_refresh_token = True
        self.person, self.organization = PERSON, ORGANIZATION
        self.refreshes = 0
        self.reuses = 0
        self._families: dict[str, _Family] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._count = itertools.count(1)

    def new_login(self) -> tuple[str, str]:
        """A fresh pair of access token and refresh token."""
        return self._next_pair(_Family(self.person, self.organization))

    def is_live(self, refresh_token: str) -> bool:
        """Whether this refresh token would be taken."""
        family = self._families.get(refresh_token)
        return family is not None and not family.dead and family.live == refresh_token

    def end(self, refresh_token: str) -> None:
        """End the login that this refresh token belongs to, as time or its owner would."""
        self._families[refresh_token].dead = True

    def token(self, request: Request) -> Answer:
        """POST /v1/oauth/token, the grants `refresh_token` and `authorization_code`, JSON or form."""
        try:
            asked = _fields(request)
        except ValueError:
            return _refused("invalid_request", "The request could not be read")
        grants = {"refresh_token": self._refresh, "authorization_code": self._exchange}
        grant = grants.get(asked.get("grant_type", ""))
        return grant(asked) if grant else _refused("unsupported_grant_type", "Unknown grant type")

    def authorize(self, request: Request) -> Answer:
        """GET /oauth/authorize: `code#state`, which the real page shows for a person to copy."""
        asked = request.query
        missing = {"client_id", "redirect_uri", "state", "code_challenge"} - asked.keys()
        if missing or asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            return _refused(
                "invalid_request",
                f"Missing or wrong: {sorted(missing) or 'response type or challenge method'}",
            )
        code = secrets.token_urlsafe(24)
        self._codes[code] = asked
        return whole_answer(f"{code}#{asked['state']}".encode(), b"text/plain", 200, ())

    def _refresh(self, asked: dict[str, str]) -> Answer:
        self.refreshes += 1
        family = self._families.get(asked.get("refresh_token", ""))
        if family is None:
            return _refused("invalid_grant", "Refresh token not found or invalid")
        family.dead = family.dead or family.live != asked["refresh_token"]
        if family.dead:
            self.reuses += 1
            return _refused("invalid_grant", "Refresh token not found or invalid")
        return self._granted(family)

    def _exchange(self, asked: dict[str, str]) -> Answer:
        promised = self._codes.pop(asked.get("code", ""), None)
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same = ("client_id", "redirect_uri", "state")
        if promised is None or promised["code_challenge"] != challenge:
            return _refused("invalid_grant", "Invalid authorization code or code verifier")
        if any(asked.get(name) != promised[name] for name in same):
            return _refused("invalid_grant", "client_id, redirect_uri or state do not match")
        return self._granted(_Family(self.person, self.organization))

    def _granted(self, family: _Family) -> Answer:
        access, refresh = self._next_pair(family) if self.gives_refresh_token else (self._new_token("oat"), None)
        content = {
            "token_type": "Bearer",
            "access_token": access,
            "expires_in": self.expires_in,
            "refresh_token": refresh,
            "refresh_token_expires_in": 28 * 86_400,
            "scope": "user:inference user:profile user:sessions:claude_code",
            "organization": {"uuid": family.organization, "name": "Example"},
            "account": {"uuid": family.person, "email_address": "owner@example.com"},
        }
        return json_answer({name: value for name, value in content.items() if value is not None})

    def _next_pair(self, family: _Family) -> tuple[str, str]:
        family.live = self._new_token("ort")
        self._families[family.live] = family
        return self._new_token("oat"), family.live

    def _new_token(self, kind: str) -> str:
        return f"sk-ant-{kind}01-{next(self._count):04d}-{secrets.token_urlsafe(60)}"


def _fields(request: Request) -> dict[str, str]:
    """The body's fields, JSON or form; ValueError if it is neither."""
    if "json" not in (request.header("content-type") or ""):
        return {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
    content = request.json()
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return {name: str(value) for name, value in content.items()}


def _refused(code: str, description: str) -> Answer:
    return json_answer({"error": code, "error_description": description}, 400)


def create_api_key(request: Request) -> Answer:
    """POST /api/oauth/claude_cli/create_api_key: a new key for whoever shows a token."""
    if not request.credential:
        return unauthorized("Authentication required")
    return json_answer({"raw_key": f"sk-ant-api03-{secrets.token_urlsafe(60)}"})


def oauth_usage(five_hour: float = 21.0, seven_day: float = 34.0) -> Answer:
    """GET /api/oauth/usage: utilization in per cent, resets in ISO time."""
    now = datetime.datetime.now(datetime.UTC)
    windows = {"five_hour": (five_hour, 3), "seven_day": (seven_day, 96), "seven_day_opus": (0.0, 96)}
    return json_answer(
        {
            name: {"utilization": percent, "resets_at": (now + datetime.timedelta(hours=hours)).isoformat()}
            for name, (percent, hours) in windows.items()
        }
        | {
            "extra_usage": {
                "is_enabled": False,
                "monthly_limit": None,
                "used_credits": None,
                "utilization": None,
            }
        }
    )
