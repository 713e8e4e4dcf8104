"""Two frontends over one store: one of them has it, the other one stops, and somebody decides."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, REPOSITORY, Daemon
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.shim_build"]

LOUD = (
    "restoring", "restored", "fenced: nothing is stored any more", "store is down", "choice",
    "local files are taken", "set aside", "held", "zdb ended without its closing hooks", "withdrawn",
    "store is back", "will retry", "quarantined", "kept",
)  # fmt: skip


class Frontend:
    """A daemon and a zdb over a store that others use, too."""

    def __init__(self, folder: Path, shim: Path, store: Path) -> None:
        folder.mkdir()
        self.daemon = Daemon(folder, shim, settings={"store.directory.path": str(store)})
        self.daemon.store = store
        self.daemon.expect(*LOUD)
        self.zdb = FakeZdb(
            folder,
            shim=shim,
            environment={**self.daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S},
            seed=sum(folder.name.encode()),
        )

    def write(self, name: str = "ns") -> None:
        """A data file full of something new."""
        self.zdb.churn(name, 8)
        self.zdb.rotate(name)
        self.zdb.finish_hooks()

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of the command line."""
        command = [sys.executable, "-m", "hookd", *arguments, "--config", str(self.daemon.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)

    def right(self) -> bool:
        """Whether every key answers."""
        return all(
            self.zdb.get(name, key) == value
            for name, values in self.zdb.truth.items()
            for key, value in values.items()
        )

    def fenced(self) -> str | None:
        """What status says of it."""
        found: str | None = self.daemon.stats()["fence"]["fenced"]
        return found

    def close(self) -> None:
        self.zdb.kill()
        self.daemon.close(check=False)
        self.zdb.finish_hooks()
        self.daemon.close()


@pytest.fixture
def pair(shim: Path, tmp_path: Path) -> Iterator[tuple[Frontend, Frontend]]:
    """A has stored something and goes on; B has restored it and has the store now."""
    made = [Frontend(tmp_path / name, shim, tmp_path / "store") for name in ("a", "b")]
    a, b = made
    a.daemon.start()
    assert a.zdb.start() == 0
    a.zdb.create("ns")
    a.write()
    a.write()
    a.zdb.stop()
    a.zdb.finish_hooks()
    assert a.daemon.stop() == Exit.OK
    a.daemon.start()
    assert a.zdb.start() == 0
    b.daemon.start()
    b.zdb.truth = {name: dict(values) for name, values in a.zdb.truth.items()}
    assert b.zdb.start() == 0
    assert b.right()
    yield a, b
    for each in made:
        each.close()


def stop(frontend: Frontend) -> None:
    """A stop that leaves nothing behind."""
    frontend.zdb.stop()
    frontend.zdb.finish_hooks()
    code = frontend.daemon.stop()
    assert code == Exit.OK, frontend.daemon.log.read_text()


def test_the_old_one_stops(pair: tuple[Frontend, Frontend]) -> None:
    """A's next file is not stored, its status fails, its drain ends with 75 and says why; B goes on."""
    a, b = pair
    before = b.daemon.stored()
    a.write()
    a.daemon.until(lambda stats: stats["fence"]["fenced"])
    assert "another frontend" in (a.fenced() or "")
    status = a.verb("status")
    assert status.returncode != 0
    assert "another frontend" in status.stdout + status.stderr
    assert a.daemon.stored() == before
    b.write()
    b.daemon.until_stored()
    a.zdb.stop()
    a.zdb.finish_hooks()
    assert a.daemon.stop() == Exit.TEMPFAIL
    assert "another frontend" in a.daemon.announced()[-1]
    stop(b)
    store = b.daemon.store
    assert answers(store / "index", store / "data")["ns"] == b.zdb.truth["ns"]


def test_take_local(pair: tuple[Frontend, Frontend]) -> None:
    """An administrator says that A is right: it stores over what B stored, and B stops."""
    a, b = pair
    b.write()
    b.daemon.until_stored()
    a.write()
    a.daemon.until(lambda stats: stats["fence"]["fenced"])
    taken = a.verb("restore", "--take", "local")
    assert taken.returncode == 0, taken.stderr
    a.daemon.until(lambda stats: not stats["fence"]["fenced"])
    b.write()
    b.daemon.until(lambda stats: stats["fence"]["fenced"])
    a.write()
    assert a.right()
    stop(a)
    stored, local = a.daemon.stored(), a.daemon.local()
    assert [name for name in local if stored.get(name) != local[name]] == []
    # what is in the store beyond A's files is B's, and nobody's: a new frontend does not take it
    for root in (a.daemon.index, a.daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    shutil.rmtree(a.daemon.journal.parent)
    a.daemon.start()
    assert a.zdb.start() == 0
    assert a.right()
    stop(a)


def test_take_remote(pair: tuple[Frontend, Frontend]) -> None:
    """An administrator says that B is right: A sets its files aside, restores, and has the store."""
    a, b = pair
    b.write()
    b.write()
    stop(b)
    a.write()
    a.daemon.until(lambda stats: stats["fence"]["fenced"])
    live = {p.name: p.read_bytes() for p in (a.daemon.index / "ns").iterdir()}
    taken = a.verb("restore", "ns", "--take", "remote")
    assert taken.returncode == 0, taken.stderr
    taken = a.verb("restore", "--take", "remote")
    assert taken.returncode == 0, taken.stderr
    a.zdb.stop()
    a.zdb.finish_hooks()
    a.zdb.truth = b.zdb.truth
    assert a.zdb.start() == 0, a.daemon.log.read_text()
    assert a.right()
    [aside] = (a.daemon.index / "ns").glob(".hookd-aside-*")
    assert {p.name: p.read_bytes() for p in aside.iterdir()}.keys() == live.keys()
    a.write()
    stop(a)
    store = a.daemon.store
    assert answers(store / "index", store / "data")["ns"] == a.zdb.truth["ns"]


def lose_all(frontend: Frontend) -> None:
    """Disks and journal."""
    for root in (frontend.daemon.index, frontend.daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    shutil.rmtree(frontend.daemon.journal.parent)


def test_deleted_and_made_again(shim: Path, tmp_path: Path) -> None:
    """What the store has of a deleted namespace does not come back, nor into a new one of its name."""
    a = Frontend(tmp_path / "a", shim, tmp_path / "store")
    a.daemon.start()
    assert a.zdb.start() == 0
    a.zdb.create("ns")
    for _ in range(4):
        a.write()
    a.daemon.until_stored()
    a.zdb.remove("ns")
    a.zdb.finish_hooks()
    stop(a)
    lose_all(a)
    a.daemon.start()
    assert a.zdb.start() == 0
    assert not (a.daemon.index / "ns").exists()
    # made again, by a frontend that has never seen the old one, and shorter
    a.zdb.create("ns")
    a.write()
    stop(a)
    assert (a.daemon.store / "index/ns/i3").exists(), "there is nothing old to mistake"
    lose_all(a)
    a.daemon.start()
    assert a.zdb.start() == 0
    assert a.right()
    assert not (a.daemon.index / "ns/i3").exists()
    stop(a)
    a.close()
