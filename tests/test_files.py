"""Private folders, and files that appear whole or not at all."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from ccflare_core.files import beside, draft, make_private_folder, publish


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_new_folders_are_private_and_others_are_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    old.chmod(0o755)
    for folder in (old, old / "new"):
        make_private_folder(folder)
    assert (mode(old), mode(old / "new")) == (0o755, 0o700)


def test_drafts_are_private_empty_and_gone_afterwards(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), draft(tmp_path / "x") as path:
        assert (mode(path), path.read_bytes(), path.parent) == (0o600, b"", tmp_path)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_published_drafts_have_their_name(tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    target = tmp_path / "x"
    with draft(target) as path:
        path.write_text("whole")
        assert publish(path, target)
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("has_links", [True, False])
def test_files_that_are_there_are_never_replaced(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    target = tmp_path / "x"
    target.write_text("first")
    with draft(target) as path:
        assert not publish(path, target)
    assert target.read_text() == "first"


def test_files_beside_a_database_have_its_name(tmp_path: Path) -> None:
    assert beside(tmp_path / "a.db", "-wal") == tmp_path / "a.db-wal"
