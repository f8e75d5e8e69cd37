"""The answers that we give ourselves, in the shape that Anthropic's clients expect. Pure."""

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

from ccflare_core.http.rejection import Rejection
from ccflare_core.program import typed
from ccflare_core.text import iso, local_time

# https://docs.anthropic.com/en/api/errors
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    414: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    504: "timeout_error",
}

LONGEST_RETRY_AFTER = 3600
UNKNOWN_RETRY_AFTER = 60
"""Seconds. Longer than 60 makes Claude Code give up at once (measured), so the unknown is a wait it takes."""


SECURITY: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""What every answer of our own has. A page that needs scripts or styles brings a content-security-policy of its own."""


class Pieces(Protocol):
    """A body that comes piece by piece, and may go on for ever."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None:
        """Nobody takes more of it. May be called twice."""


class Answer(NamedTuple):
    """An answer of our own: complete, or a head with what makes its body, piece by piece."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    reason: str
    """For the log and the record, which the owner reads: it may say more of the accounts than the client is told."""
    pieces: Callable[[], Pieces] | None = None
    """Makes the body, once the head is out, where that comes in pieces."""

    def allowing(self, methods: Sequence[str]) -> Self:
        """The same, naming the methods that would do, as a 405 has to (RFC 9110, 15.5.6)."""
        return self._replace(headers=(*self.headers, (b"allow", ", ".join(methods).encode())))


def json_answer(status: int, content: Any, *, extra: Sequence[tuple[bytes, bytes]] = (), reason: str = "") -> Answer:
    """`content` as a JSON answer."""
    body = json.dumps(content, ensure_ascii=False).encode(errors="replace")
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *SECURITY,
        *extra,
    )
    return Answer(status, headers, body, reason)


def event_stream(pieces: Callable[[], Pieces]) -> Answer:
    """An answer in server-sent events, which nobody on the way should collect first."""
    head = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no"), *SECURITY)
    return Answer(200, head, b"", "", pieces)


NO_REQUEST = "req_none"
"""The request id in answers to what has no exchange."""


def error(
    status: int,
    message: str,
    *,
    request_id: str = NO_REQUEST,
    retry_after: int | None = None,
    is_final: bool = False,
    **details: Any,
) -> Answer:
    """An error in Anthropic's shape; `details` go beside the message. `retry_after` is in seconds.

    `is_final` keeps the SDKs from trying again by themselves: they would sleep for as long as `retry_after` says.
    """
    problem = {"type": _ERROR_TYPES.get(status, "api_error"), "message": message, **details}
    extra = [(b"request-id", request_id.encode())]
    if retry_after is not None:
        extra.append((b"retry-after", b"%d" % retry_after))
    if is_final:
        extra.append((b"x-should-retry", b"false"))
    content = {"type": "error", "error": problem, "request_id": request_id}
    return json_answer(status, content, extra=extra, reason=message)


def rejected(rejection: Rejection, request_id: str = NO_REQUEST) -> Answer:
    """A rejection as the client gets it."""
    answer = error(
        rejection.status,
        rejection.message,
        request_id=request_id,
        retry_after=rejection.retry_after,
        is_final=rejection.is_final,
    )
    answer = answer._replace(headers=(*answer.headers, *rejection.fields))
    return answer.allowing(rejection.allow) if rejection.allow else answer


def error_event(kind: str, message: str, request_id: str) -> bytes:
    """A server-sent `error` event, as the API sends one in the middle of a stream."""
    content = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return b"event: error\ndata: " + json.dumps(content).encode() + b"\n\n"


class Bound(NamedTuple):
    """Why one account alone will do: a beginning of a sentence, in three parts."""

    before: str
    account: str
    after: str = ""

    def told(self, may_name: Callable[[str], bool]) -> str:
        """The sentence so far, with the account's name if it may be named."""
        who = f"account {self.account}" if may_name(self.account) else "one account"
        return f"{self.before} {who}{self.after}"


def exhausted(
    reasons: Sequence[tuple[str, str, float | None]],
    wait: float | None,
    *,
    now: float,
    request_id: str,
    bound: Bound | None = None,
    may_name: Callable[[str], bool] | None = None,
) -> Answer:
    """503: no account can serve this; names each with its reason and says when the first one is back.

    `bound` says why there is but one account that will do. With `may_name` the client is told no reasons, and no other
    names than that allows; the answer's own `reason` has them all the same.

    `reasons` holds (account, reason, recovery in epoch seconds or None); `wait` is in seconds. The status is one
    that every client waits on, and there are no unified rate-limit headers: with them Claude Code would end the
    session and show our limit as its own.
    """
    seconds = UNKNOWN_RETRY_AFTER if wait is None else min(max(1, math.ceil(wait)), LONGEST_RETRY_AFTER)
    back = None if wait is None else now + wait
    known = "; ".join(f"{name}: {reason}" for name, reason, _ in reasons) or "no account is configured"
    remedy = f"`{typed('accounts list')}` says what it lacks"
    full = _none_can(bound and bound.told(lambda account: True), known, remedy, back=back, now=now)
    message, seen = full, list(reasons)
    if may_name is not None:
        seen = [(name, "away" if until else "out of use", until) for name, _, until in reasons if may_name(name)]
        known = "; ".join(f"{name}: {kind}" for name, kind, _ in seen)
        message = _none_can(bound and bound.told(may_name), known, "", back=back, now=now)
    return error(
        503,
        message,
        request_id=request_id,
        retry_after=seconds,
        next_available_at=iso(back),
        accounts=[{"name": name, "reason": reason, "available_at": iso(until)} for name, reason, until in seen],
    )._replace(reason=full)


def _none_can(bound: str | None, known: str, remedy: str, *, back: float | None, now: float) -> str:
    """The sentences of a 503: `known` is what may be told of accounts, `remedy` what to do if one stays away."""
    told = f" ({known})" if known else ""
    message = (
        f"{bound}, and that account cannot serve it now{told}."
        if bound
        else f"No account can serve this request{told}."
    )
    if back is not None:
        return f"{message} {'It' if bound else 'The first one'} is back at {local_time(back, now)}."
    if bound:
        return f"{message} It is back when somebody sees to it{f': {remedy}' if remedy else ''}."
    return message if remedy else f"{message} Whoever runs this proxy has to see to it."
