"""The rooms of the core: the way upstream, the database, the accounts, the record."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path

from mitmproxy import ctx

from ccflare_core.accounts.account import Account
from ccflare_core.accounts.cooldowns import Part
from ccflare_core.accounts.owners import Holding, Owner
from ccflare_core.accounts.pool import AccountPool
from ccflare_core.accounts.probes import Probes
from ccflare_core.accounts.token_keeper import TokenKeeper
from ccflare_core.accounts.token_refresh import ANSWER_SECONDS, Refresher
from ccflare_core.accounts.usage_poll import PATH, UsagePoll
from ccflare_core.anthropic import price_files
from ccflare_core.anthropic.agents import Agents
from ccflare_core.anthropic.ids import Id, Kind
from ccflare_core.anthropic.pricing import PriceList
from ccflare_core.clients import guardrail_files
from ccflare_core.clients.guardrails import Guardrails
from ccflare_core.config.live import LiveSettings
from ccflare_core.config.record_mode import Mode, record_mode
from ccflare_core.db import announcements
from ccflare_core.db.engine_choice import hear
from ccflare_core.exchange.exchanges import Exchanges
from ccflare_core.exchange.memory import MemoryBudget, MemoryWatch
from ccflare_core.exchange.ownership import Ownership, Pending
from ccflare_core.exchange.recorder import Recorder, tell_nobody
from ccflare_core.exchange.records import CooldownCleared, ProbeEnded
from ccflare_core.exchange.steps import Opening
from ccflare_core.http.client import Fetcher
from ccflare_core.http.egress import EgressProxy
from ccflare_core.http.pinning import PinGuard
from ccflare_core.process import resident_bytes
from ccflare_core.reading import FileWatch
from ccflare_core.reports.metrics import LATENESS, Histogram
from ccflare_core.reports.proxies import UPKEEP
from ccflare_core.secrets import egress_proxy
from ccflare_core.secrets.key_sources import choose
from ccflare_core.store.limits_of_others import Learned
from ccflare_core.store.store import Store
from ccflare_core.telemetry.telemetry import Telemetry
from ccflare_core.text import some
from ccflare_core.writer.auditor import Auditor
from ccflare_core.writer.duty import Duty
from ccflare_core.writer.listening import Listening
from ccflare_core.writer.news import StoreCalls, StoreNews
from ccflare_core.writer.retention import Policy, Retention
from ccflare_core.writer.writer import Writer
from ccflare_mitm.pages.readers import Readers
from ccflare_mitm.wire.upstream import UpstreamProof

logger = getLogger("ccflare")


@dataclass(frozen=True, slots=True)
class Upstream:
    """What leads to the upstream, beside mitmproxy's own connections."""

    proof: UpstreamProof
    fetcher: Fetcher
    refresh_fetcher: Fetcher
    """It waits longer for an answer: one that nobody reads is a lost login."""
    proxy: EgressProxy | None
    """What `ccflare_egress_proxy` has led to."""
    fetch: Callable[..., Fetcher]
    """Makes a client like `fetcher`; arguments of Fetcher make it another."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The database and what works on it in the writer's thread."""

    writer: Writer
    call: StoreCalls
    news: StoreNews
    retention: Retention
    auditor: Auditor
    readers: Readers
    """What pages read of it, in threads of their own."""
    listening: Listening
    """What wakes the writer when another proxy has changed something."""
    duty: Duty
    """Whether this proxy does what one of all on the database does."""


