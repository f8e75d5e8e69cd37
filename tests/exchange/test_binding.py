"""Where a request has to go because of what it names, and what its client may not reach."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.accounts.owners import Holding, Owner
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.ids import NO_IDS, Id, Kind, Named
from ccflare_core.clients.client_runs import ClientRun
from ccflare_core.clients.keys import ClientKey, Role
from ccflare_core.exchange.steps import Opening, Send, Step, Wait
from exchange_kit import ASKED, EPOCH, account, judged, limited
from owners_kit import OwnersBench

FILE, OTHER = Id(Kind.FILE, "file_1"), Id(Kind.FILE, "file_2")
NAMED = Named((FILE,))
ONE, TWO = ClientKey("key-1", "one"), ClientKey("key-2", "two")
GET = replace(ASKED, method="GET", path="/v1/files/file_1")
LIST = replace(ASKED, method="GET", path="/v1/files")
LISTED = Named(listed=Kind.FILE)


@pytest.fixture
def bench() -> Iterator[OwnersBench]:
    bench = OwnersBench("abc")
    bench.ownership.owners.learn(FILE, Owner("b", ONE.id, EPOCH, EPOCH))
    yield bench
    assert bench.pool.in_flight == sum(e.lease is not None for e in bench.exchanges.open.values())


def step_of(bench: OwnersBench, opening: Opening, named: Named) -> Step:
    """What becomes of a request, once the database has answered."""
    exchange = bench.ask(opening, named)
    step = exchange.next_step()
    for _ in range(100):
        if not isinstance(step, Wait):
            break
        bench.clock.pass_(step.seconds)
        step = exchange.next_step()
    return step


def account_of(step: Step) -> str:
    assert isinstance(step, Send)
    assert step.credential is not None
    return step.credential.secret.removeprefix("token-")


def told(step: Step) -> tuple[int, str]:
    assert isinstance(step, Answer)
    return step.status, json.loads(step.body)["error"]["message"]


@pytest.mark.parametrize("opening", [ASKED, GET, replace(ASKED, path="/v1/messages/count_tokens")])
def test_named_file_decides(bench: OwnersBench, opening: Opening) -> None:
    assert account_of(step_of(bench, opening, NAMED)) == "b"


def test_unknown_id_decides_nothing(bench: OwnersBench) -> None:
    assert account_of(step_of(bench, ASKED, Named((OTHER,)))) == "a"


def test_refused_attempt_moves_to_no_other_account(bench: OwnersBench) -> None:
    exchange = bench.ask(ASKED, NAMED)
    exchange.next_step()
    status, message = told(judged(exchange, limited(40)))
    assert status == 503
    assert message.startswith("This request names file_1, which account max-b has made, and that account cannot serve")
    assert "It is back at " in message


def test_attempt_is_repeated_once_its_account_is_back() -> None:
    bench = OwnersBench("ab", hold_seconds=60)
    bench.ownership.owners.learn(FILE, Owner("b", "", EPOCH, EPOCH))
    exchange = bench.ask(ASKED, NAMED)
    exchange.next_step()
    step = judged(exchange, limited(40))
    while isinstance(step, Wait):
        bench.clock.pass_(step.seconds)
        step = exchange.next_step()
    assert account_of(step) == "b"
    assert bench.clock.wall >= EPOCH + 39


@pytest.mark.parametrize("passthrough", ["auto", "always"])
def test_request_for_one_account_does_not_pass_with_the_clients_own_credential(passthrough: str) -> None:
    bench = OwnersBench("ab", passthrough=passthrough)
    bench.ownership.owners.learn(FILE, Owner("b", "", EPOCH, EPOCH))
    bench.pool.replace_accounts([account("a"), account("b", paused=True)])
    assert told(step_of(bench, ASKED, NAMED))[0] == 503


def spent(bench: OwnersBench, name: str) -> None:
    """Have this account's window be spent."""
    exchange = bench.ask(ASKED, Named((Id(Kind.CONTAINER, "of-" + name),)))
    bench.ownership.owners.learn(Id(Kind.CONTAINER, "of-" + name), Owner(name, "", EPOCH, EPOCH))
    exchange.next_step()
    step = judged(exchange, limited(3600))
    assert isinstance(step, Answer)
    exchange.answered(step)


