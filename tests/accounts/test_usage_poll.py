"""The usage poll: what it reads, whom it asks and how seldom, and what it may end."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccflare_core.accounts.account import Account, Kind
from ccflare_core.accounts.cooldowns import WHOLE, Part
from ccflare_core.accounts.pool import AccountPool, Lease, Report
from ccflare_core.accounts.usage_poll import UsagePoll, read_usage, usage_request
from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Backoff, Scope, Verdict
from ccflare_core.anthropic.verdicts import Kind as Answered
from ccflare_core.errors import TokenUnavailable
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.messages import Request, Response
from database_kit import NOW
from fake_upstream import oauth_usage
from token_kit import HOUR, Clock

URL = "https://api.anthropic.com/api/oauth/usage"
REST = Backoff(60, "double", 300)


def usage(**windows: tuple[float, str | None]) -> bytes:
    return json.dumps({name: {"utilization": u, "resets_at": at} for name, (u, at) in windows.items()}).encode()


class Desk:
    """A pool, and a poll whose endpoint answers with `answer`, a minute being the interval."""

    def __init__(self, *, seconds: float = 60.0, **fields: Any) -> None:
        self.clock = Clock()
        self.asked: list[float] = []
        self.ways: list[EgressProxy | None] = []
        self.learned: list[tuple[str, Report]] = []
        self.answer: Response | Exception = Response(200, (), usage(five_hour=(20, None), seven_day=(30, None)))
        self.pool = AccountPool(clock=lambda: self.clock.mono, wall=lambda: self.clock.wall)
        self.pool.replace_accounts([Account("a", "max-a", **({"kind": Kind.OAUTH, "access_token": "oat"} | fields))])
        self.poll = UsagePoll(
            self.pool,
            send=self.send,
            url=lambda: URL,
            seconds=lambda: seconds,
            learned=lambda id, report: self.learned.append((id, report)),
            clock=lambda: self.clock.mono,
            random=lambda: 0.5,
            sleep=self.sleep,
        )
        self.until = 0.0

    async def send(self, request: Request) -> Response:
        self.asked.append(self.clock.mono)
        self.ways.append(request.proxy)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def sleep(self, seconds: float) -> None:
        self.clock.pass_(seconds)
        if self.clock.mono > self.until:
            raise TimeoutError

    async def go_on(self, seconds: float) -> list[float]:
        """Let it poll for so long; when it asked, in seconds since the beginning."""
        began, before = self.clock.mono, len(self.asked)
        self.until = began + seconds
        with pytest.raises(TimeoutError):
            await self.poll.run()
        return [at - began for at in self.asked[before:]]

    def serve(self, verdict: Verdict | None = None) -> Lease:
        lease = self.pool.acquire(Facts("claude-opus-4-8", "s"))
        assert isinstance(lease, Lease)
        if verdict:
            self.pool.report(lease, verdict)
            self.pool.release(lease)
        return lease


def spent(until: float, kind: Answered = Answered.WINDOW_SPENT, scope: Scope = Scope.ACCOUNT) -> Verdict:
    return Verdict(kind, 429, "5h window spent", scope, REST, until=until)


# --- reading --------------------------------------------------------------------------------------------------------


def test_windows_are_named_and_measured_as_in_the_headers() -> None:
    body = usage(five_hour=(21.0, "2027-01-15T11:00:00+00:00"), seven_day=(134, None), seven_day_opus=(0.5, None))

    assert read_usage(body) == (Window("5h", None, 0.21, NOW + 3 * HOUR), Window("7d_opus", None, 0.005, None))


def test_the_fake_endpoints_answer_is_read_whole() -> None:
    body = b"".join(chunk for chunk in oauth_usage().chunks if isinstance(chunk, bytes))

    assert [(w.name, w.utilization) for w in read_usage(body)] == [("5h", 0.21), ("7d", 0.34), ("7d_opus", 0.0)]


@pytest.mark.parametrize("value", [None, "21", True, -1, 1e9, [1], {}])
def test_an_utilization_that_makes_no_sense_is_left_out(value: object) -> None:
    assert read_usage(json.dumps({"five_hour": {"utilization": value}}).encode()) == ()


@given(
    st.binary(max_size=50) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_anything_is_read_without_an_error(body: bytes) -> None:
    assert isinstance(read_usage(body), tuple)


@given(st.dictionaries(st.sampled_from(["five_hour", "seven_day_x"]), st.dictionaries(
    st.sampled_from(["utilization", "resets_at"]), st.none() | st.floats() | st.text() | st.integers())))  # fmt: skip
def test_any_window_is_read_without_an_error(content: Mapping[str, object]) -> None:
    for window in read_usage(json.dumps(content).encode()):
        assert 0 <= (window.utilization or 0.0) <= 100


def test_the_token_goes_only_where_it_may_and_is_not_shown() -> None:
    assert "sk-ant" not in repr(usage_request(URL, "sk-ant-oat01-x"))
    with pytest.raises(ValueError, match="https"):
        usage_request("http://example.com/api/oauth/usage", "sk-ant-oat01-x")


# --- asking ---------------------------------------------------------------------------------------------------------


async def test_it_is_off_by_default() -> None:
    assert await Desk(seconds=0).go_on(HOUR) == []


async def test_an_idle_account_is_asked_with_the_interval_between() -> None:
    desk = Desk(seconds=90)

    assert await desk.go_on(300) == [45, 135, 225]
    assert [window.utilization for _, report in desk.learned for window in report.windows] == [0.2, 0.3]


async def test_a_short_interval_is_a_minute() -> None:
    assert len(await Desk(seconds=1).go_on(HOUR)) == 60


async def test_an_account_in_use_is_not_asked() -> None:
    desk = Desk()
    lease = desk.serve()
    assert await desk.go_on(300) == []

    desk.pool.release(lease)

    assert await desk.go_on(300) != []


@pytest.mark.parametrize(
    "fields",
    [
        {"paused": True},
        {"needs_login": True},
        {"expires_at": NOW - 1, "refresh_token": "ort"},
        {"kind": Kind.API_KEY, "api_key": "k"},
    ],
)
async def test_accounts_without_a_usable_token_are_not_asked(fields: dict[str, Any]) -> None:
    assert await Desk(**fields).go_on(300) == []


@pytest.mark.parametrize(
    "wrong", [TokenUnavailable("down"), Response(403, (), b"{}"), Response(200, (), b"<html>"), Response(500, (), b"")]
)
async def test_it_backs_off_hard_when_refused(wrong: Response | Exception) -> None:
    desk = Desk()
    desk.answer = wrong

    asked = await desk.go_on(4 * HOUR)

    gaps = [round(b - a) for a, b in itertools.pairwise(asked)]
    assert gaps[:5] == [120, 240, 480, 960, 1920]
    assert set(gaps[6:]) <= {3600}


async def test_it_waits_as_long_as_it_is_told_to() -> None:
    desk = Desk()
    desk.answer = Response(429, (("retry-after", "2895"),), b"{}")

    first, second = (await desk.go_on(2 * HOUR))[:2]

    assert second - first >= 2895


# --- what it may change ---------------------------------------------------------------------------------------------


def test_a_rest_ends_when_both_windows_have_room_and_are_new_ones() -> None:
    desk = Desk()
    desk.serve(spent(NOW + HOUR))

    report = desk.pool.learn("a", [Window("5h", None, 0.0, NOW + 5 * HOUR), Window("7d", None, 0.4, None)])

    assert report.cleared == (("a", WHOLE),)
    desk.serve()


@pytest.mark.parametrize(
    "windows",
    [
        [Window("5h", None, 0.0, NOW + HOUR + 59), Window("7d", None, 0.4, None)],  # jitter: the same window
        [Window("5h", None, 1.0, NOW + 5 * HOUR), Window("7d", None, 0.4, None)],
        [Window("5h", None, 0.0, NOW + 5 * HOUR)],  # nothing known of the other one
        [Window("5h", None, None, NOW + 5 * HOUR), Window("7d", None, None, None)],
        [],
    ],
)
def test_a_rest_stays_where_the_endpoint_does_not_say_that_it_is_over(windows: list[Window]) -> None:
    desk = Desk()
    desk.serve(spent(NOW + HOUR))

    assert desk.pool.learn("a", windows).cleared == ()


def test_a_familys_rest_ends_by_its_own_window() -> None:
    desk = Desk()
    desk.serve(spent(NOW + HOUR, Answered.MODEL_BUCKET_SPENT, Scope.FAMILY))

    assert desk.pool.learn("a", [Window("7d_sonnet", None, 0.1, None)]).cleared == ()
    assert desk.pool.learn("a", [Window("7d_opus", None, 0.1, None)]).cleared == (("a", Part(Scope.FAMILY, "opus")),)


def test_a_rest_for_another_reason_is_not_ended() -> None:
    desk = Desk()
    desk.serve(Verdict(Answered.OVERLOADED, 529, "529 overloaded", Scope.ACCOUNT, Backoff(10, "fixed", 10)))

    assert desk.pool.learn("a", [Window("5h", None, 0.0, None), Window("7d", None, 0.0, None)]).cleared == ()


def test_a_full_window_without_a_reset_excludes_nobody() -> None:
    desk = Desk()

    desk.pool.learn("a", read_usage(usage(five_hour=(100, None), seven_day=(100, None))))

    desk.serve()


def test_an_account_that_is_gone_learns_nothing() -> None:
    assert Desk().pool.learn("z", [Window("5h", None, 0.0, None)]) == Report()


async def test_an_account_is_asked_about_by_its_own_proxy() -> None:
    way = EgressProxy.parse("http://me:pw@proxy.example:3128")
    desk = Desk(proxy=way)

    await desk.go_on(200)

    assert desk.ways
    assert set(desk.ways) == {way}
