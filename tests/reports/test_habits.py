"""What is usual, learned from days that were: limits, busiest stretches, names."""

import pytest

from ccflare_core.reports.habits import LOOK_BACK_DAYS, SLOTS_A_DAY, Names, Numbers, limit, middle

NOW = 20_000 * SLOTS_A_DAY + 100
"""A slot in the morning of a day."""


@pytest.mark.parametrize(
    ("peaks", "unusual"),
    [
        ([], 200),
        ([10, 20], 200),
        ([10, 200], 300),
        ([10] * 20, 100),
        ([0] * 20, 100),
        ([100] * 20, 274),
        ([80, 100, 125] * 7, 373),
        ([20, 100, 500] * 7, 1113),
        ([10] * 26 + [5000], 100),
        ([10] * 25 + [5000, 5000], 7500),
    ],
    ids=["none", "few", "few-and-much", "alike", "nothing", "much-alike", "vary", "vary-much", "once", "a-habit"],
)
def test_limit_is_learned_from_the_days(peaks: list[int], unusual: int) -> None:
    assert limit(peaks, 100) == pytest.approx(unusual, rel=0.01)


def test_middle_of_nothing_is_nothing() -> None:
    assert (middle([]), middle([1, 2, 9])) == (0, 2)


def test_numbers_know_the_last_slots_and_the_busiest_of_each_day_before() -> None:
    numbers = Numbers(3, SLOTS_A_DAY)
    for day, counts in ((-3, {10: 5, 11: 6, 40: 9}), (-1, {0: 1, 200: 2}), (0, {99: 4, 100: 3})):
        begin = (NOW // SLOTS_A_DAY + day) * SLOTS_A_DAY
        numbers.put(begin, begin + SLOTS_A_DAY, {begin + slot: number for slot, number in counts.items()})

    assert (numbers.recent(3, NOW), numbers.recent(SLOTS_A_DAY, NOW)) == (7, 9)
    assert (numbers.peaks(3, NOW), numbers.peaks(SLOTS_A_DAY, NOW)) == ([11, 2], [20, 3])


def test_numbers_that_are_put_again_count_once() -> None:
    numbers = Numbers(3)
    for counts in ({NOW: 5, NOW - 1: 1}, {NOW: 6}):
        numbers.put(NOW - 3, NOW + 1, counts)

    assert numbers.recent(3, NOW) == 6


def test_yesterday_is_counted_anew_when_more_of_it_is_put() -> None:
    numbers, midnight = Numbers(3), NOW // SLOTS_A_DAY * SLOTS_A_DAY
    numbers.put(midnight - 2, midnight, {midnight - 1: 5})
    before = numbers.peaks(3, midnight)
    numbers.put(midnight - 2, midnight + 1, {midnight - 2: 5, midnight - 1: 5})

    assert (before, numbers.peaks(3, midnight)) == ([5], [10])


def test_numbers_of_long_ago_are_let_go() -> None:
    numbers = Numbers(3)
    for day in range(60):
        begin = NOW + day * SLOTS_A_DAY
        numbers.put(begin, begin + 1, {begin: day})

    assert numbers.peaks(3, NOW + 59 * SLOTS_A_DAY) == list(range(59 - LOOK_BACK_DAYS, 59))


def test_names_are_new_once_and_again_after_the_look_back() -> None:
    names = Names()
    for slot in (NOW, NOW + 50, NOW):
        names.see("a", slot)
    long_after = NOW + 50 + LOOK_BACK_DAYS * SLOTS_A_DAY + 1

    assert names.new(NOW) == [(NOW, "a")]
    assert names.new(NOW + 1) == []
    names.see("a", long_after)
    assert names.new(NOW + 1) == [(long_after, "a")]


def test_names_count_the_days_with_something_new() -> None:
    names = Names()
    for day, name in ((0, "a"), (1, "b"), (1, "c"), (2, "a"), (4, "d")):
        names.see(name, NOW + day * SLOTS_A_DAY)

    assert names.days_with_new(NOW, NOW + 4 * SLOTS_A_DAY) == 2
    assert names.days_with_new(NOW + 1, NOW + 5 * SLOTS_A_DAY) == 2
    names.forget(NOW + 2 * SLOTS_A_DAY)
    assert names.new(NOW) == [(NOW, "a"), (NOW + 4 * SLOTS_A_DAY, "d")]


def test_names_without_end_take_no_memory_without_end() -> None:
    names = Names()
    for number in range(5000):
        names.see(str(number), NOW)

    assert len(names.new(NOW)) == 1000
