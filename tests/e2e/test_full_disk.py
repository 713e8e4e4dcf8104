"""Disks that are full: staging, journal, spool, each alone on a small tmpfs.

What cannot be kept is not acknowledged, and what is acknowledged is stored once there is room.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import ZDB, Daemon
from tests.fakes.audits import data_bytes, index_bytes

pytest_plugins = ["tests.shim_build"]


@pytest.mark.parametrize("same", [True, False])
def test_a_stop_with_quarantined_snapshots(shim: Path, tmp_path: Path, same: bool) -> None:
    """They fill the staging folder. Where the disk has the very same bytes they make room for what can be
    stored; else the drain ends all the same, and says that a decision is needed.
    """
    values = 10_000
    daemon = Daemon(tmp_path, shim, settings={"snapshot.max_bytes": 1_000_000})
    daemon.expect("quarantined", "no snapshot, will freeze later", "will retry")
    daemon.expect("gave its room away, will freeze again", "alarm")

    def close(name: str) -> None:
        index, data = daemon.index / name / "i0", daemon.data / name / "d0"
        assert daemon.hook("namespace-closing", ZDB, name, str(index), str(data), "").code == 0

    def make(name: str) -> None:
        for root in (daemon.index, daemon.data):
            (root / name).mkdir()
        (daemon.data / name / "d0").write_bytes(data_bytes(0, values=values))
        (daemon.index / name / "i0").write_bytes(index_bytes(0, values=values))

    daemon.start()
    for name in ("a", "b"):
        make(name)
        close(name)
    daemon.until_stored()
    for name in ("a", "b"):  # shorter than what is stored: a conflict
        index = daemon.index / name / "i0"
        index.write_bytes(index.read_bytes()[:-42])
        close(name)
    daemon.until(lambda s: s["queue"]["states"].get("quarantined", {}).get("files") == 2)
    if not same:
        for name in ("a", "b"):
            index = daemon.index / name / "i0"
            index.write_bytes(index.read_bytes()[:-42] + bytes(42))
    make("c")
    close("c")
    assert daemon.stop() == 75
    assert ("index/c/i0" in daemon.stored()) == same
    assert "quarantined" in daemon.announced()[-1]
    daemon.close()


DISK_BYTES = 2 << 20
NO_CLOSING = "zdb ended without its closing hooks"
LARGE_BYTES = 400 << 10
"""A snapshot of this size goes to staging; small ones travel in the journal."""


class SmallDisk:
    """A tmpfs of DISK_BYTES."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(self.path).f_bfree == 0

    def clear(self) -> None:
        """Room again."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs")
    path = tmp_path / "disk"
    path.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", str(path)]
    run = subprocess.run(mount, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"cannot mount a tmpfs: {run.stderr.strip()}")
    yield SmallDisk(path)
    # lazily: the fixture `daemon` is taken down after this one, and may still use it
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def full_files(daemon: Daemon) -> tuple[list[str], list[str]]:
    """A full i0 and d0 with their successors: the arguments of jump-index and jump-data."""
    for root, size in ((daemon.index, LARGE_BYTES), (daemon.data, 5000)):
        (root / "full").mkdir()
        letter = root.name[0]
        (root / "full" / f"{letter}0").write_bytes(os.urandom(size))
        (root / "full" / f"{letter}1").write_bytes(b"as long as the head of such a file")
    return (
        [str(daemon.index / "full" / name) for name in ("i0", "i1")],
        [str(daemon.data / "full" / name) for name in ("d0", "d1")],
    )


def test_staging(daemon: Daemon, disk: SmallDisk) -> None:
    """jump-index says 1: zdb keeps its list. The event is kept too, and done once there is room."""
    daemon.configure(snapshot__staging=str(disk.path / "staging"))
    daemon.expect("no snapshot, will freeze later", "will retry", NO_CLOSING)
    daemon.start()
    index, data = full_files(daemon)
    disk.fill()
    called = daemon.hook("jump-index", ZDB, *index, "0")
    assert called.code == 1
    assert "no snapshot" in called.text
    assert daemon.hook("jump-data", ZDB, *data).code == 0
    stats = daemon.until(lambda s: s["staging"]["refused"])
    assert stats["totals"]["events"]["deferred"] == 1
    assert stats["health"]["status"] == "degraded"
    disk.clear()
    daemon.until(lambda s: not s["staging"]["refused"])
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()


def test_journal(daemon: Daemon, disk: SmallDisk, tmp_path: Path) -> None:
    """The daemon cannot promise anything: the shims keep their events, which are taken in later."""
    journal = disk.path / "state" / "journal.db"
    daemon.configure(journal__path=str(journal), snapshot__staging=str(tmp_path / "staging"))
    daemon.expect("cannot commit, the shim spools", "journal unavailable", "scan failed")
    daemon.expect("no snapshot, will freeze later", NO_CLOSING)
    daemon.expect("alarms not kept")  # the audit of the start may end on the full disk
    daemon.start()
    index, data = full_files(daemon)
    disk.fill()
    # the last pages of the journal's own file may still take a few
    codes = [daemon.hook("jump-data", ZDB, *data).code for _ in range(20)]
    assert set(codes) == {0}
    assert daemon.hook("jump-index", ZDB, *index, "0").code == 1
    assert list(daemon.spool.glob("*.event"))
    assert daemon.stats()["journal"]["state"] == "error"
    assert daemon.ask("health").startswith("degraded")
    disk.clear()
    daemon.until(lambda s: not s["spool"]["waiting"])
    assert daemon.stats()["totals"]["events"]["accepted"] == 21
    assert daemon.stats()["journal"]["state"] == "ok"
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()


def test_journal_in_a_drain(daemon: Daemon, disk: SmallDisk, tmp_path: Path) -> None:
    """A stop waits for room in it, and says so; with room it ends as ever."""
    journal = disk.path / "state" / "journal.db"
    daemon.configure(journal__path=str(journal), snapshot__staging=str(tmp_path / "staging"))
    daemon.expect("cannot commit, the shim spools", "journal unavailable", "scan failed")
    daemon.expect("scan failed, will retry", NO_CLOSING)
    daemon.expect("alarms not kept")  # the audit of the start may end on the full disk
    daemon.start()
    _, data = full_files(daemon)
    disk.fill()
    for _ in range(20):
        assert daemon.hook("jump-data", ZDB, *data).code == 0
    assert list(daemon.spool.glob("*.event"))
    daemon.send_signal()
    found = daemon.until(lambda s: s["drain"] and "waiting" in s["drain"]["waiting_for"])
    assert daemon.running, found
    disk.clear()
    assert daemon.wait() == Exit.OK
    assert not list(daemon.spool.glob("*.event"))
    assert daemon.stored() == daemon.local()


def test_spool(daemon: Daemon, disk: SmallDisk) -> None:
    """Neither daemon nor room: the shim says 111, and a later scan finds the sealed file."""
    daemon.spool = disk.path / "spool"
    daemon.configure(hook__spool=str(daemon.spool))
    _, data = full_files(daemon)
    disk.fill()
    called = daemon.hook("jump-data", ZDB, *data)
    assert called.code == 111
    assert "cannot spool into" in called.text
    assert "No space left" in called.text
    disk.clear()
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()
