"""What `doctor.py` looks at in the database: keys, contents, accounts, client keys, the audit log, the last day."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

from ccflare_cli.console import Console, open_store
from ccflare_cli.doctor import judgements
from ccflare_cli.doctor.judgements import Activity
from ccflare_cli.doctor.results import DAY, Result, Results, checked, fail, ok, warn
from ccflare_core.audit.check import Check
from ccflare_core.audit.entries import stamp
from ccflare_core.clients.keys import Permission
from ccflare_core.config.location import Server
from ccflare_core.config.settings import Settings
from ccflare_core.db.announcements import polled, unheard
from ccflare_core.db.engine_choice import hear, is_made, unverified_mode
from ccflare_core.errors import CCFlareError, StoreError
from ccflare_core.program import typed
from ccflare_core.reports.measures import IS_INFERENCE
from ccflare_core.reports.proxies import SILENT_SECONDS, differing, proxies
from ccflare_core.secrets.key_sources import KeySource, choose
from ccflare_core.store import backup
from ccflare_core.store.resealing import CLEAR
from ccflare_core.store.store import Store
from ccflare_core.text import some, span, to_ms

_IDLE_SECONDS = 90 * DAY


def key_source(console: Console, settings: Settings, results: list[Result]) -> KeySource | None:
    """The key source; None, and why in `results`, if it cannot be used."""
    try:
        source = choose(settings, console.environ)
    except CCFlareError as error:
        results.append(fail("keys.source", str(error), "correct it; the proxy does not start without"))
        return None
    results.append(ok("keys.source", f"the data keys are wrapped by the key source {source.name}"))
    if source.name == "file":
        results.append(_place_of_key(settings))
    return source


def _place_of_key(settings: Settings) -> Result:
    path, database = settings.key_path, settings.database
    if isinstance(database, Path) and path.parent.resolve() == database.parent.resolve():
        return warn(
            "keys.place",
            f"the key lies beside the database, in {path.parent}: one copy of the folder has both",
            "name another folder in ccflare_key_file, or use another key source; and leave the key out of backups",
        )
    return ok("keys.place", f"the key lies apart from the database, in {path.parent}")


@contextmanager
def opened(console: Console, settings: Settings, source: KeySource, results: list[Result]) -> Iterator[Store | None]:
    """The store, read-only; None, and why in `results`, if there is none that can be used."""
    with ExitStack() as stack:
        store = None
        try:
            if is_made(settings.database):
                store = stack.enter_context(open_store(console, settings, source, read_only=True))
                results.append(ok("database.opens", f"{settings.database} opens, its keys too, and is up to date"))
            else:
                results.append(warn("database.opens", f"{settings.database} is not there yet", "start the proxy"))
        except CCFlareError as error:
            results.append(fail("database.opens", str(error), "repair it, or restore a backup"))
        yield store


def database(store: Store, settings: Settings, now: float) -> Results:
    """Whether it is whole, has room, is backed up, and holds nothing in clear."""
    yield from checked("database.whole", store.problems(), "it is whole", "restore a backup")
    if (space := store.space()) is not None:
        first = store.query("SELECT MIN(timestamp) FROM requests")[0][0]
        days = (now - first / 1000) / DAY if first else 0.0
        yield from judgements.room(space.disk, space.used, days, settings.minimum_free_bytes)
    if isinstance(settings.database, Server):
        yield _server(settings.database)
        yield announcements(store, settings)
    else:
        yield judgements.backup(
            _newest_backup(store, now), is_used=bool(store.query("SELECT COUNT(*) FROM accounts")[0][0])
        )
    yield from proxies_of(store)
    newest = store.query("SELECT MAX(timestamp) FROM requests")[0][0] or 0
    if newest / 1000 > now + 60:
        yield fail("host.clock", "requests are recorded that lie in the future", "set the clock, by NTP")


def proxies_of(store: Store) -> Results:
    """Whether all proxies that share the database are of one version, and give signs of life."""
    now = store.now()
    found = [each for each in proxies(store.query, now, now) if each.ended_at is None]
    silent = [each.name for each in found if not each.is_live]
    if silent:
        told = f"{', '.join(silent)}: no sign of life for longer than {span(SILENT_SECONDS)}"
        yield warn("database.proxies", told, "see its log; if its machine is gone for good, the others note that")
    if told := differing(found):
        head, _, remedy = told.removesuffix(".").rpartition(". ")
        yield warn("database.proxies", head, remedy[:1].lower() + remedy[1:])
    elif len(found) > 1 and not silent:
        yield ok("database.proxies", f"{len(found)} proxies share the database, all of one version")


def _newest_backup(store: Store, now: float) -> judgements.Backup | None:
    """The backup that was made last, or that the database comes from; its file is looked at."""
    rows = store.query(
        "SELECT ts_utc, target FROM audit_log WHERE action IN ('backup.make', 'backup.restore') AND outcome = 'ok' "
        "ORDER BY id DESC LIMIT 1"
    )
    for at, path in rows:
        age = now - datetime.fromisoformat(at).timestamp()
        if not Path(path).exists():
            return judgements.Backup(path, age, is_there=False)
        try:
            head = backup.examine(Path(path))
        except CCFlareError as error:
            return judgements.Backup(path, age, str(error))
        return judgements.Backup(path, now - datetime.fromisoformat(head.made_at).timestamp())
    return None


def _server(server: Server) -> Result:
    if mode := unverified_mode(server):
        return fail("database.tls", f"sslmode={mode} does not verify which server answers", "leave sslmode out")
    return ok("database.tls", "the way to the server is TLS with a verified certificate, or stays on this machine")


def announcements(store: Store, settings: Settings) -> Result:
    """Whether what one proxy changes is announced to the others, tried out once."""
    server, channel = settings.notify_database, store.channel
    if server is None or channel is None:
        return ok("database.changes", "proxies look for changes by others each second")
    try:
        with closing(hear(server, channel, settings.notify_option)) as hearing:
            why = "" if hearing.works(store.announce_test) else unheard(server)
    except StoreError as error:
        why = str(error)
    if why:
        return warn("database.changes", polled(why), "let a connection reach the server without a pooler")
    return ok("database.changes", "changes by other proxies are announced and arrive at once")


def keys(store: Store, now: float) -> Results:
    """Whether all is sealed, by a key that is not too old and has not sealed too much."""
    values, all_ = store.value_counts(), store.data_keys()
    clear = [f"{values[CLEAR]} values are stored in clear"] if values.get(CLEAR) else []
    yield from checked("keys.sealed", clear, "every secret is sealed", f"run `{typed('keys migrate-plaintext')}`")
    if all_:
        yield judgements.key_age(now - all_[0].created_at, is_old=len(all_) > 1)
        yield judgements.key_wear(all_[0].sealed)


def accounts(store: Store, now: float) -> Results:
    """Every account."""
    try:
        yield from judgements.accounts(store.accounts.all(), now)
    except CCFlareError as error:
        yield fail("accounts.token", str(error), "log in again, or restore the database with its key")


def audit(store: Store, settings: Settings) -> Results:
    """Whether the audit log is what was written."""
    used = store.query("SELECT (SELECT COUNT(*) FROM accounts) + (SELECT COUNT(*) FROM runs)")[0][0]
    with store.snapshot():
        report = Check(store.audit).run(settings.audit_path, is_used=bool(used))
    problems = [report.problem] if report.problem else []
    yield from checked(
        "database.audit",
        problems,
        f"the audit log is whole: {some(report.rows, 'row')}",
        f"see `{typed('audit verify')}`",
    )
    if settings.audit_path is None:
        yield warn("database.audit_file", "there is no second copy of the audit log", "set ccflare_audit_file")
    else:
        yield ok("database.audit_file", f"a second copy is in {settings.audit_path}")


def signed_rows(store: Store) -> Results:
    """Whether client keys, blocks and the second factor are as they were made."""
    yield from checked(
        "access.rows",
        store.altered_rows(),
        "client keys, blocks and the second factor are as they were made",
        "somebody can write the database: find out who, and restore a backup",
    )


def activity(store: Store, settings: Settings, now: float) -> Results:
    """The last day. Failures are those that `stats.py errors` shows: not the refusals of our own probes, say."""
    since = to_ms(now - DAY)
    total, failed = store.query(
        "SELECT COUNT(*), SUM(CASE WHEN outcome NOT IN ('ok', 'client_abort') THEN 1 ELSE 0 END) FROM requests "  # noqa: S608
        f"WHERE timestamp >= ? AND {IS_INFERENCE}",
        (since,),
    )[0]
    addresses = store.query("SELECT DISTINCT client_ip FROM requests WHERE timestamp >= ? LIMIT 100", (since,))
    sql = "SELECT action, outcome, COUNT(*) FROM audit_log WHERE ts_utc >= ? GROUP BY action, outcome"
    events = Counter({(action, outcome): n for action, outcome, n in store.query(sql, (stamp(now - DAY),))})
    day = Activity(total, failed or 0, tuple(address for (address,) in addresses), events)
    yield from judgements.activity(day, is_remote=settings.allow_remote)
    yield from judgements.unusual(store.notices.since(now - DAY), is_wanted=settings.anomaly_notices)


def secrets(store: Store) -> list[bytes]:
    """The accounts' secrets, to be looked for in logs."""
    try:
        found = store.accounts.all()
    except CCFlareError:
        return []
    each = (secret for a in found for secret in (a.access_token, a.refresh_token, a.api_key, a.proxy and a.proxy.url))
    return [secret.encode() for secret in each if secret]


