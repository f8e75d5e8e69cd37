import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.anthropic.oauth import (
    DAY,
    Endpoints,
    Mode,
    Owner,
    PendingLogin,
    Tokens,
    authorize_url,
    backoff,
    check_state,
    create_key_request,
    exchange_request,
    is_token,
    login_warning,
    next_refresh,
    parse_code,
    read_answer,
    read_key,
    refresh_request,
)
from ccflare_core.errors import ConfigError, TokenRejected, TokenUnavailable
from ccflare_core.http.messages import Request

NOW = 1_800_000_000.0
JSON = "application/json"
ACCESS, REFRESH = "sk-ant-oat01-planted", "sk-ant-ort01-planted"
GOOD: dict[str, Any] = {"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 28_800}


def pending(mode: Mode = Mode.MAX) -> PendingLogin:
    return PendingLogin(verifier="the-verifier", state="the-state", mode=mode, created_at=NOW)


def answer(fields: Mapping[str, Any], status: int = 200, content_type: str = JSON, **more: Any) -> Tokens:
    return read_answer(status, content_type, json.dumps(fields).encode(), NOW, **more)


def low() -> float:
    return 0.0


def high() -> float:
    return 0.999_999


# --- addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.org/token",
        "http://127.0.0.1.example.org/",
        "http://localhost.example.org/",
        "ftp://127.0.0.1/",
        "https://",
        "https:///path",
        "https://user:pa55word@example.org/",
        "https://example.org:pa55word/",
        "https://example.org:0/",
        "https://example.org/#fragment",
        "https://example.org/a b",
        "https://example.org/\r\nX: y",
        "https://example.org\\@evil.example/",
        "https://[::1/",
    ],
)
def test_secrets_are_sent_to_no_such_address(url: str) -> None:
    with pytest.raises(ValueError, match="https://") as caught:
        Request("POST", url)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org:8443/a?b=c",
        "http://127.0.0.1:9/",
        "http://[::1]:9/",
        "http://localhost/",
    ],
)
def test_https_and_this_machine_are_allowed(url: str) -> None:
    assert Request("GET", url).url == url


def test_every_wrong_endpoint_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoints(token_url="http://example.org", redirect_uri="nonsense")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["token_url", "redirect_uri"]


def test_the_older_name_of_the_token_endpoint_is_accepted() -> None:
    old = "https://console.anthropic.com/v1/oauth/token"
    assert refresh_request(Endpoints(token_url=old), REFRESH).url == old


