"""A flow that runs: its account at once, its answer while somebody looks."""

from mitmproxy import http
from mitmproxy.test import tflow, tutils

from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.steps import Outcome
from ccflare_mitm.inspector.comment import Comments, comment
from ccflare_mitm.inspector.live import NOTHING_YET, SHOWN_BYTES, Live
from exchange_kit import STREAM, Bench

PART = b"event: x\n\n"


class Running:
    """One flow with its exchange, on its way."""

    def __init__(self) -> None:
        self.flow: http.HTTPFlow = tflow.tflow(resp=False)
        self.exchange: Exchange = Bench("a").begin()
        self.updates: list[http.HTTPFlow] = []
        self.live = Live(lambda flow: self.exchange, self.updates.append, Comments())
        self.live.follow(self.flow)

    def answer(self) -> None:
        """The head of the answer is here, and mitmproxy lets its body pass."""
        self.exchange.next_step()
        self.exchange.judge(200, STREAM, None)
        self.exchange.delivering(200, STREAM)
        self.flow.response = tutils.tresp()
        self.flow.response.raw_content = None

    def look(self) -> int:
        """How many updates follow from a look."""
        before = len(self.updates)
        self.live.look()
        return len(self.updates) - before

    @property
    def body(self) -> bytes | None:
        assert self.flow.response is not None
        return self.flow.response.raw_content


def test_the_account_and_the_model_stand_in_the_list_from_the_lease_on() -> None:
    running = Running()
    assert (running.look(), running.flow.comment) == (0, "")

    running.exchange.next_step()

    assert (running.look(), running.flow.comment) == (1, comment(running.exchange))
    assert running.flow.comment.startswith("max-a ▸ opus-4-8\n")
    assert running.look() == 0


def test_what_a_person_has_written_stays() -> None:
    running = Running()
    running.flow.comment = "mine"
    running.exchange.next_step()
    assert (running.look(), running.flow.comment) == (1, f"mine\n{comment(running.exchange)}")


def test_an_answer_that_begins_can_be_looked_at() -> None:
    running = Running()
    running.answer()
    assert running.look() == 1
    assert running.body == NOTHING_YET


def test_the_text_follows_the_answer_only_while_somebody_looks() -> None:
    running = Running()
    running.answer()
    running.exchange.capture.add(PART)
    running.look()
    assert running.body == PART

    running.exchange.capture.add(PART)
    assert running.look() == 0

    running.live.asked(running.flow)
    assert running.look() == 1
    assert running.body == PART * 2

    running.exchange.capture.add(PART)
    assert running.look() == 0


def test_nothing_new_is_no_update() -> None:
    running = Running()
    running.answer()
    running.exchange.capture.add(PART)
    running.look()
    running.live.asked(running.flow)
    assert running.look() == 0


def test_a_long_answer_is_followed_as_far_as_it_is_shown() -> None:
    running = Running()
    running.answer()
    running.exchange.capture.add(b"x" * (SHOWN_BYTES + 1))
    running.look()
    running.live.asked(running.flow)
    running.exchange.capture.add(PART)
    assert running.look() == 0
    assert len(running.body or b"") == SHOWN_BYTES


def test_a_body_that_mitmproxy_keeps_is_left_alone() -> None:
    running = Running()
    running.answer()
    assert running.flow.response is not None
    running.flow.response.raw_content = b"whole"
    running.look()
    assert running.body == b"whole"
    assert not running.live.forget(running.flow)


def test_what_is_over_is_followed_no_more() -> None:
    running = Running()
    running.answer()
    running.exchange.capture.add(PART)
    running.look()
    assert running.live.forget(running.flow)
    assert not running.live.forget(running.flow)

    running.live.asked(running.flow)
    running.exchange.capture.add(PART)

    assert running.look() == 0


def test_an_exchange_that_has_ended_waits_for_its_end_to_be_shown() -> None:
    running = Running()
    running.exchange.next_step()
    running.exchange.finish(Outcome.CLIENT_ABORT)
    assert running.look() == 0
