"""What an upstream answer means: whose refusal it is, who has to rest for it and for how long.

`classify` turns a status, its headers and the error it carries, if any, into a `Verdict`. It is pure and never raises;
a value that makes no sense counts as not said.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from ccflare_core.anthropic.api_table import API
from ccflare_core.anthropic.rate_limit_headers import HARD, LEGACY_HARD, SOFT, Head, Window, is_bucket
from ccflare_core.anthropic.refusals import LONG_CONTEXT, Error, Meaning, Told, next_month, read_error
from ccflare_core.anthropic.request import Facts

HOUR = 3600.0
DAY = 86_400.0
LONGEST_COOLDOWN = 8 * DAY  # a weekly window and a day of grace; what is spent for longer shows when it is tried
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(
    rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#@]*@)?([A-Za-z0-9.-]{1,100}|\[[0-9A-Fa-f:.]{2,45}\])(?:[:/?#]|$)"
)
"""The host in a `location`: all that is told of it."""
SHORT = 60.0  # a `retry-after` up to here is a throttle when no window is spent


class Kind(StrEnum):
    """The kinds of answer. The values are stored."""

    OK = "ok"
    WINDOW_SPENT = "window_spent"
    MODEL_BUCKET_SPENT = "model_bucket_spent"
    OUT_OF_CREDITS = "out_of_credits"
    BARE_429 = "bare_429"
    SHORT_THROTTLE = "short_throttle"
    OVERLOADED = "overloaded"
    UPSTREAM_FAILURE = "upstream_failure"
    ACCOUNT_DISABLED = "account_disabled"
    OUT_OF_FUNDS = "out_of_funds"
    SPEND_LIMIT = "spend_limit"
    CREDENTIAL_REJECTED = "credential_rejected"
    PERMISSION_DENIED = "permission_denied"
    MODEL_UNAVAILABLE = "model_unavailable"
    BETA_UNAVAILABLE = "beta_unavailable"
    CLIENT_ERROR = "client_error"
    REDIRECTED = "redirected"
    """Elsewhere: a client that follows takes its key along."""
    BROKEN_OFF = "broken_off"
    """Nothing more came of an answer that had begun."""
    PROXY_FAILURE = "proxy_failure"
    """Nothing was sent: the proxy on the way has let nothing through."""
    NOT_PINNED = "not_pinned"
    """Nothing was sent: the upstream has shown no pinned key."""
    NOT_TRUSTED = "not_trusted"
    """Nothing was sent: the server that answered has no certificate that is good for the upstream's name."""
    COMES_BACK = "comes_back"
    """Nothing was sent: it would have come back to this proxy."""
    UNANSWERED = "unanswered"
    """Nothing to judge: the client left, or the proxy stopped, before the upstream had answered."""


class Scope(StrEnum):
    """What an answer is about. Nobody rests for a request; for what is upstream's own the account asked does."""

    REQUEST = "request"
    ACCOUNT = "account"
    FAMILY = "family"
    """The account, for one model family."""
    PATH_CLASS = "path_class"
    """The account, for messages, count_tokens, batches, files, skills or models."""
    MODE = "mode"
    """The account, for fast mode, the priority tier or the slow lane."""
    BETA = "beta"
    """The account, for one beta, or each of those that are named."""
    UPSTREAM = "upstream"
    WAY = "way"
    """The account, and all others that go by the same proxy."""


class Backoff(NamedTuple):
    """How long to rest when upstream names no reset; it grows with the failures of such verdicts."""

    seconds: float
    growth: Literal["fixed", "double", "add"]
    ceiling: float

    def after(self, failures: int) -> float:
        """Seconds to rest after the `failures`-th verdict in a row (1 = the first), at most the ceiling."""
        nth = min(max(failures, 1), 64)  # beyond 64 every rest is at its ceiling, and 2**nth still fits a float
        factor = {"fixed": 1, "double": 2 ** (nth - 1), "add": nth}[self.growth]
        seconds = self.seconds * factor
        return seconds if 0.0 <= seconds <= self.ceiling else self.ceiling


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one upstream answer means. `status` is the head's; 0 where there was none."""

    kind: Kind
    status: int
    reason: str  # short, for people
    scope: Scope
    rest: Backoff | None  # None: nobody rests
    windows: tuple[Window, ...] = ()
    until: float | None = None  # epoch seconds, when upstream named a reset: then it goes before `rest`
    may_retry: bool = True  # False: `x-should-retry: false` on a 5xx
    deliver: bool = False  # True: this answer is the client's, also when the account has to rest after it
    betas: tuple[str, ...] = ()  # those that the scope is, if it is one
    error: str = ""  # the type that upstream's error names
    needs_attention: bool = False  # the account is out until a person acts
    may_be_the_request: bool = False  # if every account says the same, it was about the request
    withheld: bool = False  # True: the client does not get this answer, also if no other one comes

    @property
    def ok(self) -> bool:
        """Whether the account served: only this clears a cooldown."""
        return self.kind is Kind.OK and 200 <= self.status < 300


