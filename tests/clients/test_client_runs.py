"""Runs of clients: who is in which, what narrows them, and that a label alone opens nothing."""

from dataclasses import replace
from decimal import Decimal

import pytest

from ccflare_core.clients.client_runs import LOST_SECONDS, ClientRun, ClientRuns, new_id
from exchange_kit import EPOCH
from guard_kit import a_key

RUN = ClientRun("run-1", EPOCH, EPOCH, dollars=Decimal(5))
KEYED = replace(RUN, key_id="ck_laptop", is_keyed=True)


def test_an_id_is_never_the_same_and_too_long_to_guess() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len(new_id()) == len("run-") + 24


@pytest.mark.parametrize(
    ("run", "key", "status"),
    [
        (RUN, None, None),
        (KEYED, a_key(), None),
        (None, None, 403),
        (RUN, a_key(), 403),
        (KEYED, None, 403),
        (KEYED, a_key("other"), 403),
    ],
)
def test_a_run_is_for_who_has_begun_it_and_as_unknown_to_others_as_one_that_is_over(
    run: ClientRun | None, key: object, status: int | None
) -> None:
    found = ClientRuns().objection(run, key, EPOCH)  # type: ignore[arg-type]

    assert (found.status if found else None) == status
    assert found is None or (found.is_final and "not known here, or is over" in found.message)


def test_a_run_without_a_sign_of_life_waits_for_one() -> None:
    runs = ClientRuns()

    assert runs.objection(RUN, None, EPOCH + LOST_SECONDS) is None
    late = runs.objection(RUN, None, EPOCH + LOST_SECONDS + 1)

    assert late is not None
    assert (late.status, late.retry_after, late.is_final) == (503, 5, False)


def test_a_budget_counts_what_was_spent_here_and_elsewhere() -> None:
    runs = ClientRuns()
    runs.replace([RUN])

    runs.add(RUN, 10, Decimal("4.99"))
    assert runs.spent_up(RUN) is None
    assert runs.spent_up(replace(RUN, cost=Decimal("0.01"))) is not None
    runs.replace([replace(RUN, seen_at=EPOCH + 60)])
    runs.add(RUN, 10, Decimal("0.01"))
    spent = runs.spent_up(RUN)

    assert spent is not None
    assert (spent.status, spent.is_final, spent.message) == (429, True, "This run has used its budget of $5.")


def test_a_run_without_a_budget_is_never_spent() -> None:
    runs, free = ClientRuns(), replace(RUN, dollars=None)
    runs.replace([free])
    runs.add(free, 10, Decimal(1000))

    assert runs.spent_up(free) is None


def test_what_has_no_price_is_told_of_once_and_with_the_refusal() -> None:
    said: list[str] = []
    runs = ClientRuns(said.append)
    runs.replace([RUN])

    runs.add(RUN, 10, None)
    runs.add(RUN, 10, None)
    runs.add(RUN, None, None)
    runs.add(RUN, 10, Decimal(5))

    assert len(said) == 1
    assert "run-1 uses a model without a known price" in said[0]
    spent = runs.spent_up(RUN)
    assert spent is not None
    assert "without a known price come on top" in spent.message


def test_a_run_that_comes_back_to_life_has_spent_what_it_had() -> None:
    runs = ClientRuns()
    runs.replace([RUN])
    runs.add(RUN, 1, Decimal(3))
    runs.replace([])
    runs.add(RUN, 1, Decimal(2))  # of a request that had begun before

    assert runs.find(RUN.id) is None
    runs.replace([RUN])
    assert runs.spent_up(RUN) is not None


@pytest.mark.parametrize(
    ("run", "account", "objection"),
    [
        (replace(RUN, dollars=None), "max", ""),
        (replace(RUN, dollars=None, account_id="id", account="max"), "max", ""),
        (replace(RUN, dollars=None, account_id="id", account="other"), "max", "may not use the account"),
        (RUN, "max", "has a budget"),
    ],
)
def test_managed_agents_are_for_runs_that_are_not_narrowed_against_them(
    run: ClientRun, account: str, objection: str
) -> None:
    assert objection in run.objection_to_stateful(account)
    assert bool(run.objection_to_stateful(account)) == bool(objection)
