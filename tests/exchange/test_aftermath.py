import pytest

from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.usage import Ending, Reading, Usage
from ccflare_core.anthropic.verdicts import Kind, Verdict, classify
from ccflare_core.exchange.aftermath import is_clients_limit, outcome_of, verdict_on_end
from ccflare_core.exchange.steps import Attempt, Outcome
from exchange_kit import EPOCH

GOOD = classify(200, [], None, EPOCH)
FACTS = Facts("claude-opus-4-8", path_class="messages")


def reading(ending: Ending, error: str | None = None) -> Reading:
    return Reading(Usage(), None, ending, error, None)


def after(
    outcome: Outcome, read: Reading | None, verdict: Verdict | None = GOOD, path: str = "/v1/messages"
) -> Verdict | None:
    last = Attempt(1, "a", "max-a", verdict, EPOCH, 0.1) if verdict else None
    return verdict_on_end(outcome, read, last, path, EPOCH, FACTS)


@pytest.mark.parametrize("ended_as", [None, *Outcome])
def test_error_event_that_was_read_is_the_outcome_whoever_hangs_up_first(ended_as: Outcome | None) -> None:
    assert outcome_of(ended_as, reading(Ending.ERROR, "api_error"), 200) is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize("ended_as", Outcome)
@pytest.mark.parametrize("ending", [Ending.COMPLETE, Ending.TRUNCATED])
def test_outcome_is_otherwise_what_somebody_has_said(ended_as: Outcome, ending: Ending) -> None:
    assert outcome_of(ended_as, reading(ending), 200) is outcome_of(ended_as, None, None) is ended_as


def test_outcome_that_nobody_has_said_is_the_answers() -> None:
    assert outcome_of(None, reading(Ending.COMPLETE), 200) is outcome_of(None, None, 200) is Outcome.OK
    assert outcome_of(None, reading(Ending.TRUNCATED), 200) is Outcome.TRUNCATED
    assert outcome_of(None, None, 400) is outcome_of(None, None, None) is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize(
    ("error", "kind", "seconds"),
    [
        ("overloaded_error", Kind.OVERLOADED, 10.0),
        ("api_error", Kind.UPSTREAM_FAILURE, 5.0),
        ("rate_limit_error", Kind.WINDOW_SPENT, 60.0),
        ("invalid_request_error", Kind.CLIENT_ERROR, None),
        ("request_too_large", Kind.CLIENT_ERROR, None),
        ("error", Kind.CLIENT_ERROR, None),
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.UPSTREAM_ERROR, Outcome.CLIENT_ABORT])
def test_error_after_content_is_judged_by_its_type(
    error: str, kind: Kind, seconds: float | None, outcome: Outcome
) -> None:
    verdict = after(outcome, reading(Ending.ERROR, error))

    assert verdict is not None
    assert (verdict.kind, verdict.rest and verdict.rest.after(1), verdict.until) == (kind, seconds, None)


def test_cut_rests_five_seconds() -> None:
    verdict = after(Outcome.TRUNCATED, reading(Ending.TRUNCATED))

    assert verdict is not None
    assert verdict.rest is not None
    assert (verdict.kind, [verdict.rest.after(n) for n in (1, 2, 9)]) == (Kind.BROKEN_OFF, [5.0] * 3)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.CLIENT_ABORT, Outcome.SHUTDOWN, Outcome.UPSTREAM_ERROR])
def test_nobody_rests_for_an_end_that_is_not_the_upstreams(outcome: Outcome) -> None:
    assert after(outcome, reading(Ending.TRUNCATED)) is None


def test_what_has_had_its_verdict_or_is_no_message_gets_none() -> None:
    event = {"type": "error", "error": {"type": "overloaded_error"}}
    broken = reading(Ending.ERROR, "overloaded_error")

    assert after(Outcome.UPSTREAM_ERROR, broken, classify(200, [], event, EPOCH)) is None
    assert after(Outcome.UPSTREAM_ERROR, broken, classify(529, [], event, EPOCH)) is None
    assert after(Outcome.UPSTREAM_ERROR, broken, None) is after(Outcome.TRUNCATED, None) is None
    assert after(Outcome.TRUNCATED, reading(Ending.TRUNCATED), path="/v1/complete") is None


@pytest.mark.parametrize(
    ("has_head", "is_streamed", "limits"),
    [(False, True, (182, 360)), (True, True, (180, 300)), (False, False, (300, 600)), (True, False, (300, 600))],
)
def test_client_that_leaves_near_its_own_limit_is_known_by_it(
    has_head: bool, is_streamed: bool, limits: tuple[int, int]
) -> None:
    seconds = [n for n in range(700) if is_clients_limit(float(n), has_head=has_head, is_streamed=is_streamed)]

    assert seconds == [n for limit in limits for n in range(limit - 3, limit + 4)]
