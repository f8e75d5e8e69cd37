"""The rate-limit headers of the API, of an account and of an API key."""

import datetime
import time

from fake_upstream.request import Header


def header_fields(**values: object) -> tuple[Header, ...]:
    """Headers out of keyword arguments: `_` becomes `-`, None leaves one out."""
    return tuple(
        (name.replace("_", "-").encode(), str(value).encode()) for name, value in values.items() if value is not None
    )


def unified(**values: object) -> tuple[Header, ...]:
    """`anthropic-ratelimit-unified-*` headers, spelt `status`, `_5h_status`, `_7d_oi_reset` …"""
    return tuple(
        (b"anthropic-ratelimit-unified-" + name.lstrip(b"-").replace(b"7d-oi", b"7d_oi"), value)
        for name, value in header_fields(**values)
    )


def allowed_headers(
    utilization_5h: float = 0.21,
    utilization_7d: float = 0.34,
    *,
    status: str = "allowed",
    status_5h: str = "allowed",
    status_7d: str = "allowed",
    reset_5h: float | None = None,
    reset_7d: float | None = None,
    claim: str = "five_hour",
    overage: str = "rejected",
) -> tuple[Header, ...]:
    """The whole unified set of a 200 to an OAuth account; resets in epoch seconds, a while ahead if None."""
    reset_5h = int(reset_5h or time.time() + 3 * 3600)
    reset_7d = int(reset_7d or time.time() + 4 * 86400)
    return unified(
        status=status,
        _5h_status=status_5h,
        _5h_reset=reset_5h,
        _5h_utilization=utilization_5h,
        _7d_status=status_7d,
        _7d_reset=reset_7d,
        _7d_utilization=utilization_7d,
        representative_claim=claim,
        fallback_percentage=0.5,
        reset=reset_5h if claim == "five_hour" else reset_7d,
        overage_status=overage,
        overage_disabled_reason="org_level_disabled" if overage == "rejected" else None,
    )


def rejected_headers(reset: float, *, overage: str = "rejected") -> tuple[Header, ...]:
    """The unified set with the 5-hour window spent, for a 200 that overage serves."""
    return allowed_headers(1.01, status="rejected", status_5h="rejected", reset_5h=reset, overage=overage)


def api_key_headers(requests: int = 3999, tokens: int = 399_000) -> tuple[Header, ...]:
    """What an API key is told: what is `remaining` of its requests and tokens a minute."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    reset = soon.strftime("%Y-%m-%dT%H:%M:%SZ")
    left = {"requests": requests, "tokens": tokens, "input-tokens": tokens, "output-tokens": tokens}
    return tuple(
        (f"anthropic-ratelimit-{name}-{part}".encode(), str(value).encode())
        for name, remaining in left.items()
        for part, value in (("limit", max(4000, remaining)), ("remaining", remaining), ("reset", reset))
    )
