"""Pins: a session keeps its account, on this proxy, on another one, and after a restart; and who has to be told."""

from ccflare_core.accounts.affinity import NOTE_SECONDS, Pins, key_of, session_key
from ccflare_core.anthropic.request import Facts


def pins(most: int = 10, seconds: float = 18_000.0) -> Pins:
    return Pins(seconds, most)


def test_what_stands_for_a_session_does_not_tell_it() -> None:
    assert session_key("s-1") == session_key("s-1") != session_key("s-2")
    assert "s-1" not in session_key("s-1")
    assert key_of(Facts(session_id="s-1", client="10.0.0.1")) == session_key("s-1")
    assert key_of(Facts(client="10.0.0.1")) == "10.0.0.1"


def test_the_database_is_told_of_a_new_session_a_move_and_a_use_after_a_while() -> None:
    kept = pins()
    kept.put("s", "a", 0.0)  # not served yet
    told = [
        (account, at)
        for account, at in (("a", 1.0), ("a", 2.0), ("b", 3.0), ("b", 4.0))
        if kept.serve("s", account, at)
    ]
    assert told == [("a", 1.0), ("b", 3.0)]
    assert not kept.serve("s", "b", 2.9 + NOTE_SECONDS)
    assert kept.serve("s", "b", 3.0 + NOTE_SECONDS)


def test_a_try_elsewhere_does_not_count_as_told() -> None:
    kept = pins()
    assert kept.serve("s", "a", 0.0)
    kept.put("s", "b", 1.0)
    assert kept.get("s", 1.0) == "b"
    assert not kept.serve("s", "a", 2.0)
    assert kept.get("s", 2.0) == "a"


def test_sessions_that_last_for_a_minute_are_told_of_more_often() -> None:
    kept = pins(seconds=60.0)
    assert [kept.serve("s", "a", at) for at in (0.0, 5.0, 6.0)] == [True, False, True]


def test_the_last_one_that_has_served_a_session_holds_it_whichever_proxy_that_was() -> None:
    kept = pins()
    kept.serve("s", "a", 0.0)
    kept.adopt("s", "b", 0.0, 10.0)
    assert kept.get("s", 10.0) == "b"
    assert not kept.serve("s", "b", 11.0)  # the database has it already
    assert kept.serve("s", "a", 12.0)


def test_what_is_taken_up_ends_in_its_time_and_what_is_over_is_left_out() -> None:
    kept = pins(seconds=100.0)
    kept.adopt("s", "a", 60.0, 1000.0)
    kept.adopt("t", "a", 100.0, 1000.0)
    assert [kept.get("s", at) for at in (1039.0, 1040.0)] == ["a", None]
    assert kept.get("t", 1000.0) is None


def test_others_sessions_are_bounded_with_the_own_ones() -> None:
    kept = pins(most=2)
    kept.serve("s", "a", 0.0)
    for name in ("t", "u"):
        kept.adopt(name, "a", 0.0, 1.0)
    assert [kept.get(name, 1.0) for name in ("s", "t", "u")] == [None, "a", "a"]


def test_requests_without_a_session_or_an_address_are_nobodys() -> None:
    kept = pins()
    kept.put("", "a", 0.0)
    assert not kept.serve("", "a", 0.0)
    assert kept.get("", 0.0) is None
