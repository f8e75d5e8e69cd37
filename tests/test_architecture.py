"""The arrows: who may import whom. Read from the source, so an import inside a function or for a type counts too."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ccflare_core
from ccflare_core import ROOMS

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT / "addon").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "addon").rglob("*.py")
}
GROUND = {"errors", "files", "process", "program", "reading", "text", "workers", "yaml_text"}
WINGS = {"ccflare_mitm", "ccflare_cli"}
MITM_ORDER = ("host", "pages", "wire", "gate", "inspector")
"""The packages of the mitmproxy wing; the others use the first two, and not each other."""

# What may do I/O, or needs a library that does. Everything else in the core is a pure decision.
WITH_IO = {
    "accounts": {"probes", "token_keeper", "token_refresh", "usage_poll"},
    "audit": {"chain", "check", "configurations", "file", "signed_rows"},
    "clients": {"totp"},
    "config": {"permissions"},
    "http": {"client", "pinning"},
    "secrets": {
        *("egress_proxy", "key_sources", "os_keyring", "passphrase", "pkcs11", "references", "start_links", "vault"),
    },
    "reports": {"rollup"},
    "telemetry": {"receiver", "telemetry"},
    "transcripts": {
        "exports",
        "fields",
        "packing",
        "prompt_sizes",
        "read",
        "recorded",
        "search",
        "search_index",
        "write",
    },
} | {room: set[str]() for room in ("db", "store", "writer")}
WHOLE = {"db", "store", "writer"}
"""Rooms that are about I/O altogether."""
IO_GROUND = {"files", "process"}


# Where a module is tested that has no test of its own name beside those of its room.
TESTED_IN = {
    "ccflare": "e2e/test_doors.py",
    "ccflare_cli.accounts.add": "cli/accounts/test_main.py",
    "ccflare_cli.accounts.credentials": "cli/accounts/test_main.py",
    "ccflare_cli.accounts.import_command": "cli/accounts/test_importers.py",
    "ccflare_cli.audit.rows": "cli/audit/test_main.py",
    "ccflare_cli.companion.clients": "cli/companion/test_connect.py",
    "ccflare_cli.companion.here": "cli/companion/test_env.py",
    "ccflare_cli.companion.jsonc_edits": "cli/companion/test_jsonc.py",
    "ccflare_cli.companion.settings_file": "cli/companion/test_connect.py",
    "ccflare_cli.entry": "cli/companion/test_statusline.py",
    "ccflare_cli.console": "cli/accounts/test_main.py",
    "ccflare_cli.dashboard": "e2e/test_dashboard_live.py",
    "ccflare_cli.doctor.client_checks": "cli/companion/test_bypasses.py",
    "ccflare_cli.doctor.alert_checks": "e2e/test_alerts_live.py",
    "ccflare_cli.doctor.host_checks": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.installation": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.leaks": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.main": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.proxy_checks": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.results": "cli/doctor/test_judgements.py",
    "ccflare_cli.doctor.store_checks": "cli/doctor/test_judgements.py",
    "ccflare_cli.keys.rotate_all": "cli/audit/test_incident.py",
    "ccflare_cli.maintain.backup": "security/test_backup.py",
    "ccflare_cli.maintain.export": "cli/maintain/test_main.py",
    "ccflare_cli.recorded": "e2e/test_show_live.py",
    "ccflare_cli.parsing": "cli/accounts/test_main.py",
    "ccflare_cli.progress": "security/test_backup.py",
    "ccflare_cli.search": "e2e/test_search_live.py",
    "ccflare_cli.show": "e2e/test_show_live.py",
    "ccflare_cli.simulate.tables": "cli/simulate/test_main.py",
    "ccflare_cli.stats.advice_tables": "cli/stats/test_advice.py",
    "ccflare_cli.stats.cache_tables": "cli/stats/test_views.py",
    "ccflare_cli.stats.time_tables": "cli/stats/test_views.py",
    "ccflare_cli.stats.traffic_tables": "cli/stats/test_views.py",
    "ccflare_cli.stats.within_tables": "cli/stats/test_views.py",
    "ccflare_cli.tables": "cli/accounts/test_main.py",
    "ccflare_cli.top.rows": "cli/top/test_board.py",
    "ccflare_core": "test_architecture.py",
    "ccflare_core.accounts.cooldowns": "accounts/test_pool.py",
    "ccflare_core.accounts.member": "accounts/test_pool.py",
    "ccflare_core.accounts.peers": "accounts/test_pool.py",
    "ccflare_core.accounts.token_refresh": "accounts/test_token_keeper.py",
    "ccflare_core.anthropic.api_table": "anthropic/test_routes.py",
    "ccflare_core.anthropic.blocks": "anthropic/test_conversation.py",
    "ccflare_core.anthropic.deltas": "anthropic/test_usage.py",
    "ccflare_core.anthropic.rate_limit_headers": "anthropic/test_verdicts.py",
    "ccflare_core.anthropic.refusals": "anthropic/test_verdicts.py",
    "ccflare_core.anthropic.usage_reader": "anthropic/test_usage.py",
    "ccflare_core.audit.bursts": "writer/test_auditor.py",
    "ccflare_core.audit.check": "audit/test_chain.py",
    "ccflare_core.audit.configurations": "security/test_audit.py",
    "ccflare_core.audit.entries": "audit/test_chain.py",
    "ccflare_core.audit.file": "audit/test_chain.py",
    "ccflare_core.clients.budgets": "clients/test_rate_limits.py",
    "ccflare_core.clients.checks": "clients/test_admission.py",
    "ccflare_core.clients.key_limits": "store/test_limit_shares.py",
    "ccflare_core.clients.key_shares": "store/test_limit_shares.py",
    "ccflare_core.clients.keys": "clients/test_authentication.py",
    "ccflare_core.clients.request_head": "clients/test_admission.py",
    "ccflare_core.clients.shares": "store/test_limit_shares.py",
    "ccflare_core.config.option": "config/test_options.py",
    "ccflare_core.config.unsafe_options": "host/test_tuning.py",
    "ccflare_core.db.announced": "writer/test_listening.py",
    "ccflare_core.db.engine_choice": "db/test_engine.py",
    "ccflare_core.db.migrations": "db/test_engine.py",
    "ccflare_core.db.sqlite": "db/test_engine.py",
    "ccflare_core.errors": "secrets/test_vault.py",
    "ccflare_core.exchange.collaborators": "exchange/test_exchange.py",
    "ccflare_core.exchange.exchanges": "exchange/test_exchange.py",
    "ccflare_core.exchange.final_row": "exchange/test_recorder.py",
    "ccflare_core.exchange.hold": "exchange/test_exchange.py",
    "ccflare_core.exchange.records": "exchange/test_recorder.py",
    "ccflare_core.exchange.serving": "exchange/test_exchange.py",
    "ccflare_core.exchange.silence": "exchange/test_departures.py",
    "ccflare_core.exchange.spending": "exchange/test_batch_records.py",
    "ccflare_core.exchange.steps": "exchange/test_exchange.py",
    "ccflare_core.exchange.story": "exchange/test_exchange.py",
    "ccflare_core.http.json_members": "anthropic/test_usage.py",
    "ccflare_core.http.messages": "http/test_client.py",
    "ccflare_core.http.pinning": "http/test_pins.py",
    "ccflare_core.http.rejection": "clients/test_admission.py",
    "ccflare_core.http.sse": "anthropic/test_usage.py",
    "ccflare_core.reports.advice": "cli/stats/test_advice.py",
    "ccflare_core.reports.adviser": "cli/stats/test_advice.py",
    "ccflare_core.reports.figures": "cli/test_output.py",
    "ccflare_core.reports.fields": "cli/stats/test_views.py",
    "ccflare_core.reports.limit_history": "cli/stats/test_views.py",
    "ccflare_core.reports.measures": "reports/test_rollup.py",
    "ccflare_core.reports.observed": "writer/test_lookout.py",
    "ccflare_core.reports.tally": "reports/test_rollup.py",
    "ccflare_core.reports.vocabulary": "pages/api/test_endpoints.py",
    "ccflare_core.reports.within": "cli/stats/test_views.py",
    "ccflare_core.secrets.by_form": "secrets/test_redact.py",
    "ccflare_core.secrets.by_name": "secrets/test_redact.py",
    "ccflare_core.secrets.egress_proxy": "cli/accounts/test_proxies.py",
    "ccflare_core.secrets.escapes": "secrets/test_redact.py",
    "ccflare_core.secrets.formats": "secrets/test_redact.py",
    "ccflare_core.secrets.os_keyring": "secrets/test_key_sources.py",
    "ccflare_core.secrets.passphrase": "secrets/test_key_sources.py",
    "ccflare_core.secrets.pkcs11": "security/test_hsm.py",
    "ccflare_core.secrets.references": "secrets/test_key_sources.py",
    "ccflare_core.secrets.spans": "secrets/test_redact.py",
    "ccflare_core.simulation.past": "simulation/test_simulator.py",
    "ccflare_core.simulation.rates": "simulation/test_simulator.py",
    "ccflare_core.simulation.scenarios": "simulation/test_simulator.py",
    "ccflare_core.simulation.tallies": "simulation/test_simulator.py",
    "ccflare_core.simulation.turns": "simulation/test_recorded.py",
    "ccflare_core.simulation.upstream": "simulation/test_simulator.py",
    "ccflare_core.store.accounts": "store/test_store.py",
    "ccflare_core.store.backup": "security/test_backup.py",
    "ccflare_core.store.context": "store/test_store.py",
    "ccflare_core.store.history": "writer/test_retention.py",
    "ccflare_core.store.leases": "store/test_oauth_tokens.py",
    "ccflare_core.store.ledger": "store/test_store.py",
    "ccflare_core.store.limits": "store/test_store.py",
    "ccflare_core.store.notices": "writer/test_lookout.py",
    "ccflare_core.store.restore": "security/test_backup.py",
    "ccflare_core.store.resealing": "store/test_data_keys.py",
    "ccflare_core.store.runs": "store/test_store.py",
    "ccflare_core.store.searching": "e2e/test_search_live.py",
    "ccflare_core.telemetry.finished": "telemetry/test_conventions.py",
    "ccflare_core.transcripts.exports": "cli/maintain/test_main.py",
    "ccflare_core.transcripts.read": "transcripts/test_write.py",
    "ccflare_core.transcripts.fields": "pages/api/test_endpoints.py",
    "ccflare_core.transcripts.prompt_sizes": "cli/stats/test_composition.py",
    "ccflare_core.transcripts.recorded": "e2e/test_show_live.py",
    "ccflare_core.transcripts.redaction": "security/test_privacy.py",
    "ccflare_core.transcripts.stream_text": "transcripts/test_search.py",
    "ccflare_core.store.statuses": "cli/stats/test_views.py",
    "ccflare_core.writer.monitor": "pages/test_metrics.py",
    "ccflare_core.writer.warnings": "writer/test_writer.py",
    "ccflare_core.writer.watch": "writer/test_writer.py",
    "ccflare_core.workers": "cli/workers/test_supervisor.py",
    "ccflare_core.yaml_text": "anthropic/test_price_files.py",
    "ccflare_mitm.app": "e2e/test_start.py",
    "ccflare_mitm.commanding": "e2e/test_inspector_live.py",
    "ccflare_mitm.builders.core": "e2e/test_start.py",
    "ccflare_mitm.builders.telemetry": "e2e/test_telemetry_live.py",
    "ccflare_mitm.builders.wing": "e2e/test_start.py",
    "ccflare_mitm.gate.admin_server": "gate/test_gate.py",
    "ccflare_mitm.gate.browser_checks": "gate/test_gate.py",
    "ccflare_mitm.gate.header_masking": "e2e/test_secrets.py",
    "ccflare_mitm.gate.ingress": "gate/test_gate.py",
    "ccflare_mitm.gate.management": "security/test_access.py",
    "ccflare_mitm.gate.ticketing": "gate/test_gate.py",
    "ccflare_mitm.gate.tunnel_story": "e2e/test_tunnel_targets.py",
    "ccflare_mitm.gate.tunnels": "gate/test_gate.py",
    "ccflare_mitm.host.decisions": "security/test_guard.py",
    "ccflare_mitm.host.dumps": "e2e/test_inspector_live.py",
    "ccflare_mitm.host.internals": "host/test_contract.py",
    "ccflare_mitm.host.listener": "e2e/test_start.py",
    "ccflare_mitm.host.opening": "e2e/test_first_connections.py",
    "ccflare_mitm.sharing": "store/test_limit_shares.py",
    "ccflare_mitm.stopping": "e2e/test_stop.py",
    "ccflare_mitm.wire.upload": "wire/test_states.py",
    "ccflare_mitm.host.messages": "security/test_echoes.py",
    "ccflare_mitm.host.peers": "e2e/test_bad_input.py",
    "ccflare_mitm.host.tls": "security/test_network.py",
    "ccflare_mitm.host.unsafe_options": "security/test_network.py",
    "ccflare_mitm.inspector.own_pages": "e2e/test_inspector_live.py",
    "ccflare_mitm.inspector.stand_ins": "inspector/test_held.py",
    "ccflare_mitm.inspector.web": "e2e/test_inspector_live.py",
    "ccflare_mitm.pages.html": "pages/test_dashboard.py",
    "ccflare_mitm.pages.journal": "pages/test_dashboard.py",
    "ccflare_mitm.pages.overview": "pages/test_dashboard.py",
    "ccflare_mitm.pages.periods": "pages/test_dashboard.py",
    "ccflare_mitm.pages.requests": "pages/test_dashboard.py",
    "ccflare_mitm.pages.usage": "pages/test_dashboard.py",
    "ccflare_mitm.pages.login": "e2e/test_dashboard_live.py",
    "ccflare_mitm.pages.api.conversations": "pages/api/test_endpoints.py",
    "ccflare_mitm.pages.api.document": "pages/api/test_endpoints.py",
    "ccflare_mitm.pages.api.endpoint": "pages/api/test_endpoints.py",
    "ccflare_mitm.pages.api.parameters": "pages/api/test_endpoints.py",
    "ccflare_mitm.pages.page": "security/test_guard.py",
    "ccflare_mitm.pages.table": "security/test_guard.py",
    "ccflare_mitm.pages.visit": "pages/test_server.py",
    "ccflare_mitm.wire.attempt": "wire/test_stream.py",
    "ccflare_mitm.wire.client_side": "wire/test_stream.py",
    "ccflare_mitm.wire.course": "wire/test_stream.py",
    "ccflare_mitm.wire.deadlines": "e2e/test_deadlines.py",
    "ccflare_mitm.wire.guarded_tunnel": "e2e/test_tunnel_targets.py",
    "ccflare_mitm.wire.layer": "e2e/test_fail_closed.py",
    "ccflare_mitm.wire.pieces": "wire/test_feeder.py",
    "ccflare_mitm.wire.relay": "e2e/test_failover.py",
    "ccflare_mitm.wire.services": "e2e/test_streams.py",
    "ccflare_mitm.wire.sockets": "wire/test_reaper.py",
    "ccflare_mitm.wire.upstream": "e2e/test_failover.py",
    "ccflare_mitm.wire.upstream_side": "wire/test_stream.py",
    "ccflare_mitm.wire.way_out": "e2e/test_egress_proxy.py",
}


def imports(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports, and of what it imports from a package of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in names if name in FILES]
            yield from ours if len(ours) == len(names) else (node.module or "", *ours)


IMPORTS = {name: set(imports(path)) for name, path in FILES.items()}
CORE = sorted(name for name in IMPORTS if name.startswith("ccflare_core."))


def floor(module: str) -> int:
    """How high a module of the core stands: 0 for the ground, then the rooms from 1 on."""
    room = module.split(".")[1]
    return 0 if room in GROUND else ROOMS.index(room) + 1


def does_io(module: str) -> bool:
    _, room, *rest = module.split(".")
    if not rest:
        return room in IO_GROUND
    return room in WHOLE or rest[0] in WITH_IO.get(room, set())


def importers(prefix: str) -> set[str]:
    """The modules that import `prefix` or something below it, without the name of the core."""
    return {
        name.removeprefix("ccflare_core.")
        for name, found in IMPORTS.items()
        if any(f"{module}.".startswith(f"{prefix}.") for module in found)
    }


def reached(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """All that a module imports, directly or through others of ours."""
    for module in IMPORTS.get(name, set()) - seen:
        seen = reached(module, seen | {module})
    return seen


def named_test(module: str) -> Path:
    """The test of a module by its name: tests/<room>/test_<module>.py."""
    wing, *rooms = module.split(".")
    is_package = FILES[module].name == "__init__.py"
    name = "init" if is_package else rooms.pop() if rooms else wing
    top = {"ccflare_cli": ["cli"], "ccflare_mitm": [] if rooms else ["mitm"]}.get(wing, [])
    return ROOT / "tests" / Path(*top, *rooms, f"test_{name}.py")


def has_code(path: Path) -> bool:
    """Whether there is more in it than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def exercised(test: Path) -> set[str]:
    """The modules of ours that a test imports, directly or not, or runs as a program through the harness."""
    found, waiting, seen = set[str](), [test], set[Path]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in imports(path):
            beside = ROOT / "tests" / "support" / f"{name}.py"
            if beside.exists() and beside not in seen:
                waiting.append(beside)
            found.add(name)
    found |= {f"ccflare_cli.{script}" for script in re.findall(r'"(\w+)\.py"', test.read_text())}
    if "harness" in found:
        found.add("ccflare")
    return found.union(*(reached(name) for name in found))


