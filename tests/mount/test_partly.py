"""Files that are changed in place and are in the cache in part: the new bytes arrive, or are named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time

import pytest

from tests.mount.rig import HookdMount, Server

pytestmark = pytest.mark.real

PAGE = 4096
OFFSETS = (1 << 20, 2 << 20, 3 << 20)
OLD = b"o" * (4 << 20)
WITH_ZEROS = b"\0ab\0" * (PAGE // 4)
WITHOUT = b"N" * PAGE


def written(page: bytes) -> bytes:
    """The file as its writer left it."""
    new = bytearray(OLD)
    for offset in OFFSETS:
        new[offset : offset + PAGE] = page
    return bytes(new)


def write(mount: HookdMount, page: bytes) -> int:
    """Pages of `db`, each fsynced as a database does; the handle stays open."""
    handle = os.open(mount.point / "db", os.O_RDWR)
    for offset in OFFSETS:
        os.pwrite(handle, page, offset)
        os.fsync(handle)
    return handle


def kill(mount: HookdMount) -> None:
    """Both, at once."""
    mount.kill()
    if mount.rclone_pid() is not None:
        mount.kill_rclone()


def gone(handle: int) -> None:
    """Close what hangs in a dead mount."""
    with contextlib.suppress(OSError):
        os.close(handle)


@pytest.mark.parametrize("page", [WITH_ZEROS, WITHOUT])
def test_open_at_the_stop(mount: HookdMount, server: Server, page: bytes) -> None:
    """75 and its name; the next start uploads every page of it, zeros too."""
    (server.folder / "db").write_bytes(OLD)
    mount.settings["drain_timeout_s"] = 1
    mount.start()
    handle = write(mount, page)
    try:
        assert mount.stop() == 75
        assert "left: 'db' (4 MiB, open for writing)" in mount.log.read_text()
    finally:
        gone(handle)
    assert server.files()["db"] == OLD
    mount.start()
    assert mount.stop() == 0
    assert server.files()["db"] == written(page)


@pytest.mark.parametrize("closed", [True, False])
def test_pages_before_a_kill(mount: HookdMount, server: Server, closed: bool) -> None:
    """Whole pages are known to be written."""
    (server.folder / "db").write_bytes(OLD)
    mount.settings["write_back_s"] = 3600
    mount.start()
    handle = write(mount, WITHOUT)
    if closed:
        os.close(handle)
    kill(mount)
    if not closed:
        gone(handle)
    mount.start()
    assert mount.stop() == 0
    assert server.files()["db"] == written(WITHOUT)


def test_pages_with_zeros_before_a_kill(mount: HookdMount, server: Server) -> None:
    """Nobody can say whether their zeros are new: named at each end until somebody decided."""
    (server.folder / "db").write_bytes(OLD)
    mount.start()
    handle = write(mount, WITH_ZEROS)
    kill(mount)
    gone(handle)
    for _ in range(2):
        mount.start()
        mount.until_stats(lambda s: s["aside"])
        health = mount.stats()["health"]
        assert health["status"] == "degraded"
        assert health["reasons"][0].startswith("'db' (4 MiB) was written to")
        assert mount.stop() == 75
        assert any(line.startswith("hookd: aside: 'db' (4 MiB)") for line in mount.lines()[-3:])
        assert server.files()["db"] == OLD
    (content,) = mount.cache.glob("*/rescued/1/vfs/rshare/db")
    with content.open("rb") as file:
        for offset in OFFSETS:
            assert os.pread(file.fileno(), PAGE, offset) == WITH_ZEROS
    content.unlink()
    mount.start()
    assert mount.stop() == 0


def test_read_before_a_kill(mount: HookdMount, server: Server) -> None:
    """What of it was fetched is not taken for written, zeros or not: it is what the remote has."""
    old = os.urandom(2 << 20)
    (server.folder / "db").write_bytes(old)
    mount.settings["write_back_s"] = 3600
    mount.start()
    handle = os.open(mount.point / "db", os.O_RDWR)
    os.pwrite(handle, b"N" * PAGE, 0)
    for at in range(PAGE, len(old), PAGE):
        assert os.pread(handle, PAGE, at) == old[at : at + PAGE]
    kill(mount)
    gone(handle)
    (record,) = mount.cache.glob("*/vfsMeta/rshare/db")
    known = json.loads(record.read_text())["Rs"]
    assert known == [{"Pos": 0, "Size": PAGE}]  # nothing of what was fetched
    mount.start()
    assert mount.stop() == 0
    assert server.files()["db"] == b"N" * PAGE + old[PAGE:]
    assert not list(mount.cache.glob("*/rescued/*/vfs/rshare/*"))


def test_records_that_are_gone(mount: HookdMount, server: Server) -> None:
    """The queue is a witness as well: 75. What has no record any more is found at the next start."""
    mount.settings["drain_timeout_s"] = 1
    mount.start()
    server.stop()
    made = mount.write(3)
    mount.until_stats(lambda s: s["uploads"]["files"] == 3)
    for folder in mount.cache.glob("*/vfsMeta"):
        shutil.rmtree(folder)
    assert mount.stop() == 75
    for name in made:
        assert f"left: '{name}' (4 KiB" in mount.log.read_text()
    server.start()
    mount.start()
    assert mount.stop() == 0
    assert server.files() == made


def test_killed_between_the_renames(mount: HookdMount, server: Server) -> None:
    """rclone renames content, then record: the content is uploaded under its new name."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    content = os.urandom(100_000)
    (mount.point / "a.tmp").write_bytes(content)
    mount.until_stats(lambda s: s["uploads"]["files"] == 1)
    kill(mount)
    time.sleep(0.1)
    (found,) = mount.cache.glob("*/vfs/rshare/a.tmp")
    found.rename(found.with_name("a"))
    mount.start()
    assert mount.stop() == 0
    assert server.files() == {"a": content}


def test_a_refused_start_names_what_is_left(mount: HookdMount, server: Server) -> None:
    """Its code stays that of the refusal; the files of an earlier run are named all the same."""
    mount.settings |= {"write_back_s": 3600, "remote_wait_s": 0.1}
    mount.start()
    made = mount.write(2)
    mount.until_stats(lambda s: s["uploads"]["files"] == 2)
    kill(mount)
    right = mount.variables["RCLONE_CONFIG_RSHARE_PASS"]
    mount.variables["RCLONE_CONFIG_RSHARE_PASS"] = "wrong"
    before = len(mount.lines())
    code, line = mount.refused()
    assert code == 77, line
    told = "\n".join(mount.lines()[before:])
    for name in made:
        assert f"left: '{name}' (4 KiB, not uploaded yet)" in told
    mount.variables["RCLONE_CONFIG_RSHARE_PASS"] = right
    mount.start()
    assert mount.stop() == 0
    assert server.files() == made
