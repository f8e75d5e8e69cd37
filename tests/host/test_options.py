"""Our options inside mitmproxy: who may say what a value is, and that every mistake is told at the start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.test import taddons

from ccflare_core.config.options import OPTIONS
from ccflare_core.errors import ConfigError
from ccflare_mitm.host import options


class Start:
    """mitmproxy at its start: what is said to it, and what holds once the addon is loaded."""

    def __init__(self, context: taddons.context, folder: Path) -> None:
        self.options = context.options
        self._loader = Loader(context.master)
        self._folder = folder

    def say(self, *texts: str) -> None:
        """`--set name=value` on the command line."""
        self.options.set(*texts, defer=True)

    def write(self, text: str) -> None:
        """The mitm-config.yaml."""
        (self._folder / "mitm-config.yaml").write_text(text)

    def load(self, **environ: str) -> dict[str, Any]:
        """All options of ours as they hold after the start."""
        options.declare(self._loader, environ, self._folder)
        self.options.process_deferred()
        return options.current()

    def problems(self, **environ: str) -> list[str]:
        """What a start that fails complains about."""
        with pytest.raises(ConfigError) as error:
            self.load(**environ)
        return list(error.value.problems)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with taddons.context() as context:
        yield Start(context, tmp_path)


# --- precedence -------------------------------------------------------------------------------------------------------


def test_without_a_word_from_anyone_the_built_in_defaults_hold(start: Start) -> None:
    assert start.load() == {option.name: option.default for option in OPTIONS}
    assert start.options.listen_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("said", "variable", "written", "holds"),
    [
        ("4", "5", "6", 4),
        (None, "5", "6", 5),
        (None, None, "6", 6),
        ("4", None, "6", 4),
        ("4", "5", None, 4),
        (None, None, None, 3),
    ],
)
def test_command_line_over_environment_over_file_over_built_in(
    start: Start, said: str | None, variable: str | None, written: str | None, holds: int
) -> None:
    if said:
        start.say(f"ccflare_retry_attempts={said}")
    if written:
        start.write(f"ccflare_retry_attempts: {written}\n")

    values = start.load(**({"RETRY_ATTEMPTS": variable} if variable else {}))

    assert values["ccflare_retry_attempts"] == holds


def test_the_same_order_holds_for_mitmproxys_own_options(start: Start) -> None:
    start.options.update(listen_host="::1")
    start.write("listen_host: 127.0.0.2\nlisten_port: 9000\nhttp2: false\n")

    start.load(HOST="127.0.0.3", PORT="9001")

    assert (start.options.listen_host, start.options.listen_port, start.options.http2) == ("::1", 9001, False)


def test_what_mitmproxys_own_file_says_counts_like_the_command_line(start: Start) -> None:
    start.options.update_defer(ccflare_retry_attempts=4)
    start.write("ccflare_retry_attempts: 6\n")

    assert start.load()["ccflare_retry_attempts"] == 4


def test_options_of_addons_that_come_later_are_kept_for_them(start: Start) -> None:
    start.say("flow_detail=2")
    start.write("flow_detail: 0\nweb_port: 9999\n")

    start.load()

    assert start.options.deferred["web_port"] == 9999


@pytest.mark.parametrize(("text", "value"), [("", True), ("=true", True), ("=false", False)])
def test_a_switch_on_the_command_line(start: Start, text: str, value: bool) -> None:
    start.say(f"ccflare_allow_remote{text}")

    assert start.load()["ccflare_allow_remote"] is value


def test_several_options_on_the_command_line(start: Start) -> None:
    start.say("ccflare_hold_seconds=1", "ccflare_strategy=round-robin")

    values = start.load()

    assert (values["ccflare_hold_seconds"], values["ccflare_strategy"]) == (1, "round-robin")


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_all_mistakes_from_everywhere_are_told_at_once(start: Start) -> None:
    start.say("ccflare_hold_seconds=-1", "ccflare_holdd_seconds=1", "ccflare_record=some")
    start.options.update_defer(ccflare_retry_attempts="three")
    start.write("ccflare_strategy: best\nccflare_tunning: false\n")

    problems = start.problems(RETRY_BACKOFF="0", ccflare_DB="x")

    names = [problem.removeprefix(f"{start._folder / 'mitm-config.yaml'}: ").split(":")[0] for problem in problems]
    assert sorted(names) == [
        "RETRY_BACKOFF",
        "ccflare_DB",
        "ccflare_hold_seconds",
        "ccflare_holdd_seconds",
        "ccflare_record",
        "ccflare_retry_attempts",
        "ccflare_strategy",
        "ccflare_tunning",
    ]


def test_a_mistake_says_what_is_allowed(start: Start) -> None:
    start.say("ccflare_record=some")

    assert start.problems() == ["ccflare_record: 'some' cannot be used; allowed is full, redacted, metadata or off"]


@pytest.mark.parametrize("text", ["", "=", "=x", "=1.5", "=--5", "=-", "=+", "=9" + "9" * 5000, "=0x10", "=601"])
def test_no_number_is_a_mistake_and_never_a_crash(start: Start, text: str) -> None:
    start.say(f"ccflare_hold_seconds{text}")

    assert [problem.split(":")[0] for problem in start.problems()] == ["ccflare_hold_seconds"]


def test_what_is_said_twice_is_a_mistake(start: Start) -> None:
    start.say("ccflare_hold_seconds=1", "ccflare_hold_seconds=2")
    assert start.problems() == ["ccflare_hold_seconds: this is said 2 times; say it once"]


@pytest.mark.parametrize("text", ["=yes", "=toggle", "=1"])
def test_no_switch_is_a_mistake(start: Start, text: str) -> None:
    start.say(f"ccflare_allow_remote{text}")

    assert [problem.split(":")[0] for problem in start.problems()] == ["ccflare_allow_remote"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("listen_port: many", "listen_port: 'many' cannot be used; allowed is int"),
        ("listen_host: [a]", "listen_host: ['a'] cannot be used; allowed is str"),
        ("mode: regular", "mode: 'regular' cannot be used; allowed is sequence of str"),
        ("http2: perhaps", "http2: 'perhaps' cannot be used; allowed is bool"),
        ("http2:", "http2: None cannot be used; allowed is bool"),
    ],
)
def test_a_value_that_mitmproxy_cannot_use_is_a_mistake_in_the_file(start: Start, line: str, problem: str) -> None:
    start.write(f"{line}\n")

    assert start.problems() == [problem]


def test_what_an_addon_of_mitmproxys_refuses_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    class Picky:
        def configure(self, updated: set[str]) -> None:
            if "listen_port" in updated:
                raise exceptions.OptionsError("This port is taken.")

    with taddons.context(Picky()) as context:
        start = Start(context, tmp_path)
        start.write("listen_port: 8080\n")

        assert start.problems() == ["mitm-config.yaml: This port is taken."]


def test_after_a_mistake_nothing_is_declared(start: Start) -> None:
    start.say("ccflare_record=some")

    start.problems()

    assert not set(start.options.keys()) & {option.name for option in OPTIONS}