class _Rule(NamedTuple):
    scope: Scope
    rest: Backoff | None
    reason: str


_GROWING = Backoff(300.0, "double", HOUR)

# The law: kind -> who rests, for how long if no reset is known, and how people are told.
_LAW = {
    Kind.OK: _Rule(Scope.REQUEST, None, "ok"),
    Kind.WINDOW_SPENT: _Rule(Scope.ACCOUNT, Backoff(60.0, "double", 300.0), "{limit}"),
    Kind.MODEL_BUCKET_SPENT: _Rule(Scope.FAMILY, Backoff(60.0, "double", 300.0), "{limit}"),
    Kind.OUT_OF_CREDITS: _Rule(Scope.FAMILY, Backoff(300.0, "fixed", 300.0), "out of credits"),
    Kind.BARE_429: _Rule(Scope.REQUEST, None, "429 that names no limit"),
    Kind.SHORT_THROTTLE: _Rule(Scope.ACCOUNT, Backoff(1.0, "fixed", SHORT), "short throttle"),
    Kind.OVERLOADED: _Rule(Scope.UPSTREAM, Backoff(10.0, "fixed", 10.0), "{status} overloaded"),
    Kind.UPSTREAM_FAILURE: _Rule(Scope.UPSTREAM, Backoff(5.0, "add", 60.0), "{status} from upstream"),
    Kind.ACCOUNT_DISABLED: _Rule(Scope.ACCOUNT, None, "disabled by the provider"),
    Kind.OUT_OF_FUNDS: _Rule(Scope.ACCOUNT, Backoff(HOUR, "fixed", HOUR), "out of funds"),
    Kind.SPEND_LIMIT: _Rule(Scope.ACCOUNT, Backoff(HOUR, "fixed", HOUR), "spend limit reached"),
    Kind.CREDENTIAL_REJECTED: _Rule(Scope.PATH_CLASS, _GROWING, "credential rejected"),
    Kind.PERMISSION_DENIED: _Rule(Scope.PATH_CLASS, _GROWING, "permission denied"),
    Kind.MODEL_UNAVAILABLE: _Rule(Scope.FAMILY, _GROWING, "model not available"),
    Kind.BETA_UNAVAILABLE: _Rule(Scope.BETA, _GROWING, "beta not available"),
    Kind.CLIENT_ERROR: _Rule(Scope.REQUEST, None, "{status} passed on"),
    Kind.REDIRECTED: _Rule(Scope.REQUEST, None, "a redirect to {host}"),
    Kind.BROKEN_OFF: _Rule(Scope.UPSTREAM, Backoff(5.0, "fixed", 5.0), "the answer broke off"),
    Kind.PROXY_FAILURE: _Rule(Scope.WAY, Backoff(5.0, "add", 60.0), "no way through the proxy"),
    Kind.NOT_PINNED: _Rule(Scope.UPSTREAM, None, "certificate not pinned"),
    Kind.NOT_TRUSTED: _Rule(Scope.UPSTREAM, None, "certificate not trusted"),
    Kind.COMES_BACK: _Rule(Scope.UPSTREAM, None, "leads back to this proxy"),
    Kind.UNANSWERED: _Rule(Scope.REQUEST, None, "not answered yet"),
}

_SHARED = frozenset({Kind.CREDENTIAL_REJECTED, Kind.PERMISSION_DENIED, Kind.MODEL_UNAVAILABLE, Kind.BETA_UNAVAILABLE})
"""Of these nobody can tell from one answer whether they are about the account or the request."""

