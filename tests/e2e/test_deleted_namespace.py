"""A namespace that zdb deletes and makes again, with the hook that says so coming late."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hookd.demo.trace import Content
from tests.e2e.daemon import Daemon

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