MODULES = sorted(name for name, path in FILES.items() if has_code(path))


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_a_test_by_name_or_a_line_that_says_where(module: str) -> None:
    by_name = named_test(module)
    assert by_name.exists() != (module in TESTED_IN), f"{by_name.relative_to(ROOT)} or a line in TESTED_IN"
    test = by_name if by_name.exists() else ROOT / "tests" / TESTED_IN[module]
    assert module in exercised(test)


def test_places_of_tests_are_those_of_modules() -> None:
    assert set(TESTED_IN) <= set(MODULES)


def test_programs_in_tests_import_modules_that_there_are() -> None:
    """A test that starts a Python on a text of its own may otherwise look for a module that has moved."""
    named = re.compile(r"from (ccflare_(?:core|cli|mitm)[.\w]*) import")
    texts = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert {name for text in texts.values() for name in named.findall(text)} <= FILES.keys()


def test_files_that_are_referred_to_are_there() -> None:
    known = {path.name for path in [*(ROOT / "addon").rglob("*.py"), *(ROOT / "scripts").iterdir()]}
    named = re.compile(r"\b[a-z_]\w*\.py\b")
    texts = {name: path.read_text() for name, path in FILES.items()}
    assert [(name, found) for name, text in texts.items() for found in named.findall(text) if found not in known] == []


