"""Spool: every event that a shim left there is admitted once, in order, or visibly set aside."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from watchdog.observers import Observer

from hookd.errors import UserError
from hookd.intake import spool as module
from hookd.intake.spool import ABANDONED_S, BAD, Spool
from hookd.wire import ANSWER_SPOOL, HEADER_SIZE, MAX_BODY, Answer, EventFrame, Heartbeat, encode
from tests.conftest import Logs

pytestmark = pytest.mark.anyio

REFUSED = "moved to bad/"


class Taken:
    """An admission that keeps what it is given, and answers as told."""

    def __init__(self) -> None:
        self.frames: list[EventFrame] = []
        self.answer = Answer(0)
        self.came = anyio.Event()
        self.lying: list[bool] = []
        """Whether the file was still there when its event was admitted."""
        self.folder: Path | None = None

    async def __call__(self, frame: EventFrame, origin: str) -> Answer:
        assert origin == "spool"
        if self.folder is not None:
            self.lying.append(any(self.folder.glob("*.event")))
        self.frames.append(frame)
        self.came.set()
        return self.answer

    @property
    def names(self) -> list[str]:
        return [frame.argv[1] for frame in self.frames]


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def spool(tmp_path: Path, taken: Taken, logs: Logs) -> Spool:
    """A prepared, empty spool. Every test says which log lines it provokes."""
    found = Spool(tmp_path / "spool", admit=taken)
    found.prepare()
    return found


def frame(name: str, event_id: bytes | None = None) -> bytes:
    """One event that can be told from others."""
    return encode(EventFrame(event_id or os.urandom(16), ("close", name), "/", 5000))


def put(spool: Spool, stamp: int, name: str, content: bytes | None = None) -> Path:
    """A file as the shim writes it."""
    path = spool.folder / f"{stamp:020d}-{os.urandom(16).hex()}.event"
    path.write_bytes(frame(name) if content is None else content)
    return path


def temporary(spool: Spool, content: bytes, *, age_s: float) -> Path:
    """A shim at work, or one that was killed."""
    path = spool.folder / f".tmp-{os.urandom(16).hex()}"
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


class TestSweep:
    async def test_in_order(self, spool: Spool, taken: Taken) -> None:
        """Oldest first by name, whatever the order on disk; the files are gone, the count is right."""
        for stamp in (7, 3, 999, 5, 1000):
            put(spool, stamp, str(stamp))
        assert spool.waiting() == 5
        assert await spool.sweep() == 5
        assert taken.names == ["3", "5", "7", "999", "1000"]
        assert os.listdir(spool.folder) == [BAD]
        assert (spool.taken, spool.bad, spool.waiting()) == (5, 0, 0)

    async def test_empty(self, spool: Spool) -> None:
        """Nothing is nothing; bad/ is not an event."""
        assert await spool.sweep() == 0
        assert spool.waiting() == 0

    async def test_removed_after_the_commit(self, spool: Spool, taken: Taken) -> None:
        """A file is there until its event was admitted."""
        taken.folder = spool.folder
        put(spool, 1, "a")
        await spool.sweep()
        assert taken.lying == [True]
        assert spool.waiting() == 0

    async def test_cannot_commit(self, spool: Spool, taken: Taken) -> None:
        """What cannot be committed stays as it is, is not counted, and is taken later."""
        path = put(spool, 1, "a")
        before = path.read_bytes()
        taken.answer = Answer(ANSWER_SPOOL, "disk full")
        assert await spool.sweep() == 0
        assert path.read_bytes() == before
        assert (spool.taken, spool.waiting()) == (0, 1)
        taken.answer = Answer(0)
        assert await spool.sweep() == 1

    @pytest.mark.parametrize("code", [0, 1, 7])
    async def test_any_other_answer(self, spool: Spool, taken: Taken, code: int) -> None:
        """Whatever zdb would have been told: the event is kept, so its file goes."""
        taken.answer = Answer(code)
        put(spool, 1, "a")
        assert await spool.sweep() == 1
        assert spool.waiting() == 0

    async def test_twice_the_same_event(self, spool: Spool, taken: Taken) -> None:
        """One event in two files is handed over twice, under one id: admission knows it."""
        content = frame("a", bytes(16))
        put(spool, 1, "a", content)
        put(spool, 2, "a", content)
        assert await spool.sweep() == 2
        assert len({frame.event_id for frame in taken.frames}) == 1

    async def test_two_sweeps_at_once(self, spool: Spool, taken: Taken) -> None:
        """The watch and the drain may sweep together: each file is taken once."""
        for number in range(20):
            put(spool, number, str(number))
        async with anyio.create_task_group() as group:
            group.start_soon(spool.sweep)
            group.start_soon(spool.sweep)
        assert sorted(taken.names, key=int) == list(map(str, range(20)))

    async def test_cannot_be_removed(
        self, spool: Spool, taken: Taken, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that cannot be removed does not end the sweep."""
        logs.expect("spool file cannot be removed")
        put(spool, 1, "a")
        put(spool, 2, "b")

        def unlink(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, "read-only")

        monkeypatch.setattr(Path, "unlink", unlink)
        assert await spool.sweep() == 2
        assert taken.names == ["a", "b"]

    async def test_folder_gone(self, spool: Spool, logs: Logs) -> None:
        """Without the folder a sweep is an error in the log, not the daemon's end."""
        logs.expect("spool cannot be read")
        (spool.folder / BAD).rmdir()
        spool.folder.rmdir()
        assert await spool.sweep() == 0