# --- logging in


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    login = PendingLogin("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "s", Mode.MAX, NOW)
    assert login.challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_verifier_and_state_are_separate_draws_of_32_bytes() -> None:
    draws = [b"v" * 32, b"s" * 32]
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return draws[len(asked) - 1]

    login = PendingLogin.begin(Mode.CONSOLE, NOW, random)
    assert asked == [32, 32]
    assert (len(login.verifier), len(login.state)) == (43, 43)
    assert login.verifier != login.state
    assert (login.mode, login.created_at) == (Mode.CONSOLE, NOW)


def test_two_logins_share_nothing() -> None:
    one, other = PendingLogin.begin(Mode.MAX, NOW), PendingLogin.begin(Mode.MAX, NOW)
    assert len({one.verifier, one.state, other.verifier, other.state}) == 4


@pytest.mark.parametrize(
    ("age", "expired"), [(0, False), (599, False), (600, True), (-59, False), (-3600, True), (3600, True)]
)
def test_a_begun_login_lasts_ten_minutes_even_if_the_clock_jumps(age: float, expired: bool) -> None:
    assert pending().is_expired(NOW + age) is expired


def test_the_authorize_url_asks_for_what_the_provider_expects() -> None:
    url = authorize_url(Endpoints(), pending())
    query = parse_qs(urlsplit(url).query)
    assert url.startswith("https://claude.ai/oauth/authorize?code=true&client_id=")
    assert query["state"] == ["the-state"]
    assert query["code_challenge"] == [pending().challenge]
    assert query["code_challenge_method"] == ["S256"]
    assert query["scope"] == [" ".join(Endpoints().scopes)]
    assert "the-verifier" not in url


def test_the_console_has_its_own_page() -> None:
    url = authorize_url(Endpoints(), pending(Mode.CONSOLE))
    assert url.startswith("https://platform.claude.com/oauth/authorize?")


@pytest.mark.parametrize(
    "pasted",
    [
        "abc#xyz",
        "  abc#xyz\r\n",
        "https://platform.claude.com/oauth/code/callback?code=abc&state=xyz",
        "https://platform.claude.com/oauth/code/callback?state=xyz&code=abc#top",
    ],
)
def test_the_pasted_code_is_understood(pasted: str) -> None:
    assert parse_code(pasted) == ("abc", "xyz")


@pytest.mark.parametrize(
    ("pasted", "says"),
    [
        ("", "nothing was pasted"),
        (" \n", "nothing was pasted"),
        ("s3cret", "incomplete"),
        ("s3cret#", "incomplete"),
        ("#s3cret", "incomplete"),
        ("s3cret#s3cret#s3cret", "incomplete"),
        ("s3cret s3cret#x", "one line"),
        ("s3cret\x1b[31m#x", "one line"),
        ("s3cretß#x", "one line"),
        ("s3cret#" + "x" * 5000, "one line"),
        ("https://example.org/s3cret", "holds no code"),
        ("https://example.org/?code=s3cret", "incomplete"),
        ("https://example.org/?code=s3cret%0d%0a&state=x", "holds no code"),
        ("https://example.org/?error=access_denied&state=s3cret", "refused"),
    ],
)
def test_a_wrong_paste_gets_one_sentence_that_does_not_repeat_it(pasted: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_code(pasted)
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_any_paste_is_a_visible_code_and_state_or_a_value_error(pasted: str) -> None:
    try:
        code, state = parse_code(pasted)
    except ValueError:
        return
    assert code.isascii()
    assert state.isascii()
    assert (code + state).isprintable()


@pytest.mark.parametrize("state", ["", "the-stat", "the-state2", "THE-STATE", "the-verifier", "ü", "\ud800"])
def test_a_foreign_state_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match="another login"):
        check_state(pending(), state)


def test_the_own_state_is_taken() -> None:
    check_state(pending(), "the-state")


# --- requests


def test_the_exchange_sends_code_verifier_and_our_own_state() -> None:
    request = exchange_request(Endpoints(), pending(), "the-code")
    assert (request.method, request.url) == ("POST", "https://platform.claude.com/v1/oauth/token")
    assert ("Content-Type", JSON) in request.headers
    assert json.loads(request.body) == {
        "code": "the-code",
        "state": "the-state",
        "grant_type": "authorization_code",
        "client_id": Endpoints().client_id,
        "redirect_uri": "https://platform.claude.com/oauth/code/callback",
        "code_verifier": "the-verifier",
    }


def test_the_refresh_sends_the_token_and_asks_for_no_other_scope() -> None:
    request = refresh_request(Endpoints(client_id="mine"), REFRESH)
    expected = {"grant_type": "refresh_token", "refresh_token": REFRESH, "client_id": "mine"}
    assert json.loads(request.body) == expected


def test_the_key_request_carries_the_token_in_its_header_only() -> None:
    request = create_key_request(Endpoints(), ACCESS)
    assert ("Authorization", f"Bearer {ACCESS}") in request.headers
    assert request.body == b""


def test_a_token_that_would_split_the_header_is_refused_unseen() -> None:
    with pytest.raises(ValueError, match="characters") as caught:
        create_key_request(Endpoints(), "planted\r\nX-Evil: 1")
    assert "planted" not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    endpoints, login = Endpoints(), pending()
    values = (
        login,
        exchange_request(endpoints, login, "the-code"),
        refresh_request(endpoints, REFRESH),
        create_key_request(endpoints, ACCESS),
        answer(GOOD | {"account": {"email_address": "planted@example.org"}}),
    )
    shown = "".join(f"{value!r} {value}" for value in values)
    assert not [secret for secret in ("planted", "the-verifier", "the-state", "the-code") if secret in shown]


# --- answers


def test_a_good_answer_is_read_whole() -> None:
    extra = {
        "token_type": "Bearer",
        "scope": "user:inference user:profile",
        "account": {"uuid": "a-1", "email_address": "me@example.org"},
        "organization": {"uuid": "o-1", "name": "Mine"},
    }
    assert answer(GOOD | extra, content_type="Application/JSON; charset=utf-8", login_at=NOW) == Tokens(
        access_token=ACCESS,
        refresh_token=REFRESH,
        expires_at=NOW + 28_800,
        login_expires_at=NOW + 28 * DAY,
        scopes=("user:inference", "user:profile"),
        owner=Owner("a-1", "me@example.org", "o-1"),
    )


@pytest.mark.parametrize("absent", [{}, {"refresh_token": None}, {"refresh_token": ""}])
def test_an_answer_without_refresh_token_says_so(absent: dict[str, Any]) -> None:
    tokens = answer({"access_token": ACCESS, "expires_in": 100} | absent)
    assert tokens.refresh_token is None


@pytest.mark.parametrize(
    "expires_in",
    [
        *(None, 0, -1, 1, 59, 30 * 86_400 + 1, 10**400, float("nan"), float("inf"), float("-inf")),
        *("soon", "-5", "", "1e9", "1" * 5000, True, [], {}),
    ],
)
def test_an_absurd_lifetime_becomes_an_hour(expires_in: object) -> None:
    assert answer(GOOD | {"expires_in": expires_in}).expires_at == NOW + 3600


def test_a_missing_lifetime_becomes_an_hour() -> None:
    assert answer({"access_token": ACCESS}).expires_at == NOW + 3600


@pytest.mark.parametrize("expires_in", [60, 28_800, 28_800.5, "28800", 30 * 86_400])
def test_a_sane_lifetime_is_believed(expires_in: float | str) -> None:
    assert answer(GOOD | {"expires_in": expires_in}).expires_at == NOW + float(expires_in)


@pytest.mark.parametrize(
    ("told", "login_at", "end"),
    [
        (20 * 86_400, NOW - DAY, NOW + 20 * DAY),
        (None, NOW - DAY, NOW + 27 * DAY),
        (0, NOW - DAY, NOW + 27 * DAY),
        ("never", NOW, NOW + 28 * DAY),
        (10**12, NOW, NOW + 28 * DAY),
        (None, None, None),
        (20 * 86_400, None, NOW + 20 * DAY),
    ],
)
def test_the_login_ends_when_told_else_28_days_after_it_was_made(
    told: object, login_at: float | None, end: float | None
) -> None:
    assert answer(GOOD | {"refresh_token_expires_in": told}, login_at=login_at).login_expires_at == end


@pytest.mark.parametrize("code", ["invalid_grant", "invalid_refresh_token", "refresh_token_reused"])
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_fatal_error_code_ends_the_login(code: str, status: int) -> None:
    for error in (code, {"type": code, "message": REFRESH}):
        with pytest.raises(TokenRejected, match=code) as caught:
            answer({"error": error, "error_description": REFRESH}, status=status)
        assert REFRESH not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"error": "invalid_request", "error_description": "invalid_grant"},
        {"error": {"type": "invalid_request_error", "message": "invalid_grant: Refresh token not found"}},
        {"error": {"type": "api_error", "code": "invalid_grant"}},
        {"error": {"type": {"type": "invalid_grant"}}},
        {"error": ["invalid_grant"]},
        {"error": "invalid_grant "},
        {"error": "Invalid_Grant"},
        {"message": "invalid_grant", "account": {"name": "invalid_grant"}},
        {"type": "invalid_grant"},
        {},
    ],
)
def test_nothing_but_the_code_field_ends_a_login(fields: dict[str, Any]) -> None:
    with pytest.raises(TokenUnavailable):
        answer(fields, status=400)


