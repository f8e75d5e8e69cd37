"""What a request asks for, read from a copy of its bytes; the bytes themselves go upstream as they came."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ccflare_core.anthropic.words import Word, Words
from ccflare_core.http.content_coding import Decoder

MOST_OUTPUT = 128_000
"""Tokens of the longest answer, for a request whose own limit is not there or cannot be read."""
PARSE_LIMIT = 4 * 1024 * 1024
"""Bodies longer than this (bytes, decoded) are not parsed: the event loop would stand still for them."""

_VALUE_LIMIT = 200
_MODEL_FIRST = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\\x00-\x1f]{1,200})"\s*[,}]')
_STREAM_LAST = re.compile(rb'[{,]\s*"stream"\s*:\s*(true|false)\s*\}\s*\Z')
_TAIL = 64
_FALLBACKS = ("fallbacks", "fallback")
_RUN_BESIDE = ("tools", *_FALLBACKS)
"""Where a request may name more models that the upstream runs for it: an advisor's, and those to fall back to. A tool
can also be added by a message."""
_WORDS = re.compile(r"[\w.,: -]{1,2000}", re.ASCII)
_PARAMETER = re.compile(r"(?:beta|limit|after_id|before_id|page|order|source)=[\w.-]{1,60}", re.ASCII)
_QUERY_LIMIT = 500
_OLD_USER_ID = re.compile(r"user_.*_session_([0-9a-fA-F-]{8,64})")
_BETA = re.compile(r"(?:^|(?<=,))[ \t]*([a-z0-9][a-z0-9-]{0,79})(?=[ \t]*(?:,|$))")
_MOST_BETAS = 64
TYING_MODELS = ("claude-sonnet-5-5", "claude-haiku-5-5")
"""How the names of models begin whose thinking is of use to the account alone that it came from: others drop it, and
answer 200 (Anthropic's documentation, "Preserved thinking")."""
# In the JSON of a request what a conversation quotes has its quotes escaped.
_THINKING = Word(re.compile(rb'"type"\s*:\s*"(?:redacted_)?thinking"'), b'"type"')
RARE_NAMES = Word(
    re.compile(rb'"(?:file_id|container|fallback_credit_token|thread|speed|service_tier)"'),
    b'"',
)
"""Names in a request that most have none of. All of them together are found as quickly as three are by themselves."""
ESCAPE = Word(re.compile(rb"\\u00"), b"\\")
ESCAPED_NAME = Word(re.compile(rb'"[a-z_]{0,24}\\u00[5-7]'), b'"')
"""A name may be spelt with escapes, which no genuine client does for letters."""
_FAMILY = re.compile(r"claude-(?:[0-9][0-9.]*-)*([a-z]+)(?![a-z0-9.])")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one request. None and "" mean that the request does not say."""

    model: str | None = None
    session_id: str | None = None
    client: str = ""
    """The client's address."""
    stream: bool | None = None
    path_class: str = "messages"
    """What of an account the request uses, see `Rule.resource` in api_table.py."""
    mode: str = ""
    """"fast", "priority" or "slow", if it asks for one of the modes that have limits of their own."""
    betas: tuple[str, ...] = ()
    spends: bool = True
    """Whether it uses up what an account's windows limit; what lists, reads or deletes does not."""
    has_thinking: bool = False
    """Whether there is thinking in its conversation that is tied to the account it came from."""

    @property
    def ties_thinking(self) -> bool:
        """Whether what is thought in the answer is of use to the same account alone."""
        return self.path_class == "messages" and (self.model or "").startswith(TYING_MODELS)

    @property
    def stays(self) -> bool:
        """Whether to wait a while for its session's account is better than to move."""
        return self.has_thinking and self.ties_thinking

    @property
    def family(self) -> str:
        """The model's family, such as "opus"; "" if there is no model."""
        return family(self.model)

    @property
    def affinity(self) -> str:
        """What should stay on one account: the session, else everything from the client's address."""
        return self.session_id or self.client


@dataclass(frozen=True, slots=True)
class Text:
    """A body without its content coding; not `whole` if there is more of it, or it could not be undone."""

    data: bytes = field(repr=False)
    whole: bool


@lru_cache(512)
def family(model: str | None) -> str:
    """The family of a model: "claude-opus-4-8" and "claude-3-opus-latest" give "opus".

    A name of another shape is a family of its own; None gives "".
    """
    if not model:
        return ""
    found = _FAMILY.match(model)
    return found[1] if found else model


def read_facts(
    body: bytes,
    *,
    content_encoding: str = "",
    session_header: str | None = None,
    client: str = "",
    beta_header: str = "",
    usage_limit_header: str | None = None,
    words: Words | None = None,
) -> Facts:
    """The facts of a request. Never raises: what cannot be read is left out.

    `session_header` is the value of `x-claude-code-session-id`; without it the session is looked for inside
    the body's `metadata.user_id`. Values of more than 200 characters or with unprintable ones do not count.
    `beta_header` and `usage_limit_header` are those of `anthropic-beta` and `anthropic-usage-limit`. `words` are those
    of the body, if it has no coding and they are known.
    """
    session = _clean(session_header)
    content = decoded(body, content_encoding)
    slow = "slow" if (usage_limit_header or "").strip().lower() in ("slow", "extended") else ""
    betas = tuple(dict.fromkeys(_BETA.findall(beta_header)))[:_MOST_BETAS]
    words = words_of(content, words)
    facts = _glance(content, session, client, words) or _facts_of(content, session, client)
    has_thinking = facts.ties_thinking and words.has(_THINKING)
    if slow or betas or has_thinking:
        return replace(facts, mode=facts.mode or slow, betas=betas, has_thinking=has_thinking)
    return facts


def _facts_of(content: Text, session: str | None, client: str) -> Facts:
    parsed = _parse(content)
    stream = parsed.get("stream", False if parsed else None)
    return Facts(
        model=_clean(parsed.get("model")) or model_in_front(content.data),
        session_id=session or _session_of(parsed.get("metadata")),
        client=client,
        stream=stream if isinstance(stream, bool) else None,
        mode=_mode(parsed),
    )


def _mode(parsed: dict[str, Any]) -> str:
    if parsed.get("speed") == "fast":
        return "fast"
    return "priority" if parsed.get("service_tier") == "priority" else ""


def models_asked(body: bytes, *, content_encoding: str = "") -> list[str] | None:
    """Every model that a request names, with those of a batch's requests; None if they cannot be told for certain.

    A tool's model, an advisor's, and one to fall back to count too: the upstream runs them in the same request.
    For a limit that a client would like to get around: a body that two parsers could read differently tells nothing.
    """
    content = decoded(body, content_encoding)
    if not content.whole or len(content.data) > PARSE_LIMIT:
        return None
    try:
        parsed = json.loads(content.data, object_pairs_hook=unambiguous)
        asked = [parsed, *(each["params"] for each in parsed.get("requests", ()))]
        named = [models_named(each) for each in asked]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    models = [model for found in named for model in found or ()]
    return models if models and None not in named else None


def models_named(request: dict[str, Any]) -> list[str] | None:
    """The models that a parsed request names, itself and in its parts; None if one of them is no name.

    Where the upstream is to choose what to fall back to, that is `fallbacks=default`.
    """
    models = [each["model"] for each in (request, *model_parts(request)) if "model" in each]
    models += [f"{name}={request[name]}" for name in _FALLBACKS if isinstance(request.get(name), str)]
    return models if all(_clean(model) for model in models) else None


def model_parts(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a request that may name another model."""
    for name in _RUN_BESIDE:
        value = request.get(name)
        yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict))
    for message in messages_of(request):
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            tool = block.get("tool") if isinstance(block, dict) else None
            if isinstance(tool, dict) and isinstance(added := tool.get("definition"), dict):
                yield added


def messages_of(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its messages, those that are one."""
    messages = request.get("messages")
    yield from (each for each in (messages if isinstance(messages, list) else ()) if isinstance(each, dict))


def repeatable(value: str) -> str:
    """A header's value of plain words, as versions and betas have them; "" if it is anything else."""
    return value if _WORDS.fullmatch(value) else ""


def repeatable_query(query: str) -> str:
    """Those parameters of a query that are plain words, such as `beta=true`: what the record may have in clear."""
    return "&".join(each for each in query[:_QUERY_LIMIT].split("&") if _PARAMETER.fullmatch(each))


def most_tokens(body: bytes, *, content_encoding: str = "") -> int | None:
    """The `max_tokens` of a request: no answer to it has more output. None if that cannot be told for certain.

    A client would like it to be small where its answers are not counted to their end, so it is not merely looked for.
    """
    content = decoded(body, content_encoding)
    if not content.whole or len(content.data) > PARSE_LIMIT:
        return None
    try:
        parsed = json.loads(content.data, object_pairs_hook=unambiguous)
        found = [parsed[name] for name in ("max_tokens", "max_tokens_to_sample") if name in parsed]
    except (ValueError, RecursionError, TypeError):
        return None
    return max(found, default=None) if all(type(each) is int and each >= 0 for each in found) else None


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members, for json.loads. Raises ValueError if a name stands there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _glance(body: Text, session: str | None, client: str, words: Words) -> Facts | None:
    """The same facts without parsing, where the order of keys allows it; else None.

    Claude Code sends `model` first and `stream` last. Parsing its 100 kB would take most of a millisecond.
    """
    model = model_in_front(body.data)
    if model is None or not body.whole or (session is None and b'"metadata"' in body.data):
        return None
    stream = _STREAM_LAST.search(body.data, max(0, len(body.data) - _TAIL))
    if stream is None and b'"stream"' in body.data:
        return None
    if words.has(RARE_NAMES) and (b'"speed"' in body.data or b'"service_tier"' in body.data):
        return None
    return Facts(model, session, client, stream is not None and stream[1] == b"true")


def model_in_front(data: bytes) -> str | None:
    """The model of a body that begins with it, as Claude Code's do."""
    found = _MODEL_FIRST.match(data, 0, _VALUE_LIMIT * 2)
    return _clean(found[1].decode("utf-8", "replace")) if found else None


def decoded(body: bytes, content_encoding: str) -> Text:
    """The body without its coding, as far as it is of a bearable size."""
    if not content_encoding:
        return Text(body, whole=True)
    decoder = Decoder(content_encoding, limit=PARSE_LIMIT)
    data = decoder.feed(body)
    return Text(data, whole=decoder.trouble is None)


def words_of(text: Text, known: Words | None) -> Words:
    """The text's words: the known ones, if they are this very text's."""
    return known if known is not None and known.body is text.data else Words(text.data)


def _parse(body: Text) -> dict[str, Any]:
    if not body.whole or len(body.data) > PARSE_LIMIT:
        return {}
    try:
        parsed = json.loads(body.data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, absurd numbers; or nested too deeply
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _session_of(metadata: object) -> str | None:
    """The session inside `metadata.user_id`: a JSON text since Claude Code 2, `user_…_session_…` before."""
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user_id, str) or len(user_id) > 2000:
        return None
    old = _OLD_USER_ID.fullmatch(user_id)
    if old:
        return old[1]
    return _clean(_parse(Text(user_id.encode("utf-8", "replace"), whole=True)).get("session_id"))


def _clean(value: object) -> str | None:
    """The value if it is text fit for a log line and a database column, else None."""
    fit = isinstance(value, str) and 0 < len(value) <= _VALUE_LIMIT and value.isprintable()
    return value if fit and isinstance(value, str) else None
