"""What a store does after a standby has taken over; tests/db/test_failover.py has it with two servers."""

from ccflare_core.store.takeover import SETTLING_SECONDS, Takeover


def test_nobody_waits_who_has_seen_no_takeover_or_is_alone() -> None:
    now, found, peers = [0.0], [0], [True]
    takeover = Takeover(lambda: found[0], lambda: peers[0], clock=lambda: now[0])
    assert not takeover.is_settling()
    found[0], peers[0] = 1, False
    assert not takeover.is_settling()


def test_who_has_peers_waits_for_as_long_as_they_may_need_after_each() -> None:
    now, found = [0.0], [0]
    takeover = Takeover(lambda: found[0], lambda: True, clock=lambda: now[0])
    for count in (1, 2):
        found[0] = count
        assert takeover.is_settling()
        now[0] += SETTLING_SECONDS - 1
        assert takeover.is_settling()
        now[0] += 1
        assert not takeover.is_settling()


def test_each_is_news_once_to_everyone() -> None:
    found = [0]
    takeover = Takeover(lambda: found[0], lambda: True)
    assert [takeover.is_news(), takeover.is_news_for_the_ledger()] == [False, False]
    found[0] = 1
    assert [takeover.is_news(), takeover.is_news(), takeover.is_news_for_the_ledger()] == [True, False, True]
