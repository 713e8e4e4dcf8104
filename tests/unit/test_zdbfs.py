"""Asking zdbfs to write out its cache: one that hangs, dies or is none costs a line and one thread."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import MountUnusable
from hookd.zdbfs import Zdbfs

pytestmark = pytest.mark.anyio

MOUNT = Path("/mnt/somewhere")


class Kernel:
    """What the system call does."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.calls = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def snapshot(self, mount: Path) -> None:
        self.calls += 1
        self.hangs.wait(10)
        if self.error is not None:
            raise OSError(self.error, "")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr("hookd.zdbfs._snapshot", made.snapshot)
    yield made
    made.hangs.set()


async def test_flush(kernel: Kernel) -> None:
    await Zdbfs(MOUNT).flush()
    assert kernel.calls == 1


async def test_a_folder_that_is_no_mount(tmp_path: Path) -> None:
    """The real system call: a mount point where nothing is mounted is a plain folder."""
    with pytest.raises(MountUnusable, match="zdbfs is not mounted there") as found:
        await Zdbfs(tmp_path).flush()
    assert str(tmp_path) in str(found.value) and not found.value.hangs


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MountUnusable, match="No such file"):
        await Zdbfs(tmp_path / "none").flush()


async def test_a_dead_mount(kernel: Kernel) -> None:
    kernel.error = errno.ENOTCONN
    with pytest.raises(MountUnusable, match="not connected"):
        await Zdbfs(MOUNT).flush()


async def test_a_mount_that_hangs_is_asked_once(kernel: Kernel) -> None:
    """However often a checkpoint is wanted; once it answers again, it is asked again."""
    kernel.hangs.clear()
    zdbfs = Zdbfs(MOUNT, limit_s=0.1)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(MountUnusable, match="has not answered for") as found:
            await zdbfs.flush()
        assert found.value.hangs
    assert time.monotonic() - began < 5 and kernel.calls == 1
    kernel.hangs.set()
    assert zdbfs._thread is not None
    zdbfs._thread.join(5)
    await zdbfs.flush()
    assert kernel.calls == 2