def test_rooms_are_all_that_the_core_has() -> None:
    found = {name.split(".")[1] for name in CORE}
    assert found == {*ROOMS, *GROUND}


def test_rooms_import_only_what_stands_below_them() -> None:
    upward = [
        f"{name} -> {module}"
        for name in CORE
        for module in IMPORTS[name]
        if module.startswith("ccflare_core.") and floor(module) > floor(name)
    ]
    assert upward == []


@pytest.mark.parametrize("name", CORE)
def test_core_knows_nothing_of_mitmproxy_and_the_wings(name: str) -> None:
    assert not {module.split(".")[0] for module in reached(name)} & {"mitmproxy", *WINGS, "ccflare"}


def test_wings_do_not_import_each_other() -> None:
    crossing = [
        f"{name} -> {module}"
        for name, found in IMPORTS.items()
        for module in found
        if {name.split(".")[0], module.split(".")[0]} == WINGS
    ]
    assert crossing == []


def test_rooms_of_the_mitmproxy_wing_import_host_and_pages_alone() -> None:
    crossing = [
        f"{name} -> {module}"
        for name, found in IMPORTS.items()
        for module in found
        if name.startswith("ccflare_mitm.")
        and module.startswith("ccflare_mitm.")
        and (here := name.split(".")[1]) in MITM_ORDER
        and (there := module.split(".")[1]) not in (here, *MITM_ORDER[:2])
        and there != here
    ]
    assert crossing == []


