"""What is remembered of sessions is found again, bounded, and forgotten in time."""

from typing import NamedTuple

from ccflare_core.transcripts.conversations import Conversations


class Made(NamedTuple):
    """A body and nothing else."""

    body: bytes

    @property
    def weight(self) -> int:
        return len(self.body)


class Clock:
    """A clock to be set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_closest_body_of_the_session_is_found() -> None:
    known: Conversations[Made] = Conversations()
    main, helper = Made(b"main: one, two"), Made(b"help: one, two")
    known.keep("s-1", main)
    known.keep("s-1", helper)
    assert known.closest("s-1", b"main: one, two, three") is main
    assert known.closest("s-1", b"help: one, two, three") is helper
    assert known.closest("s-2", b"main: one, two, three") is None


def test_a_body_takes_the_place_of_what_it_goes_on_from() -> None:
    known: Conversations[Made] = Conversations()
    for length in range(10, 100, 10):
        known.keep("s-1", Made(b"a" * length))
    known.keep("s-1", Made(b"b" * 10))
    assert known.weight == 90 + 10


def test_a_session_has_four_bodies_at_most() -> None:
    known: Conversations[Made] = Conversations()
    for letter in b"abcdef":
        known.keep("s-1", Made(bytes([letter]) * 10))
    assert known.weight == 40
    assert known.closest("s-1", b"bbbb") != Made(b"b" * 10)
    assert known.closest("s-1", b"cccc") == Made(b"c" * 10)


def test_the_sessions_heard_of_longest_ago_go_first() -> None:
    known: Conversations[Made] = Conversations(most_bytes=100)
    for session in ("s-1", "s-2", "s-1", "s-3"):
        known.keep(session, Made(b"a" * 40))
    assert [known.closest(session, b"a") is None for session in ("s-1", "s-2", "s-3")] == [False, True, False]
    assert known.weight == 80


def test_what_is_too_large_is_not_remembered() -> None:
    known: Conversations[Made] = Conversations(most_bytes=100)
    known.keep("s-1", Made(b"a" * 101))
    assert (known.closest("s-1", b"a"), known.weight) == (None, 0)


def test_a_session_that_is_silent_for_an_hour_is_forgotten() -> None:
    clock = Clock()
    known: Conversations[Made] = Conversations(clock=clock)
    known.keep("s-1", Made(b"a"))
    clock.now = 3000.0
    known.keep("s-2", Made(b"b"))
    clock.now = 3601.0
    known.keep("s-3", Made(b"c"))
    assert [known.closest(session, b"") is None for session in ("s-1", "s-2", "s-3")] == [True, False, False]
    known.clear()
    assert (known.closest("s-3", b""), known.weight) == (None, 0)
