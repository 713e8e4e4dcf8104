"""Whose spool it is: a new journal takes over what is left, another one does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hookd.config import Config
from hookd.errors import Exit, UserError
from hookd.intake import owner as module
from hookd.intake.owner import OWNER, Owner, claim, read
from hookd.startup import JOURNAL_ID, Loaded, claim_spool
from tests.conftest import Logs

TAKES_OVER = "takes over the spool of a journal that is gone"


@pytest.fixture
def spool(tmp_path: Path, logs: Logs) -> Path:
    """A spool of nobody yet."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def first(tmp_path: Path, spool: Path) -> Owner:
    """The journal whose spool it is."""
    found = Owner(tmp_path / "first.db", "1" * 32)
    found.journal.touch()
    claim(spool, found, is_new=True)
    return found


def test_marked(spool: Path, first: Owner) -> None:
    """The first journal has it, at every start."""
    assert read(spool) == first
    claim(spool, first, is_new=False)
    assert os.listdir(spool) == [OWNER]


@pytest.mark.parametrize("is_new", [True, False])
def test_another_one(spool: Path, first: Owner, tmp_path: Path, is_new: bool) -> None:
    """Another journal does not get it while that one is there; the line says what to do."""
    other = Owner(tmp_path / "other.db", "2" * 32)
    with pytest.raises(UserError, match="spool of its own") as caught:
        claim(spool, other, is_new=is_new)
    assert caught.value.code == Exit.UNAVAILABLE
    assert all(str(part) in str(caught.value) for part in (first.journal, spool / OWNER))
    assert read(spool) == first


def test_one_with_a_past_at_the_same_place(spool: Path, first: Owner) -> None:
    """It has a spool elsewhere: these events are not its own, even if that journal is gone."""
    first.journal.unlink()
    with pytest.raises(UserError, match=r"another journal that was .*first\.db once"):
        claim(spool, Owner(first.journal, "2" * 32), is_new=False)


def test_lost_and_begun_anew(spool: Path, first: Owner) -> None:
    """A new journal where the first one was takes its spool over."""
    anew = Owner(first.journal, "2" * 32)
    claim(spool, anew, is_new=True)
    assert read(spool) == anew


def test_lost_and_begun_elsewhere(spool: Path, first: Owner, tmp_path: Path, logs: Logs) -> None:
    """A new journal somewhere else, too, once the first one is nowhere."""
    logs.expect(TAKES_OVER)
    first.journal.unlink()
    anew = Owner(tmp_path / "else" / "where.db", "2" * 32)
    claim(spool, anew, is_new=True)
    assert read(spool) == anew


def test_moved(spool: Path, first: Owner, tmp_path: Path) -> None:
    """A journal that was moved is the same one."""
    moved = Owner(tmp_path / "moved.db", first.id)
    claim(spool, moved, is_new=False)
    assert read(spool) == moved


def test_cannot_be_looked_at(
    spool: Path, first: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal in a folder that we may not enter is not gone."""

    def lstat(path: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr("hookd.intake.owner.os.lstat", lstat)
    with pytest.raises(UserError):
        claim(spool, Owner(tmp_path / "other.db", "2" * 32), is_new=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"journal": 1, "id": 2}', b"\xff" * 99])
def test_no_mark(spool: Path, tmp_path: Path, content: bytes) -> None:
    """What is no mark names nobody."""
    (spool / OWNER).write_bytes(content)
    mine = Owner(tmp_path / "mine.db", "1" * 32)
    claim(spool, mine, is_new=False)
    assert read(spool) == mine


def test_a_mark_that_is_a_link(spool: Path, first: Owner, tmp_path: Path) -> None:
    """Links are not followed, and what they point to is not written to."""
    (spool / OWNER).rename(tmp_path / "elsewhere")
    (spool / OWNER).symlink_to(tmp_path / "elsewhere")
    assert read(spool) is None
    claim(spool, Owner(tmp_path / "mine.db", "2" * 32), is_new=False)
    assert (tmp_path / "elsewhere").read_bytes().count(b"1" * 32) == 1


def test_full_disk(spool: Path, first: Owner, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """The start goes on without a mark; the old one would refuse the next start."""
    logs.expect("the spool cannot be marked")

    def fsync(handle: int) -> Any:
        raise OSError(errno.ENOSPC, "full")

    anew = Owner(first.journal, "2" * 32)
    with monkeypatch.context() as full:
        full.setattr("hookd.intake.owner.os.fsync", fsync)
        claim(spool, anew, is_new=True)
    assert read(spool) is None
    claim(spool, anew, is_new=False)
    assert read(spool) == anew


def test_the_same_place_by_another_name(spool: Path, tmp_path: Path) -> None:
    """A journal that was lost and begun anew where a symbolic link led to it takes the spool over."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    (link / "journal.db").touch()
    claim(spool, Owner(link / "journal.db", "1" * 32), is_new=True)
    anew = Owner(tmp_path / "real" / "journal.db", "2" * 32)
    assert claim(spool, anew, is_new=True)
    assert read(spool) == anew


def test_read_only_at_the_first_start(
    spool: Path, first: Owner, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old mark stays: the new journal has no id then, so that it is a new one at its next start."""
    logs.expect("the spool cannot be marked")
    loaded = Loaded(jobs=[], events=[], ledger=[], meta={}, blank=True)
    config = cast(
        "Config",
        SimpleNamespace(
            hook=SimpleNamespace(spool=spool), journal=SimpleNamespace(path=first.journal)
        ),
    )

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as read_only:
        read_only.setattr(module, "_write", refuse)
        read_only.setattr(os, "unlink", refuse)
        claim_spool(config, loaded)
    assert loaded.meta[JOURNAL_ID] is None
    assert read(spool) == first
    loaded.blank = False
    claim_spool(config, loaded)
    found = read(spool)
    assert found is not None
    assert found.id == loaded.meta[JOURNAL_ID] != first.id
