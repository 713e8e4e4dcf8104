"""A namespace that zdb deletes and makes again, with the hook that says so coming late."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from hookd.demo.trace import Content
from hookd.entries import DATA_HEADER_BYTES
from tests.e2e.daemon import Daemon
from tests.fakes.audits import NOW
from tests.fakes.zdb_files import DELETED, Place, data_entry, header, index_entry

pytest_plugins = ["tests.shim_build"]

ID = "tcp://127.0.0.1:1"


def index_bytes(size: int) -> bytes:
    """An index file that is like no other, and points at nothing."""
    return Content(os.urandom(8).hex(), size, index=True).read()


def make(daemon: Daemon, size: int) -> tuple[Path, Path]:
    """A namespace with its first files, `size` bytes of data; whatever was there before is gone."""
    index, data = daemon.folder / "index/ns", daemon.folder / "data/ns"
    for folder in (index, data):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    (index / "zdb-namespace").write_bytes(os.urandom(20))
    (index / "i0").write_bytes(index_bytes(size // 10))
    (data / "d0").write_bytes(os.urandom(size))
    return index, data


def rotate(daemon: Daemon, index: Path, data: Path, size: int) -> None:
    """The next files, and the two hooks, in zdb's order."""
    number = len(list(data.iterdir())) - 1
    (index / f"i{number + 1}").write_bytes(index_bytes(size // 10))
    called = daemon.hook("jump-index", ID, f"{index}/i{number}", f"{index}/i{number + 1}", "")
    assert called.code == 0
    (data / f"d{number + 1}").write_bytes(os.urandom(size))
    assert daemon.hook("jump-data", ID, f"{data}/d{number}", f"{data}/d{number + 1}").code == 0


@pytest.mark.parametrize("settled_before", [False, True])
def test_the_hook_comes_after_the_new_files(daemon: Daemon, settled_before: bool) -> None:
    """Smaller new files under the old names end in the store, whatever was owed or proven before."""
    daemon.expect(
        "paused",
        "withdrawn",
        "quarantined",
        "files that no hook announced",
        "will retry",
        "zdb ended without its closing hooks",
    )
    daemon.start()
    if not settled_before:
        daemon.ask("pause")
    index, data = make(daemon, 50_000)
    for _ in range(2):
        rotate(daemon, index, data, 50_000)
    if settled_before:
        daemon.until_stored()
    index, data = make(daemon, 20_000)
    rotate(daemon, index, data, 20_000)
    daemon.ask("resume")
    daemon.until(lambda stats: not stats["queue"]["states"]["running"]["files"])
    assert daemon.hook("namespace-deleted", ID, "ns").code == 0
    rotate(daemon, index, data, 20_000)
    assert daemon.stop() == 0
    for number in range(2):
        for folder, name in ((index, f"i{number}"), (data, f"d{number}")):
            stored = daemon.store / folder.relative_to(daemon.folder) / name
            assert stored.read_bytes() == (folder / name).read_bytes()


V = 200


def entries(number: int, generation: int, deleted: int = 0) -> bytes:
    """An index file in user mode, its first entries flagged: their new ones lie further on."""
    found, at = header("index", number, NOW + generation, 0), DATA_HEADER_BYTES
    for each in range(V):
        key, value = b"key%d" % each, b"value%d" % each
        flags = DELETED if each < deleted else 0
        place = Place(number, 0, 0, at, len(value))
        found += index_entry(place, key, value, NOW + generation, flags)
        at += len(data_entry(key, value, NOW))
    return found


def values(number: int, generation: int) -> bytes:
    """The data file that it points into."""
    items = (data_entry(b"key%d" % each, b"value%d" % each, NOW) for each in range(V))
    return header("data", number, NOW + generation) + b"".join(items)


def write(daemon: Daemon, name: str, numbers: range, generation: int, deleted: int = 0) -> None:
    """Files of a namespace; `deleted` entries of i0 are flagged."""
    for root in (daemon.index, daemon.data):
        (root / name).mkdir(exist_ok=True)
    for n in numbers:
        content = entries(n, generation, 0 if n else deleted)
        (daemon.index / name / f"i{n}").write_bytes(content)
        (daemon.data / name / f"d{n}").write_bytes(values(n, generation))


def made_again(daemon: Daemon, deleted: int) -> None:
    """A namespace of five files was stored, deleted, and is there again with two."""
    daemon.expect("withdrawn", "will retry", "no snapshot, will freeze later", "paused")
    write(daemon, "b", range(5), 0)
    daemon.start()
    daemon.until_stored()
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root / "b")
    write(daemon, "b", range(2), 9, deleted)
    assert daemon.hook("namespace-deleted", ID, "b").code == 0
    daemon.until_stored()


@pytest.mark.parametrize("deleted", [0, 3])
@pytest.mark.parametrize("room", [True, False])
def test_a_late_jump_of_the_deleted_one(
    shim: Path, tmp_path: Path, deleted: int, room: bool
) -> None:
    """It names i3, which the new one does not have yet: its dirty i0 waits for what there is."""
    settings = {} if room else {"snapshot.max_bytes": 30_000}
    daemon = Daemon(tmp_path, shim, settings=settings)
    made_again(daemon, deleted)
    if not room:
        daemon.ask("pause")
        write(daemon, "other", range(2), 0)
        index = daemon.index / "other"
        daemon.hook("jump-index", ID, f"{index}/i0", f"{index}/i1", "")
    index = daemon.index / "b"
    daemon.hook("jump-index", ID, f"{index}/i3", f"{index}/i4", "0")
    if not room:
        daemon.ask("resume")
    daemon.expect("zdb ended without its closing hooks", "alarm")
    assert daemon.stop() == 0
    assert daemon.stored().items() >= daemon.local().items()
    daemon.close()


def test_newer_snapshots_after_a_late_jump(daemon: Daemon) -> None:
    """They are stored as they come, not lined up behind that one."""
    daemon.configure(dispatch__supersede_within_s=0.3)
    made_again(daemon, 3)
    index, data = daemon.index / "b", daemon.data / "b"
    daemon.hook("jump-index", ID, f"{index}/i3", f"{index}/i4", "0")
    owed = (index / "i0").read_bytes()
    for n in range(1, 4):
        time.sleep(0.4)
        write(daemon, "b", range(n + 1, n + 2), 9)
        (index / "i0").write_bytes(entries(0, 9, 3 + n))
        daemon.hook("jump-index", ID, f"{index}/i{n}", f"{index}/i{n + 1}", "0")
        daemon.hook("jump-data", ID, f"{data}/d{n}", f"{data}/d{n + 1}")
        ends = time.monotonic() + 20
        newest = (index / "i0").read_bytes()
        while daemon.stored().get("index/b/i0") not in (
            owed,
            newest,
        ):  # that may need the active file
            assert time.monotonic() < ends
            time.sleep(0.05)
        owed = newest
    daemon.hook("namespace-closing", ID, "b", f"{index}/i4", f"{data}/d4", "0")
    daemon.expect("alarm")
    assert daemon.stop() == 0
    assert daemon.stored().items() >= daemon.local().items()
