"""An exchange whose token is refused: one new token and one more try on the same account, then on as ever."""

from dataclasses import replace
from typing import Any

import pytest

from ccflare_core.accounts.account import Account, Credential, Kind
from ccflare_core.accounts.cooldowns import Unavailable
from ccflare_core.accounts.pool import AccountPool, Exhausted, Lease
from ccflare_core.accounts.renewal import NoRenewer, Renewal
from ccflare_core.anthropic.answers import Answer
from ccflare_core.anthropic.request import Facts
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.failover import Deliver
from ccflare_core.exchange.steps import Outcome, Send, Step, Wait
from exchange_kit import ASKED, JSON, OPUS, Bench


class Renewer:
    """Hands out one renewal and notes who asked."""

    def __init__(self) -> None:
        self.renewal = Renewal()
        self.asked: list[tuple[str, str | None]] = []

    def renew(self, account_id: str, *, rejected: str | None = None) -> Renewal:
        self.asked.append((account_id, rejected))
        return self.renewal


def oauth(id: str = "a", token: str = "old", **fields: Any) -> Account:
    return Account(id, f"max-{id}", Kind.OAUTH, access_token=token, refresh_token="ort", **fields)


class Desk:
    """An exchange on OAuth accounts, first sent with the token "old"."""

    def __init__(self, *accounts: Account, **options: Any) -> None:
        self.bench = Bench("", **options)
        self.pool, self.renewer = self.bench.pool, Renewer()
        self.bench.exchanges.tokens = self.renewer
        self.pool.replace_accounts(accounts or [oauth()])
        self.begin()

    def begin(self, path: str = "/v1/messages") -> None:
        """Another exchange on them."""
        self.exchange: Exchange = self.bench.exchanges.begin(replace(ASKED, path=path))
        self.exchange.admit(replace(OPUS, path_class=path.rpartition("/")[2]), b"", "")
        self.first = self.exchange.next_step()

    def refuse(self, *, is_kept: bool = False) -> Step:
        error = {"type": "error", "error": {"type": "authentication_error"}}
        return self.exchange.judge(401, JSON, error, is_kept=is_kept)

    def renew(self, token: str = "new") -> None:
        self.pool.change_account(oauth(token=token))
        self.renewer.renewal.succeed()

    def wait(self, seconds: float = 0.05) -> Step:
        self.bench.clock.pass_(seconds)
        return self.exchange.next_step()


def secret(step: Step) -> str:
    assert isinstance(step, Send)
    assert isinstance(step.credential, Credential)
    return step.credential.secret


def test_a_refused_token_is_replaced_and_the_request_repeated_on_the_same_account() -> None:
    desk = Desk(oauth(), oauth("b"))

    assert desk.refuse() == Wait(0.05)
    assert desk.wait() == Wait(0.05)
    desk.renew()

    assert secret(desk.wait()) == "new"
    assert desk.renewer.asked == [("a", "old")]
    assert isinstance(desk.exchange.judge(200, JSON, None), Deliver)
    desk.exchange.delivering(200, JSON)
    desk.exchange.finish()
    assert [a.account_id for a in desk.exchange.attempts] == ["a", "a"]
    assert (desk.exchange.failovers, desk.pool.in_flight) == (0, 0)
    assert all(not report.cooldowns for _, report in desk.bench.notes.reports)


def test_a_token_that_was_replaced_already_is_used_at_once() -> None:
    desk = Desk()
    desk.renew()

    assert secret(desk.refuse()) == "new"


def test_a_second_refusal_counts_and_the_next_account_serves() -> None:
    desk = Desk(oauth(), oauth("b", "other"))
    desk.renew()
    desk.refuse()

    assert secret(desk.refuse()) == "other"
    assert [name for name, report in desk.bench.notes.reports if report.cooldowns] == ["a"]
    assert len(desk.renewer.asked) == 1


def test_without_a_new_token_the_next_account_serves() -> None:
    desk = Desk(oauth(), oauth("b", "other"))
    desk.refuse()
    desk.renewer.renewal.fail("needs login")

    assert secret(desk.wait()) == "other"
    assert [name for name, report in desk.bench.notes.reports if report.cooldowns] == ["a"]