def valid_keys(store: Store, now: float) -> int:
    """How many client keys are valid."""
    return sum(key.is_valid(now) for key in store.clients.all())


def client_keys(store: Store, now: float) -> Results:
    """Whether there are client keys that nobody seems to need: the review of who has access."""
    uses = store.clients.uses()
    idle = [
        f"{key.name} was not used for {span(now - used)}"
        for key in store.clients.all()
        if key.is_valid(now)
        and now - (used := uses.get(key.id, (0, None, None, 0))[2] or key.created_at) > _IDLE_SECONDS
    ]
    yield from checked(
        "access.review", idle, "no client key lies idle", f"run `{typed('keys client revoke')}` on it", warn
    )


def tunnels(store: Store, now: float) -> Results:
    """Whether a client key may open tunnels to other hosts only because it is from before that was a permission."""
    since = store.query(
        "SELECT applied_at FROM migrations WHERE name = '0018_tunnels' AND applied_at > (SELECT MIN(applied_at) FROM "
        "migrations)"
    )  # none if the database was made with it
    kept = [
        f"{key.name} is from before tunnels to other hosts were a permission, and may open them"
        for key in store.clients.all()
        if since and key.tunnels and key.is_valid(now) and to_ms(key.created_at) <= since[0][0]
    ]
    yield from checked(
        "access.tunnels",
        kept,
        "every client key that opens tunnels was allowed to",
        f"run `{typed('keys client change NAME --tunnels no')}`, unless it connects as HTTPS proxy",
        warn,
    )


def second_factor(store: Store, now: float, *, is_remote: bool) -> Results:
    """Whether a stolen administrator's key is enough to change something."""
    managing = [
        key.name
        for key in store.clients.all()
        if key.is_valid(now) and Permission.ACCOUNTS_MANAGE in key.role.permissions
    ]
    factor = store.factors.get()
    if factor is not None and factor.is_confirmed:
        yield ok("access.mfa", "changes over HTTP need a second factor")
    elif managing and is_remote:
        told = f"a client with the key {managing[0]} can change accounts from another machine"
        yield warn("access.mfa", told, f"run `{typed('keys mfa enable')}`, then `confirm`")
    else:
        yield ok("access.mfa", "no second factor, and no key that changes anything from another machine")
