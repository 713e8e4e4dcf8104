"""What lies aside: settled beside what the remote has where both readings are the same, else left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.mount.cache import Cache
from hookd.mount.provider import Queue, Upload
from hookd.mount.report import remains
from hookd.mount.rescue import lines, settle

OLD = b"o" * 4096


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Of rshare:/sub."""
    made = Cache(tmp_path / "cache", remote="rshare", path="/sub", identity="0" * 12)
    yield made
    made.close()


@pytest.fixture
def point(tmp_path: Path) -> Path:
    """The mount: any folder does, `settle` knows nothing of FUSE."""
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def put(
    cache: Cache, *writes: tuple[int, bytes], size: int = 8 * 4096, record: bool = True
) -> Path:
    """`db`, of which the record knows the first page; its content."""
    content = cache.folder / "rescued/1/vfs/rshare/sub/in/db"
    known = cache.folder / "rescued/1/vfsMeta/rshare/sub/in/db"
    for path in (content, known):
        path.parent.mkdir(parents=True)
    with content.open("wb") as file:
        file.truncate(size)
        for at, part in ((0, b"n" * 4096), *writes):
            file.seek(at)
            file.write(part)
    if record:
        first = {"Pos": 0, "Size": 4096}
        text = {"Size": size, "Rs": [first], "Dirty": True, "Fingerprint": "1"}
        known.write_text(json.dumps(text))
    return content


def remote(point: Path, content: bytes) -> Path:
    """What it has."""
    (point / "in").mkdir()
    (point / "in/db").write_bytes(content)
    return point / "in/db"


def test_merged_where_the_unclear_zeros_are_zeros_there(cache: Cache, point: Path) -> None:
    """A page with zeros that the remote has as well: written or fetched, it is the same."""
    page = b"\0" * 2048 + b"n" * 2048
    content = put(cache, (3 * 4096, page))
    there = remote(point, OLD * 3 + b"\0" * 2048 + b"o" * 2048 + OLD * 4)
    settle(cache, point)
    assert there.read_bytes() == b"n" * 4096 + OLD * 2 + page + OLD * 4
    assert not content.exists()
    assert lines(cache) == []


def test_left_where_they_are_not(cache: Cache, point: Path) -> None:
    """Zeros over old bytes, or old bytes over zeros: nobody can say. The remote stays as it is."""
    content = put(cache, (3 * 4096, b"\0" * 2048 + b"n" * 2048))
    there = remote(point, OLD * 8)
    settle(cache, point)
    assert there.read_bytes() == OLD * 8
    assert content.exists()
    (line,) = lines(cache)
    assert line.startswith("'in/db' (32 KiB)")
    assert str(content) in line
    assert remains(cache, None).aside == [line]


def test_left_where_a_task_has_written_since(cache: Cache, point: Path) -> None:
    """Its record in the cache is dirty."""
    content = put(cache, (3 * 4096, b"n" * 4096))
    there = remote(point, OLD * 8)
    live = cache.folder / "vfsMeta/rshare/sub/in/db"
    live.parent.mkdir(parents=True)
    live.write_text(json.dumps({"Size": 1, "Dirty": True}))
    settle(cache, point)
    assert there.read_bytes() == OLD * 8
    assert content.exists()


@pytest.mark.parametrize("size", [2 * 4096, 12 * 4096])
def test_the_size_is_the_one_of_what_was_written(cache: Cache, point: Path, size: int) -> None:
    """Cut short, or grown (then all beyond the old end is known)."""
    put(cache, size=size)
    if size > 8 * 4096:
        known = cache.folder / "rescued/1/vfsMeta/rshare/sub/in/db"
        record = json.loads(known.read_text())
        record["Rs"].append({"Pos": 8 * 4096, "Size": size - 8 * 4096})
        known.write_text(json.dumps(record))
    there = remote(point, OLD * 8)
    settle(cache, point)
    assert there.read_bytes() == (b"n" * 4096 + OLD * 7 + bytes(12 * 4096))[:size]
    assert lines(cache) == []


def test_nothing_new_in_it(cache: Cache, point: Path) -> None:
    """Equal to the remote wherever something is: it was only read, even if its record is gone."""
    put(cache, record=False)
    there = remote(point, b"n" * 4096 + OLD * 7)
    settle(cache, point)
    assert there.read_bytes() == b"n" * 4096 + OLD * 7
    assert lines(cache) == []


def test_without_a_record_it_goes_over_nothing(cache: Cache, point: Path) -> None:
    """Which of the two is newer is not known."""
    content = put(cache, record=False)
    there = remote(point, OLD * 8)
    settle(cache, point)
    assert there.read_bytes() == OLD * 8
    assert content.exists()


def test_new_and_whole(cache: Cache, point: Path) -> None:
    """Nothing is there: it gets its name, and the folders above."""
    put(cache, size=4096, record=False)
    settle(cache, point)
    assert (point / "in/db").read_bytes() == b"n" * 4096
    assert lines(cache) == []


@pytest.mark.parametrize("record", [True, False])
def test_with_holes_where_nothing_is_there(cache: Cache, point: Path, record: bool) -> None:
    """It may have been a part of something that has gone since."""
    content = put(cache, record=record)
    settle(cache, point)
    assert list(point.iterdir()) == []
    assert content.exists()


def test_what_the_queue_knows_and_the_cache_does_not(cache: Cache) -> None:
    """A file in the last queue without a record is left; one with a clean record has arrived."""
    clean = cache.folder / "vfsMeta/rshare/sub/arrived"
    clean.parent.mkdir(parents=True)
    clean.write_text(json.dumps({"Size": 1, "Dirty": False}))
    queue = Queue(
        uploads=tuple(
            Upload(name=name, size_bytes=5, tries=number, why="507" if number else "")
            for number, name in enumerate(["gone", "arrived", "failing", "in/.hookd-probe-1"])
        )
    )
    found = remains(cache, queue)
    assert found.waiting == []
    assert [each.line() for each in found.lost_track] == [
        "'gone' (5 B, not uploaded yet)",
        "'failing' (5 B, its upload fails: 507)",
    ]
