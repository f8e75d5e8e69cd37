"""The arrows: who may import whom. Read from the source, so an import inside a function counts too."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ccflare_core

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT / "addon").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "addon").rglob("*.py")
}

# A module of the core is free of I/O unless it is named here.
DATABASE = {
    "blocklist",
    "audit",
    "configurations",
    "blocks",
    "bodies",
    "clients",
    "data_keys",
    "database",
    "engines",
    "factors",
    "history",
    "ledger",
    "logins",
    "migrations",
    "models",
    "postgres",
    "reports",
    "rollup",
    "sealed",
    "search_index",
    "sessions",
    "sqlite",
    "statements",
    "store",
}
WITH_IO = DATABASE | {"backlog", "cli", "fetch", "files", "importing", "transcript", "vault", "watch", "writer"}
WITH_IO |= {"audit_check", "audit_file", "auditor", "pinning", "refresh", "tokens", "totp", "usage_poll"}
WITH_IO |= {"hsm", "indirection", "key_sources", "os_keyring", "passphrase", "searching"}
WITH_IO |= {"permissions", "process"}
WITH_IO |= {"backup", "exports", "retention"}


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
PURE = [name for name in CORE if name.split(".")[1] not in WITH_IO]


def importers(prefix: str) -> set[str]:
    """The modules that import `prefix` or something below it, without the name of their package."""
    return {
        name.partition(".")[2] or name
        for name, found in IMPORTS.items()
        if any(f"{module}.".startswith(f"{prefix}.") for module in found)
    }


def reached(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """All that a module imports, directly or through others of ours."""
    for module in IMPORTS.get(name, set()) - seen:
        seen = reached(module, seen | {module})
    return seen


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_nothing_of_mitmproxy(name: str) -> None:
    assert not {module.split(".")[0] for module in reached(name)} & {"mitmproxy", "ccflare_mitm", "ccflare"}


@pytest.mark.parametrize("name", PURE)
def test_decisions_are_free_of_io(name: str) -> None:
    ours = {module.split(".")[1] for module in reached(name) if module.startswith("ccflare_core.")}
    others = {module.split(".")[0] for module in reached(name)}

    assert not ours & WITH_IO
    assert not others & {"peewee", "playhouse", "cryptography", "sqlite3", "socket", "asyncio", "threading", "http"}


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ccflare_core.__version__ == project["version"]


def test_nothing_imports_the_entry() -> None:
    assert importers("ccflare") == set()


def test_no_two_modules_need_each_other() -> None:
    TopologicalSorter(IMPORTS).prepare()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("peewee", DATABASE),
        ("playhouse", DATABASE),
        ("cryptography.hazmat.primitives.ciphers", {"vault"}),
        ("cryptography.fernet", set()),
        ("pkcs11", {"hsm"}),
        ("psycopg", {"postgres"}),
        ("keyring", {"os_keyring"}),
        ("mitmproxy.proxy.layers", {"wire", "relay", "layer", "peers", "reaper", "contract", "internals"}),
        ("tabulate", {"cli.output"}),
        ("matplotlib", {"cli.plot"}),
    ],
)
def test_what_is_used_in_few_places_only(package: str, allowed: set[str]) -> None:
    assert importers(package) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_import_the_commands_and_nothing_else(path: Path) -> None:
    beside = {each.stem for each in (ROOT / "scripts").glob("_*.py")}
    others = {name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names}
    assert others - beside <= {"ccflare_cli"}
