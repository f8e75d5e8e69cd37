"""How much a client may ask for: buckets, what is open at once, and budgets of days and months."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.clients.budgets import Use, month_start
from ccflare_core.clients.rate_limits import Buckets, Moment, RateLimits
from ccflare_core.http.addresses import Address
from exchange_kit import Clock
from key_kit import Key

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
TODAY = date(2027, 1, 15)


class Desk:
    """Rate limits on a clock of ours, at noon."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.wall = NOON
        self.warnings: list[str] = []
        self.limits = RateLimits(self.warnings.append)

    @property
    def now(self) -> Moment:
        return Moment(self.clock.mono, self.clock.wall)

    def ask(self, key: Key) -> tuple[str, int | None] | None:
        """One more request, counted if it is let in; else why not, and when to come again."""
        if rejection := self.limits.for_key(key, self.now):
            return rejection.message, rejection.retry_after
        self.limits.count_key(key, self.now)
        return None

    def is_let_in(self, address: str, per_minute: int = 1) -> bool:
        """One more request from this address, counted if it is let in."""
        source = Address.parse(address)
        if self.limits.for_address(source, per_minute, self.now):
            return False
        self.limits.count_address(source, per_minute, self.now)
        return True

    def use(self, key: Key, tokens: int, dollars: str | None) -> None:
        """A whole exchange with this key."""
        assert self.ask(key) is None
        self.limits.ended(key, self.clock.wall, tokens, None if dollars is None else Decimal(dollars))


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- requests a minute


def test_the_first_one_too_many_waits_for_the_bucket_to_refill(desk: Desk) -> None:
    key = Key(requests_per_minute=3)

    assert [desk.ask(key) for _ in range(3)] == [None] * 3
    assert desk.ask(key) == ("The client key laptop may ask 3 times a minute.", 20)
    desk.clock.pass_(20)
    assert desk.ask(key) is None
    assert desk.ask(key) is not None


def test_each_key_and_each_address_has_its_own_bucket(desk: Desk) -> None:
    key, other = Key(requests_per_minute=1), Key("k2", "desktop", requests_per_minute=1)
    desk.ask(key)

    assert desk.ask(other) is None
    assert [desk.is_let_in(address) for address in ("10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1")] == [True, True, False]


def test_addresses_of_one_64_are_one_source_and_0_is_no_limit(desk: Desk) -> None:
    addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    assert [desk.is_let_in(address) for address in addresses] == [True, False, True]
    assert desk.is_let_in("2001:db8::2", 0)


def test_to_look_at_a_limit_counts_nothing(desk: Desk) -> None:
    key, address = Key(requests_per_minute=1, concurrency=1), Address.parse("10.0.0.1")
    for _ in range(3):
        assert desk.limits.for_key(key, desk.now) is None
        assert desk.limits.for_address(address, 1, desk.now) is None
    assert not desk.limits._open


def test_no_number_of_sources_fills_the_memory() -> None:
    buckets = Buckets(most=10)
    for number in range(100):
        buckets.take(str(number), 1, 0.0)

    assert len(buckets) == 10
    assert buckets.wait("99", 1, 0.0) > 0


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 100))
def test_never_more_than_twice_as_many_in_any_minute(pauses: list[float], per_minute: int) -> None:
    clock = Clock()
    buckets = Buckets()
    taken = []
    for pause in pauses:
        clock.pass_(pause)
        if buckets.wait("x", per_minute, clock.mono) == 0:
            buckets.take("x", per_minute, clock.mono)
            taken.append(clock.mono)

    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * per_minute


# -- at once


def test_so_many_at_once_and_one_more_when_one_has_ended(desk: Desk) -> None:
    key = Key(concurrency=2)
    desk.ask(key)
    desk.ask(key)

    assert desk.ask(key) == ("The client key laptop has 2 requests open, which is all it may.", 1)
    desk.limits.ended(key, NOON, 0, None)
    assert desk.ask(key) is None


def test_who_is_turned_away_takes_nothing(desk: Desk) -> None:
    key = Key(concurrency=1, requests_per_minute=2)
    desk.ask(key)
    for _ in range(5):
        desk.ask(key)

    desk.limits.ended(key, NOON, None, None)
    assert desk.ask(key) is None


# -- budgets


def test_a_days_tokens_end_at_midnight_utc(desk: Desk) -> None:
    key = Key(tokens_per_day=1000)
    desk.use(key, 999, "0.1")
    desk.use(key, 1, "0.1")

    assert desk.ask(key) == ("The client key laptop has used its 1000 tokens of today.", 12 * 3600)
    desk.clock.pass_(12 * 3600 - 1)
    assert desk.ask(key) is not None
    desk.clock.pass_(1)
    assert desk.ask(key) is None


def test_dollars_of_a_day_and_of_a_month(desk: Desk) -> None:
    key = Key(dollars_per_day=Decimal("0.30"), dollars_per_month=Decimal("0.50"))
    for _ in range(3):
        desk.use(key, 10, "0.10")

    assert desk.ask(key) == ("The client key laptop has used its $0.30 of today.", 12 * 3600)
    desk.clock.pass_(24 * 3600)
    desk.use(key, 10, "0.20")
    left = round(15.5 * 24 * 3600)
    assert desk.ask(key) == ("The client key laptop has used its $0.50 of this month.", left)
    desk.clock.pass_(left)
    assert desk.ask(key) is None


def test_a_budget_that_is_used_up_is_nothing_to_wait_for(desk: Desk) -> None:
    key = Key(tokens_per_day=1, requests_per_minute=1)
    desk.use(key, 1, "0.1")
    rejection = desk.limits.for_key(key, desk.now)
    assert rejection is not None
    assert rejection.is_final


