"""One running `rclone mount`: its log, its remote control, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from hookd.errors import RemoteRefused, UserError
from hookd.log import get, scrub
from hookd.mount import failures
from hookd.mount.provider import ControlError, Ended, Queue, Upload
from hookd.rclone.control import HungUp, Refused, RemoteControl

log = get("mount")

ANSWER_WITHIN_S = 5.0
END_WITHIN_S = 5.0
LONGEST_LINE = 1 << 20
LAST_WORDS = 20
REMEMBERED = 1000
HURRY_AGAIN_S = 2.0
"""A file that failed has a new waiting time; it is hurried again at most this often."""

SAY_AGAIN_S = 60.0
_LONG_AGO_S = -1e9
_FAILED = re.compile(r"failed to upload try #(\d+).*?: ", re.IGNORECASE)


class RcloneMount:
    """See provider.Mount."""

    def __init__(
        self,
        process: Process,
        *,
        mountpoint: Path,
        target: str,
        control: RemoteControl,
        record: Path,
    ) -> None:
        """`record` keeps the process's id, for a later hookd if this one is killed."""
        self._process = process
        self._mountpoint = mountpoint
        self._target = target
        self._control = control
        self._ended: Ended | None = None
        self._over = anyio.Event()
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._why: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._hurried: dict[int, float] = {}
        with contextlib.suppress(OSError):
            record.write_text(f"{process.pid} {start_time(process.pid)}\n")
        self._listening = asyncio.create_task(self._listen())

    @property
    def mountpoint(self) -> Path:
        """See provider.Mount."""
        return self._mountpoint

    @property
    def pid(self) -> int:
        """See provider.Mount."""
        return self._process.pid

    @property
    def ended(self) -> Ended | None:
        """See provider.Mount."""
        return self._ended

    async def wait(self) -> Ended:
        """See provider.Mount."""
        await self._over.wait()
        assert self._ended is not None
        return self._ended

    # -- its log ---------------------------------------------------------------------------------

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        stream = BufferedByteReceiveStream(self._process.stderr)
        with contextlib.suppress(
            anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError
        ):
            while True:
                try:
                    line = await stream.receive_until(b"\n", LONGEST_LINE)
                except anyio.DelimiterNotFound:
                    await stream.receive(LONGEST_LINE)
                    continue
                self._hear(line.decode("utf-8", "replace"))
        code = await self._process.wait()
        self._ended = Ended(code=code, last_words=list(self._last_words))
        self._over.set()

    def _hear(self, line: str) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
            text, name = scrub(str(said["msg"])), str(said.get("object", ""))
        except (ValueError, KeyError, TypeError):  # a panic of Go is no JSON
            said, text, name = {"level": "error"}, scrub(line.strip()), ""
        if not text or said.get("level") not in ("error", "critical", "fatal"):
            return
        if text.startswith('rc: "'):  # an answer to a question of ours: we have it
            return
        self._last_words.append(f"{name}: {text}" if name else text)
        if _FAILED.search(text):
            self._why.pop(name, None)
            self._why[name] = _FAILED.sub("", text.removeprefix("vfs cache: "))
            if len(self._why) > REMEMBERED:
                self._why.pop(next(iter(self._why)))
        self._say(text, name)

    def _say(self, text: str, name: str) -> None:
        """Into the log, the same with other numbers once a minute: an outage says it for every file."""
        now, kind = time.monotonic(), re.sub(r"\d+", "#", text)[:200]
        if now - self._said.get(kind, -SAY_AGAIN_S) < SAY_AGAIN_S:
            return
        if len(self._said) > REMEMBERED:
            self._said.clear()
        self._said[kind] = now
        log.warning("rclone", said=text, **({"file": name} if name else {}))

    # -- what it is asked ------------------------------------------------------------------------

    async def queue(self) -> Queue:
        """See provider.Mount."""
        try:
            stats = await self._ask("vfs/stats")
            disk = stats.get("diskCache")
            if disk is None:  # cache modes off and minimal keep no queue: close is the upload
                return Queue()
            found = await self._ask("vfs/queue")
        except Refused as error:
            raise ControlError(error.text) from None
        uploads = tuple(
            Upload(
                name=item["name"],
                size_bytes=max(0, int(item["size"])),
                # rclone counts a try when it begins
                tries=(tries := max(0, int(item["tries"]) - bool(item["uploading"]))),
                why=self._why.get(item["name"], "") if tries else "",
            )
            for item in found["queue"] or ()
        )
        return Queue(
            uploads=uploads,
            in_progress=int(disk["uploadsInProgress"]),
            cache_bytes=int(disk["bytesUsed"]),
            cache_files=int(disk["files"]),
            out_of_space=bool(disk["outOfSpace"]),
        )

    async def hurry(self, only: str | None = None) -> None:
        """See provider.Mount."""
        now = time.monotonic()
        try:
            found = (await self._ask("vfs/queue"))["queue"] or ()
        except Refused:
            return  # this cache mode has no queue
        waiting = [
            int(item["id"])
            for item in found
            if (only is None or item["name"] == only)
            and not item["uploading"]
            and item["expiry"] >= 0
            and now - self._hurried.get(int(item["id"]), -HURRY_AGAIN_S) >= HURRY_AGAIN_S
        ]
        if not waiting:
            return
        self._hurried |= dict.fromkeys(waiting, now)
        # One question for all: a thousand questions cost what uploads a thousand files. What was
        # uploaded in between is refused, each by itself.
        await self._ask(
            "job/batch",
            concurrency=1,
            inputs=[
                {"_path": "vfs/queue-set-expiry", "id": number, "expiry": _LONG_AGO_S}
                for number in waiting
            ],
        )

    async def arrived(self, names: Collection[str]) -> None:
        """See provider.Mount."""
        # One name a folder: what is forgotten is the folder's listing. Never everything at once: that
        # loses the files that rclone has from its cache alone.
        one_each = {name.rpartition("/")[0]: name for name in names}
        if not one_each:
            return
        files: dict[str, Any] = {f"file{n}": name for n, name in enumerate(one_each.values())}
        try:
            await self._ask("vfs/forget", **files)
        except Refused as error:
            raise ControlError(error.text) from None

    async def ask_remote(self, name: str, *, within_s: float = ANSWER_WITHIN_S) -> int | None:
        """See provider.Mount."""
        try:
            found = await self._ask(
                "operations/stat",
                within_s=within_s,
                fs=self._target,
                remote=name,
                opt={"filesOnly": True, "noModTime": True, "noMimeType": True},
            )
        except Refused as error:
            raise await self._cause(error.text) from None
        item = found.get("item")
        return None if item is None else int(item["Size"])

    async def _cause(self, text: str) -> UserError:
        """What a question about one file was refused for. The answer to a HEAD has no words: S3 says
        "Forbidden" of a clock that is wrong too, and says so only of a listing."""
        error = failures.classify(self._target, text)
        if isinstance(error, RemoteRefused):
            opt = {"dirsOnly": True, "noModTime": True, "noMimeType": True}
            try:
                await self._ask("operations/list", fs=self._target, remote="", opt=opt)
            except Refused as said:
                return failures.classify(self._target, said.text)
            except ControlError:
                pass  # a long listing: then it is as it was said
        return error

    async def has_buckets_only(self) -> bool:
        """See provider.Mount."""
        try:
            found = await self._ask("operations/fsinfo", fs=self._target)
        except Refused as error:
            raise ControlError(error.text) from None
        return bool(found["Features"].get("BucketBased")) and not found.get("Root")

    async def answers(self) -> bool:
        """See provider.Mount. rclone opens its control before it takes in what its cache holds."""
        try:
            await self._ask("rc/noop")
        except Refused:
            return True
        except ControlError:
            return False
        return True

    async def _ask(
        self, command: str, *, within_s: float = ANSWER_WITHIN_S, **parameters: object
    ) -> dict[str, Any]:
        """Raises Refused, ControlError."""
        try:
            with anyio.fail_after(within_s):
                return await self._control.call(command, **parameters)
        except TimeoutError:
            raise ControlError(f"{command}: no answer within {within_s:g} s") from None
        except HungUp as error:
            raise ControlError(f"{command}: {error}") from None

    # -- its end ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """See provider.Mount."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with anyio.move_on_after(END_WITHIN_S):
            await self._over.wait()
            return
        self.kill()
        await self._over.wait()

    def kill(self) -> None:
        """See provider.Mount."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


# -- a process that is no child ------------------------------------------------------------------


def start_time(pid: int) -> str:
    """When the process began, in ticks since boot: with the id it names one process.

    Raises OSError if it is gone, or a zombie that nobody has waited for.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return fields[19]


def lives(pid: int, started: str, argument: str) -> bool:
    """Whether that very process runs and has `argument` in its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return start_time(pid) == started and any(argument.encode() in word for word in words)
    except (OSError, IndexError):
        return False


async def end(pid: int, started: str) -> None:
    """SIGTERM, then SIGKILL, to a process that is no child of ours."""
    for number, within_s in ((signal.SIGTERM, END_WITHIN_S), (signal.SIGKILL, END_WITHIN_S)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with anyio.move_on_after(within_s):
            while True:
                try:
                    if start_time(pid) != started:
                        return
                except (OSError, IndexError):
                    return
                await anyio.sleep(0.02)
