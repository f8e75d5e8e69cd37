"""The upstream of a simulation: accounts with limit windows, and the weather of the past. Nothing is sent. Pure.

That an account's window is full is written as the headers that the real one sends, and read by the proxy's own code.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ccflare_core.anthropic.rate_limit_headers import Window
from ccflare_core.anthropic.request import Facts
from ccflare_core.anthropic.verdicts import Verdict, classify
from ccflare_core.http.headers import Header
from ccflare_core.simulation.plans import Meter, Plan

REFUSAL_SECONDS: Final = 0.3
"""How long an account takes to say that a window is full."""
_UNIFIED: Final = "anthropic-ratelimit-unified"
_CLAIMS: Final = {"5h": "five_hour", "7d": "seven_day"}
_GOOD: Final = classify(200, (), None, 0.0)
_FULL: Final = {"type": "error", "error": {"type": "rate_limit_error", "message": "This account's limit is reached."}}


class Upstream:
    """See the module. Times are epoch seconds."""

    def __init__(self, plans: Mapping[str, Iterable[Plan]]) -> None:
        """`plans` by account id. Windows without a capacity are never full."""
        self._meters = {
            id: [Meter(plan, plan.capacity) for plan in found if plan.capacity] for id, found in plans.items()
        }
        self._said: dict[str, tuple[tuple[object, ...], Verdict]] = {}

    def refusal(self, account_id: str, facts: Facts, now: float) -> Verdict | None:
        """What the account answers if a window is full that counts this request; None if none is."""
        meters = self._meters.get(account_id, ())
        if not facts.spends or not any(meter.fraction(now) >= 1 for meter in meters):
            return None
        readings = [meter.reading(now) for meter in meters]
        full = [
            reading
            for meter, reading in zip(meters, readings, strict=True)
            if reading.status == "rejected" and meter.plan.span.counts(facts.family)
        ]
        if not full:
            return None
        last = max(full, key=lambda reading: reading.resets_at or 0.0)
        # What is full for another model is no reason for this one.
        told = [reading for reading in readings if reading.status != "rejected" or reading in full]
        return classify(429, (*_head(told, last), *_retry(last, now)), _FULL, now, facts)

    def served(self, account_id: str, facts: Facts, dollars: float, now: float) -> Verdict:
        """What the head of a good answer means, to a prompt that costs so much."""
        meters = self._meters.get(account_id, ())
        if facts.spends:
            self.use(account_id, facts, dollars, now)
        state = tuple([(int(100 * meter.fraction(now)), meter.resets_at) for meter in meters])
        said = self._said.get(account_id)
        if said is None or said[0] != state:
            windows = tuple([_as_served(meter.reading(now)) for meter in meters])
            good = Verdict(_GOOD.kind, 200, _GOOD.reason, _GOOD.scope, _GOOD.rest, windows, deliver=_GOOD.deliver)
            said = self._said[account_id] = state, good
        return said[1]

    def use(self, account_id: str, facts: Facts, dollars: float, now: float) -> None:
        """The account has used so much."""
        for meter in self._meters.get(account_id, ()):
            if meter.plan.span.counts(facts.family):
                meter.use(dollars, now)

    def fractions(self, account_id: str, now: float) -> dict[str, float]:
        """How full each of the account's windows is."""
        return {meter.plan.name: meter.fraction(now) for meter in self._meters.get(account_id, ())}


def _as_served(window: Window) -> Window:
    """A request that is let in just before its window is full is answered as all others are."""
    return window._replace(status="allowed", utilization=min(window.utilization or 0.0, 0.99))


def _head(windows: Sequence[Window], claimed: Window | None) -> list[Header]:
    """The headers that tell this."""
    fields = [
        (f"{window.name}-{field}", value)
        for window in windows
        for field, value in (
            ("status", window.status),
            ("utilization", f"{window.utilization:.2f}"),
            ("reset", None if window.resets_at is None else f"{window.resets_at:.0f}"),
        )
    ]
    if claimed is not None:
        short, _, family = claimed.name.partition("_")
        claim = "_".join(filter(None, (_CLAIMS.get(short, short), family)))
        fields += [("status", claimed.status), ("representative-claim", claim)]
        fields += [("reset", None if claimed.resets_at is None else f"{claimed.resets_at:.0f}")]
    return [(f"{_UNIFIED}-{name}".encode(), value.encode()) for name, value in fields if value is not None]


def _retry(window: Window, now: float) -> list[Header]:
    return [] if window.resets_at is None else [(b"retry-after", b"%d" % max(1.0, window.resets_at - now))]
