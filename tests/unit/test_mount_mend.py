"""The cache before every start of a mounter: a full disk, a slow one, a broken one."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import anyio
import pytest

from hookd.errors import Exit, UserError
from hookd.mount import mend
from hookd.mount.cache import Cache
from hookd.mount.mend import Mend
from hookd.mount.repair import Repaired, repair
from hookd.mount.reserve import SIZE_BYTES, Reserve

pytestmark = pytest.mark.anyio


def cache(folder: Path) -> Cache:
    """With one file whose record is torn."""
    made = Cache(folder, remote="r", path="", identity="1")
    (made.folder / "vfs" / "r").mkdir(parents=True)
    (made.folder / "vfsMeta" / "r").mkdir(parents=True)
    (made.folder / "vfs" / "r" / "f").write_bytes(b"content" * 1000)
    (made.folder / "vfsMeta" / "r" / "f").write_bytes(b"")
    return made


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is given back and the record mended; without one it is one line and 75."""
    made = cache(tmp_path)
    reserve = made.folder / "reserve"

    def full(folder: Path) -> Repaired:
        if reserve.exists() or not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return repair(folder)

    monkeypatch.setattr(mend, "repair", full)
    said: list[str] = []
    stage = Mend(made, say=said.append)
    await stage.hold_reserve()
    assert reserve.stat().st_blocks * 512 >= SIZE_BYTES
    room = True
    await stage.mend()
    assert json.loads((made.folder / "vfsMeta" / "r" / "f").read_bytes())["Dirty"] is True
    room = False
    with pytest.raises(UserError, match="No space left") as caught:
        await stage.mend()
    assert caught.value.code is Exit.TEMPFAIL
    assert said == []
    made.close()


async def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as it takes, and says so; a mending that was given up is waited for."""
    made = cache(tmp_path)
    monkeypatch.setattr(mend, "STILL_READING_S", 0.01)
    gate, running = threading.Event(), []

    def slow(folder: Path) -> Repaired:
        running.append(1)
        assert len(running) == 1
        gate.wait()
        running.pop()
        return Repaired()

    monkeypatch.setattr(mend, "repair", slow)
    said: list[str] = []
    stage = Mend(made, say=said.append)
    with anyio.move_on_after(0.1) as given_up:
        await stage.mend()
    assert given_up.cancelled_caught
    assert said
    assert "still reading" in said[0]
    async with anyio.create_task_group() as group:
        group.start_soon(stage.mend)
        await anyio.sleep(0.05)
        gate.set()
    assert running == []
    made.close()


async def test_a_broken_disk(tmp_path: Path) -> None:
    """An error of any look at it is one line and 75."""
    made = cache(tmp_path)

    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(UserError, match="Input/output error") as caught:
        await Mend(made, say=print).scan(broken)
    assert caught.value.code is Exit.TEMPFAIL
    made.close()


def test_a_reserve_is_not_taken_from_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor twice."""
    reserve = Reserve(tmp_path / "reserve")
    monkeypatch.setattr("hookd.mount.reserve.SPARE", 1 << 40)
    reserve.hold()
    assert not reserve.release()
    monkeypatch.undo()
    reserve.hold()
    reserve.hold()
    assert reserve.release()
    assert not reserve.release()