@pytest.mark.parametrize("status", [200, 302, 429, 500, 503, 529])
def test_a_fatal_code_in_an_answer_of_another_kind_is_not_believed(status: int) -> None:
    with pytest.raises(TokenUnavailable):
        answer({"error": "invalid_grant"}, status=status)


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html", json.dumps(GOOD).encode()),
        (200, "", json.dumps(GOOD).encode()),
        (400, "text/html", b'{"error":"invalid_grant"}'),
        (200, JSON, b"<html>"),
        (200, JSON, b""),
        (200, JSON, b"[]"),
        (200, JSON, b"null"),
        (200, JSON, b"[" * 200_000),
        (200, JSON, b'{"expires_in":' + b"9" * 10_000 + b"}"),
        (200, JSON, b"\xff\xfe\xfa"),
        (200, JSON, json.dumps(GOOD | {"pad": "x" * 1_000_000}).encode()),
        (500, JSON, json.dumps(GOOD).encode()),
        (204, JSON, b""),
        (302, JSON, json.dumps(GOOD).encode()),
    ],
)
def test_every_other_answer_is_transient(status: int, content_type: str, body: bytes) -> None:
    with pytest.raises(TokenUnavailable):
        read_answer(status, content_type, body, NOW)


@pytest.mark.parametrize("bad", ["a b", "a\r\nX: y", "tök", "a\x00", 5, ["a"], {"a": 1}, True, "x" * 8193])
@pytest.mark.parametrize("name", ["access_token", "refresh_token"])
def test_a_token_that_fits_no_header_is_not_taken(name: str, bad: object) -> None:
    assert not is_token(bad)
    with pytest.raises(TokenUnavailable) as caught:
        answer(GOOD | {name: bad})
    assert ACCESS not in str(caught.value)