def test_spent_window_holds_back_what_spends_and_nothing_else(bench: OwnersBench) -> None:
    spent(bench, "b")
    assert told(step_of(bench, ASKED, NAMED))[0] == 503
    for method in ("GET", "DELETE"):
        assert account_of(step_of(bench, replace(GET, method=method), NAMED)) == "b"


def test_upload_goes_to_an_account_that_can_serve_what_follows(bench: OwnersBench) -> None:
    spent(bench, "a")
    assert account_of(step_of(bench, replace(ASKED, path="/v1/files"), Named())) == "b"


def test_good_answer_to_what_spends_nothing_ends_no_rest(bench: OwnersBench) -> None:
    spent(bench, "b")
    bench.answer(GET, {"type": "file", "id": "file_1"}, NAMED)
    assert told(step_of(bench, ASKED, NAMED))[0] == 503


def test_removed_account_has_nothing(bench: OwnersBench) -> None:
    bench.pool.replace_accounts([account("a")])
    assert account_of(step_of(bench, ASKED, NAMED)) == "a"
    assert told(step_of(bench, replace(ASKED, key=ONE), NAMED)) == (404, "Not found: file_1")


def test_two_accounts_are_one_too_many(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(OTHER, Owner("c", "", EPOCH, EPOCH))
    assert told(step_of(bench, ASKED, Named((FILE, OTHER)))) == (
        400,
        "This request names file_1 of account max-b and file_2 of account max-c: no account has both.",
    )


# -- keys


def test_key_reaches_its_own_and_nothing_else(bench: OwnersBench) -> None:
    assert account_of(step_of(bench, replace(GET, key=ONE), NAMED)) == "b"
    assert told(step_of(bench, replace(GET, key=TWO), NAMED)) == (404, "Not found: file_1")
    assert told(step_of(bench, replace(GET, key=TWO), Named((OTHER,)))) == (404, "Not found: file_2")
    assert told(step_of(bench, replace(ASKED, key=ONE), Named((FILE, OTHER)))) == (404, "Not found: file_2")
    admin = ClientKey("key-3", "admin", role=Role.ADMIN)
    assert account_of(step_of(bench, replace(GET, key=admin), NAMED)) == "b"
    assert account_of(step_of(bench, replace(ASKED, key=admin), Named((OTHER,)))) == "a"


def test_how_long_it_takes_does_not_tell_whether_somebody_has_it(bench: OwnersBench) -> None:
    took = []
    for named in (NAMED, Named((OTHER,))):
        began = bench.clock.mono
        assert told(step_of(bench, replace(GET, key=TWO), named))[0] == 404
        took.append(round(bench.clock.mono - began, 1))
    assert took[0] == took[1] > 0


def test_ids_are_the_clients_own_while_there_is_no_account() -> None:
    bench = OwnersBench("", passthrough="auto")
    opening = replace(GET, key=ONE, has_credential=True)
    assert step_of(bench, opening, NAMED) == Send(None)
    assert step_of(bench, replace(LIST, key=ONE), LISTED) == Send(None)


def test_id_widens_no_keys_accounts(bench: OwnersBench) -> None:
    key = replace(ONE, not_accounts=("max-b",))
    assert told(step_of(bench, replace(ASKED, key=key), NAMED)) == (
        403,
        "This client key may not use the account that has made file_1.",
    )


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (ClientKey("key-1", "one"), False),
        (ClientKey("key-1", "one", not_accounts=("max-x",)), False),
        (ClientKey("key-1", "one", accounts=("max-b", "max-c")), True),
        (ClientKey("key-3", "boss", role=Role.ADMIN), True),
        (None, True),
    ],
)
def test_accounts_are_named_to_keys_that_are_limited_to_them_or_may_look_at_all(
    bench: OwnersBench, key: ClientKey | None, names: bool
) -> None:
    for id, holder in ((OTHER, "c"), (Id(Kind.FILE, "file_3"), "b")):
        bench.ownership.owners.learn(id, Owner(holder, ONE.id, EPOCH, EPOCH))

    sentences = [told(step_of(bench, replace(ASKED, key=key), Named((FILE, OTHER))))[1]]
    bench.pool.replace_accounts([account("b", paused=True), account("c", paused=True)])
    sentences.append(told(step_of(bench, replace(GET, key=key), NAMED))[1])

    assert ["max-" in sentence for sentence in sentences] == [names] * 2


