"""Who gets which answer: queues, standing rules, and the usual answer of each path."""

import itertools
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from fake_upstream.answer import Answer
from fake_upstream.errors import error, limited_5h
from fake_upstream.limit_headers import allowed_headers, api_key_headers
from fake_upstream.logins import Logins, create_api_key, oauth_usage
from fake_upstream.messages import count_tokens, message_json, models, sse
from fake_upstream.request import Header, Request

MESSAGES = "/v1/messages"
TOKEN = "/v1/oauth/token"

AnswerFunction = Callable[[Request], Answer | None]
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')


class Script:
    """What to answer: queues first, then standing answers, the most specific first; else the usual answer."""

    def __init__(self) -> None:
        self.logins = Logins()
        self._queues: defaultdict[tuple[str | None, str | None], deque[Answer | AnswerFunction]] = defaultdict(deque)
        self._standing: dict[tuple[str | None, str | None], Answer | AnswerFunction] = {}
        self._routes: dict[str, AnswerFunction] = {
            MESSAGES: _default_message,
            "/v1/messages/count_tokens": lambda _: count_tokens(),
            "/v1/models": lambda _: models("claude-opus-4-8", "claude-haiku-4-5-20251001"),
            TOKEN: self.logins.token,
            "/oauth/authorize": self.logins.authorize,
            "/api/oauth/claude_cli/create_api_key": create_api_key,
            "/api/oauth/usage": lambda _: oauth_usage(),
            "/": lambda _: Answer(200, ((b"Content-Length", b"0"),)),
        }

    def answer(self, *answers: Answer | AnswerFunction, credential: str | None = None, path: str | None = None) -> None:
        """Queue answers for the next requests with this credential and (or) path, one each."""
        self._queues[credential, path].extend(answers)

    def always(
        self, answer: Answer | AnswerFunction, *, credential: str | None = None, path: str | None = None
    ) -> None:
        """Answer every such request so, once its queue is empty. A function may return None to pass."""
        self._standing[credential, path] = answer

    def choose(self, request: Request) -> Answer:
        """The answer for this request."""
        if self._queues or self._standing:
            path, credential = request.path, request.credential
            for rule in self._rules(((credential, path), (credential, None), (None, path), (None, None))):
                found = rule if isinstance(rule, Answer) else rule(request)
                if found is not None:
                    return found
        route = self._routes.get(request.path)
        found = route(request) if route else None
        return found or error(404, "not_found_error", "Not found")

    def _rules(
        self, keys: Sequence[tuple[str, str | None] | tuple[None, str | None]]
    ) -> Iterator[Answer | AnswerFunction]:
        for key in keys:
            if queue := self._queues.get(key):
                yield queue.popleft()
        for key in keys:
            if key in self._standing:
                yield self._standing[key]


def limit_after(served: int, reset: float) -> AnswerFunction:
    """A standing rule: that many requests pass, from then on the 5-hour window is spent."""
    left = itertools.chain(itertools.repeat(True, served), itertools.repeat(False))
    return lambda _: None if next(left) else limited_5h(reset)


def _default_message(request: Request) -> Answer:
    """A message of the model that was asked for; `?fake_events=&fake_delay=&fake_stamped=1` shape it."""
    found = _MODEL.search(request.body)
    model = found[1].decode("latin-1") if found else "claude-opus-4-8"
    is_key = request.credential.startswith("sk-ant-api")
    if not _STREAM.search(request.body):
        return _cached_json(model, is_key)
    if "fake_" not in request.target:
        return _cached_sse(model, is_key, 5, 0.0, False)
    shape = request.query
    return _cached_sse(
        model,
        is_key,
        int(shape.get("fake_events", 5)),
        float(shape.get("fake_delay", 0)),
        "fake_stamped" in shape,
    )


def _told(is_key: bool) -> tuple[Header, ...]:
    return api_key_headers() if is_key else allowed_headers()


@cache
def _cached_json(model: str, is_key: bool) -> Answer:
    return message_json(model=model, headers=_told(is_key))


@cache
def _cached_sse(model: str, is_key: bool, events: int, delay: float, stamped: bool) -> Answer:
    return sse(events, model=model, output_tokens=2 * events, delay=delay, stamped=stamped, headers=_told(is_key))
