"""What is seen of the newest index file, and how NSJUMP is done there; the real zdb is in tests/real."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hookd import zdb_jump
from hookd.files import Roots
from hookd.zdb_tail import Tail, tail
from tests.fakes.zdb_files import INDEX_HEADER, descriptor

SEQUENTIAL, USER = 1, 0


class Process:
    """This process in the part of zdb: it holds the lock, and has files open at a position."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "index", folder / "data")
        self.roots.data.mkdir()
        (self.roots.index / "ns").mkdir(parents=True)
        (self.roots.index / "ns" / "zdb-namespace").write_bytes(descriptor("ns"))
        self._stack = ExitStack()

    def index(self, number: int, mode: int = SEQUENTIAL, entries: bytes = b"") -> Path:
        path = self.roots.index / "ns" / f"i{number}"
        path.write_bytes(INDEX_HEADER.pack(b"IDX0", 4, 0, 0, number, mode) + entries)
        return path

    def lock(self) -> None:
        file = self._stack.enter_context((self.roots.index / ".lockfile").open("w"))
        fcntl.flock(file, fcntl.LOCK_EX)

    def has_open(self, path: Path, position: int) -> None:
        """As zdb leaves it: at 0 where it opened it only, behind the header that it wrote."""
        file = self._stack.enter_context(path.open("rb", buffering=0))
        os.lseek(file.fileno(), position, os.SEEK_SET)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def zdb(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.close()


def test_no_files(zdb: Process) -> None:
    assert tail(zdb.roots, "ns") is Tail.USED
    assert tail(zdb.roots, "none") is Tail.USED


def test_the_first_file_is_in_the_map_in_any_case(zdb: Process) -> None:
    zdb.lock()
    zdb.has_open(zdb.index(0), 0)
    assert tail(zdb.roots, "ns") is Tail.USED


@pytest.mark.parametrize(("mode", "entries"), [(SEQUENTIAL, b"x" * 38), (USER, b"")])
def test_entries_or_keys_of_the_user(zdb: Process, mode: int, entries: bytes) -> None:
    """With an entry it is in the map, and named keys need none."""
    zdb.lock()
    zdb.index(0, mode)
    zdb.has_open(zdb.index(1, mode, entries), 0)
    assert tail(zdb.roots, "ns") is Tail.USED


@pytest.mark.parametrize(("position", "expected"), [(0, Tail.LOADED), (29, Tail.BEGUN)])
def test_blank(zdb: Process, position: int, expected: Tail) -> None:
    zdb.lock()
    zdb.index(0)
    zdb.has_open(zdb.index(1), position)
    assert tail(zdb.roots, "ns") is expected


def test_a_zdb_that_cannot_be_seen(zdb: Process) -> None:
    """It holds no lock that we know of, or has not that file open."""
    zdb.index(0)
    path = zdb.index(1)
    assert tail(zdb.roots, "ns") is Tail.UNKNOWN
    zdb.lock()
    assert tail(zdb.roots, "ns") is Tail.UNKNOWN
    zdb.has_open(path, 0)
    assert tail(zdb.roots, "ns") is Tail.LOADED


class Client:
    """Notes what is asked of zdb."""

    asked: list[tuple[str | bytes, ...]] = []  # noqa: RUF012 - one test, one list

    def __init__(self, address: str, *, limit_s: float) -> None:
        assert address == "unix:///zdb"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def select(self, name: str, password: str | None) -> None:
        self.asked.append(("SELECT", name))

    def ask(self, *words: str | bytes) -> bytes:
        self.asked.append(words)
        return b"key"

    def jump(self) -> None:
        self.asked.append(("NSJUMP",))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | bytes, ...]]:
    made: list[tuple[str | bytes, ...]] = []
    monkeypatch.setattr(Client, "asked", made)
    monkeypatch.setattr(zdb_jump, "ZdbClient", Client)
    return made


JUMP = [("SELECT", "ns"), ("NSJUMP",)]
KEY_FIRST = [("SELECT", "ns"), ("SET", "", "-"), ("DEL", b"key"), ("NSJUMP",)]

Asked = list[tuple[str | bytes, ...]]


@pytest.mark.parametrize(
    ("position", "jumped", "begun"),
    [(0, JUMP, JUMP), (29, KEY_FIRST, []), (None, KEY_FIRST, KEY_FIRST)],
    ids=["loaded", "begun", "unknown"],
)
def test_jumps(
    zdb: Process, asked: Asked, position: int | None, jumped: Asked, begun: Asked
) -> None:
    """A blank file that is in the map gets an entry first; begin_anew leaves it alone."""
    zdb.lock()
    zdb.index(0)
    path = zdb.index(1)
    if position is not None:
        zdb.has_open(path, position)
    zdb_jump.jump_now("unix:///zdb", zdb.roots, None, "ns")
    assert asked == jumped
    asked.clear()
    names = zdb_jump.begin_anew("unix:///zdb", zdb.roots, None)
    assert asked == begun
    assert names == (["ns"] if begun else [])


def test_nothing_to_begin(zdb: Process, asked: Asked) -> None:
    zdb.lock()
    zdb.index(0)
    assert zdb_jump.begin_anew("unix:///zdb", zdb.roots, None) == []
    zdb.has_open(zdb.index(1, entries=b"x" * 38), 67)
    assert zdb_jump.begin_anew("unix:///zdb", zdb.roots, None) == []
    assert asked == []