class TestNoEvent:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"H",
            frame("a")[: HEADER_SIZE - 1],
            frame("a")[:-1],
            frame("a") + b"x",
            frame("a") + frame("b"),
            b"garbage that is longer than a header",
            encode(Heartbeat()),
            encode(Answer(0)),
            b"HKD\x01\x01" + bytes(11) + bytes(MAX_BODY),
            b"HKD\x01\x01\0\0\0" + b"\xff" * 8 + bytes(2 * MAX_BODY),
            bytes(frame("a")[:-1]) + b"X",
        ],
        ids=[
            "empty", "one byte", "half a header", "truncated", "trailing byte", "two frames",
            "garbage", "heartbeat", "answer", "no length", "oversized", "wrong checksum",
        ],
    )  # fmt: skip
    async def test_set_aside(self, spool: Spool, taken: Taken, logs: Logs, content: bytes) -> None:
        """What is no event is moved to bad/ as it is and counted, and those behind it are taken."""
        logs.expect(REFUSED)
        put(spool, 1, "", content)
        put(spool, 2, "good")
        assert await spool.sweep() == 1
        assert taken.names == ["good"]
        [aside] = (spool.folder / BAD).iterdir()
        assert aside.read_bytes() == content
        assert (spool.bad, spool.bad_files(), spool.waiting()) == (1, 1, 0)
        await spool.sweep()
        assert spool.bad == 1

    async def test_what_is_no_file(
        self, spool: Spool, taken: Taken, logs: Logs, tmp_path: Path
    ) -> None:
        """Links, folders, pipes and sockets are set aside without being followed or waited for."""
        logs.expect(REFUSED)
        (tmp_path / "secret").write_bytes(frame("secret"))
        (spool.folder / "1.event").symlink_to(tmp_path / "secret")
        (spool.folder / "2.event").mkdir()
        os.mkfifo(spool.folder / "3.event")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(spool.folder / "4.event"))
        handles = len(os.listdir("/proc/self/fd"))
        with anyio.fail_after(5):
            assert await spool.sweep() == 0
        assert taken.frames == []
        assert spool.bad_files() == 4
        assert len(os.listdir("/proc/self/fd")) == handles
        assert (tmp_path / "secret").exists()

    async def test_same_name_twice(self, spool: Spool, logs: Logs) -> None:
        """A bad file never takes the place of an earlier one in bad/."""
        logs.expect(REFUSED)
        for content in (b"1", b"2"):
            (spool.folder / "x.event").write_bytes(content)
            await spool.sweep()
        kept = {path.read_bytes() for path in (spool.folder / BAD).iterdir()}
        assert kept == {b"1", b"2"}

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM])
    async def test_trouble_of_ours(
        self,
        spool: Spool,
        taken: Taken,
        logs: Logs,
        monkeypatch: pytest.MonkeyPatch,
        code: int,
    ) -> None:
        """A good event that cannot be read *now* stays where it is and is taken later."""
        logs.expect("spool file cannot be read, stays")
        put(spool, 1, "a")
        real = module._read

        def read(_: Path) -> EventFrame:
            raise OSError(code, "not now")

        monkeypatch.setattr(module, "_read", read)
        assert await spool.sweep() == 0
        assert (spool.bad, spool.waiting()) == (0, 1)
        monkeypatch.setattr(module, "_read", real)
        assert await spool.sweep() == 1
        assert taken.names == ["a"]

    async def test_cannot_be_moved(self, spool: Spool, taken: Taken, logs: Logs) -> None:
        """A bad file that cannot be moved stays, and the sweep goes on."""
        logs.expect("no event, and cannot be moved to bad/")
        (spool.folder / BAD).rmdir()
        put(spool, 1, "", b"bad")
        put(spool, 2, "good")
        assert await spool.sweep() == 1
        assert (spool.bad, spool.waiting()) == (0, 1)


