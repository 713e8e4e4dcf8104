"""The folder below the mount: whose it is, what came into it; without the right to mount a guard."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hookd.errors import ConfigError, UserError
from hookd.mount import guard
from hookd.mount.ground import Ground


@pytest.fixture(autouse=True)
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be mounted here."""

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(guard, "lay", refuse)


def ground(folder: Path) -> Ground:
    """Of `folder/local`, its record beside it."""
    return Ground(folder / "local", folder / "ground.json")


def killed(made: Ground) -> None:
    """What a kill -9 of its process does: its handles are closed."""
    made._drop()


def test_nothing_came(tmp_path: Path) -> None:
    """Made, and removed at the end with its record."""
    made = ground(tmp_path)
    made.take(may_hide=False)
    assert (tmp_path / "local").is_dir()
    assert made.strays() == []
    made.leave(remove=False)
    assert os.listdir(tmp_path) == []


def test_what_came_meanwhile(tmp_path: Path) -> None:
    """Named; no reason to refuse the next start, whether the run ended or was killed."""
    made = ground(tmp_path)
    made.take(may_hide=False)
    (tmp_path / "local" / "stray").write_text("")
    assert made.strays() == ["stray"]
    made.leave(remove=True)
    assert (tmp_path / "local" / "stray").exists()
    again = ground(tmp_path)
    again.take(may_hide=False)
    assert again.strays() == ["stray"]
    with pytest.raises(UserError, match="another hookd mount"):
        ground(tmp_path).take(may_hide=False)
    killed(again)
    third = ground(tmp_path)
    third.take(may_hide=False)
    assert third.strays() == ["stray"]
    (tmp_path / "local" / "stray").unlink()
    third.leave(remove=False)
    (tmp_path / "local").mkdir(exist_ok=True)
    (tmp_path / "local" / "of somebody").write_text("")
    with pytest.raises(ConfigError, match="'of somebody'"):
        ground(tmp_path).take(may_hide=False)


def test_what_is_hidden(tmp_path: Path) -> None:
    """With allow_non_empty: what was there is no stray, what was written into it is."""
    inside = tmp_path / "local" / "folder"
    inside.mkdir(parents=True)
    (inside / "old").write_text("old")
    (tmp_path / "local" / "file").write_text("old")
    time.sleep(0.05)  # the kernel's clock of files ticks in some milliseconds
    made = ground(tmp_path)
    made.take(may_hide=True)
    time.sleep(0.05)
    assert made.strays() == []
    (inside / "new").write_text("new")
    (tmp_path / "local" / "file").write_text("new")
    assert made.strays() == ["file", "folder/new"]
    made.leave(remove=False)
    again = ground(tmp_path)
    again.take(may_hide=True)
    assert again.strays() == ["file", "folder/new"]
    again.leave(remove=False)


def test_a_folder_of_another_place(tmp_path: Path) -> None:
    """The record is of one folder: another one that has files is refused."""
    made = ground(tmp_path)
    made.take(may_hide=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("")
    with pytest.raises(ConfigError):
        Ground(other, tmp_path / "ground.json").take(may_hide=False)
    made.leave(remove=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else")
def test_closed_while_nothing_is_mounted(tmp_path: Path) -> None:
    """Without a guard and without root: the folder itself takes no file, and has its mode back later."""
    folder = tmp_path / "local"
    folder.mkdir(mode=0o775)
    folder.chmod(0o775)
    os.chown(folder, 65534, 65534)
    os.chown(tmp_path, 65534, 65534)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        made = ground(tmp_path)
        made.take(may_hide=False)
        with pytest.raises(PermissionError):
            (folder / "x").write_text("")
        made.open_up(True)
        assert folder.stat().st_mode & 0o777 == 0o700
        made.open_up(False)
        assert folder.stat().st_mode & 0o777 == 0o555
        killed(made)
        again = ground(tmp_path)
        again.take(may_hide=False)
        with pytest.raises(PermissionError):
            (folder / "x").write_text("")
        again.leave(remove=False)
        assert folder.stat().st_mode & 0o777 == 0o775
    finally:
        os.seteuid(0)