def test_an_unknown_error_is_shown_only_if_it_looks_like_a_code() -> None:
    with pytest.raises(TokenUnavailable, match=r"503 \(overloaded_error\)"):
        answer({"error": {"type": "overloaded_error"}}, status=503)
    with pytest.raises(TokenUnavailable, match="400;"):
        answer({"error": REFRESH}, status=400)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(ACCESS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = (
    "access_token",
    "refresh_token",
    "expires_in",
    "refresh_token_expires_in",
    "scope",
    "account",
    "error",
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values)), st.integers(100, 599))
def test_a_hostile_object_is_bounded_tokens_or_one_of_our_two_errors(fields: dict[str, Any], status: int) -> None:
    try:
        tokens = answer(fields, status, login_at=NOW)
    except (TokenRejected, TokenUnavailable):
        return
    assert is_token(tokens.access_token)
    assert tokens.refresh_token is None or is_token(tokens.refresh_token)
    assert NOW + 60 <= tokens.expires_at <= NOW + 30 * DAY
    assert tokens.login_expires_at is not None
    assert NOW < tokens.login_expires_at <= NOW + 366 * DAY


@given(st.binary(max_size=200), st.integers(), st.text(max_size=30) | st.just(JSON))
def test_hostile_bytes_never_end_a_login(body: bytes, status: int, content_type: str) -> None:
    with pytest.raises(TokenUnavailable):
        read_answer(status, content_type, body, NOW)


def test_a_created_key_is_read() -> None:
    assert read_key(200, JSON, b'{"raw_key":"sk-ant-api03-planted"}') == "sk-ant-api03-planted"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"{}"),
        (200, b'{"raw_key":"a b"}'),
        (403, b'{"error":"no"}'),
        (400, b'{"error":"invalid_grant"}'),
    ],
)
def test_no_key_is_never_a_rejected_login(status: int, body: bytes) -> None:
    with pytest.raises(TokenUnavailable):
        read_key(status, JSON, body)


# --- when


def test_a_refresh_comes_ahead_of_the_end_with_jitter_to_the_early_side() -> None:
    end = NOW + 28_800
    assert next_refresh(end, NOW, 1800, low, obtained_at=NOW) == end - 1800
    assert next_refresh(end, NOW, 1800, high, obtained_at=NOW) == pytest.approx(end - 2160, abs=1)


def test_a_token_near_or_past_its_end_is_refreshed_now() -> None:
    assert next_refresh(NOW + 600, NOW, 1800, low, obtained_at=NOW - 28_000) == NOW
    assert next_refresh(NOW - 600, NOW, 1800, low, obtained_at=None) == NOW


@given(st.floats(60, 30 * DAY), st.floats(0, 100 * DAY), st.floats(0, 1, exclude_max=True))
def test_a_new_token_is_never_refreshed_at_once(lifetime: float, before: float, jitter: float) -> None:
    due = next_refresh(NOW + lifetime, NOW, before, lambda: jitter, obtained_at=NOW)
    assert NOW + 0.39 * lifetime <= due <= NOW + lifetime


def test_a_clock_that_was_set_back_makes_no_refresh_storm() -> None:
    due = next_refresh(NOW + 28_800, NOW - 3600, 1800, low, obtained_at=NOW)
    assert due == NOW + 27_000


def test_backoff_doubles_from_a_minute_to_half_an_hour() -> None:
    assert [backoff(n, low) for n in (0, 1, 2, 3, 4, 5, 6)] == [60, 60, 120, 240, 480, 960, 1500]
    assert backoff(10**9, high) == pytest.approx(1800, abs=1)
    assert backoff(1, high) == pytest.approx(72, abs=1)


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (4.9 * DAY, "in 5 days"),
        (2 * DAY, "in 2 days"),
        (6 * 3600, "in 6 h"),
        (5, "in 1 h"),
        (0, "has reached"),
    ],
)
def test_the_end_of_a_login_is_announced(left: float, says: str) -> None:
    warning = login_warning(NOW + left, NOW)
    assert warning is not None
    assert says in warning


def test_there_is_no_warning_before_its_time_or_without_a_known_end() -> None:
    assert login_warning(NOW + 5.1 * DAY, NOW) is None
    assert login_warning(None, NOW) is None
