"""What is found of files and folders that others can reach, and what each finding says to do."""

import os
from pathlib import Path

import pytest

from ccflare_core.config.permissions import Guarded, check, guarded_files, require
from ccflare_core.config.settings import Settings
from ccflare_core.errors import ConfigError

MINE = os.geteuid()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    path = tmp_path / "a key"
    path.touch(0o600)
    return path


def found(path: Path, *, is_vital: bool = True) -> list[tuple[str, bool]]:
    return [(finding.problem, finding.is_fatal) for finding in check([Guarded(path, "the key", is_vital)])]


def test_what_is_private_or_missing_is_no_finding(file: Path) -> None:
    assert check([Guarded(file, "the key"), Guarded(file.with_name("none"), "x")]) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_file_that_is_open_to_others(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert found(file) == [("the key is open to other users", True)]
    assert found(file, is_vital=False) == [("the key is open to other users", False)]
    with pytest.raises(ConfigError, match=f"the key is open to other users: run `chmod 600 '{file}'`"):
        require([Guarded(file, "the key")])


def test_a_folder_in_which_anybody_can_replace_it(file: Path) -> None:
    file.parent.chmod(0o777)
    try:
        assert found(file, is_vital=False) == [("everybody can replace what is in this folder", True)]
    finally:
        file.parent.chmod(0o700)


@pytest.mark.parametrize(("mode", "findings"), [(0o755, 1), (0o1777, 0)])
def test_a_folder_that_others_can_look_into_is_worth_a_word(file: Path, mode: int, findings: int) -> None:
    file.parent.chmod(mode)
    assert found(file) == [("other users can look into this folder", False)] * findings


def test_a_folder_further_up_counts_too(file: Path) -> None:
    inner = file.parent / "open" / "private"
    inner.mkdir(parents=True, mode=0o700)
    inner.parent.chmod(0o777)
    (inner / "key").touch(0o600)
    assert found(inner / "key") == [("everybody can replace what is in this folder", True)]


def test_a_link_leads_to_the_file_and_to_both_folders(file: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    link = tmp_path / "open" / "link"
    link.symlink_to(file)
    file.chmod(0o644)
    assert found(link) == [
        ("the key is open to other users", True),
        ("everybody can replace what is in this folder", True),
    ]


def test_a_second_name_and_what_is_no_file(file: Path) -> None:
    os.link(file, file.with_name("other"))
    assert found(file) == [("the key has a second name somewhere", False)]
    assert found(file.parent) == [("the key is not a plain file", True)]


def test_another_users(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: MINE + 1)
    problems = [] if MINE == 0 else ["the key belongs to another user", "the folder belongs to another user"]
    assert [problem for problem, _ in found(file)][:2] == problems  # root's are as good as one's own


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("web_password: hunter2", True),
        ("mode: regular\n  proxyauth: me:pw", True),
        ("web_password:", False),
        ("# web_password: x", False),
        ("flow_detail: 0", False),
    ],
)
def test_a_configuration_counts_if_it_holds_a_secret(tmp_path: Path, text: str, guarded: bool) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    settings = Settings.build({"ccflare_database": str(tmp_path / "x.db")})
    names = [file.path.name for file in guarded_files(settings, tmp_path)]
    assert names[:4] == ["x.key", "x.db", "x.db-wal", "x.db-shm"]
    assert names[5:7] == ["mitmproxy-ca.pem", "mitmproxy-ca.p12"]
    assert names[7:] == ["config.yaml"] * guarded
    assert len(guarded_files(settings, None, config)) == 5 + guarded