def test_kept_refusal_of_another_path_is_delivered_when_there_is_no_new_token() -> None:
    desk = Desk(hold_seconds=0)
    desk.begin("/v1/files")
    assert isinstance(desk.refuse(is_kept=True), Wait)
    desk.renewer.renewal.fail("down")

    assert isinstance(desk.wait(), Deliver)
    assert repr(desk.pool) == "<AccountPool max-a: serving, 2 in flight>"


@pytest.mark.parametrize(("path", "is_kept"), [("/v1/messages", True), ("/v1/files", False)])
def test_refusal_of_a_conversation_or_one_that_is_gone_is_our_503(path: str, is_kept: bool) -> None:
    desk = Desk(hold_seconds=0)
    desk.begin(path)
    desk.refuse(is_kept=is_kept)
    desk.renewer.renewal.fail("down")

    step = desk.wait()

    assert isinstance(step, Answer)
    assert step.status == 503


def test_a_renewal_that_takes_too_long_is_not_waited_for() -> None:
    desk = Desk(oauth(), oauth("b", "other"))
    desk.refuse()

    assert desk.wait(11.9) == Wait(0.05)
    assert secret(desk.wait(0.2)) == "other"


def test_each_account_gets_one_new_token_and_then_there_is_an_honest_503() -> None:
    desk = Desk(oauth(), oauth("b", "other"), hold_seconds=0)
    desk.renewer.renewal.fail("down")
    desk.refuse()

    step = desk.refuse()

    assert isinstance(step, Answer)
    assert step.status == 503
    assert [id for id, _ in desk.renewer.asked] == ["a", "b"]


def test_accounts_that_have_no_refresh_token_are_not_renewed() -> None:
    key = Account("k", "key", Kind.API_KEY, api_key="sk-ant-api03-x")
    desk = Desk(key, hold_seconds=0)

    assert isinstance(desk.refuse(), Answer)
    assert desk.renewer.asked == []


def test_an_account_removed_or_paused_while_it_is_renewed_is_left() -> None:
    desk = Desk(oauth(), oauth("b", "other"))
    desk.refuse()
    desk.pool.replace_accounts([oauth(token="new", paused=True), oauth("b", "other")])
    desk.renewer.renewal.succeed()

    assert secret(desk.wait()) == "other"


def test_a_client_that_leaves_while_a_token_is_renewed_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.refuse()

    desk.exchange.finish(Outcome.CLIENT_ABORT)
    desk.renew()

    assert desk.pool.in_flight == 0
    assert isinstance(desk.wait(), Answer)


def test_nobody_renews_where_nobody_can() -> None:
    assert NoRenewer().renew("a").reason == "tokens are not refreshed here"


# --- the pool -------------------------------------------------------------------------------------------------------


def expired_pool(seconds: float | None = 0.25) -> AccountPool:
    clock = Bench("").clock
    pool = AccountPool(
        clock=lambda: clock.mono,
        wall=lambda: clock.wall,
        expired=lambda account: Unavailable(f"{account.name} is at it", seconds),
    )
    pool.replace_accounts([oauth(expires_at=1.0)])
    return pool


def test_an_expired_token_that_can_be_renewed_is_waited_for() -> None:
    assert expired_pool().acquire(OPUS) == Exhausted(
        (("max-a", "max-a is at it", 1_800_000_000.25),), wait=0.25, configured=True
    )


def test_an_expired_token_of_a_paused_account_is_not() -> None:
    pool = expired_pool()
    pool.change_account(oauth(expires_at=1.0, paused=True))

    refused = pool.acquire(OPUS)

    assert isinstance(refused, Exhausted)
    assert (refused.reasons[0][1], refused.wait) == ("paused", None)


def test_a_session_comes_back_to_an_account_that_only_needs_a_new_token() -> None:
    pool = expired_pool()
    pool.replace_accounts([oauth(), oauth("b")])
    held = pool.acquire(Facts(session_id="s"))
    assert isinstance(held, Lease)
    other = "b" if held.account.id == "a" else "a"
    pool.change_account(oauth(held.account.id, expires_at=1.0))

    away = pool.acquire(Facts(session_id="s"))
    pool.change_account(oauth(held.account.id, "new"))
    back = pool.acquire(Facts(session_id="s"))

    assert isinstance(away, Lease)
    assert isinstance(back, Lease)
    assert (away.account.id, back.account.id) == (other, held.account.id)


def test_a_change_of_an_unknown_account_is_none() -> None:
    pool = expired_pool()

    assert pool.change_account(oauth("z")) == ()
    assert [account.id for account in pool.accounts()] == ["a"]
