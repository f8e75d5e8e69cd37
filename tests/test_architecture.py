"""The arrows: who may import whom. Read from the source, so an import inside a function or for a type counts too."""

import ast
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
GROUND = {"errors", "files", "process", "text"}
WINGS = {"ccflare_mitm", "ccflare_cli"}
MITM_ORDER = ("host", "wire", "gate")
"""The packages of the mitmproxy wing; wire and gate use host, and not each other."""

# What may do I/O, or needs a library that does. Everything else in the core is a pure decision.
WITH_IO = {
    "accounts": {"token_keeper", "token_refresh", "usage_poll"},
    "audit": {"chain", "check", "configurations", "file"},
    "clients": {"totp"},
    "config": {"permissions"},
    "http": {"client", "pinning"},
    "secrets": {"key_sources", "os_keyring", "passphrase", "pkcs11", "references", "vault"},
    "reports": {"queries", "rollup"},
    "transcripts": {"exports", "packing", "read", "search", "search_index", "write"},
} | {room: set[str]() for room in ("db", "store", "writer")}
WHOLE = {"db", "store", "writer"}
"""Rooms that are about I/O altogether."""
IO_GROUND = {"files", "process"}


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


def test_rooms_of_the_mitmproxy_wing_import_host_alone() -> None:
    crossing = [
        f"{name} -> {module}"
        for name, found in IMPORTS.items()
        for module in found
        if name.startswith("ccflare_mitm.")
        and module.startswith("ccflare_mitm.")
        and (here := name.split(".")[1]) in MITM_ORDER
        and (there := module.split(".")[1]) not in (here, "host")
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
        ("psycopg", {"db.postgres"}),
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
    ],
)
def test_packages_that_few_places_use(package: str, allowed: set[str]) -> None:
    assert importers(package) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_import_the_commands_and_nothing_else(path: Path) -> None:
    beside = {each.stem for each in (ROOT / "scripts").glob("_*.py")}
    others = {name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names}
    assert others - beside <= {"ccflare_cli"}
