"""What may be started as workers, when the next one comes, and whose lines are whose."""

import json
from datetime import UTC, datetime

import pytest

from ccflare_cli.workers.rules import FIRST_PAUSE, LONGEST_PAUSE, Lines, Rests, Wanted, ended, exit_code, is_asked, read
from ccflare_core.errors import ConfigError

PROGRAMS = ("web", "console")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--workers 2", Wanted(2, ())),
        ("--workers=4 -p 9000", Wanted(4, ("-p", "9000"))),
        ("-p 9000 --workers 1", Wanted(1, ("-p", "9000"))),
    ],
)
def test_workers_are_read_out_of_the_proxys_words(words: str, wanted: Wanted) -> None:
    assert is_asked(words.split())
    assert read(words.split(), PROGRAMS, "linux") == wanted


@pytest.mark.parametrize(
    ("words", "platform", "told"),
    [
        ("--workers", "linux", "takes a number from 1 to 64"),
        ("--workers 0", "linux", "takes a number from 1 to 64"),
        ("--workers -1", "linux", "takes a number from 1 to 64"),
        ("--workers 65", "linux", "takes a number from 1 to 64"),
        ("--workers=two", "linux", "takes a number from 1 to 64"),
        ("--workers 2 --workers 3", "linux", "stands there twice"),
        ("web --workers 2", "linux", "`web` shows what goes through one process"),
        ("console --workers=2", "linux", "`console` shows what goes through one process"),
        ("--workers 2", "darwin", "takes Linux"),
    ],
)
def test_workers_that_cannot_be_are_refused_in_a_sentence(words: str, platform: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(words.split(), PROGRAMS, platform)


def test_workers_are_not_asked_for_by_other_words() -> None:
    assert not is_asked(["-p", "8080", "--set", "ccflare_upstream=https://workers"])


def test_rests_grow_to_a_bound_and_begin_anew_after_a_steady_worker() -> None:
    rests = Rests()

    pauses = [rests.after(1.0) for _ in range(8)]

    assert pauses[:4] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE
    assert rests.after(3600.0) == 0.0


@pytest.mark.parametrize(("codes", "code"), [([0, 0], 0), ([0, 1], 1), ([2, 1], 2), ([0, -15], 143)])
def test_exit_code_is_that_of_the_first_that_failed(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code


@pytest.mark.parametrize(
    ("code", "told"), [(1, "with code 1"), (-9, "by SIGKILL"), (-64, "by SIGRTMAX"), (-99, "by signal 99")]
)
def test_ends_are_told_in_words(code: int, told: str) -> None:
    assert ended(code) == told


def test_lines_are_put_together_and_carry_their_workers_number() -> None:
    lines = Lines()

    said = [
        *lines.take(1, b"one, "),
        *lines.take(2, b"two\nthree\nfo"),
        *lines.take(1, b"whole\n"),
        *lines.take(2, b""),
    ]

    assert said == [b"[2] two\n", b"[2] three\n", b"[1] one, whole\n", b"[2] fo\n"]


def test_lines_of_json_stay_json_and_so_are_the_supervisors_own() -> None:
    lines = Lines(lambda: NOON)
    assert lines.own("hello").endswith(b"] hello\n")

    (line,) = lines.take(3, b'{"msg": "a"}\n')

    assert json.loads(line) == {"worker": 3, "msg": "a"}
    assert json.loads(lines.own("hello")) == {
        "ts": "2026-11-30T12:00:00.000+00:00",
        "level": "INFO",
        "logger": "ccflare",
        "msg": "hello",
    }


def test_lines_without_an_end_are_written_once_they_are_long() -> None:
    assert [len(line) for line in Lines().take(1, b"x" * 2_000_000)] == [2_000_005]