class TestTemporary:
    async def test_at_work(self, spool: Spool, taken: Taken) -> None:
        """A young .tmp- belongs to its shim: it is neither taken nor counted."""
        path = temporary(spool, frame("a")[:10], age_s=0)
        assert spool.waiting() == 0
        assert await spool.sweep() == 0
        assert path.exists()

    async def test_abandoned_whole(self, spool: Spool, taken: Taken) -> None:
        """A whole one whose shim was killed before the rename is an event, after the named ones."""
        temporary(spool, frame("abandoned"), age_s=ABANDONED_S + 1)
        put(spool, 1, "named")
        assert spool.waiting() == 2
        assert await spool.sweep() == 2
        assert taken.names == ["named", "abandoned"]
        assert spool.waiting() == 0

    async def test_abandoned_half(self, spool: Spool, taken: Taken, logs: Logs) -> None:
        """Half of one is kept for a person, visibly named."""
        logs.expect(REFUSED)
        temporary(spool, frame("a")[:-5], age_s=ABANDONED_S + 1)
        assert await spool.sweep() == 0
        [name] = os.listdir(spool.folder / BAD)
        assert "tmp-" in name
        assert not name.startswith(".")

    async def test_renamed_under_the_sweep(
        self, spool: Spool, taken: Taken, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A slow shim gives it its name while the sweep runs: taken under that name, once."""
        path = temporary(spool, frame("a"), age_s=ABANDONED_S + 1)
        names = spool._names
        found = names()
        path.rename(spool.folder / "1.event")
        monkeypatch.setattr(spool, "_names", lambda **_: found)
        assert await spool.sweep() == 0
        monkeypatch.setattr(spool, "_names", names)
        assert await spool.sweep() == 1
        assert taken.names == ["a"]

    async def test_no_shim_lives(self, spool: Spool, taken: Taken) -> None:
        """Then a young one is an event like any other; half of one may yet become whole."""
        temporary(spool, frame("whole"), age_s=0)
        half = temporary(spool, frame("half")[:-5], age_s=0)
        assert spool.coming() == 2
        assert await spool.sweep(abandoned=True) == 1
        assert taken.names == ["whole"]
        assert half.exists()
        assert (spool.coming(), spool.problems()) == (1, [])

    async def test_half_of_one_that_grows_old(self, spool: Spool, taken: Taken, logs: Logs) -> None:
        """It is set aside, and said; not any more once somebody has moved it away."""
        logs.expect(REFUSED)
        temporary(spool, frame("half")[:-5], age_s=ABANDONED_S + 1)
        await spool.sweep(abandoned=True)
        assert spool.coming() == 0
        [line] = spool.problems()
        assert line.startswith("1 file from the spool was no event and lies in")
        for path in (spool.folder / BAD).iterdir():
            path.unlink()
        assert spool.problems() == []


class TestProblems:
    async def test_of_earlier_runs(self, spool: Spool) -> None:
        """What lies in bad/ from before is counted, and no problem of this run's stop."""
        (spool.folder / BAD / "old").touch()
        assert spool.bad_files() == 1
        assert spool.problems() == []

    async def test_unreadable(
        self, spool: Spool, taken: Taken, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It stays, is not waited for, and is said until it can be read."""
        put(spool, 1, "a")

        def fail(path: Path) -> EventFrame:
            raise OSError(errno.EIO, "Input/output error")

        logs.expect("spool file cannot be read, stays")
        with monkeypatch.context() as patched:
            patched.setattr(module, "_read", fail)
            await spool.sweep()
        assert (spool.waiting(), spool.coming()) == (1, 0)
        assert spool.problems() == [f"1 file in the spool {spool.folder} cannot be read"]
        await spool.sweep()
        assert taken.names == ["a"]
        assert spool.problems() == []

    async def test_gone(self, spool: Spool, logs: Logs) -> None:
        """A folder that is not there holds nothing to wait for, and nobody knows what it held."""
        logs.expect("spool cannot be read")
        (spool.folder / BAD).rmdir()
        spool.folder.rmdir()
        assert await spool.sweep() == 0
        assert spool.coming() == 0
        [line] = spool.problems()
        assert "No such file or directory" in line


class TestPrepare:
    async def test_modes(self, tmp_path: Path, taken: Taken) -> None:
        """Only we can look at what zdb said and put events there."""
        spool = Spool(tmp_path / "deep" / "spool", admit=taken)
        spool.prepare()
        spool.prepare()
        for folder in (spool.folder, spool.folder / BAD):
            assert folder.stat().st_mode & 0o777 == 0o700

    async def test_writable_for_others(self, tmp_path: Path, taken: Taken) -> None:
        """A folder in which anybody can put events is refused."""
        tmp_path.chmod(0o777)
        with pytest.raises(UserError):
            Spool(tmp_path, admit=taken).prepare()


@asynccontextmanager
async def running(spool: Spool) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(spool.run)
        yield
        group.cancel_scope.cancel()


class TestWatch:
    async def test_wakes(self, spool: Spool, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is renamed into the folder is taken at once, long before the next sweep."""
        monkeypatch.setattr(module, "SWEEP_EVERY_S", 60.0)
        put(spool, 1, "before")
        async with running(spool):
            for number in range(3):
                with anyio.fail_after(5):
                    await taken.came.wait()
                taken.came = anyio.Event()
                shim = temporary(spool, frame(f"after {number}"), age_s=0)
                shim.rename(spool.folder / f"{number + 2:020d}-x.event")
            with anyio.fail_after(5):
                await taken.came.wait()
        assert taken.names == ["before", "after 0", "after 1", "after 2"]

    async def test_without_a_watch(
        self, spool: Spool, taken: Taken, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nothing can be watched, the sweep alone keeps the promise."""
        logs.expect("spool is swept, not watched")
        monkeypatch.setattr(module, "SWEEP_EVERY_S", 0.01)

        def start(_: object) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

        monkeypatch.setattr(type(Observer()), "start", start)
        async with running(spool):
            await anyio.lowlevel.checkpoint()
            put(spool, 1, "a")
            with anyio.fail_after(5):
                await taken.came.wait()
        assert taken.names == ["a"]
