"""Scan: what no hook announced is found, and nothing else is sent a second time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hookd.digest import digest_of
from hookd.files import FileKey, Roots, data_key, index_key, namespace_key
from hookd.journal import Job, LedgerEntry
from hookd.scan import unannounced, unstored
from hookd.scheduler import Scheduler


class Disk:
    """Two roots, a ledger, a queue."""

    def __init__(self, folder: Path) -> None:
        for root in ("index", "data"):
            (folder / root).mkdir()
        self.roots = Roots(folder / "index", folder / "data")
        self.ledger: dict[FileKey, LedgerEntry] = {}
        self.scheduler = Scheduler()

    def write(self, text: str, content: bytes | None = None) -> FileKey:
        """A live file; its own name is the content where none is given."""
        key = FileKey.parse(text)
        path = self.roots.path(key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if content is None else content)
        return key

    def stored(self, text: str, content: bytes | None = None, *, sealed: bool = True) -> FileKey:
        """A live file whose content is proven remote."""
        key = self.write(text, content)
        content = self.roots.path(key).read_bytes()
        self.ledger[key] = LedgerEntry(
            key=key,
            size_bytes=len(content),
            digest=digest_of(content),
            stored_at=time.time(),
            sealed=sealed,
        )
        return key

    def find(self, *, with_active: bool = False, skip: tuple[str, ...] = ()) -> list[Job]:
        return unannounced(
            self.roots, self.ledger, self.scheduler, skip=skip, with_active=with_active
        )

    def names(self, *, with_active: bool = False) -> list[str]:
        return [str(job.key) for job in self.find(with_active=with_active)]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_nothing(disk: Disk) -> None:
    """Empty roots hold nothing; nor do roots that are not there."""
    assert disk.find(with_active=True) == []
    disk.roots.index.rmdir()
    disk.roots.data.rmdir()
    assert disk.find(with_active=True) == []


def test_sealed_files(disk: Disk) -> None:
    """While zdb runs: sealed data first, then sealed indexes, and the descriptor; not the active."""
    for number in range(3):
        disk.write(f"index/ns/i{number}")
        disk.write(f"data/ns/d{number}")
    disk.write("index/ns/zdb-namespace")
    jobs = disk.find()
    assert [str(job.key) for job in jobs] == [
        "data/ns/d0",
        "data/ns/d1",
        "index/ns/i0",
        "index/ns/i1",
        "index/ns/zdb-namespace",
    ]
    assert all(job.ask_first for job in jobs)
    assert [job.sealed for job in jobs] == [True, True, False, False, False]
    assert [job.freeze for job in jobs] == [False, False, True, True, True]
    assert [job.needs for job in jobs] == [None, None, 0, 1, None]


def test_active_files(disk: Disk) -> None:
    """With zdb gone the active ones count, and are frozen: a new zdb may start any time."""
    for name in ("index/ns/i0", "data/ns/d0"):
        disk.write(name)
    assert disk.names() == []
    jobs = disk.find(with_active=True)
    assert [str(job.key) for job in jobs] == ["data/ns/d0", "index/ns/i0"]
    assert [(job.sealed, job.freeze) for job in jobs] == [(False, True), (False, True)]


def test_crash_in_a_jump(disk: Disk) -> None:
    """Between i(N+1) and d(N+1): iN and dN are sealed, though d(N+1) does not exist."""
    for name in ("index/ns/i0", "index/ns/i1", "data/ns/d0"):
        disk.write(name)
    assert disk.names() == ["data/ns/d0", "index/ns/i0"]


def test_what_is_proven(disk: Disk) -> None:
    """What the ledger has is not sent again."""
    for number in range(2):
        disk.stored(f"index/ns/i{number}")
        disk.stored(f"data/ns/d{number}", sealed=number == 0)
    disk.stored("index/ns/zdb-namespace")
    assert disk.find(with_active=True) == []


def test_stored_while_active(disk: Disk) -> None:
    """A data file proven at an earlier stop and sealed since is due again, whatever its length."""
    disk.stored("data/ns/d0", sealed=False)
    disk.write("data/ns/d1")
    [job] = disk.find()
    assert (str(job.key), job.sealed) == ("data/ns/d0", True)


@pytest.mark.parametrize("content", [b"index/ns/iX", b"longer than it was before"])
def test_rewritten_index(disk: Disk, content: bytes) -> None:
    """A sealed index whose content is not the proven one is due: a crash of zdb forgets its list."""
    disk.stored("index/ns/i0")
    disk.stored("index/ns/i1")
    disk.write("index/ns/i2")
    disk.write("index/ns/i0", content)
    [job] = disk.find()
    assert (job.key, job.freeze, job.needs) == (index_key("ns", 0), True, 0)


@pytest.mark.parametrize("name", ["index/ns/i0", "data/ns/d0", "index/ns/zdb-namespace"])
def test_changed_active(disk: Disk, name: str) -> None:
    """Active files and the descriptor are compared by content, of the same length too."""
    disk.stored(name, b"before", sealed=False)
    disk.write(name, b"after!")
    assert disk.names(with_active=True) == [name]


def test_what_has_a_job(disk: Disk) -> None:
    """An open job stands for its file, in whatever state."""
    for number in range(2):
        for name in (f"index/ns/i{number}", f"data/ns/d{number}"):
            disk.write(name)
    disk.write("index/ns/zdb-namespace")
    for number, key in enumerate(
        [data_key("ns", 0), data_key("ns", 1), index_key("ns", 0), index_key("ns", 1)]
    ):
        disk.scheduler.add(Job(key=key, id=number + 1, turn=number + 1), 0.0)
    assert disk.names(with_active=True) == ["index/ns/zdb-namespace"]
    disk.scheduler.add(Job(key=namespace_key("ns"), id=9, turn=9), 0.0)
    assert disk.names(with_active=True) == []


def test_what_has_an_older_snapshot(disk: Disk) -> None:
    """A snapshot stands for its file only while that is as it was frozen."""
    for name in ("index/ns/i0", "data/ns/d0"):
        disk.write(name)
    key = disk.write("index/ns/i0", b"frozen")
    job = Job(key=key, id=1, turn=1, staged="run-1/i0", size_bytes=6, digest=digest_of(b"frozen"))
    disk.scheduler.add(job, 0.0)
    assert disk.names(with_active=True) == ["data/ns/d0"]
    for content in (b"later!", b"longer than that"):
        disk.write("index/ns/i0", content)
        assert disk.names(with_active=True) == ["data/ns/d0", "index/ns/i0"]
    disk.roots.path(key).unlink()
    assert disk.names(with_active=True) == ["data/ns/d0"]


def test_skipped(disk: Disk) -> None:
    """Namespaces to skip (or held) are left alone; others are not."""
    for name in ("a", "b"):
        disk.write(f"data/{name}/d0")
        disk.write(f"data/{name}/d1")
    assert [job.key.namespace for job in disk.find(skip=("a",))] == ["b"]


def test_strangers(disk: Disk) -> None:
    """Files that zdb does not name so are nobody's business."""
    for name in ("d0.tmp", "D1", "x", ".hookd-d3.17", "i5"):
        path = disk.roots.data / "ns" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert disk.find(with_active=True) == []


