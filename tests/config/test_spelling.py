"""Names that were meant for ccflare and are not known."""

import pytest

from ccflare_core.config.options import OPTIONS, VARIABLES
from ccflare_core.config.spelling import unknown, unknown_variables


def test_what_is_known_and_what_is_mitmproxys_passes() -> None:
    assert unknown([option.name for option in OPTIONS]) == []
    assert unknown(["listen_host", "upstream_cert", "client_certs", "http2", "flow_detail", "scripts"]) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ccflare_retry_backof", "ccflare_retry_backoff"),
        ("ccflare_RECORD", "ccflare_record"),
        ("ccflare-hold-seconds", "ccflare_hold_seconds"),
        ("cclare_upstream", "ccflare_upstream"),
        ("ccflare_DB_PATH", "ccflare_database"),
        ("ccflare_sesion_second", "ccflare_session_seconds"),
    ],
)
def test_a_misspelt_option_gets_the_right_name(name: str, meant: str) -> None:
    assert unknown(["listen_port", name]) == [f"{name}: there is no such option; did you mean {meant}?"]


def test_a_name_like_no_other_is_told_without_a_guess() -> None:
    assert unknown(["ccflare_zzz"]) == ["ccflare_zzz: there is no such option; the README lists all of them"]


def test_the_key_as_an_option_is_sent_to_the_environment() -> None:
    assert "set the variable ccflare_ENCRYPTION_KEY" in unknown(["ccflare_encryption_key"])[0]


def test_known_variables_and_those_of_other_programs_pass() -> None:
    ours = {name: "x" for name, _ in VARIABLES} | {"ccflare_DB_PATH": "x"}

    assert unknown_variables(ours | {"PATH": "x", "LB_STRATEGIE": "x", "CCFLARE": "x"}) == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CCFLARE_DB_PATH", "did you mean ccflare_DB_PATH?"),
        ("ccflare_DBPATH", "did you mean ccflare_DB_PATH?"),
        ("ccflare_ENCRYPTON_KEY", "did you mean ccflare_ENCRYPTION_KEY?"),
        ("CCFLARE_HOLD_SECONDS", "use --set ccflare_hold_seconds=..."),
        ("ccflare_zzz", "allowed are ccflare_ALERT_SECRET, ccflare_CONFIG_PATH"),
    ],
)
def test_a_misspelt_variable_is_told(name: str, advice: str) -> None:
    (problem,) = unknown_variables({name: "x"})

    assert problem.startswith(f"{name}: there is no such variable; ")
    assert advice in problem


def test_where_names_have_no_case_capitals_are_ours() -> None:
    class Caseless(dict[str, str]):
        """os.environ as it is on Windows: listed in capitals, found under any spelling."""

        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            return super().get(key.upper(), default)

    assert unknown_variables(Caseless(CCFLARE_DB_PATH="x")) == []
    assert len(unknown_variables(Caseless(CCFLARE_DBPATH="x"))) == 1
