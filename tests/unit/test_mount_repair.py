"""Records that say less than their content: completed where that is certain, else moved aside."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hookd.mount.cache import Cache, files_below
from hookd.mount.repair import repair
from tests.conftest import Logs

HALF = "records that a kill left half written"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache as rclone makes it."""
    for name in ("vfs", "vfsMeta"):
        (tmp_path / name / "rshare" / "sub").mkdir(parents=True)
    return tmp_path


def put(folder: Path, name: str, record: str, content: bytes | None = b"content") -> None:
    """One file of the cache."""
    (folder / "vfsMeta" / "rshare" / name).write_text(record)
    if content is not None:
        (folder / "vfs" / "rshare" / name).write_bytes(content)


@pytest.mark.parametrize("record", ["", '{"ModTime": "20', "null", "[]"])
def test_whole_content_is_uploaded_again(folder: Path, logs: Logs, record: str) -> None:
    """The record says: all there, not uploaded."""
    logs.expect(HALF)
    put(folder, "sub/torn", record)
    assert repair(folder).records == ["rshare/sub/torn"]
    made = json.loads((folder / "vfsMeta/rshare/sub/torn").read_text())
    assert made["Dirty"] is True
    assert made["Size"] == 7
    assert made["Rs"] == [{"Pos": 0, "Size": 7}]
    assert (folder / "vfs/rshare/sub/torn").read_bytes() == b"content"
    assert not list(folder.glob("*.tmp"))
    assert repair(folder).records == []


def test_content_with_holes_is_moved_aside(folder: Path, logs: Logs) -> None:
    """It was fetched in part: uploading it would put zeros over something good."""
    logs.expect(HALF)
    put(folder, "holes", "")
    with (folder / "vfs/rshare/holes").open("r+b") as file:
        file.truncate(10 << 20)
    assert repair(folder).aside == ["rshare/holes"]
    assert (folder / "rescued/1/vfs/rshare/holes").stat().st_size == 10 << 20
    assert (folder / "rescued/1/vfsMeta/rshare/holes").read_bytes() == b""
    assert not (folder / "vfsMeta/rshare/holes").exists()
    assert not (folder / "vfs/rshare/holes").exists()


def test_moved_aside_twice(folder: Path, logs: Logs) -> None:
    """The earlier one stays."""
    logs.expect(HALF)
    for content in (b"\0first", b"\0second"):
        put(folder, "again", "", content)
        assert repair(folder).aside == ["rshare/again"]
    for number, content in (("1", b"\0first"), ("2", b"\0second")):
        assert (folder / "rescued" / number / "vfs/rshare/again").read_bytes() == content


def test_what_a_first_write_left_zeros_around(folder: Path, logs: Logs) -> None:
    """Its block is there, but the rest of it may be the remote's: not uploaded as whole."""
    logs.expect(HALF)
    put(folder, "part", "", bytes(100) + b"written" + bytes(100))
    assert repair(folder).aside == ["rshare/part"]


def test_content_without_a_record(folder: Path, logs: Logs) -> None:
    """rclone would remove it. One that nothing was written to goes that way."""
    logs.expect(HALF)
    (folder / "vfs/rshare/renamed").write_bytes(b"content")
    for name in ("opened", "sub/.hookd-probe-1"):
        with (folder / "vfs/rshare" / name).open("wb") as file:
            file.truncate(1 << 20)
    assert repair(folder).aside == ["rshare/renamed"]
    assert (folder / "rescued/1/vfs/rshare/renamed").read_bytes() == b"content"
    assert (folder / "vfs/rshare/opened").exists()


def part(folder: Path, *writes: tuple[int, bytes], fingerprint: str = "1048576") -> Path:
    """A file of 1 MiB on the remote, open, its first page written and known; its record."""
    name = "part"
    first = {"Pos": 0, "Size": 4096}
    record = {"Size": 1 << 20, "Rs": [first], "Dirty": True, "Fingerprint": fingerprint}
    put(folder, name, json.dumps(record), b"x" * 4096)
    with (folder / "vfs/rshare" / name).open("r+b") as file:
        file.truncate(1 << 20)
        for at, content in writes:
            file.seek(at)
            file.write(content)
    return folder / "vfsMeta/rshare" / name


def test_pages_written_behind_the_record_are_added(folder: Path, logs: Logs) -> None:
    """rclone knows the first write of an open file alone; the others would be fetched over."""
    logs.expect(HALF)
    record = part(folder, (65536, b"n" * 8192), (1 << 19, b"n" * 4096))
    assert repair(folder).extended == ["rshare/part"]
    assert json.loads(record.read_text())["Rs"] == [
        {"Pos": 0, "Size": 4096},
        {"Pos": 65536, "Size": 8192},
        {"Pos": 1 << 19, "Size": 4096},
    ]
    assert repair(folder).extended == []


