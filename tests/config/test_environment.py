"""Variables: which count, which are taken for other programs', and that a rejected value names its variable."""

import pytest

from ccflare_core.config.environment import Environment, all_explained, explained, read_environment, told
from ccflare_core.errors import ConfigError

CONDA = "x86_64-conda-linux-gnu"
BESIDE = {"ccflare_KEY_SOURCE": "auto"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1%eth0", "localhost", "LocalHost"])
def test_host_counts_if_it_is_an_address_or_localhost(host: str) -> None:
    found = read_environment({"HOST": host})

    assert (found.values, found.variables, found.foreign) == ({"listen_host": host}, {"listen_host": "HOST"}, ())


@pytest.mark.parametrize("host", [CONDA, "myhost", "arm64-apple-darwin20.0.0", "http://127.0.0.1", "a b", "1.2.3"])
@pytest.mark.parametrize("beside", [{}, BESIDE])
def test_another_host_is_some_other_programs(host: str, beside: dict[str, str]) -> None:
    found = read_environment({"HOST": host, **beside})

    assert "listen_host" not in found.values
    assert told(found.foreign).startswith("not counted, since other programs use the name too: HOST is neither an IP")


@pytest.mark.parametrize(("name", "text"), [("CLIENT_ID", "abc"), ("ALLOWED_ORIGINS", "https://app.example")])
def test_what_would_do_harm_counts_beside_a_variable_of_ours_alone(name: str, text: str) -> None:
    alone, beside = read_environment({name: text}), read_environment({name: text, **BESIDE})

    assert alone.values == {}
    assert "stands beside no variable whose name begins with ccflare_" in told(alone.foreign)
    assert (list(beside.values.values()), beside.foreign) == ([text, "auto"] if name[0] == "A" else ["auto", text], ())
    assert read_environment({name: text, "ccflare_KEY_SOURCE": " "}).values == {}


FOREIGN = {
    "LOG_LEVEL": "trace",
    "LOG_FORMAT": "combined",
    "PORT": "tcp://10.0.0.1:8080",
    "RETRY_ATTEMPTS": "forever",
    "RETRY_DELAY_MS": "1s",
    "RETRY_BACKOFF": "exponential",
    "SESSION_DURATION_MS": "1d",
    "LB_STRATEGY": "p2c",
}
"""Every other short name, with what some other program may mean by it."""


def test_a_value_that_only_another_program_understands_does_not_stop_the_start() -> None:
    found = read_environment(FOREIGN)

    assert found.values == {}
    assert len(found.foreign) == len(FOREIGN)
    assert all(name in told(found.foreign) for name in FOREIGN)
    assert "tcp://" not in told(found.foreign)


@pytest.mark.parametrize("name", FOREIGN)
def test_beside_a_variable_of_ours_it_is_a_mistake_that_names_its_variable(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_environment({name: FOREIGN[name], **BESIDE})

    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: ")


@pytest.mark.parametrize("text", ["0", "1"])
def test_each_value_has_its_variable(text: str) -> None:
    found = read_environment({"ccflare_DEBUG": text, "LOG_LEVEL": "error", "PORT": "80"})

    assert found.values.keys() == found.variables.keys() == {"ccflare_log_level", "listen_port"}
    assert found.variables["ccflare_log_level"] == ("ccflare_DEBUG" if text == "1" else "LOG_LEVEL")


def test_nothing_foreign_is_no_sentence() -> None:
    assert told(read_environment({"PORT": "9000", "LOG_LEVEL": "debug"}).foreign) == ""


SAID = Environment(
    {"listen_host": "192.0.2.7", "ccflare_database": "/nowhere/at/all.db", "listen_port": 80},
    {"listen_host": "HOST", "ccflare_database": "ccflare_DB_PATH", "listen_port": "PORT"},
    (),
)


@pytest.mark.parametrize(
    ("sentence", "told_"),
    [
        ("listen_host: 192.0.2.7 is reached.", "listen_host (variable HOST): 192.0.2.7 is reached."),
        ("/nowhere/at/all.db cannot be opened", "/nowhere/at/all.db cannot be opened (variable ccflare_DB_PATH)"),
        ("what ccflare_database names is none", "what ccflare_database (variable ccflare_DB_PATH) names is none"),
        ("ccflare_strategy: no", "ccflare_strategy: no"),
        ("listen_hosts: no", "listen_hosts: no"),
        ("ccflare_DB_PATH: 5 cannot be used", "ccflare_DB_PATH: 5 cannot be used"),
        ("80 ways to fail", "80 ways to fail"),
    ],
)
def test_a_sentence_names_the_variable_whose_value_it_rejects(sentence: str, told_: str) -> None:
    assert explained(sentence, SAID) == told_


def test_sentences_stay_where_the_variables_have_mistakes_themselves() -> None:
    assert all_explained(["listen_host: no"], {"ccflare_nonsense": "x", "HOST": "127.0.0.1"}) == ["listen_host: no"]
