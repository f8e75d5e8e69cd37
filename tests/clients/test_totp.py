"""The second factor: the RFC's codes, each good once, and no way to try them all."""

import base64
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from ccflare_core.clients.totp import (
    LONGEST_WAIT,
    Factor,
    SecondFactor,
    Secret,
    Used,
    Wrong,
    check,
    code_at,
    new_recovery_codes,
    step_at,
)

RFC_SEED = b"12345678901234567890"
NOW = 1_800_000_000.0
SECRET = Secret(RFC_SEED, b"p" * 32)
FACTOR = Factor(SECRET, is_confirmed=True)


def code(now: float = NOW) -> str:
    return code_at(RFC_SEED, step_at(now))


# RFC 6238, appendix B, for HMAC-SHA-1; apps show the last six of the eight digits.
@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (59, "94287082"),
        (1_111_111_109, "07081804"),
        (1_111_111_111, "14050471"),
        (1_234_567_890, "89005924"),
        (2_000_000_000, "69279037"),
        (20_000_000_000, "65353130"),
    ],
)
def test_the_codes_are_those_of_the_rfc(now: int, expected: str) -> None:
    assert code_at(RFC_SEED, step_at(now), digits=8) == expected
    assert code_at(RFC_SEED, step_at(now)) == expected[2:]


@pytest.mark.parametrize("late", [-30, 0, 30])
def test_clocks_may_differ_by_one_step(late: int) -> None:
    result = check(FACTOR, code(NOW + late), NOW)
    assert isinstance(result, Used)
    assert result.factor.last_step == step_at(NOW + late)


@pytest.mark.parametrize("late", [-60, 60, 3600])
def test_but_not_by_more(late: int) -> None:
    assert isinstance(check(FACTOR, code(NOW + late), NOW), Wrong)


def test_a_code_is_good_once_and_so_are_all_before_it() -> None:
    used = check(FACTOR, code(), NOW).factor

    assert isinstance(check(used, code(), NOW + 1), Wrong)
    assert isinstance(check(used, code(NOW - 30), NOW + 1), Wrong)
    assert isinstance(check(used, code(NOW + 30), NOW + 1), Used)


@pytest.mark.parametrize("typed", ["", "000000", "１２３４５６", "x" * 10_000, "\x00"])
def test_what_is_no_code_is_wrong(typed: str) -> None:
    assert isinstance(check(FACTOR, typed, NOW), Wrong)


def test_a_code_may_be_typed_with_spaces() -> None:
    assert isinstance(check(FACTOR, f"{code()[:3]} {code()[3:]}", NOW), Used)


def test_wrong_codes_make_the_next_wait_longer_and_right_ones_wait_too() -> None:
    factor, now, waits = FACTOR, NOW, []
    for _ in range(30):
        result = check(factor, "000000", now)
        assert isinstance(result, Wrong)
        factor, now = result.factor, now + result.retry_after
        waits.append(result.retry_after)

    assert waits[:8] == [0, 0, 0, 0, 2, 4, 8, 16]
    assert waits[-1] == LONGEST_WAIT
    assert isinstance(check(factor, code(now), now - 1), Wrong)
    assert check(factor, code(now), now).factor.failures == 0


def test_a_recovery_code_is_good_once() -> None:
    codes = new_recovery_codes()
    factor = replace(FACTOR, recovery=frozenset(map(SECRET.digest, codes)))

    used = check(factor, codes[3].lower(), NOW)
    assert isinstance(used, Used)
    assert used.recovery == SECRET.digest(codes[3])
    assert isinstance(check(used.factor, codes[3], NOW), Wrong)
    assert isinstance(check(used.factor, codes[4], NOW), Used)


def test_recovery_codes_are_many_different_ones_of_40_bits() -> None:
    codes = new_recovery_codes()
    assert len(set(codes)) == 10
    assert all(len(base64.b32decode(code.replace("-", ""))) == 5 for code in codes)


def test_an_app_is_told_all_that_it_needs() -> None:
    uri = urlsplit(SECRET.uri("my proxy"))
    asked = {name: values[0] for name, values in parse_qs(uri.query).items()}

    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/ccflare:my%20proxy")
    assert base64.b32decode(asked["secret"]) == RFC_SEED
    assert (asked["digits"], asked["period"], asked["issuer"]) == ("6", "30", "ccflare")


def test_nothing_shows_the_seed() -> None:
    factor = replace(FACTOR, recovery=frozenset({"digest"}))
    assert SECRET.text not in repr(factor) + repr(SECRET)
    assert "1234567890" not in repr(factor) + repr(SECRET) + repr(check(factor, "1", NOW))
    assert Secret.from_bytes(bytes(SECRET)) == SECRET


# -- in a running proxy


class Desk:
    def __init__(self, factor: Factor | None = FACTOR) -> None:
        self.now = NOW
        self.kept: list[Factor] = []
        self.is_first = True
        self.second = SecondFactor(lambda: self.now, self._keep)
        self.second.replace(factor)

    async def _keep(self, tried: Used | Wrong) -> bool:
        self.kept.append(tried.factor)
        return self.is_first


@pytest.mark.parametrize("factor", [None, Factor(SECRET)])
async def test_without_a_confirmed_factor_nobody_is_asked(factor: Factor | None) -> None:
    desk = Desk(factor)
    assert not desk.second.is_needed
    assert await desk.second.admit(None) is None


async def test_no_code_is_refused_without_being_counted() -> None:
    desk = Desk()
    assert await desk.second.admit(None) is not None
    assert desk.kept == []


async def test_what_a_try_changes_is_kept_but_one_that_came_too_early_changes_nothing() -> None:
    desk = Desk()
    for _ in range(20):
        await desk.second.admit("000000")
    assert [factor.failures for factor in desk.kept] == [1, 2, 3, 4, 5]


async def test_a_used_code_stays_used_whatever_the_database_still_says() -> None:
    codes = new_recovery_codes()
    stored = replace(FACTOR, recovery=frozenset(map(SECRET.digest, codes)))
    desk = Desk(stored)
    assert await desk.second.admit(code()) is None
    assert await desk.second.admit(codes[0]) is None

    desk.second.replace(stored)

    assert await desk.second.admit(code()) is not None
    assert await desk.second.admit(codes[0]) is not None
    assert await desk.second.admit(codes[1]) is None


async def test_a_code_that_another_proxy_has_taken_is_none() -> None:
    codes = new_recovery_codes()
    desk = Desk(replace(FACTOR, recovery=frozenset(map(SECRET.digest, codes))))
    desk.is_first = False

    for tried in (code(), codes[0]):
        wrong = await desk.second.admit(tried)
        assert wrong is not None
        assert wrong.retry_after == 0


async def test_another_factor_begins_anew() -> None:
    desk = Desk()
    await desk.second.admit(code())
    new = Secret(b"x" * 20, b"y" * 32)

    desk.second.replace(Factor(new, is_confirmed=True))

    assert await desk.second.admit(code_at(new.seed, step_at(NOW))) is None
