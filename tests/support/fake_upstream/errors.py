"""Ready-made answers that fail as the API does: limits, refusals, errors inside of a stream."""

import time
from collections.abc import Callable

from fake_upstream.answer import Answer, reason
from fake_upstream.limit_headers import allowed_headers, header_fields, unified
from fake_upstream.messages import event, json_answer, new_id, sse, sse_answer, up_to, whole_answer
from fake_upstream.request import Header, Request


def error(status: int, kind: str, message: str, headers: tuple[Header, ...] = ()) -> Answer:
    """An error as the API words it, the same `request-id` in head and body."""
    request_id = new_id("req")
    content = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return json_answer(content, status, (*headers, (b"request-id", request_id.encode())))


_LIMITED = "This request would exceed your account's rate limit. Please try again later."


def _limited(headers: tuple[Header, ...], message: str = _LIMITED) -> Answer:
    return error(429, "rate_limit_error", message, headers)


def limited_5h(reset: float, retry_after: float | None = None) -> Answer:
    """The 429 of a spent 5-hour window: the headers of a captured one, with this reset (epoch seconds)."""
    left = max(0, reset - time.time()) if retry_after is None else retry_after
    return _limited(
        unified(
            status="rejected",
            reset=int(reset),
            representative_claim="five_hour",
            _5h_status="rejected",
            _5h_reset=int(reset),
            _5h_utilization=1.01,
            _5h_surpassed_threshold=1.0,
            _7d_status="allowed",
            _7d_reset=int(reset) + 488_400,
            _7d_utilization=0.69,
            fallback_percentage=0.5,
            overage_status="rejected",
            overage_disabled_reason="org_level_disabled",
        )
        + header_fields(retry_after=int(left), x_should_retry="true")
    )


def limited_for(seconds: float) -> Callable[[Request], Answer]:
    """The same, spent for so long from when it is asked, and for as much longer as makes a whole second."""
    return lambda _: limited_5h(int(time.time() + seconds) + 1)


def limited_only_windows(reset: float) -> Answer:
    """The other 429 seen for a spent window: per-window headers alone, no aggregate, no retry-after."""
    return _limited(unified(_5h_status="rejected", _5h_reset=int(reset), _5h_utilization=1.01))


def model_bucket(reset: float, claim: str = "seven_day_opus") -> Answer:
    """A 429 for one family of models, its windows allowed; `seven_day_overage_included` brings 7d_oi."""
    bucket: dict[str, object] = {}
    if claim == "seven_day_overage_included":
        bucket = {"_7d_oi_status": "rejected", "_7d_oi_utilization": 1.0, "_7d_oi_reset": int(reset)}
    windows = {
        "_5h_status": "allowed",
        "_5h_utilization": 0.2,
        "_7d_status": "allowed",
        "_7d_utilization": 0.7,
    }
    headers = unified(status="rejected", reset=int(reset), representative_claim=claim, **windows, **bucket)
    left = max(0, int(reset - time.time()))
    return _limited(headers + header_fields(retry_after=left, x_should_retry="true"))


def out_of_credits() -> Answer:
    """A 429 because paid extra usage has run out; it names no reset."""
    windows = {
        "_5h_status": "allowed",
        "_5h_utilization": 0.1,
        "_7d_status": "allowed",
        "_7d_utilization": 0.1,
    }
    overage = {"overage_status": "rejected", "overage_disabled_reason": "out_of_credits"}
    return _limited(unified(**windows, **overage), "Extra usage is required for long context requests.")


def bare_429() -> Answer:
    """A 429 that says nothing: no window, no retry-after, the message "Error"."""
    return _limited(header_fields(x_should_retry="true"), "Error")


def short_throttle(retry_after: int = 5) -> Answer:
    """A 429 for a few seconds while every window is allowed."""
    return _limited(allowed_headers() + header_fields(retry_after=retry_after, x_should_retry="true"))


def overloaded() -> Answer:
    """529: too much for Anthropic, whoever asks."""
    return error(529, "overloaded_error", "Overloaded", header_fields(x_should_retry="true"))


def failure(status: int = 500, *, html: bool = False, should_retry: bool | None = None) -> Answer:
    """A 5xx, as JSON or as the HTML page of whatever stands in front."""
    headers = header_fields(x_should_retry=None if should_retry is None else str(should_retry).lower())
    if html:
        page = b"<html><head><title>%d</title></head><body>%s</body></html>" % (status, reason(status))
        return whole_answer(page, b"text/html", status, headers)
    return error(status, "api_error", "Internal server error", headers)


def unauthorized(message: str = "OAuth token has expired. Please obtain a new token.") -> Answer:
    """401: this credential is not accepted."""
    return error(401, "authentication_error", message, header_fields(x_should_retry="false"))


def permission_denied() -> Answer:
    """403: this account may not do that."""
    message = "OAuth authentication is currently not allowed for this organization."
    return error(403, "permission_error", message, header_fields(x_should_retry="false"))


def bad_request(message: str = "max_tokens: Field required") -> Answer:
    """400: the client's own mistake."""
    return error(400, "invalid_request_error", message, header_fields(x_should_retry="false"))


def error_event(kind: str, message: str = "Overloaded") -> bytes:
    """An error inside of an event stream."""
    return event({"type": "error", "error": {"type": kind, "message": message}, "request_id": new_id("req")})


def sse_error_first(kind: str = "overloaded_error", *, started: bool = False) -> Answer:
    """A 200 whose stream is an error before any content; with `started` after a message_start."""
    start = [sse(0).chunks[0]] if started else []
    return sse_answer(*start, error_event(kind))


def sse_error_midway(kind: str = "overloaded_error", *, after: int = 2) -> Answer:
    """A stream that turns into an error after so many deltas."""
    return sse_answer(*up_to(sse(after), after), error_event(kind))
