"""What an earlier run left, read through the mount that takes it up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes.between import between
from tests.mount.rig import HookdMount, Server
from tests.mount.test_faults import Behind

pytestmark = pytest.mark.real

OLD, NEW = b"old", b"what was written over it" * 1000


@pytest.mark.parametrize("how", ["first", "behind", "remounted"])
def test_read_as_it_was_written(tmp_path: Path, server: Server, how: str) -> None:
    """New files and files written over old ones, left by a kill: never read as the remote had them."""
    (server.folder / "over").write_bytes(OLD)
    with between(server.port) as passing:
        mount = HookdMount(tmp_path, Behind(server, passing), write_back_s=3600)
        mount.settings["resume"] = "first" if how == "first" else "behind"
        try:
            mount.start()
            for name in ("over", "new"):
                (mount.point / name).write_bytes(NEW)
            passing.slow_s = 1.0  # so that all of it is listed before it is uploaded
            if how == "remounted":
                mount.settings["write_back_s"] = 1
                mount.kill_rclone()
                mount.until_stats(lambda s: s["ready"] and s["mount"]["remounts"] == 1)
            else:
                mount.kill()
                if mount.rclone_pid() is not None:  # it may die of a log that nobody reads
                    mount.kill_rclone()
                mount.settings["write_back_s"] = 1
                mount.start()
            assert sorted(path.name for path in mount.point.iterdir()) == ["new", "over"]
            for name in ("over", "new"):
                assert (mount.point / name).read_bytes() == NEW
            if how != "remounted":  # there the new rclone waits for its time again
                mount.until(lambda: server.files() == {"over": NEW, "new": NEW})
                mount.until_stats(lambda s: not s["dirty"]["files"])
                mount.until(lambda: _read(mount) == [NEW, NEW], within_s=10)
            assert mount.stop() == 0
            assert server.files() == {"over": NEW, "new": NEW}
        finally:
            mount.close()


def test_a_record_older_than_its_content(mount: HookdMount, server: Server) -> None:
    """A kill between the close of a file and its record: what was written wins over the remote's."""
    for name in ("over", "longer"):
        (server.folder / name).write_bytes(OLD * 1000)
    mount.settings["write_back_s"] = 3600
    mount.start()
    for name in ("over", "new"):
        (mount.point / name).write_bytes(NEW)
    assert (mount.point / "longer").read_bytes() == OLD * 1000
    with (mount.point / "longer").open("r+b") as file:  # r+ brings all of it into the cache
        file.seek(0, os.SEEK_END)
        file.write(NEW)
    time.sleep(1)  # rclone writes its records behind the close; here they are made old by hand
    mount.kill()
    if mount.rclone_pid() is not None:
        mount.kill_rclone()
    for path in mount.cache.rglob("vfsMeta/*/*"):
        record = json.loads(path.read_bytes())
        began = len(OLD * 1000) if path.name == "longer" else 0
        record |= {"Size": began, "Rs": [{"Pos": 0, "Size": began}] if began else None}
        path.write_text(json.dumps(record))
    mount.start()
    assert mount.stop() == 0
    assert server.files() == {"over": NEW, "new": NEW, "longer": OLD * 1000 + NEW}


def _read(mount: HookdMount) -> list[bytes]:
    return [(mount.point / name).read_bytes() for name in ("over", "new")]


@pytest.mark.real
@pytest.mark.parametrize("reserve", [True, False])
def test_a_torn_record_on_a_full_disk(mount: HookdMount, server: Server, reserve: bool) -> None:
    """rclone dies meanwhile: mended from the reserve; without one it waits for room, it does not end."""
    mount.cache.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", str(mount.cache)], check=True
    )
    try:
        mount.settings |= {"cache_min_free_bytes": 1, "write_back_s": 3600}
        mount.start()
        made = mount.write(3, size=1000)
        (place,) = mount.cache.glob("*/reserve")
        (record,) = mount.cache.glob("*/vfsMeta/rshare/f0")
        if not reserve:
            place.unlink()
        fill = mount.cache / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        # a torn record, and its block taken by others
        record.write_bytes(b"")
        with contextlib.suppress(OSError), (mount.cache / "fill2").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        mount.kill_rclone()
        if reserve:
            mount.until_stats(lambda s: s["ready"] and s["mount"]["remounts"] == 1)
        else:
            mount.wait_for_line("remount failed")
            mount.wait_for_line("No space left")
            assert mount.process is not None
            mount.process.send_signal(signal.SIGTERM)
            mount.wait_for_line("draining: ")
            assert mount.stop() == 75
            code, line = mount.refused()
            assert code == 75
            assert "No space left" in line
            assert "Traceback" not in mount.log.read_text()
            fill.unlink()
            mount.start()
        fill.unlink(missing_ok=True)
        assert mount.stop() == 0
        assert server.files() == made
    finally:
        mount.close()
        subprocess.run(["umount", "-l", str(mount.cache)], check=True)
