"""What a client's environment becomes."""

from pathlib import Path
from typing import Any

import pytest

from ccflare_cli.companion.environment import ProxyAddress, client_variables, has_credential, key_in, leaves_out_api

PLACE = "127.0.0.1:8080"
AUTHORITY, BUNDLE = Path("/home/you/ca.pem"), Path("/home/you/bundle.pem")


def variables(environ: dict[str, str], *, has_login: bool = False, **address: Any) -> tuple[dict[str, str], set[str]]:
    found = client_variables(ProxyAddress(PLACE, **address), AUTHORITY, BUNDLE, environ, has_login=has_login)
    return dict(found.set), set(found.unset)


def test_a_client_without_anything_gets_the_proxy_and_a_placeholder() -> None:
    assert variables({}) == (
        {
            "HTTPS_PROXY": "http://127.0.0.1:8080",
            "NODE_EXTRA_CA_CERTS": "/home/you/ca.pem",
            "SSL_CERT_FILE": "/home/you/bundle.pem",
            "NODE_USE_ENV_PROXY": "1",
            "NO_PROXY": "localhost,127.0.0.1,::1",
            "ANTHROPIC_AUTH_TOKEN": "unused",
            "CLAUDE_CODE_PROMPT_CACHE_TTL": "1h",
        },
        set(),
    )


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"])
def test_a_credential_of_the_clients_own_stays(name: str) -> None:
    changed, gone = variables({name: "sk-ant-EXAMPLE"})

    assert not {name, "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_PROMPT_CACHE_TTL"} & ({*changed} | gone)


def test_a_login_gets_no_placeholder() -> None:
    assert "ANTHROPIC_AUTH_TOKEN" not in variables({}, has_login=True)[0]


def test_what_leads_past_the_proxy_goes() -> None:
    leading = dict.fromkeys(("ANTHROPIC_BASE_URL", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://proxy.example")

    changed, gone = variables(leading | {"PATH": "/bin"})

    assert gone == {*leading}
    assert changed["HTTPS_PROXY"] == "http://127.0.0.1:8080"


def test_an_environment_of_ours_gives_the_same_again() -> None:
    first, _ = variables({}, key="ccf_EXAMPLE")

    assert variables(first, key=key_in(first)) == (first, set())


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"key": "ccf_EXAMPLE"}, "http://key:ccf_EXAMPLE@127.0.0.1:8080"),
        ({"label": "run-1"}, "http://run-1:-@127.0.0.1:8080"),
        ({"label": "run-1", "key": "ccf_EXAMPLE"}, "http://run-1:ccf_EXAMPLE@127.0.0.1:8080"),
        ({"has_tls": True}, "https://127.0.0.1:8080"),
    ],
)
def test_a_key_and_a_label_go_into_the_address(address: dict[str, Any], url: str) -> None:
    assert ProxyAddress(PLACE, **address).url == url


def test_a_key_goes_nowhere_else_and_is_not_shown() -> None:
    changed, _ = variables({}, key="ccf_EXAMPLE")

    assert [name for name, value in changed.items() if "ccf_" in value] == ["HTTPS_PROXY"]
    assert "ccf_EXAMPLE" not in repr(ProxyAddress(PLACE, key="ccf_EXAMPLE"))


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"HTTPS_PROXY": "http://key:ccf_EXAMPLE@127.0.0.1:8080"}, "ccf_EXAMPLE"),
        ({"HTTPS_PROXY": "http://me:secret@proxy.example:3128"}, ""),
        ({"HTTPS_PROXY": "http://[::1"}, ""),
        ({"ANTHROPIC_AUTH_TOKEN": "ccf_EXAMPLE"}, "ccf_EXAMPLE"),
        ({"ANTHROPIC_AUTH_TOKEN": "sk-ant-EXAMPLE"}, ""),
    ],
)
def test_a_key_in_use_is_found(environ: dict[str, str], key: str) -> None:
    assert key_in(environ) == key


def test_our_own_placeholders_are_no_credentials() -> None:
    assert not has_credential({"ANTHROPIC_AUTH_TOKEN": "unused", "ANTHROPIC_API_KEY": "ccf_EXAMPLE"})


def test_hosts_that_the_user_leaves_out_stay_left_out_but_for_the_api() -> None:
    changed, gone = variables({"no_proxy": "intra.example, .anthropic.com,localhost", "NO_PROXY": "other.example"})

    assert changed["NO_PROXY"] == "localhost,127.0.0.1,::1,intra.example"
    assert gone == {"no_proxy"}


@pytest.mark.parametrize(
    ("entry", "leaves_out"),
    [
        ("*", True),
        ("api.anthropic.com", True),
        ("API.anthropic.com:443", True),
        ("anthropic.com", True),
        (".anthropic.com", True),
        ("*.anthropic.com", True),
        (".com", True),
        ("thropic.com", False),
        ("console.anthropic.com", False),
        ("localhost", False),
    ],
)
def test_entries_that_lead_past_the_proxy_are_known(entry: str, leaves_out: bool) -> None:
    assert leaves_out_api(entry) is leaves_out