_WITHHELD = frozenset(
    {Kind.REDIRECTED, Kind.BROKEN_OFF, Kind.PROXY_FAILURE, Kind.NOT_PINNED, Kind.NOT_TRUSTED, Kind.COMES_BACK}
)
"""With these there is no answer that a client could get."""

# What speaks of the account as a whole, whatever the request is.
_MEANT = {
    Meaning.DISABLED: Kind.ACCOUNT_DISABLED,
    Meaning.NO_FUNDS: Kind.OUT_OF_FUNDS,
    Meaning.MONTHLY_LIMIT: Kind.SPEND_LIMIT,
    Meaning.SPEND_LIMIT: Kind.SPEND_LIMIT,
}
_OWN_LIMITS = frozenset(rule.resource for rule in API) - {"messages"}
"""Path classes whose limits are not those of messages."""

# An error event inside a 200 is judged like the status it stands for (Anthropic's documentation, "Errors").
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class _Finding(NamedTuple):
    """A kind, and what differs from its rule."""

    kind: Kind
    scope: Scope | None = None
    reason: str | None = None
    until: float | None = None
    betas: tuple[str, ...] = ()


_PLAIN = Facts()


def classify(
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    first_event: Mapping[str, Any] | None,
    now: float,
    facts: Facts = _PLAIN,
) -> Verdict:
    """What this answer to a request with these `facts` means at `now` (epoch seconds).

    `first_event` is the parsed SSE `error` event or JSON error body; any other value counts as no error.
    """
    if status in REDIRECTS:
        return _redirected(status, headers)
    head = Head(headers, now)
    error = read_error(first_event)
    if not 200 <= status < 300:
        finding = _find(status, error, head, facts)
        if error and error.type and finding.kind is Kind.CLIENT_ERROR:
            finding = finding._replace(reason=f"{status} {error.type}")
        return _verdict(finding, status, head, error, facts)
    if error is None:
        return _verdict(_Finding(_kind_when_served(head)), status, head, None, facts, deliver=True)
    finding = _find(_STATUS_OF_ERROR.get(error.type, 400), error, head, facts)
    is_in_words = error.told is not None and error.told.meaning in (Meaning.REQUEST, Meaning.CREDITS)
    # These are told by the head of a real 429; under a good head only the stream's word is left.
    if finding.kind in (Kind.BARE_429, Kind.OUT_OF_CREDITS, Kind.SHORT_THROTTLE) and not is_in_words:
        finding = _Finding(Kind.WINDOW_SPENT)
    return _verdict(finding._replace(reason=f"{error.type or 'error'} in the stream"), status, head, error, facts)


def failed_to_connect(reason: str) -> Verdict:
    """The verdict when upstream gave no head at all: no connection, or it was lost before one."""
    scope, rest, _ = _LAW[Kind.UPSTREAM_FAILURE]
    return Verdict(Kind.UPSTREAM_FAILURE, 0, _shown(reason) or "no connection", scope, rest)


def no_way(reason: str, kind: Kind = Kind.PROXY_FAILURE) -> Verdict:
    """The verdict when the proxy on the way let nothing through, or (`kind`) led to somebody else than the upstream."""
    scope, rest, told = _LAW[Kind.PROXY_FAILURE]
    return Verdict(kind, 0, _shown(reason) or told, scope, rest)


def no_answer(status: int, reason: str) -> Verdict:
    """The verdict on a good head with nothing good behind it: a failure, and nothing that a client could use."""
    scope, rest, _ = _LAW[Kind.UPSTREAM_FAILURE]
    return Verdict(Kind.UPSTREAM_FAILURE, status, reason, scope, rest, withheld=True)


def broken_off(status: int, reason: str = "", *, may_retry: bool = True) -> Verdict:
    """The verdict when the upstream did not get to the end of an answer whose head was good."""
    scope, rest, told = _LAW[Kind.BROKEN_OFF]
    return Verdict(Kind.BROKEN_OFF, status, _shown(reason) or told, scope, rest, may_retry=may_retry, withheld=True)


def recorded(kind: Kind, status: int, reason: str, now: float, facts: Facts = _PLAIN) -> Verdict:
    """The verdict of which the record has told no more than this: what else there is to it goes by its kind."""
    verdict = _verdict(_Finding(kind, reason=_shown(reason)), status, Head((), now), None, facts)
    return replace(verdict, withheld=kind in _WITHHELD)