def test_problem_of_a_body_counts_for_keys_alone(bench: OwnersBench) -> None:
    named = Named(problem="its body is odd")
    assert told(step_of(bench, replace(ASKED, key=ONE), named)) == (
        400,
        "It cannot be told what this request names: its body is odd.",
    )
    assert account_of(step_of(bench, ASKED, named)) == "a"


def test_database_that_cannot_be_asked_opens_nothing(bench: OwnersBench) -> None:
    bench.store.is_broken = True
    named = Named((OTHER,))
    assert told(step_of(bench, replace(ASKED, key=ONE), named))[0] == 503
    assert told(step_of(bench, replace(LIST, key=ONE), LISTED))[0] == 503
    assert account_of(step_of(bench, ASKED, named)) == "a"
    assert account_of(step_of(bench, LIST, LISTED)) == "b"  # of the newest that is in memory


def test_credit_that_nobody_knows_is_the_apis_to_judge(bench: OwnersBench) -> None:
    named = Named((Id(Kind.CREDIT, "0" * 64),))
    assert account_of(step_of(bench, replace(ASKED, key=ONE), named)) == "a"


# -- threads


def test_thread_is_found_without_binding_its_request(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(Id(Kind.MESSAGE, "msg_1"), Owner("c", ONE.id, EPOCH, EPOCH))
    for named, expected in ((Named(continues="msg_2"), None), (Named(continues="msg_1"), "c")):
        exchange = bench.ask(ASKED, named)
        while isinstance(step := exchange.next_step(), Wait):
            bench.clock.pass_(step.seconds)
        assert account_of(step) == (expected or "a")
        assert exchange.binding.thread_account_id == expected


@pytest.mark.parametrize("message_id", ["msg_1", "msg_2"])
def test_thread_of_another_key_is_not_found_in_the_apis_own_words(bench: OwnersBench, message_id: str) -> None:
    bench.ownership.owners.learn(Id(Kind.MESSAGE, "msg_1"), Owner("c", ONE.id, EPOCH, EPOCH))
    step = step_of(bench, replace(ASKED, key=TWO), Named(continues=message_id))
    assert isinstance(step, Answer)
    assert json.loads(step.body)["error"] == {
        "type": "not_found_error",
        "message": f"Not found: {message_id}",
        "details": {"error_code": "thread_not_found"},
    }
    if message_id == "msg_1":
        assert account_of(step_of(bench, replace(ASKED, key=ONE), Named(continues=message_id))) == "c"


# -- lists


def holding(account_id: str, client: str = "", newest: float = EPOCH - 100) -> Holding:
    return Holding(account_id, client, newest)


@pytest.mark.parametrize(
    ("opening", "holdings", "expected"),
    [
        (LIST, [], "a"),
        (LIST, [holding("b"), holding("c", newest=EPOCH)], "c"),
        (LIST, [holding("b", "key-1"), holding("c", newest=EPOCH)], "c"),
        (replace(LIST, account="max-c"), [holding("b")], "c"),
        (replace(LIST, key=ONE), [holding("b", "key-1")], "b"),
        (replace(LIST, key=ONE), [holding("b", "key-1"), holding("c", newest=EPOCH)], "b"),
        (replace(LIST, key=replace(ONE, accounts=("max-c",))), [holding("b", "key-1")], "c"),
        (LIST, [holding("removed", newest=EPOCH)], "a"),
    ],
)
def test_list_comes_from_one_account(opening: Opening, holdings: list[Holding], expected: str) -> None:
    bench = OwnersBench("abc")
    bench.store.holding = holdings
    assert account_of(step_of(bench, opening, LISTED)) == expected


def test_list_of_nothing_skips_an_account_that_is_out_for_good() -> None:
    bench = OwnersBench("ab")
    bench.pool.replace_accounts([account("a", paused=True), account("b")])
    assert account_of(step_of(bench, LIST, LISTED)) == "b"
    assert told(step_of(bench, replace(LIST, account="max-a"), LISTED))[1].startswith(
        "This request lists the files of account max-a, and that account cannot serve it now (max-a: paused"
    )


def test_list_counts_what_was_made_a_moment_ago(bench: OwnersBench) -> None:
    assert account_of(step_of(bench, LIST, LISTED)) == "b"
    assert told(step_of(bench, replace(LIST, key=TWO, account="max-b"), LISTED))[0] == 403


@pytest.mark.parametrize("others", [[holding("a", "key-2")], [holding("a", "")]])
def test_list_with_something_of_others_is_refused_to_a_key(others: list[Holding]) -> None:
    bench = OwnersBench("ab")
    bench.store.holding = [holding("a", "key-1"), *others]
    for key, whose in ((ONE, "The account"), (replace(ONE, accounts=("max-*",)), "Account max-a")):
        assert told(step_of(bench, replace(LIST, key=key), LISTED)) == (
            403,
            f"{whose} has files that this client key has not made, so its list is for administrators; "
            "each of your own can be asked for by its id.",
        )
    assert account_of(step_of(bench, LIST, LISTED)) == "a"


def test_list_goes_on_where_its_page_began(bench: OwnersBench) -> None:
    bench.store.holding = [holding("c", newest=EPOCH)]
    assert account_of(step_of(bench, LIST, Named((FILE,), listed=Kind.FILE))) == "b"
    assert told(step_of(bench, replace(LIST, key=TWO), Named((FILE,), listed=Kind.FILE)))[0] == 404


@pytest.mark.parametrize("key", [None, replace(ONE, not_accounts=("max-c",))])
def test_list_of_an_account_that_is_not_for_its_client_is_refused(bench: OwnersBench, key: Any) -> None:
    name = "max-c" if key else "nobody"
    assert told(step_of(bench, replace(LIST, account=name, key=key), LISTED)) == (
        400,
        f"x-ccflare-account names no account that is here for this client: {name}.",
    )


TOUCH = replace(ASKED, path="/v1/messages/cache_touch")
TOUCHED = Id(Kind.REQUEST, "req_1")


def test_touch_goes_to_the_account_that_has_answered_also_when_its_window_is_spent(bench: OwnersBench) -> None:
    bench.ownership.owners.learn(TOUCHED, Owner("b", "", EPOCH, EPOCH))
    spent(bench, "b")

    exchange = bench.ask(TOUCH, Named((TOUCHED,)))

    assert account_of(exchange.next_step()) == "b"
    assert (exchange.metered, exchange.facts.spends) == (False, False)


@pytest.mark.parametrize("key", [None, "one", "admin"])
def test_touch_of_what_nobody_knows_is_sent_nowhere(bench: OwnersBench, key: str | None) -> None:
    asks = {"one": ONE, "admin": replace(ONE, role=Role.ADMIN)}.get(key or "")
    status, message = told(step_of(bench, replace(TOUCH, key=asks), Named((Id(Kind.REQUEST, "req_2"),))))
    assert (status, message) == (404, "Not found: req_2")


def test_touch_passes_where_there_is_no_account() -> None:
    assert step_of(OwnersBench(""), TOUCH, Named((TOUCHED,))) == Send(None)


# --- a run of a client ------------------------------------------------------------------------------------------------


def in_run(opening: Opening, account: str) -> Opening:
    return replace(opening, run=ClientRun("run-1", EPOCH, EPOCH, account_id=account, account=account))


def test_run_is_served_by_its_account_and_not_moved(bench: OwnersBench) -> None:
    opening = in_run(ASKED, "c")
    assert [account_of(step_of(bench, opening, NO_IDS)) for _ in range(3)] == ["c"] * 3
    exchange = bench.ask(opening)
    assert account_of(exchange.next_step()) == "c"
    judged(exchange, limited())

    status, message = told(step_of(bench, opening, NO_IDS))

    assert status == 503
    assert message.startswith("This run is to be served by account c")


def test_run_whose_account_is_gone_goes_nowhere_else(bench: OwnersBench) -> None:
    assert told(step_of(bench, in_run(ASKED, "gone"), NO_IDS))[0] == 503
    bench.pool.replace_accounts([])
    assert told(step_of(bench, in_run(ASKED, "a"), NO_IDS))[0] == 503


@pytest.mark.parametrize("opening", [ASKED, GET])
def test_run_does_not_follow_what_it_names_to_another_account(bench: OwnersBench, opening: Opening) -> None:
    assert account_of(step_of(bench, in_run(opening, "b"), NAMED)) == "b"
    status, message = told(step_of(bench, in_run(opening, "a"), NAMED))

    assert (status, message) == (403, "This run may not use the account that has made file_1.")


def test_run_lists_what_its_account_has(bench: OwnersBench) -> None:
    assert account_of(step_of(bench, in_run(LIST, "a"), LISTED)) == "a"
    assert told(step_of(bench, in_run(replace(LIST, account="b"), "a"), LISTED))[0] == 400