def test_an_exchange_belongs_to_the_day_on_which_it_began(desk: Desk) -> None:
    key = Key(tokens_per_day=100)
    assert desk.ask(key) is None
    desk.clock.pass_(13 * 3600)
    desk.limits.ended(key, NOON, 500, Decimal(1))

    assert desk.ask(key) is None
    assert desk.limits.budgets.used(key.id, TODAY)[0].tokens == 500


def test_what_the_record_knows_counts_once(desk: Desk) -> None:
    key = Key(tokens_per_day=100)
    record = [Use(key.id, TODAY, 60, Decimal("0.5"), 0), Use(key.id, date(2027, 1, 1), 999, Decimal(1), 2)]
    desk.limits.budgets.restore(record)
    desk.limits.budgets.restore(record)
    desk.use(key, 39, "0.1")

    day, month = desk.limits.budgets.used(key.id, TODAY)
    assert (day.tokens, day.dollars, month.dollars, month.unpriced) == (99, Decimal("0.6"), Decimal("1.6"), 2)
    assert desk.ask(key) is None


def test_a_price_that_nobody_knows_is_said_and_not_taken_for_nothing(desk: Desk) -> None:
    key = Key(dollars_per_month=Decimal(1))
    desk.use(key, 500, None)
    desk.use(key, 500, None)
    desk.use(key, 500, "1.00")

    assert len(desk.warnings) == 1
    assert "ccflare_prices" in desk.warnings[0]
    told = desk.ask(key)
    assert told is not None
    assert "(2 exchanges without a known price come on top)" in told[0]


def test_other_days_are_forgotten_after_a_month(desk: Desk) -> None:
    key = Key()
    for _ in range(80):
        desk.use(key, 1, "1")
        desk.clock.pass_(86_400)

    assert len(desk.limits.budgets._here[key.id]) <= 33


# -- batches


def too_large(desk: Desk, key: Key, tokens: int, dollars: str) -> tuple[str, int | None] | None:
    """Why the key may not make a batch of this size, and when to come again."""
    rejection = desk.limits.budgets.too_large(key, 3, tokens, Decimal(dollars), desk.clock.wall)
    if rejection is None:
        return None
    assert (rejection.status, rejection.is_final) == (429, True)
    return rejection.message, rejection.retry_after


def test_a_batch_must_fit_into_what_is_left_of_each_budget(desk: Desk) -> None:
    key = Key(tokens_per_day=1000, dollars_per_day=Decimal(5), dollars_per_month=Decimal(8))
    desk.use(key, 400, "1.5")

    assert too_large(desk, key, 600, "3.5") is None
    assert too_large(desk, key, 601, "0.1") == (
        "This batch of 3 requests may take 601 tokens, by the size of its prompts and its max_tokens, and the client "
        "key laptop has 600 tokens left of its 1000 tokens of today.",
        12 * 3600,
    )
    told = too_large(desk, key, 10, "3.500001")
    assert told is not None
    assert "may take $3.5001" in told[0]
    assert "has $3.5 left of its $5 of today." in told[0]
    desk.clock.pass_(24 * 3600)
    desk.use(key, 1, "2.5")
    assert too_large(desk, key, 10, "2.5") is None
    desk.clock.pass_(24 * 3600)
    told = too_large(desk, key, 10, "4.5")
    assert told is not None
    assert "has $4 left of its $8 of this month." in told[0]


def test_a_batch_that_fits_into_no_day_is_nothing_to_wait_for(desk: Desk) -> None:
    told = too_large(desk, Key(tokens_per_day=1000), 1001, "0")
    assert told is not None
    assert told[1] is None


def test_a_key_without_a_budget_may_make_any_batch(desk: Desk) -> None:
    assert too_large(desk, Key(), 10**9, "100000") is None


def test_a_batch_counts_before_the_database_has_it_and_once_when_it_has(desk: Desk) -> None:
    key, budgets = Key(tokens_per_day=1000), desk.limits.budgets
    budgets.reserve("req_1", key, NOON, 700, Decimal("0.5"))

    assert too_large(desk, key, 301, "0") is not None
    assert budgets.used(key.id, TODAY)[0] == Use(key.id, TODAY, 700, Decimal("0.5"), 0)
    budgets.batch_ended("req_1", may_be_made=True)
    assert budgets.is_stale
    budgets.restore([Use("k2", TODAY, 5, Decimal(0), 0)], {"req_2"})
    assert budgets.used(key.id, TODAY)[0].tokens == 700
    budgets.restore([Use(key.id, TODAY, 700, Decimal("0.5"), 0)], {"req_1"})
    assert budgets.used(key.id, TODAY)[0].tokens == 700
    desk.use(key, 300, "0")
    assert desk.ask(key) is not None


def test_a_batch_that_was_not_made_gives_back_what_it_has_reserved(desk: Desk) -> None:
    key, budgets = Key(tokens_per_day=1000), desk.limits.budgets
    budgets.reserve("req_1", key, NOON, 1000, Decimal("0.5"))
    assert desk.ask(key) is not None

    budgets.batch_ended("req_1", may_be_made=False)

    assert desk.ask(key) is None


def test_what_spends_nothing_needs_no_budget_but_a_rate(desk: Desk) -> None:
    key = Key(tokens_per_day=1, requests_per_minute=1)
    desk.use(key, 1, "0.1")
    desk.clock.pass_(60)

    assert desk.limits.for_key(key, desk.now) is not None
    assert desk.limits.for_key(key, desk.now, spends=False) is None
    desk.limits.count_key(key, desk.now)
    assert desk.limits.for_key(key, desk.now, spends=False) is not None


@pytest.mark.parametrize(
    ("now", "start"),
    [
        (datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_a_month_begins_in_utc(now: datetime, start: datetime) -> None:
    assert month_start(now.timestamp()) == start.timestamp()