def _redirected(status: int, headers: Sequence[tuple[bytes, bytes]]) -> Verdict:
    scope, rest, template = _LAW[Kind.REDIRECTED]
    location = next((value for name, value in headers if name.lower() == b"location"), b"")
    found = _HOST.match(location)
    host = found[1].decode() if found else "somewhere"
    return Verdict(Kind.REDIRECTED, status, template.format(host=host), scope, rest, withheld=True)


def _shown(reason: str) -> str:
    return "".join(c for c in reason[:200] if c.isprintable())


def unanswered() -> Verdict:
    """The verdict on an attempt that ended before there was anything to judge: nobody is to blame."""
    return unsent(Kind.UNANSWERED)


def unsent(kind: Kind) -> Verdict:
    """The verdict when nothing was sent, for a reason that no account is to blame for, and none would help."""
    scope, rest, reason = _LAW[kind]
    return Verdict(kind, 0, reason, scope, rest)


def _verdict(
    finding: _Finding, status: int, head: Head, error: Error | None, facts: Facts, *, deliver: bool = False
) -> Verdict:
    kind = finding.kind
    scope, rest, template = _LAW[kind]
    if kind is Kind.OK:
        return Verdict(kind, status, template, scope, rest, head.windows, deliver=deliver)
    scope = finding.scope or scope
    # Never a refused credential for what makes up a conversation: it would end the client's session.
    ends_a_session = kind is Kind.CREDENTIAL_REJECTED and facts.path_class in ("messages", "count_tokens")
    return Verdict(
        kind,
        status,
        finding.reason or template.format(status=status, limit=head.limit(model=kind is Kind.MODEL_BUCKET_SPENT)),
        scope,
        None if scope is Scope.REQUEST else rest,
        head.windows,
        until=_until(kind, head) if finding.until is None else finding.until,
        may_retry=status < 500 or head.may_retry(),
        deliver=deliver or kind is Kind.CLIENT_ERROR,
        betas=finding.betas,
        error=error.type if error else "",
        needs_attention=kind is Kind.ACCOUNT_DISABLED,
        may_be_the_request=kind in _SHARED and scope is not Scope.ACCOUNT and not ends_a_session,
    )


def _find(status: int, error: Error | None, head: Head, facts: Facts) -> _Finding:
    """What an answer that is no success means; `error` is what its body says, if it is one of the API's."""
    told = error.told if error and 400 <= status < 500 else None
    if told and (meant := _MEANT.get(told.meaning)):
        until = min(head.now + HOUR, next_month(head.now)) if told.meaning is Meaning.MONTHLY_LIMIT else None
        return _Finding(meant, reason=told.words, until=until)
    if told and told.meaning is Meaning.REQUEST and status != 429:
        return _Finding(Kind.CLIENT_ERROR, reason=told.words)
    if told and told.meaning is Meaning.CREDITS:
        return _Finding(Kind.OUT_OF_CREDITS, reason=told.words)
    if status >= 400 and status != 429 and head.says(LEGACY_HARD):
        return _Finding(Kind.WINDOW_SPENT)
    if status == 402 or (error and error.type == "billing_error"):
        return _Finding(Kind.OUT_OF_FUNDS)
    if status == 429:
        return _find_429(head, told, facts)
    if status == 529:
        return _Finding(Kind.OVERLOADED)
    if status >= 500 or status < 100:
        return _Finding(Kind.UPSTREAM_FAILURE)
    return _find_refusal(status, error, facts)


def _find_refusal(status: int, error: Error | None, facts: Facts) -> _Finding:
    """What one of the other 4xx means."""
    if status == 401 or (status == 403 and error and error.type == "authentication_error"):
        return _Finding(Kind.CREDENTIAL_REJECTED)
    if error is None or status not in (400, 403, 404):
        return _Finding(Kind.CLIENT_ERROR)  # a page of a firewall's, or the client's own mistake
    if error.told is not None:
        return _find_told(error.told, facts)
    if error.type != "permission_error":
        return _Finding(Kind.CLIENT_ERROR)
    # It names no scope, so it may be about anything that the request names: a file, a container, a profile.
    return _Finding(Kind.PERMISSION_DENIED, Scope.REQUEST)


