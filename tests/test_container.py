"""The container's files: what is left to a builder to try is what takes one."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ccflare_cli.command import COMMANDS
from ccflare_core.config.settings import Settings, file_defaults

ROOT = Path(__file__).resolve().parent.parent
LINES = (ROOT / "scripts" / "Containerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE = YAML(typ="safe").load(ROOT / "scripts" / "compose.yaml")


def instructions(word: str) -> list[str]:
    """What stands behind this word, a line each."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{word} ")]


def test_image_is_not_roots_and_starts_the_proxy() -> None:
    (user,), (made,) = instructions("USER"), [line for line in instructions("RUN") if line.startswith("useradd")]
    assert shlex.split(made.partition("&&")[0])[-1] == user
    assert instructions("ENTRYPOINT") == ['["ccflare"]']
    assert instructions("CMD") == ['["proxy"]']
    (check,) = instructions("HEALTHCHECK")
    assert set(re.findall(r'"(\w+)"', check)) - {"ccflare"} <= COMMANDS.keys()
    assert LINES.index(f"USER {user}") > max(i for i, line in enumerate(LINES) if line.startswith("RUN "))


def test_image_serves_other_machines_with_tls_and_a_key_alone(tmp_path: Path) -> None:
    """The options that its sed makes of ours."""
    (command,) = [line for line in instructions("RUN") if line.startswith("sed ")]
    (tmp_path / "mitm-config.yaml").write_bytes((ROOT / "mitm-config.yaml").read_bytes())
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=30)
    before, after = file_defaults(ROOT / "mitm-config.yaml"), file_defaults(tmp_path / "mitm-config.yaml")

    changed = {name: value for name, value in after.items() if before.get(name) != value}
    assert changed == {"listen_host": "0.0.0.0", "ccflare_allow_remote": True, "ccflare_client_tls": "required"}
    settings = Settings.build(after, {"XDG_DATA_HOME": "/data"})
    assert settings.requires_client_tls
    assert settings.database == Path("/data/ccflare/ccflare.db")


@pytest.mark.parametrize("copied", [word for line in instructions("COPY") for word in shlex.split(line)[:-1]])
def test_what_is_copied_is_there_and_not_left_out(copied: str) -> None:
    if not copied.startswith("--from=") and not copied.startswith("/opt/"):
        assert (ROOT / copied).exists()
        assert f"!{copied}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_compose_builds_that_file_and_opens_it_to_this_machine() -> None:
    (service,) = COMPOSE["services"].values()
    context = ROOT / "scripts" / service["build"]["context"]

    assert (context / service["build"]["dockerfile"]).samefile(ROOT / "scripts" / "Containerfile")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["ports"][0].endswith(f":{instructions('EXPOSE')[0]}")
    assert f":{instructions('VOLUME')[0]}" in service["volumes"][0]
    assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)
