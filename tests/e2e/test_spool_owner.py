"""Two daemons that were given one spool: events wait in it for the one that they are meant for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from hookd.intake.owner import OWNER
from tests.e2e.daemon import ZDB, Daemon

pytest_plugins = ["tests.shim_build"]

NO_CLOSING = "zdb ended without its closing hooks"


def make(folder: Path, shim: Path, **settings: object) -> Daemon:
    """A daemon in a folder of its own."""
    folder.mkdir()
    found = Daemon(folder, shim, settings=settings)
    found.expect(NO_CLOSING)
    return found


@pytest.fixture
def first(shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """It has run, and is stopped while its zdb goes on."""
    found = make(tmp_path / "first", shim)
    found.start()
    assert found.stop() == Exit.OK
    yield found
    found.close()


@pytest.fixture
def second(first: Daemon, shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """Another zdb's, told the same spool by mistake."""
    found = make(tmp_path / "second", shim, **{"hook.spool": str(first.spool)})
    yield found
    found.close()


def announce(daemon: Daemon, number: int) -> None:
    """A sealed data file, and its hook, which nobody hears: the shim spools."""
    files = [daemon.data / "ns" / f"d{number + each}" for each in range(2)]
    files[0].parent.mkdir(exist_ok=True)
    for file in files:
        file.write_bytes(os.urandom(300))
    called = daemon.hook("jump-data", ZDB, *map(str, files), HOOKD_TIMEOUT_S="1")
    assert called.code == 0


def test_waits_for_its_own(first: Daemon, second: Daemon) -> None:
    """The second daemon does not start, and says why; the first one gets all that was spooled."""
    announce(first, 0)
    before = sorted(os.listdir(first.spool))
    second.start(wait=False)
    assert second.wait() == Exit.UNAVAILABLE
    assert f"hook.spool: {first.spool} has the events for the journal {first.journal}" in (
        second.log.read_text()
    )
    assert sorted(os.listdir(first.spool)) == before
    first.start()
    assert first.stop() == Exit.OK
    assert first.stored() == first.local()
    assert first.rows("SELECT outcome, count(*) FROM events") == [("accepted", 1)]


def test_with_a_spool_of_its_own(first: Daemon, second: Daemon) -> None:
    """As the line says: then both run."""
    second.configure(hook__spool=str(second.folder / "spool"))
    second.start()
    first.start()
    assert second.stop() == first.stop() == Exit.OK


def test_lost_journal(first: Daemon) -> None:
    """A journal that was lost and is begun anew gets what was spooled for the old one."""
    announce(first, 0)
    for path in first.journal.parent.glob("journal.db*"):
        if path.suffix != ".lock":
            path.unlink()
    first.start()
    assert first.stop() == Exit.OK
    assert first.stored() == first.local()
    assert first.rows("SELECT origin FROM events") == [("spool",)]


def test_damaged_journal(first: Daemon) -> None:
    """So does one that is damaged, and moved aside."""
    announce(first, 0)
    first.journal.write_bytes(b"no database " * 1000)
    first.expect("the journal is damaged, rebuilding it", "notice")
    first.start()
    assert first.stop() == Exit.OK
    assert first.stored() == first.local()


def test_moved_journal(first: Daemon) -> None:
    """A journal that was moved keeps its spool, and the mark says where it is."""
    announce(first, 0)
    moved = first.folder / "elsewhere"
    first.journal.parent.rename(moved)
    first.journal = moved / "journal.db"
    first.configure(journal__path=str(first.journal))
    first.start()
    assert str(first.journal) in (first.spool / OWNER).read_text()
    assert first.stop() == Exit.OK
    assert first.stored() == first.local()
