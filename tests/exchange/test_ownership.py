"""What exchanges teach of who made what, and how an owner is looked for without waiting."""

from dataclasses import replace

import pytest

from ccflare_core.accounts.owners import Owner
from ccflare_core.anthropic.ids import Id, Kind, Named
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.ownership import AGAIN_SECONDS, PATIENCE_SECONDS, Ownership
from ccflare_core.exchange.records import IdForgotten, IdMade, IdUsed
from exchange_kit import ASKED, EPOCH, deliver, judged, refusal
from owners_kit import OwnersBench

FILE = Id(Kind.FILE, "file_1")
ONE = ClientKey("key-1", "one")


@pytest.fixture
def bench() -> OwnersBench:
    return OwnersBench()


UPLOAD = replace(ASKED, path="/v1/files", key=ONE)


def test_answer_teaches_who_made_what_for_whom(bench: OwnersBench) -> None:
    bench.answer(UPLOAD, {"type": "file", "id": "file_1"})
    assert bench.records == [IdMade("file", "file_1", "a", "key-1", round(EPOCH * 1000))]
    assert bench.ownership.find(FILE) == Owner("a", "key-1", EPOCH, EPOCH)


def test_refusal_teaches_nothing(bench: OwnersBench) -> None:
    exchange = bench.ask(UPLOAD)
    exchange.next_step()
    reply = refusal(400)._replace(body=b'{"type":"file","id":"file_1"}')
    judged(exchange, reply)
    deliver(exchange, reply)
    assert bench.records == []


def test_message_teaches_its_request_and_what_a_thread_goes_on_from(bench: OwnersBench) -> None:
    said = {"type": "message", "id": "msg_1", "usage": {"output_tokens": 1}, "content": []}
    bench.answer(ASKED, said)
    assert [record[:2] for record in bench.records if isinstance(record, IdMade)] == [("request", "req_upstream")]
    bench.records.clear()
    bench.answer(ASKED, {**said, "id": "msg_2"}, Named(thread=True))
    assert IdMade("message", "msg_2", "a", "", round(EPOCH * 1000)) in bench.records


def test_what_a_list_or_an_unknown_id_shows_is_nobodys(bench: OwnersBench) -> None:
    listing = replace(ASKED, method="GET", path="/v1/files", key=ONE)
    bench.answer(listing, {"data": [{"type": "file", "id": "file_1"}]}, Named(listed=Kind.FILE))
    assert (owner := bench.ownership.find(FILE))
    assert owner.client == ""


def test_answer_about_one_thing_teaches_nothing_of_others(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(FILE, Owner("a", "key-1", EPOCH, EPOCH))
    getting = replace(ASKED, method="GET", path="/v1/files/file_1")
    bench.answer(getting, {"type": "file", "id": "file_2"}, Named((FILE,)))
    assert bench.ownership.find(Id(Kind.FILE, "file_2")) is None


def test_use_and_deletion_are_noted(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(FILE, Owner("a", "", EPOCH - 3600, EPOCH - 3600))
    bench.answer(replace(ASKED, method="GET", path="/v1/files/file_1"), {}, Named((FILE,)))
    bench.answer(replace(ASKED, method="DELETE", path="/v1/files/file_1"), {}, Named((FILE,)))
    assert bench.records == [IdUsed("file", "file_1", round(EPOCH * 1000)), IdForgotten("file", "file_1")]
    assert bench.ownership.find(FILE) is None


def test_mistake_in_learning_costs_no_answer(bench: OwnersBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.exchanges.ownership = Ownership(bench.store, lambda record: 1 / 0)
    assert bench.answer(UPLOAD, {"type": "file", "id": "file_1"}).outcome == "ok"
    assert "could not be noted" in caplog.text
    assert bench.pool.in_flight == 0


# -- the look


def test_known_owner_needs_no_look(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(FILE, Owner("a", "", EPOCH, EPOCH))
    search = bench.ownership.search([FILE])
    assert search.is_done()
    assert search.found[FILE].account_id == "a"
    assert bench.store.looks == 0


def test_owner_in_the_database_is_found_and_remembered(bench: OwnersBench) -> None:
    bench.store.owners[FILE] = Owner("b", "", EPOCH, EPOCH)
    bench.store.is_ready = False
    search = bench.ownership.search([FILE])
    assert [search.is_done() for _ in range(3)] == [False] * 3
    bench.store.is_ready = True
    assert search.is_done()
    assert bench.ownership.search([FILE]).is_done()
    assert bench.store.looks == 1


def test_what_is_not_found_is_looked_for_once_more(bench: OwnersBench) -> None:
    search = bench.ownership.search([FILE])
    assert [search.is_done() for _ in range(3)] == [False] * 3
    bench.store.owners[FILE] = Owner("b", "", EPOCH, EPOCH)
    bench.clock.pass_(AGAIN_SECONDS)
    assert [search.is_done() for _ in range(2)] == [False, True]
    assert search.found[FILE].account_id == "b"


def test_what_nobody_knows_is_given_up_after_two_looks(bench: OwnersBench) -> None:
    search = bench.ownership.search([FILE])
    seen = []
    for _ in range(6):
        seen.append(search.is_done())
        bench.clock.pass_(AGAIN_SECONDS)
    assert seen == [False, False, True, True, True, True]
    assert not search.failed
    assert bench.store.looks == 2


def test_database_that_cannot_be_asked_is_told_apart(bench: OwnersBench) -> None:
    bench.store.is_broken = True
    search = bench.ownership.search([FILE])
    assert [search.is_done() for _ in range(2)] == [False, True]
    assert search.failed
    assert search.found == {}


def test_database_that_does_not_answer_is_given_up(bench: OwnersBench) -> None:
    bench.store.is_ready = False
    search, query = bench.ownership.search([FILE]), bench.ownership.holdings(Kind.FILE)
    assert not search.is_done()
    bench.clock.pass_(PATIENCE_SECONDS - 1)
    assert not search.is_done()
    assert not query.is_done()
    bench.clock.pass_(1)
    assert search.is_done()
    assert search.failed
    assert query.is_done()
    assert query.answer() is None