def test_evicted_data(disk: Disk) -> None:
    """A data file that is stored and not here any more is no news."""
    key = disk.stored("data/ns/d0")
    disk.roots.path(key).unlink()
    disk.stored("data/ns/d1", sealed=False)
    assert disk.find(with_active=True) == []


def test_thousands(disk: Disk) -> None:
    """A long ledger is compared in a second or so."""
    for number in range(1000):
        disk.stored(f"index/ns/i{number}")
        disk.stored(f"data/ns/d{number}")
    disk.write("index/ns/i1000")
    started = time.monotonic()
    assert disk.find() == []
    assert time.monotonic() - started < 5


def test_unstored(disk: Disk) -> None:
    """Of the namespaces asked for: what is here and not there; blank files are nothing."""
    disk.stored("data/ns/d0")
    disk.stored("index/ns/i0")
    disk.write("index/ns/i0", b"rewritten since, and longer than a header of an index file")
    disk.write("data/ns/d1", b"a" * 100)
    disk.write("index/ns/i1", bytes(29))
    disk.write("data/ns/d2", bytes(28))
    disk.write("data/other/d0", b"a" * 100)
    disk.stored("data/whole/d0", sealed=False)
    disk.stored("data/whole/d1")
    assert unstored(disk.roots, disk.ledger, {"ns", "whole", "gone"}) == {"ns": 2}
