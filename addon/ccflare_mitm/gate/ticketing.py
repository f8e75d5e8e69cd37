"""The ticket of each request that the gate has let in: what may go upstream for it, and what is known of it by then."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from mitmproxy import http

from ccflare_core.anthropic import ids, routes
from ccflare_core.anthropic.agents import with_model
from ccflare_core.anthropic.claude_code import read_provenance
from ccflare_core.anthropic.ids import NO_IDS, Named
from ccflare_core.anthropic.request import PARSE_LIMIT, Facts, models_asked, read_facts
from ccflare_core.anthropic.routes import FILES, PathClass, Route, Rule
from ccflare_core.anthropic.words import Words
from ccflare_core.clients.keys import ClientKey
from ccflare_core.exchange.binding import key_of
from ccflare_core.exchange.exchange import Exchange
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.story import Spooled
from ccflare_core.http.rejection import Rejection
from ccflare_core.transcripts.changes import alike
from ccflare_core.transcripts.conversations import Conversations
from ccflare_mitm.gate.batch_reader import BatchReader, model_not_allowed, named_on_disk
from ccflare_mitm.gate.rule_reader import RuleReader
from ccflare_mitm.host.messages import by_name, is_batch_upload, method_of, route_of

logger = logging.getLogger("ccflare")

_LEAST = 16 * 1024
"""A shorter body is looked through sooner than it is compared."""
_SESSION_LIMIT = 200


class Ticketing:
    """See the module. `reject` answers a request whose key may not have what the body asks for."""

    def __init__(
        self,
        exchanges: Exchanges,
        batches: BatchReader,
        reject: Callable[[http.HTTPFlow, Exchange, Rejection], None],
    ) -> None:
        self._exchanges = exchanges
        self._batches = batches
        self._rules = RuleReader(exchanges)
        self._reject = reject
        self._earlier: Conversations[Words] = Conversations()
        self._id_search = ThreadPoolExecutor(1, thread_name_prefix="ccflare-names")
        self._has_told_of_stateful = False

    def issue(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The whole request is here."""
        request = flow.request
        is_ours = self._is_aimed(request)
        rule = routes.rule_of(method_of(request), request.path.partition("?")[0]) if is_ours else None
        route = route_of(request, stateful=exchange.is_stateful) if is_ours else Route.UPSTREAM
        if rule is None or route not in (Route.INFERENCE, Route.STATEFUL):
            self._tell_of_stateful(rule)
            exchange.let_pass()
        elif route is Route.STATEFUL:
            facts = self._facts(flow, b"", "", exchange.opening.client)
            if (rejection := self._rules.keep_stateful(exchange, facts)) is not None:
                self._reject(flow, exchange, rejection)
                return
            exchange.admit_stateful(Facts(path_class=rule.resource))
        else:
            self._admit(flow, exchange, rule)

    def issue_for_upload(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The head of a large file is here, which goes up as it comes: by the head alone."""
        request = flow.request
        rule = routes.rule_of(method_of(request), FILES)
        if rule is None or not self._is_aimed(request) or route_of(request) is not Route.INFERENCE:
            return
        exchange.identified(read_provenance(request.method, exchange.opening.path, request.headers.get, b""))
        facts = replace(self._facts(flow, b"", "", exchange.opening.client), path_class=rule.resource)
        if (rejection := self._rules.keep(request, exchange, facts)) is not None:
            self._reject(flow, exchange, rejection)
            return
        exchange.admit_upload(facts, request.headers.get("content-type", ""))
        request.stream = True

    def _is_aimed(self, request: http.Request) -> bool:
        return (request.scheme, request.host, request.port) == self._exchanges.settings.upstream

    def _tell_of_stateful(self, rule: Rule | None) -> None:
        """Say once what it takes that Managed Agents are served by an account."""
        if rule is not None and rule.path_class is PathClass.STATEFUL and not self._has_told_of_stateful:
            self._has_told_of_stateful = True
            logger.info(
                "Managed Agents (%s, …) pass with the client's own credential: ccflare_stateful_account names an "
                "account to serve them",
                rule.resource,
            )

    def _admit(self, flow: http.HTTPFlow, exchange: Exchange, rule: Rule) -> None:
        """Read the body, and let the request go with an account if its key may run what it asks for."""
        request, said = flow.request, by_name(flow.request.headers)
        encoding = said.get("content-encoding", "")
        if exchange.spool is not None:
            self._admit_spooled(flow, exchange, exchange.spool, rule, encoding)
            return
        words = (
            None
            if encoding
            else self._words(said.get("x-claude-code-session-id", ""), exchange, request.raw_content or b"")
        )
        named = self._named(request, exchange, request.raw_content or b"", encoding, words)
        if not encoding:
            self._look_for_agent(request, exchange, words, in_thread=named.thread)
        body = request.raw_content or b""
        exchange.identified(read_provenance(request.method, exchange.opening.path, said.get, body))
        facts = self._facts(flow, body, encoding, exchange.opening.client, words)
        if is_batch_upload(request):
            self._weigh(flow, exchange, facts, body, encoding)
        elif (rejection := self._objection(request, exchange, rule, facts, encoding, words, named)) is not None:
            self._reject(flow, exchange, rejection)
            return
        elif (sent := request.raw_content or b"") is not body:
            body, facts = sent, self._facts(flow, sent, encoding, exchange.opening.client)
        exchange.admit(replace(facts, path_class=rule.resource), body, encoding, named)

    def _objection(
        self,
        request: http.Request,
        exchange: Exchange,
        rule: Rule,
        facts: Facts,
        encoding: str,
        words: Words | None,
        named: Named,
    ) -> Rejection | None:
        """Why a request that is no batch goes no further, by the rules or by its key's list of models."""
        if (rejection := self._rules.keep(request, exchange, facts, encoding, words, named)) is not None:
            return rejection
        key = exchange.opening.key
        if key is None or self._may_run(key, rule, request.raw_content or b"", encoding):
            return None
        return model_not_allowed(key)

    def _weigh(
        self, flow: http.HTTPFlow, exchange: Exchange, facts: Facts, body: bytes | Iterator[bytes], encoding: str
    ) -> bool:
        """Have a batch read, if its key or a rule may have something against it; whether that is so."""
        key, judge = exchange.opening.key, self._rules.judge_of(exchange, facts, encoding)
        if key is None and judge is None:
            return False
        self._batches.weigh(flow, exchange, key, body, encoding, judge)
        return True

    def _words(self, session: str, exchange: Exchange, body: bytes) -> Words:
        """The body's words, known from the last one as far as it goes on from that.

        Only what is recorded anyway is remembered. The recorder has the same bytes, so that takes no memory twice.
        """
        is_long = _LEAST <= len(body) <= PARSE_LIMIT
        if not 0 < len(session) <= _SESSION_LIMIT or not is_long or not self._keeps_bodies(exchange):
            return Words(body)
        earlier = self._earlier.closest(session, body)
        same = alike(earlier.body, 0, body, 0, min(len(earlier.body), len(body))) if earlier else 0
        words = Words(body, earlier, same)
        self._earlier.keep(session, words)
        return words

    def _keeps_bodies(self, exchange: Exchange) -> bool:
        return self._exchanges.recorder.keeps_bodies(exchange.opening)

    def _admit_spooled(
        self, flow: http.HTTPFlow, exchange: Exchange, spool: Spooled, rule: Rule, encoding: str
    ) -> None:
        """The same for a batch that is on the disk: what is in it is found out meanwhile."""
        request, opening = flow.request, exchange.opening
        exchange.identified(read_provenance(request.method, opening.path, request.headers.get, b""))
        facts = replace(self._facts(flow, b"", encoding, opening.client), path_class=rule.resource)
        if not self._weigh(flow, exchange, facts, spool.pieces(), encoding):
            self._batches.await_spool(exchange, spool)
        exchange.admit(facts, b"", encoding)
        strict = key_of(opening) is not None
        exchange.await_names(self._id_search.submit(named_on_disk, spool, encoding, strict=strict))

    def _named(
        self, request: http.Request, exchange: Exchange, body: bytes, encoding: str, words: Words | None
    ) -> Named:
        """What the request names. For a long body that is found out meanwhile, and the exchange waits for it."""
        asked = (method_of(request), request.path, body)
        strict = key_of(exchange.opening) is not None
        look = partial(ids.named_by, content_encoding=encoding, strict=strict, words=words)
        if len(body) <= PARSE_LIMIT or not routes.runs_model(asked[0], exchange.opening.path):
            return look(*asked)
        exchange.await_names(self._id_search.submit(look, *asked))
        return NO_IDS

    def _may_run(self, key: ClientKey, rule: Rule, body: bytes, encoding: str) -> bool:
        """Whether the key may use every model that the body asks for, as it goes upstream."""
        if not key.models or rule.path_class is not PathClass.MODEL:
            return True
        models = models_asked(body, content_encoding=encoding)
        return bool(models) and all(key.may_use_model(model) for model in models or ())

    def _look_for_agent(
        self, request: http.Request, exchange: Exchange, words: Words | None, *, in_thread: bool
    ) -> None:
        """Note whose request it is. If its model is another one, that is all that changes in the body.

        A thread keeps its model: the upstream refuses to go on with it under another one.
        """
        agents = self._exchanges.agents
        body = request.raw_content or b""
        if not agents or (agent := agents.find(body)) is None:
            return
        exchange.belongs_to_agent(agent.name)
        asked_for = read_facts(body, words=words).model
        if in_thread or agent.model in (None, asked_for):
            return
        changed = with_model(body, agent.model)
        if changed is not None:
            exchange.replaced_model(asked_for)
            request.content = changed  # the setter makes the Content-Length follow

    def _facts(self, flow: http.HTTPFlow, body: bytes, encoding: str, client: str, words: Words | None = None) -> Facts:
        return read_facts(
            body,
            content_encoding=encoding,
            session_header=flow.request.headers.get("x-claude-code-session-id"),
            client=client,
            beta_header=",".join(flow.request.headers.get_all("anthropic-beta")),
            usage_limit_header=flow.request.headers.get("anthropic-usage-limit"),
            words=words,
        )
