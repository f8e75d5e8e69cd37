"""What an option may hold, and how a variable's text becomes a value."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.config.option import Group, Option, shown
from ccflare_core.config.options import LISTEN, OPTIONS, VARIABLES, option_table, waits_for_restart
from ccflare_core.http.origins import Origin

BY_NAME = {option.name: option for option in (*OPTIONS, *LISTEN)}
UPSTREAM = BY_NAME["ccflare_upstream"]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_default_is_allowed_and_every_help_is_a_sentence(option: Option) -> None:
    assert option.problem(option.default) is None
    assert option.help.endswith(".")
    assert option.name.startswith("ccflare_")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_value_of_another_kind_is_refused_with_what_is_allowed(option: Option) -> None:
    for wrong in (None, 1.5, [option.default], b"x", "\0" if option.kind is str else "1"):
        problem = option.problem(wrong)

        assert problem is not None
        assert problem.endswith(f"allowed is {option.allowed}")


def test_true_is_no_number_and_one_is_not_true() -> None:
    assert BY_NAME["ccflare_retry_attempts"].problem(True)
    assert BY_NAME["ccflare_tuning"].problem(1)


@pytest.mark.parametrize("option", [o for o in BY_NAME.values() if o.kind is int], ids=lambda o: o.name)
def test_a_range_includes_both_ends_and_nothing_beyond(option: Option) -> None:
    assert option.minimum is not None
    assert option.maximum is not None
    assert option.problem(option.minimum) is None
    assert option.problem(option.maximum) is None
    assert option.problem(option.minimum - 1)
    assert option.problem(option.maximum + 1)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://api.anthropic.com", ("https", "api.anthropic.com", 443)),
        ("https://API.Anthropic.com/", ("https", "api.anthropic.com", 443)),
        ("http://127.0.0.1:9", ("http", "127.0.0.1", 9)),
        ("HTTP://localhost", ("http", "localhost", 80)),
        ("http://[::1]:8081", ("http", "::1", 8081)),
        ("https://a", ("https", "a", 443)),
    ],
)
def test_an_origin_is_read(text: str, origin: tuple[str, str, int]) -> None:
    assert Origin.parse(text.removesuffix("/")) == origin
    assert UPSTREAM.problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.anthropic.com",
        "ftp://a",
        "https://",
        "https://a/v1",
        "https://a//",
        "https://a?b",
        "https://a#b",
        "https://a b",
        "https://a\n",
        "https://a:0",
        "https://a:65536",
        "https://a:x",
        "https://-a",
        "https://[a]",
        "https://[::1",
        "https://::1",
        "https://ä",
        "https://user:password@a",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    assert Origin.parse(text) is None
    assert "password" not in str(UPSTREAM.problem(text))


@given(st.text())
def test_any_text_is_an_origin_or_refused_without_an_exception(text: str) -> None:
    assert (Origin.parse(text) is None) == (UPSTREAM.problem(text) is not None)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ccflare_strategy", "Round-Robin", "round-robin"),
        ("ccflare_session_seconds", "3600000", 3600),
        ("ccflare_session_seconds", "1001", 2),
        ("ccflare_retry_attempts", "0", 0),
        ("ccflare_log_level", "WARN", "warning"),
        ("ccflare_log_format", "pretty", "text"),
        ("ccflare_tuning", "No", False),
        ("ccflare_database", "~/x.db", "~/x.db"),
        ("listen_host", "::1", "::1"),
        ("listen_port", "0", 0),
    ],
)
def test_a_variable_is_read_in_the_options_own_unit_and_words(name: str, text: str, value: object) -> None:
    assert BY_NAME[name].read(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ccflare_strategy", "best"),
        ("ccflare_retry_backoff", "1.5"),
        ("ccflare_retry_attempts", "1_0"),
        ("ccflare_retry_attempts", "٣"),
        ("ccflare_retry_attempts", "9" * 5000),
        ("ccflare_session_seconds", "999"),
        ("ccflare_tuning", "perhaps"),
        ("ccflare_client_id", "two words"),
        ("listen_host", "http://127.0.0.1"),
        ("listen_host", "127.0.0.1 "),
        ("listen_port", "65536"),
    ],
)
def test_a_variable_that_says_something_else_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match="cannot be used; allowed is "):
        BY_NAME[name].read(text)


def test_a_range_is_told_in_the_variables_unit() -> None:
    with pytest.raises(ValueError, match="from 1000 to 2592000000"):
        BY_NAME["ccflare_session_seconds"].read("5")


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_no_value_makes_a_check_raise(value: object) -> None:
    for option in BY_NAME.values():
        problem = option.problem(value)

        assert problem is None or "allowed is" in problem


def test_a_quotation_is_short_and_holds_no_secret() -> None:
    assert len(shown("x" * 1000)) == 60
    assert shown("https://me:hidden@host") == shown("sk-ant-api03-hidden") == "this value"


def test_the_table_for_people_has_a_row_for_each_option() -> None:
    rows = {row[0]: row[1:] for row in option_table()}

    assert sorted(rows) == sorted([*(o.name for o in OPTIONS), "listen_host", "listen_port"])
    assert rows["ccflare_tuning"][:3] == ("true", "", "after a restart")
    assert rows["ccflare_session_seconds"][:3] == ("18000", "SESSION_DURATION_MS", "after a restart")
    assert rows["ccflare_body_limit_bytes"][0] == "64 MiB"
    assert rows["ccflare_memory_soft_limit_bytes"][0] == "1024 MiB"
    assert rows["ccflare_database_limit_bytes"][0] == "0"


def test_groups_of_the_table_follow_each_other_and_leave_no_option_out() -> None:
    assert [group for group, _ in groupby(option.group for option in OPTIONS)] == list(Group)
    assert [row for group in Group for row in option_table(group)] == option_table()


def test_change_that_waits_for_a_restart_is_told_until_it_is_taken_back() -> None:
    running = {option.name: option.default for option in OPTIONS}
    other = {**running, "ccflare_strategy": "least-used", "ccflare_record": "off", "ccflare_hold_seconds": 1}
    third = {**other, "ccflare_strategy": "round-robin"}

    assert waits_for_restart(running, running, other) == ["ccflare_strategy"]
    assert waits_for_restart(running, other, other) == []
    assert waits_for_restart(running, other, third) == ["ccflare_strategy"]
    assert waits_for_restart(running, third, running) == []


def test_the_key_is_no_option() -> None:
    assert "ccflare_ENCRYPTION_KEY" in dict(VARIABLES)
    assert not [o for o in OPTIONS if o.environment == "ccflare_ENCRYPTION_KEY" or "encryption" in o.name]
