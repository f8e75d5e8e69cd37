"""Accounts, credentials, and what happens to the client's headers on the way up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.account import OAUTH_BETA, Account, Credential, Kind, inject
from ccflare_core.http.headers import Header

OAUTH = Credential(Kind.OAUTH, "sk-ant-oat01-ours")
API_KEY = Credential(Kind.API_KEY, "sk-ant-api03-ours")

CLAUDE_CODE: tuple[Header, ...] = (
    (b"Accept", b"application/json"),
    (b"User-Agent", b"claude-cli/2.1.330 (external, sdk-cli)"),
    (b"anthropic-beta", b"claude-code-20250219,interleaved-thinking-2025-05-14"),
    (b"anthropic-version", b"2023-06-01"),
    (b"x-api-key", b"sk-ant-api03-theirs"),
    (b"x-app", b"cli"),
    (b"Host", b"127.0.0.1:8080"),
    (b"Content-Length", b"12"),
)


def values(headers: tuple[Header, ...], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def oauth_account(**fields: object) -> Account:
    return Account("1", "max-1", Kind.OAUTH, **({"access_token": "token"} | fields))  # type: ignore[arg-type]


def test_an_oauth_token_takes_the_place_of_the_clients_key() -> None:
    sent = inject(CLAUDE_CODE, OAUTH)

    beta = CLAUDE_CODE[2][1] + b"," + OAUTH_BETA
    assert sent == (
        *CLAUDE_CODE[:2],
        (b"anthropic-beta", beta),
        CLAUDE_CODE[3],
        (b"Authorization", b"Bearer sk-ant-oat01-ours"),
        *CLAUDE_CODE[5:],
    )


def test_an_api_key_takes_the_place_of_the_clients_token() -> None:
    headers = ((b"Host", b"h"), (b"AUTHORIZATION", b"Bearer theirs"), (b"anthropic-beta", b"a, b"))

    assert inject(headers, API_KEY) == (headers[0], (b"x-api-key", b"sk-ant-api03-ours"), headers[2])


@pytest.mark.parametrize("credential", [OAUTH, API_KEY])
def test_every_client_credential_is_dropped(credential: Credential) -> None:
    theirs: list[Header] = [
        (b"X-Api-Key", b"theirs-1"),
        (b"authorization", b"Bearer theirs-2"),
        (b"Proxy-Authorization", b"Basic theirs-3"),
        (b"x-api-key", b"theirs-4"),
        (b"Authorization ", b"theirs-5"),
    ]

    sent = inject(theirs, credential)

    assert not any(b"theirs" in value for _, value in sent)
    assert len(values(sent, b"authorization") + values(sent, b"x-api-key")) == 1


def test_without_a_client_credential_ours_goes_last_but_for_the_beta() -> None:
    headers = ((b"Host", b"h"), (b"Accept", b"*/*"))

    sent = inject(headers, OAUTH)

    ours = ((b"Authorization", b"Bearer sk-ant-oat01-ours"), (b"anthropic-beta", OAUTH_BETA))
    assert sent == headers + ours
    assert inject(headers, API_KEY) == (*headers, (b"x-api-key", b"sk-ant-api03-ours"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([b"a"], [b"a," + OAUTH_BETA]),
        ([b"a", b"b"], [b"a," + OAUTH_BETA, b"b"]),
        ([b"a, " + OAUTH_BETA], [b"a, " + OAUTH_BETA]),
        ([b"a", OAUTH_BETA + b",b"], [b"a", OAUTH_BETA + b",b"]),
        ([b"oauth-2025-04-20x"], [b"oauth-2025-04-20x," + OAUTH_BETA]),
        ([b" "], [OAUTH_BETA]),
    ],
)
def test_the_oauth_beta_is_there_exactly_once(before: list[bytes], after: list[bytes]) -> None:
    sent = inject([(b"Anthropic-Beta", value) for value in before], OAUTH)

    assert values(sent, b"anthropic-beta") == after


def test_headers_without_capitals_stay_without() -> None:
    sent = inject([(b"accept", b"*/*"), (b"x-api-key", b"theirs")], OAUTH)

    assert (b"authorization", b"Bearer sk-ant-oat01-ours") in sent


NAMES = st.sampled_from([b"Authorization", b"x-api-key", b"anthropic-beta", b"Accept", b"x-app", b"accept"])


@given(st.lists(st.tuples(NAMES, st.binary(max_size=8))), st.sampled_from([OAUTH, API_KEY]))
def test_all_other_headers_keep_order_case_and_bytes(headers: list[Header], credential: Credential) -> None:
    ours = {b"authorization", b"x-api-key", b"anthropic-beta"}

    sent = inject(headers, credential)

    kept = [header for header in headers if header[0].lower() not in ours]
    assert [header for header in sent if header[0].lower() not in ours] == kept
    assert inject(sent, credential) == sent


@pytest.mark.parametrize("secret", ["", " ", "a b", "a\n", "a\r\nx-evil: 1", "clé", "a\x00", "a\x7f"])
def test_a_secret_that_no_header_may_hold_is_refused_without_quoting_it(secret: str) -> None:
    with pytest.raises(ValueError, match="no header may hold") as caught:
        Credential(Kind.OAUTH, secret)

    assert not secret.strip() or secret not in str(caught.value)


def test_no_repr_holds_a_secret() -> None:
    account = Account("1", "n", Kind.OAUTH, access_token="planted-1", refresh_token="planted-2", api_key="planted-3")

    assert "planted" not in repr(account) + repr(account.credential())


def test_the_credential_follows_the_kind() -> None:
    both = {"access_token": "token", "api_key": "key"}

    assert Account("1", "n", Kind.OAUTH, **both).credential() == Credential(Kind.OAUTH, "token")  # type: ignore[arg-type]
    assert Account("1", "n", Kind.API_KEY, **both).credential() == Credential(Kind.API_KEY, "key")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max-1 has no access token"):
        oauth_account(access_token=None).credential()


@pytest.mark.parametrize(
    ("account", "problem"),
    [
        (oauth_account(), None),
        (oauth_account(expires_at=100.1), None),
        (oauth_account(expires_at=100.0), "token expired"),
        (oauth_account(access_token=None), "no token"),
        (oauth_account(needs_login=True, expires_at=1.0), "needs login"),
        (Account("1", "n", Kind.API_KEY, api_key="k", expires_at=1.0, needs_login=True), None),
        (Account("1", "n", Kind.API_KEY), "no API key"),
    ],
)
def test_token_problem(account: Account, problem: str | None) -> None:
    assert account.token_problem(100.0) == problem
