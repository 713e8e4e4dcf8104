"""A real zdbfs over a real zdb, for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.living_zdb import LivingZdb

needs_zdbfs = pytest.mark.skipif(
    shutil.which("zdbfs") is None or not os.access("/dev/fuse", os.W_OK),
    reason="zdbfs is not on PATH, or /dev/fuse cannot be opened",
)


class Mount:
    """A zdbfs over a zdb, at `folder/mnt`."""

    def __init__(self, zdb: LivingZdb, folder: Path) -> None:
        self.path = folder / "mnt"
        self.path.mkdir(exist_ok=True)
        secret = "well-known"
        options = f"host=127.0.0.1,port={zdb.port},ms={secret},ds={secret}"
        if "zdbfs-meta" not in str(zdb.client.ask("NSLIST")):
            options += ",autons"
        else:  # the scratch space is not stored, and autons refuses what is there already
            zdb.client.ask("NSNEW", "zdbfs-temp")
            for key, value in (("mode", "seq"), ("password", "hello"), ("public", "0")):
                zdb.client.ask("NSSET", "zdbfs-temp", key, value)
        with (folder / "zdbfs.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["zdbfs", "-f", "-o", options, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        ends = time.monotonic() + 20
        while not os.path.ismount(self.path):
            assert self._process.poll() is None, (folder / "zdbfs.log").read_text()
            assert time.monotonic() < ends, "zdbfs does not mount"
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM: it writes out its cache, unmounts and ends."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(30) == 0

    def kill(self) -> None:
        """kill -9, and the mount is gone."""
        self._process.kill()
        self._process.wait()
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)

    def suspend(self) -> None:
        """It takes requests (the kernel does) and answers none."""
        self._process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def mounted(zdb: LivingZdb, folder: Path) -> Iterator[Mount]:
    """Gone afterwards."""
    mount = Mount(zdb, folder)
    try:
        yield mount
    finally:
        mount.kill()