def test_pages_that_may_be_written_in_part_are_moved_aside(folder: Path, logs: Logs) -> None:
    """With a record that keeps what is certain."""
    logs.expect(HALF)
    record = part(folder, (65536, b"n" * 4096), (1 << 19, b"only these"))
    found = repair(folder)
    assert (found.aside, found.extended) == (["rshare/part"], [])
    assert not record.exists()
    kept = json.loads((folder / "rescued/1/vfsMeta/rshare/part").read_text())
    assert kept["Rs"] == [{"Pos": 0, "Size": 4096}, {"Pos": 65536, "Size": 4096}]


def test_a_partly_cached_file_with_an_exact_record_stays(folder: Path, logs: Logs) -> None:
    """Nothing was written but what it says."""
    record = part(folder)
    before = record.read_text()
    found = repair(folder)
    assert (found.records, found.extended, found.aside) == ([], [], [])
    assert record.read_text() == before


def test_a_file_that_is_new_is_all_ours(folder: Path, logs: Logs) -> None:
    """There is nothing that its holes could be fetched from."""
    logs.expect(HALF)
    record = part(folder, (1 << 19, b"only these"), fingerprint="")
    assert repair(folder).extended == ["rshare/part"]
    assert json.loads(record.read_text())["Rs"] == [{"Pos": 0, "Size": 1 << 20}]


def test_what_cannot_be_read_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a clean cache, and not one that needs no repair."""
    put(folder, "sub/file", json.dumps({"Size": 7, "Dirty": True}))
    scandir = os.scandir

    def fail(path: str) -> object:
        if str(path).endswith("/sub"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        repair(folder)
    with pytest.raises(OSError, match="Input/output error"):
        list(files_below(folder / "vfsMeta"))


def test_good_records_stay(folder: Path, logs: Logs) -> None:
    """Byte for byte, also one without content and one of a probe."""
    good = json.dumps({"Size": 7, "Dirty": False})
    put(folder, "good", good)
    put(folder, "gone", "", content=None)
    put(folder, ".hookd-probe-1", "")
    found = repair(folder)
    assert (found.records, found.aside) == ([], [])
    assert (folder / "vfsMeta/rshare/good").read_text() == good


@pytest.mark.parametrize(
    ("size", "ranges", "content", "expected"),
    [
        (0, None, b"abcdef", [{"Pos": 0, "Size": 6}]),
        (0, None, b"ab\0\0ef", [{"Pos": 0, "Size": 6}]),
        (4, [{"Pos": 0, "Size": 4}], b"abcdef", [{"Pos": 0, "Size": 6}]),
        (
            4,
            [{"Pos": 0, "Size": 1}],
            b"a\0\0\0ef",
            [{"Pos": 0, "Size": 1}, {"Pos": 4, "Size": 2}],
        ),
        (4, None, b"\0\0\0\0ef", [{"Pos": 4, "Size": 2}]),
    ],
)
def test_a_record_older_than_its_content(
    folder: Path, logs: Logs, size: int, ranges: object, content: bytes, expected: object
) -> None:
    """What lies beyond its size was written since; a clean one says nothing of what was written."""
    record = folder / "vfsMeta/rshare/old"
    put(folder, "old", "", content)
    known = {"Size": size, "Rs": ranges, "Dirty": True, "Fingerprint": "11"}
    record.write_text(json.dumps(known))
    assert repair(folder).extended == ["rshare/old"]
    logs.expect(HALF)
    assert json.loads(record.read_text()) == {**known, "Size": 6, "Rs": expected}
    assert repair(folder).extended == []
    record.write_text(json.dumps({**known, "Dirty": False}))
    assert repair(folder).extended == []


def test_dirty(tmp_path: Path, logs: Logs) -> None:
    """Names below the mount point; clean ones are left out, unreadable ones count."""
    cache = Cache(tmp_path / "cache", remote="rshare", path="/sub", identity="0" * 12)
    try:
        for name in ("vfs", "vfsMeta"):
            (cache.folder / name / "rshare" / "sub").mkdir(parents=True)
        put(cache.folder, "sub/clean", json.dumps({"Size": 7, "Dirty": False}))
        put(cache.folder, "sub/dirty", json.dumps({"Size": 0, "Dirty": True}))
        put(cache.folder, "sub/torn", "")
        put(cache.folder, "sub/.hookd-probe-1", json.dumps({"Size": 7, "Dirty": True}))
        found = {each.name: (each.size_bytes, each.readable) for each in cache.dirty()}
        assert found == {"dirty": (7, True), "torn": (7, False)}
    finally:
        cache.close()
