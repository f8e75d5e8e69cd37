"""Which of the owner's rules a request has to keep to, whether it does, and which model stands in where it does not.

What is limited to some accounts is kept to these wherever one is chosen for it; see `exchange/serving.py`.
"""

from collections.abc import Callable

from mitmproxy import http

from ccflare_core.anthropic.agents import with_model
from ccflare_core.anthropic.batch_requests import BatchSize
from ccflare_core.anthropic.demands import Demands
from ccflare_core.anthropic.ids import NO_IDS, Named
from ccflare_core.anthropic.request import PARSE_LIMIT, Facts
from ccflare_core.anthropic.routes import COUNT_TOKENS, runs_model
from ccflare_core.anthropic.words import Words
from ccflare_core.clients.guardrails import Ruling, Said, Traits, the_rules
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.traits import Legible, Remembered, traits_of
from ccflare_core.http.rejection import Rejection
from ccflare_core.text import sentence

_GOES_ON = b'"previous_message_id"'

type Judge = Callable[[BatchSize], Rejection | None]
"""Says why a batch that has been read goes no further."""


class RuleReader:
    """See the module. Without rules it looks at nothing."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._remembered = Remembered()

    def keep(
        self,
        request: http.Request,
        exchange: Exchange,
        facts: Facts,
        encoding: str = "",
        words: Words | None = None,
        named: Named = NO_IDS,
    ) -> Rejection | None:
        """Why the request goes no further; None if it may. Its model may be another one then.

        A thread keeps its model: the upstream refuses to go on with it under another one.
        """
        if not self._exchanges.guardrails:
            return None
        body = request.raw_content or b""
        demands = Demands(body, encoding, words)
        has_model = runs_model(exchange.opening.method, exchange.opening.path)
        traits = self._traits(exchange, facts, body, encoding, lambda: demands.models if has_model else (), named)
        ruling = self._rule(exchange, traits)
        if not has_model or not ruling.limits_models:
            return None
        may_replace = not encoding and not named.thread and len(body) <= PARSE_LIMIT
        model = ruling.replacement(demands.models) if may_replace else None
        if model and (changed := with_model(body, model)) is not None:
            exchange.replaced_model(facts.model)
            request.content = changed  # the setter makes the Content-Length follow
            demands = Demands(changed)
            ruling = self._rule(exchange, traits.with_model(model), ruling)
        counts_only = exchange.opening.path == COUNT_TOKENS
        return _objection(ruling, demands.models, None if counts_only else lambda: demands.efforts)

    def judge_of(self, exchange: Exchange, facts: Facts, encoding: str) -> Judge | None:
        """The same for a batch, which has to be read for it; None if nothing depends on what is in it."""
        if not self._exchanges.guardrails:
            return None

        def judge(batch: BatchSize) -> Rejection | None:
            models, efforts = tuple(sorted(batch.models)), batch.efforts
            ruling = self._rule(exchange, self._traits(exchange, facts, b"", encoding, lambda: models))
            if not batch.requests:
                return None
            return _objection(ruling, models, lambda: None if efforts is None else tuple(sorted(efforts)))

        unread = self._rule(exchange, self._traits(exchange, facts, b"", encoding, lambda: None))
        return judge if unread.limits_models or unread.doubtful else None

    def keep_stateful(self, exchange: Exchange, facts: Facts) -> Rejection | None:
        """The same for Managed Agents: what they run is not seen here."""
        if not self._exchanges.guardrails:
            return None
        ruling = self._rule(exchange, self._traits(exchange, facts, b"", "", lambda: None))
        limiting = [rule.name for rule in ruling.rules if rule.limits_models]
        if not limiting:
            return None
        what = f"{the_rules(limiting)} would have to see the models of managed agents"
        return _forbidden(sentence(f"{what}, and what these run is not seen here"))

    def _rule(self, exchange: Exchange, traits: Traits, before: Ruling | None = None) -> Ruling:
        ruling = self._exchanges.guardrails.of(traits)
        ruling = before.joined(ruling) if before else ruling
        exchange.ruled(ruling)
        return ruling

    def _traits(
        self,
        exchange: Exchange,
        facts: Facts,
        body: bytes,
        encoding: str,
        models: Callable[[], Said],
        named: Named = NO_IDS,
    ) -> Traits:
        is_long = len(body) > PARSE_LIMIT
        session = None if facts.session_id is None and (encoding or is_long) else facts.session_id or ""
        legible = Legible(
            session=(session,) if session else () if session is not None else None,
            has_text=not encoding,
            whole=not encoding and named.continues is None and not (is_long and _GOES_ON in body),
            has_agents=bool(self._exchanges.agents),
        )
        return traits_of(exchange, legible, self._remembered, self._exchanges.wall(), models)


def _objection(ruling: Ruling, models: Said, efforts: Callable[[], Said] | None) -> Rejection | None:
    told = ruling.objection_to_models(models)
    if not told and efforts is not None and any(rule.effort for rule in ruling.rules):
        told = ruling.objection_to_efforts(efforts())
    return _forbidden(told) if told else None


def _forbidden(message: str) -> Rejection:
    return Rejection(403, message, is_final=True, audit=message)