def _find_told(told: Told, facts: Facts) -> _Finding:
    """What a refusal means that says what it is about."""
    match told.meaning:
        case Meaning.CREDENTIAL:
            return _Finding(Kind.CREDENTIAL_REJECTED, reason=told.words)
        case Meaning.BLOCKED:
            return _Finding(Kind.PERMISSION_DENIED, Scope.ACCOUNT, told.words)
        case Meaning.PATH:
            return _Finding(Kind.PERMISSION_DENIED, reason=told.words)
        case Meaning.BETA:
            return _find_beta(told, facts)
        case _:
            return _Finding(Kind.MODEL_UNAVAILABLE, reason=told.words)


def _find_beta(told: Told, facts: Facts) -> _Finding:
    """Only betas that the request asks for can be refused; a refusal that names none of them is about something else.

    A long context may come without its beta: then it is the family's.
    """
    if LONG_CONTEXT in told.names:
        named = tuple(beta for beta in facts.betas if beta.startswith(LONG_CONTEXT))
        return _Finding(Kind.BETA_UNAVAILABLE, None if named else Scope.FAMILY, told.words, betas=named)
    named = tuple(beta for beta in facts.betas if beta in told.names)
    if named:
        return _Finding(Kind.BETA_UNAVAILABLE, reason=f"{told.words}: {' and '.join(named)[:200]}", betas=named)
    return _Finding(Kind.BETA_UNAVAILABLE, Scope.REQUEST, told.words)


def _kind_when_served(head: Head) -> Kind:
    """A 2xx is good, but it can say that the next request will be refused."""
    if not head.says(HARD) or head.aggregate(b"overage-status") in SOFT:
        return Kind.OK
    if any(w.status in HARD and not is_bucket(w.name) for w in head.windows):
        return Kind.WINDOW_SPENT
    if head.status not in HARD:
        return Kind.OK  # a bucket is spent, but not that of the model that was just served
    return Kind.MODEL_BUCKET_SPENT if head.spent(model=True) or head.claims_a_bucket() else Kind.WINDOW_SPENT


def _find_429(head: Head, told: Told | None, facts: Facts) -> _Finding:
    kind = _kind_of_429(head)
    if told and told.meaning is Meaning.REQUEST and kind is not Kind.OUT_OF_CREDITS and not head.says(HARD):
        return _Finding(Kind.BARE_429, reason=told.words)  # one other account may not say so
    if told and told.meaning is Meaning.THROTTLE and kind is Kind.BARE_429:
        return _Finding(Kind.SHORT_THROTTLE)
    if kind in (Kind.BARE_429, Kind.OUT_OF_CREDITS, Kind.MODEL_BUCKET_SPENT) or head.says(HARD):
        return _Finding(kind)
    # What is left are limits that are no window of the account's: they count one mode, path class or model class.
    if facts.mode:
        until = head.lane_reset(facts.mode) or _until(kind, head)
        return _Finding(kind, Scope.MODE, f"{facts.mode} mode's own limit", until)
    if facts.path_class in _OWN_LIMITS:
        return _Finding(kind, Scope.PATH_CLASS)
    return _Finding(kind, Scope.FAMILY if head.limits_a_key() else None)


def _kind_of_429(head: Head) -> Kind:
    if not head.is_limited():
        return Kind.BARE_429
    if head.spent(model=False):
        return Kind.WINDOW_SPENT
    if head.spent(model=True) or head.claims_a_bucket():
        return Kind.MODEL_BUCKET_SPENT
    if head.aggregate(b"overage-disabled-reason") == "out_of_credits" and head.account_reset() is None:
        return Kind.OUT_OF_CREDITS
    if head.is_calm() and (head.retry_at or math.inf) <= head.now + SHORT:
        return Kind.SHORT_THROTTLE
    return Kind.WINDOW_SPENT


def _until(kind: Kind, head: Head) -> float | None:
    """The end of the rest that upstream named, in epoch seconds; None if it named none."""
    moment, longest = None, LONGEST_COOLDOWN
    if kind is Kind.WINDOW_SPENT:
        moment = head.account_reset()
    elif kind is Kind.MODEL_BUCKET_SPENT:
        moment = head.bucket_reset()
    elif kind in (Kind.SHORT_THROTTLE, Kind.OVERLOADED):
        moment, longest = head.retry_at, SHORT
    elif kind is Kind.SPEND_LIMIT:
        moment, longest = head.retry_at, HOUR
    return None if moment is None else min(moment, head.now + longest)