@dataclass(frozen=True, slots=True)
class OwnersInStore:
    """The database's part of who made what, asked in the writer's thread."""

    writer: Writer

    def find(self, wanted: Sequence[Id]) -> Pending[Mapping[Id, Owner]]:
        """The owners of those that it knows."""
        return self.writer.call(lambda store: store.owners.find(wanted))

    def holdings(self, kind: Kind) -> Pending[Sequence[Holding]]:
        """What each account has of one kind."""
        return self.writer.call(lambda store: store.owners.holdings(kind))


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts and their tokens."""

    pool: AccountPool
    keeper: TokenKeeper
    probes: Probes
    """Which proxy sends the first request after a rest."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The open exchanges, and what is kept of them."""

    exchanges: Exchanges
    recorder: Recorder
    prices: FileWatch[PriceList]
    rules: FileWatch[Guardrails]
    memory: MemoryWatch
    lateness: Histogram
    """Of the event loop, in seconds."""

    def take_prices(self, prices: PriceList) -> None:
        """These are in force from now on."""
        self.exchanges.prices = prices
        logger.info("new prices are in force, for answers that end from now on")

    def take_rules(self, rules: Guardrails) -> None:
        """These are in force from now on."""
        self.exchanges.guardrails = rules
        logger.info("new rules are in force, for requests that come from now on: %s", some(len(rules), "rule"))


def build_upstream(live: LiveSettings) -> Upstream:
    """Raises ConfigError if the file of authorities that are trusted upstream, or the proxy, cannot be used."""
    named = egress_proxy.configured(live().egress_proxy)

    def proxy() -> EgressProxy | None:
        return named or egress_proxy.of_modes(ctx.options.mode, ctx.options.upstream_auth)

    trusted = ctx.options.ssl_verify_upstream_trusted_ca
    pins = PinGuard(live.reader("upstream_pins"), enforced=lambda: live().pins_mode == "enforce")
    ca_file = Path(trusted).expanduser() if trusted else None
    fetch = partial(Fetcher, ca_file=ca_file, pins=pins, egress=live.reader("egress"), proxy=proxy)
    return Upstream(UpstreamProof(pins), fetch(), fetch(total_seconds=ANSWER_SECONDS), named, fetch)


def build_storage(live: LiveSettings, environ: Mapping[str, str], news: StoreNews, run_id: str) -> Storage:
    """Raises ConfigError or VaultError if the key's source cannot be used."""
    settings = live()
    source = choose(settings, environ)
    duty = Duty(UPKEEP, run_id)
    retention = Retention(lambda: Policy.of(live()), warn, duty=duty)
    writer = Writer(
        lambda: Store.open(settings.database, source, audit_file=settings.audit_path),
        on_change=news.accounts.send,
        on_trouble=warn,
        on_client_keys=news.client_keys.send,
        on_store_changed=news.send_rules,
        on_limits=news.limits.send,
        on_sessions=news.sessions.send,
        on_peers=news.peers.send,
        on_shares=lambda: news.shares.send(None),
        upkeep=retention,
    )
    auditor = Auditor(writer, stop_after=live.reader("audit_stop_after_seconds"))
    readers = Readers(lambda: Store.open(settings.database, source, read_only=True))
    heard = partial(hear, option=settings.notify_option)
    listening = Listening(writer, settings.notify_database, heard, say=warn)
    return Storage(writer, StoreCalls(writer), news, retention, auditor, readers, listening, duty)


