"""The judgement on a cluster's run: what it takes for a broken promise, and what not."""

import pytest

from ccflare_core.accounts.affinity import session_key
from cluster_kit.judgement import Findings, gini, judge
from cluster_kit.record import Placed, Row, Set
from cluster_kit.scale import Asked, Late, LateProxy, Refreshes, Sent, owner, tokens

RESTS = Set(100.0, "a", "account", "", 110.0, "window_spent", False)
SERVED = Row(1, "ok", "a", "keeps its session", 1)
IN_TIME = LateProxy([], [])
NOT_REFRESHED = Refreshes(0, 0)
STALE, TWICE, NO_ROW, DOUBLE, OPEN, OTHER, ATTEMPTS, STRAYED = (
    "requests to an account that was known to rest",
    "refresh tokens spent twice",
    "requests without a row",
    "requests with more than one row",
    "rows without an outcome",
    "rows with another outcome than the client's",
    "requests whose attempts are not all recorded",
    "sessions that lost their account on another proxy",
)


def sent(number: int = 1, *, turn: int = 0, proxy: int = 0, came: str = "200") -> Sent:
    return Sent(number, "s-1", turn, proxy, 99.0, 111.0, came)


def asked(at: float, number: int = 1, account: str = "a", family: str = "opus") -> Asked:
    return Asked(at, account, 0, number, family, 200)


def findings(
    request: Sent | list[Sent] | None = None,
    came: list[Asked] | None = None,
    cooldowns: list[Set] | None = None,
    rows: list[Row] | None = None,
    refreshes: Refreshes = NOT_REFRESHED,
    late: LateProxy = IN_TIME,
    server: list[Late] | None = None,
    placed: list[Placed] | None = None,
) -> Findings:
    requests = request if isinstance(request, list) else [request or sent()]
    return judge(
        requests,
        [asked(99.5)] if came is None else came,
        cooldowns or [],
        placed or [],
        [SERVED] if rows is None else rows,
        refreshes,
        [late, late],
        [server or []],
    )


def broken(found: Findings) -> dict[str, int]:
    return {what: number for what, number in found.zeros.items() if number}


def test_nothing_is_broken_where_all_agree() -> None:
    assert broken(findings()) == {}


@pytest.mark.parametrize(
    ("at", "late", "is_stale"),
    [
        (100.1, IN_TIME, False),
        (100.3, IN_TIME, True),
        (100.3, LateProxy([Late(100.15, 0.12)], []), False),
        (100.3, LateProxy([], [Late(100.15, 0.12)]), False),
        (100.3, LateProxy([Late(100.15, 0.08)], [Late(100.15, 0.08)]), True),  # the same moment, not two
        (100.3, LateProxy([Late(99.9, 0.2)], []), True),  # before it could know
        (100.5, LateProxy([Late(100.15, 0.15), Late(100.4, 0.16)], []), False),
        (110.1, IN_TIME, False),  # over
    ],
)
def test_request_is_stale_after_200_ms_in_which_its_proxy_was_not_late(
    at: float, late: LateProxy, is_stale: bool
) -> None:
    found = findings(came=[asked(at)], cooldowns=[RESTS], late=late)

    assert broken(found) == ({STALE: 1} if is_stale else {})
    assert len(found.raced) == (at < RESTS.until)


def test_request_is_not_stale_while_the_server_is_late() -> None:
    assert broken(findings(came=[asked(100.3)], cooldowns=[RESTS], server=[Late(100.15, 0.12)])) == {}


def test_cooldown_of_a_family_is_for_that_alone_and_one_that_ended_is_none() -> None:
    family = RESTS._replace(scope="family", name="sonnet")
    gone = RESTS._replace(at=101.0, gone=True)

    assert broken(findings(came=[asked(105.0)], cooldowns=[family])) == {}
    assert broken(findings(came=[asked(105.0, family="sonnet")], cooldowns=[family])) == {STALE: 1}
    assert broken(findings(came=[asked(105.0)], cooldowns=[RESTS, gone])) == {}


def test_request_is_stale_by_the_first_of_several_commits_about_one_rest() -> None:
    again = RESTS._replace(at=104.9)

    assert broken(findings(came=[asked(105.0)], cooldowns=[RESTS, again])) == {STALE: 1}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], {NO_ROW: 1}),
        ([SERVED, SERVED], {DOUBLE: 1}),
        ([SERVED._replace(outcome=None)], {OPEN: 1, OTHER: 1}),
        ([SERVED._replace(outcome="client_abort")], {OTHER: 1}),
        ([SERVED._replace(attempts=2)], {ATTEMPTS: 1}),
        ([SERVED, SERVED._replace(number=0)], {"rows of no request": 1}),
    ],
)
def test_rows_that_do_not_fit_the_requests_are_counted(rows: list[Row], what: dict[str, int]) -> None:
    assert broken(findings(rows=rows)) == what


def test_lost_answers_and_tokens_that_were_spent_twice_are_counted() -> None:
    lost = findings(sent(came="lost: EOFError"), rows=[SERVED._replace(outcome="upstream_error")])

    assert broken(lost) == {"requests without an answer": 1}
    assert broken(findings(refreshes=Refreshes(3, 1))) == {TWICE: 1}


def test_session_that_moves_keeps_its_account_or_has_a_reason() -> None:
    turns = [sent(1), sent(2, turn=1, proxy=1)]
    rows = [SERVED, SERVED._replace(number=2)]
    moved = [SERVED, Row(2, "ok", "b", "moved from a: cooling until 14:20: 5h window spent", 1)]
    strayed = [SERVED, Row(2, "ok", "b", "most headroom", 1)]
    same, another = ([asked(99.5, 1), asked(105.0, 2, account)] for account in "ab")

    known = [Placed(100.0, session_key("s-1"), "a")]
    late = [Placed(104.9, session_key("s-1"), "a")]

    assert findings(turns, same, rows=rows).kept == 1
    assert broken(findings(turns, another, rows=moved, placed=known)) == {}
    assert broken(findings(turns, another, rows=strayed, placed=known)) == {STRAYED: 1}
    assert [findings(turns, another, rows=strayed, placed=each).unwritten for each in ([], late)] == [1, 1]


def test_gini_is_zero_where_all_have_the_same_and_near_one_where_one_has_all() -> None:
    assert gini([5, 5, 5, 5]) == 0.0
    assert gini([0] * 99 + [10]) == pytest.approx(0.99)
    assert gini([]) == 0.0


def test_tokens_say_whose_they_are() -> None:
    assert [owner(token) for token in tokens("max-0003", 12)] == [("max-0003", 12)] * 2