@pytest.mark.parametrize("name", [name for name in CORE if not does_io(name)])
def test_decisions_are_free_of_io(name: str) -> None:
    found = reached(name)
    others = {module.split(".")[0] for module in found}

    assert not [module for module in found if module in CORE and does_io(module)]
    assert not others & {"peewee", "playhouse", "cryptography", "sqlite3", "socket", "asyncio", "threading", "http"}


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ccflare_core.__version__ == project["version"]


def test_entry_is_imported_by_nothing() -> None:
    assert importers("ccflare") == set()


def test_modules_have_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "peewee",
            DATABASE := {name.removeprefix("ccflare_core.") for name in CORE if name.split(".")[1] in WHOLE}
            | {
                "audit.chain",
                "audit.configurations",
                "audit.signed_rows",
                "reports.queries",
                "reports.rollup",
                "transcripts.read",
                "transcripts.search_index",
                "transcripts.write",
            },
        ),
        ("playhouse", DATABASE),
        ("cryptography.hazmat.primitives.ciphers", {"secrets.vault"}),
        ("cryptography.fernet", set()),
        ("pkcs11", {"secrets.pkcs11"}),
        ("psycopg", {"db.announced", "db.postgres", "db.server_url"}),
        ("keyring", {"secrets.os_keyring"}),
        (
            "mitmproxy.proxy.layers",
            {
                f"ccflare_mitm.{name}"
                for name in (
                    "host.contract",
                    "host.internals",
                    "host.peers",
                    "wire.attempt",
                    "wire.client_side",
                    "wire.course",
                    "wire.guarded_tunnel",
                    "wire.layer",
                    "wire.reaper",
                    "wire.relay",
                    "wire.stream",
                    "wire.upstream_side",
                )
            },
        ),
        ("tabulate", {"ccflare_cli.output"}),
        ("matplotlib", {"ccflare_cli.stats.plot"}),
        ("prometheus_client", {"reports.exposition"}),
        (
            "opentelemetry",
            {
                "ccflare_mitm.builders.telemetry",
                *(f"telemetry.{name}" for name in ("measuring", "receiver", "tracing")),
            },
        ),
        ("requests", {"telemetry.receiver"}),
        ("mcp", {"ccflare_cli.mcp.server"}),
        ("mcp_types", {"ccflare_cli.mcp.server"}),
        ("ccflare_cli.mcp.server", set()),  # by name, where it is asked for: no other command pays for that package
    ],
)
def test_packages_that_few_places_use(package: str, allowed: set[str]) -> None:
    assert importers(package) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_import_the_commands_and_nothing_else(path: Path) -> None:
    beside = {each.stem for each in (ROOT / "scripts").glob("_*.py")}
    others = {name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names}
    allowed = {"packaging.requirements"} if path.name == "_lock.py" else set()  # in the environment of checks
    assert others - beside <= {"ccflare_cli"} | allowed