def build_accounts(live: LiveSettings, storage: Storage, upstream: Upstream, run_id: str) -> Accounts:
    """The pool and the keeper of its tokens, which follow the accounts in the database."""

    def clear(cooldowns: Iterable[tuple[str, Part]]) -> None:
        for account_id, part in cooldowns:
            storage.writer.put(CooldownCleared(account_id, part))

    def learn(learned: Learned) -> None:
        pool.forget(learned.over)
        pool.restore(learned.cooldowns, learned.windows)

    def replace(accounts: list[Account]) -> None:
        clear(pool.replace_accounts(keeper.overlay(accounts)))

    pool = AccountPool(
        strategy=live().strategy,
        session_seconds=live().session_seconds,
        # They need each other. These are called for a request, and none comes before both are here.
        expired=lambda account: keeper.unavailable(account),
        is_refreshing=lambda account: keeper.is_refreshing(account),
        may_try=lambda cooldown, now: probes.may_try(cooldown, now),
        claim=lambda cooldown, now: probes.claim(cooldown, now),
    )
    probes = Probes(
        pool,
        take=lambda cooldown, abandoned: storage.call(
            lambda store: store.probes.take(cooldown, run_id, abandoned), changes=announcements.NOTHING
        ),
        give_back=lambda each, term: storage.writer.put(ProbeEnded(each.account_id, each.part, term)),
    )
    keeper = TokenKeeper(
        Refresher(
            call=partial(storage.call, changes=frozenset({announcements.Kind.ACCOUNTS})),
            send=upstream.refresh_fetcher.send,
            endpoints=live.reader("endpoints"),
            owner=run_id,
        ),
        accounts=pool.accounts,
        adopted=lambda account: clear(pool.change_account(account)),
        before_seconds=live.reader("refresh_before_seconds"),
    )
    storage.news.accounts.listen(replace)
    storage.news.limits.listen(learn)
    storage.news.sessions.listen(pool.adopt)
    storage.news.peers.listen(pool.meet)
    return Accounts(pool, keeper, probes)


def build_recording(
    live: LiveSettings, storage: Storage, accounts: Accounts, run_id: str, telemetry: Telemetry | None
) -> Recording:
    """Raises ConfigError if the prices, the agents or the rules cannot be read."""
    settings = live()
    budget = MemoryBudget(live.reader("capture_budget_bytes"))
    memory = MemoryWatch(budget, occupied=resident_bytes, limit=live.reader("memory_soft_limit_bytes"))
    prices = price_files.watch(live.reader("prices_path"), warn)
    rules = guardrail_files.watch(live.reader("rules_path"), warn)
    recorder = Recorder(
        storage.writer,
        run_id=run_id,
        mode=mode_of(live, budget, storage.retention),
        body_limit=live.reader("capture_limit_bytes"),
        wall=time.time,  # noqa: TID251
        account_name=name_in(accounts.pool),
        tell=telemetry.take if telemetry else tell_nobody,
    )
    ownership = Ownership(OwnersInStore(storage.writer), storage.writer.put)
    storage.news.accounts.listen(ownership.keep)
    exchanges = Exchanges(
        settings,
        accounts.pool,
        recorder,
        prices.start(),
        tokens=accounts.keeper,
        memory=budget,
        ownership=ownership,
        agents=Agents.load(settings.agents_path),
        guardrails=rules.start(),
    )
    live.listen(exchanges.change)
    return Recording(exchanges, recorder, prices, rules, memory, Histogram(LATENESS))


def build_usage_poll(
    live: LiveSettings, storage: Storage, accounts: Accounts, upstream: Upstream, recording: Recording
) -> UsagePoll:
    """What asks for the limits of idle accounts; the other proxies learn them from the database."""
    return UsagePoll(
        accounts.pool,
        send=upstream.fetcher.send,
        url=lambda: live().api_url(PATH),
        seconds=lambda: live().usage_poll_seconds if storage.duty.is_mine else 0,
        learned=recording.recorder.learned,
    )


def mode_of(live: LiveSettings, budget: MemoryBudget, retention: Retention) -> Callable[[Opening], Mode]:
    """What is recorded of an exchange: what the options say, as far as there is room in memory and on the disk."""

    def mode(opening: Opening) -> Mode:
        settings = live()
        wanted = record_mode(settings.record, settings.record_paths, opening.path, opening.record)
        return retention.allowed(Mode.METADATA if wanted.keeps_bodies and budget.is_closed else wanted)

    return mode


def name_in(pool: AccountPool) -> Callable[[str], str]:
    """An account's name by its id, which stands for it once it is gone."""
    return lambda account_id: next((each.name for each in pool.accounts() if each.id == account_id), account_id)


def warn(trouble: str) -> None:
    """Log a sentence about something that goes on all the same."""
    logger.warning("%s", trouble)
