"""The remote of an rclone store: rclone's calls in hookd's terms, and whether it is the right one.

In: paths below the remote; out: what lies there, errors classified. This module owns the invariant
that nothing is written to, and no absence believed of, a remote that is not the one known here: a
folder that is not mounted, an emptied bucket, another one under the same name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync

from hookd.errors import RemoteMissing, StoreUnreachable
from hookd.log import get
from hookd.rclone.control import Content, HungUp, Refused, RemoteControl
from hookd.stores.directory_copy import fsync_folder
from hookd.stores.rclone_plan import Plan, plan
from hookd.stores.rclone_process import FS, Down, RcloneProcess
from hookd.stores.rclone_sums import Item
from hookd.stores.rclone_words import understand
from hookd.stores.zstor_words import Scrubber

log = get("rclone")

OWN = ".hookd"
TMP = f"{OWN}/tmp"
STORE_ID = f"{OWN}/store-id"
MAX_SMALL_BYTES = 1 << 30
"""Longest object that is taken into memory (the manifest of a million files is a tenth)."""

READS_HERE = 32
"""Small objects of a plain folder read at once. A read that is given up while the folder hangs (NFS)
keeps its thread and its place here: no more are ever left behind, and nobody else waits for them."""

BELIEVED_FOR_S = 5.0
"""How long a remote across a network stays the one that it was; a folder is looked at each time."""

T = TypeVar("T")


class RcloneRemote:
    """One remote behind one `RcloneProcess`."""

    def __init__(
        self,
        process: RcloneProcess,
        *,
        known_id: Path,
        verify: str,
        scrub: Scrubber,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        """`known_id` is a local file: the id of the store that was found first."""
        self.process = process
        self._known_id = known_id
        self._verify = verify
        self._scrub = scrub
        self._clock = clock
        self._checking = anyio.Lock()
        self._plan: Plan | None = None
        self._checked: tuple[int, float] | None = None
        """Number of the process that asked, and when."""
        self._swept = False
        self._reads = anyio.CapacityLimiter(READS_HERE)

    async def ready(self, operation: str, key: object, *, fresh: bool = False) -> Plan:
        """How the remote is used, once it has been recognised as the known one.

        `fresh`: look now, whenever it was looked at. Raises StoreUnreachable.
        """
        asked = self._clock()
        async with self._checking:
            if self._plan is None:
                self._plan = await self._learn(operation, key)
            if self._checked is not None and self._checked[0] == self.process.starts:
                age_s = asked - self._checked[1]
                # one that began after we asked is ours too
                if age_s <= 0 or not (fresh or self._plan.local or age_s > BELIEVED_FOR_S):
                    return self._plan
            began = self._clock()
            await self._recognise(operation, key)
            self._checked = (self.process.starts, began)
            if not self._swept:
                self._swept = True
                await self._sweep()
            return self._plan

    async def ask(
        self, operation: str, key: object, command: str, **parameters: object
    ) -> dict[str, Any]:
        """One call. Raises what a refusal means (`understand`), StoreUnreachable."""
        async with self._control(operation, key) as control:
            return await control.call(command, **parameters)

    async def item(
        self, operation: str, key: object, path: str, hash_name: str | None = None
    ) -> Item | None:
        """The object at `path`, with its hash if one is asked for; None if there is none."""
        options: dict[str, object] = {"filesOnly": True, "noMimeType": True}
        if hash_name:
            options |= {"showHash": True, "hashTypes": [hash_name]}
        try:
            said = await self.ask(
                operation, key, "operations/stat", fs=FS, remote=path, opt=options
            )
        except RemoteMissing:
            return None
        found = said.get("item")
        return Item.parse(found, hash_name) if found else None

    @asynccontextmanager
    async def read(self, operation: str, key: object, path: str) -> AsyncIterator[Content]:
        """The object at `path`. Raises RemoteMissing, and as `ask`."""
        async with self._control(operation, key) as control, control.read(FS, path) as content:
            yield content

    async def small(self, operation: str, key: object, path: str) -> bytes | None:
        """The content of a small object, None if there is none."""
        if self._folder is not None:
            return await run_sync(
                _read_here,
                operation,
                key,
                self._folder / path,
                abandon_on_cancel=True,
                limiter=self._reads,
            )
        try:
            async with self.read(operation, key, path) as content:
                found = bytearray()
                async for chunk in content.chunks:
                    found += chunk
                    if len(found) > MAX_SMALL_BYTES:
                        raise StoreUnreachable(operation, key, f"{path} has no end")
                return bytes(found)
        except RemoteMissing:
            return None

    async def write_small(self, operation: str, key: object, path: str, content: bytes) -> None:
        """Make or replace a small object. It is not atomic everywhere, nor synced."""
        if self._folder is not None:
            await run_sync(_write_here, operation, key, self._folder, path, content)
            return
        folder, _, name = path.rpartition("/")
        async with self._control(operation, key) as control:
            await control.upload(FS, folder, name, content)

    async def remove(self, operation: str, key: object, path: str) -> None:
        """Remove an object; that there is none is no error."""
        if self._folder is not None:
            await run_sync(_remove_here, operation, key, self._folder / path)
            return
        try:
            await self.ask(operation, key, "operations/deletefile", fs=FS, remote=path)
        except RemoteMissing:
            pass

    async def names(self, operation: str, folder: str, *, folders: bool) -> Sequence[str]:
        """Names, in rclone's standard form, of the folders or else the files in `folder`."""
        options = {
            "dirsOnly" if folders else "filesOnly": True,
            "noModTime": True,
            "noMimeType": True,
        }
        try:
            said = await self.ask(
                operation, folder, "operations/list", fs=FS, remote=folder, opt=options
            )
        except RemoteMissing:
            return []
        return [str(each["Name"]) for each in said.get("list") or ()]

    @property
    def _folder(self) -> Path | None:
        """A plain folder's small objects are read and written without rclone: a quarter of the time."""
        return self._plan.path if self._plan is not None else None

    # -- inside --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _control(self, operation: str, key: object) -> AsyncIterator[RemoteControl]:
        try:
            async with self.process.control() as control:
                yield control
        except Refused as error:
            raise understand(operation, key, error.text, self._scrub) from None
        except (Down, HungUp) as error:
            raise StoreUnreachable(operation, key, self._scrub(str(error))) from None

    async def _learn(self, operation: str, key: object) -> Plan:
        try:
            found = plan(await self.ask(operation, key, "operations/fsinfo", fs=FS), self._verify)
        except RemoteMissing as error:
            raise StoreUnreachable(operation, key, error.detail) from error
        log.info(
            "store",
            remote=self._scrub(found.described),
            hash=found.hash_name or "read back",
            staged=found.staged,
        )
        if not found.synced:
            log.warning(
                "notice",
                text="the remote is a folder that rclone does not sync: what is stored may be lost"
                " with the power; a directory store, or the plain folder as the remote, is synced",
            )
        return found

    async def _recognise(self, operation: str, key: object) -> None:
        """Raises StoreUnreachable for a remote that is not the known one; a new one is marked."""
        found = _id(await self.small(operation, key, STORE_ID))
        known = await run_sync(_read_id, self._known_id)
        if known is None:
            if found is None:
                made = secrets.token_hex(16)
                folder, _, name = STORE_ID.rpartition("/")
                async with self._control(
                    operation, key
                ) as control:  # makes the remote's folder too
                    await control.upload(FS, folder, name, f"{made}\n".encode())
                found = _id(await self.small(operation, key, STORE_ID))
                if found != made:
                    raise StoreUnreachable(
                        operation, key, f"{STORE_ID} does not keep what it is given"
                    )
            await run_sync(_write_id, self._known_id, found)
        elif found != known:
            what = f"has the id {found}" if found else "has no id"
            raise StoreUnreachable(
                operation,
                key,
                f"this is not the store that was here before: it {what}, expected {known} (a folder"
                f" that is not mounted? another bucket?); to store all anew there, move {self._known_id}"
                " and the journal away",
            )

    async def _sweep(self) -> None:
        """Remove what a killed daemon left half uploaded. Best effort: it is only rubbish."""
        try:
            for name in await self.names("sweep", TMP, folders=False):
                await self.remove("sweep", TMP, f"{TMP}/{name}")
        except Exception as error:
            log.info("not swept", folder=TMP, error=str(error))


@contextmanager
def _blame(operation: str, key: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnreachable(
            operation, key, f"{error.filename}: {error.strerror or error}"
        ) from error


def _read_here(operation: str, key: object, place: Path) -> bytes | None:
    with _blame(operation, key):
        try:
            return place.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def _write_here(operation: str, key: object, root: Path, path: str, content: bytes) -> None:
    with _blame(operation, key):
        place, own = root / path, root / OWN
        os.stat(own)  # a folder that is not mounted any more is not filled
        for above in reversed(place.relative_to(own).parents[:-1]):
            (own / above).mkdir(0o700, exist_ok=True)
        fresh = own / f"{secrets.token_hex(8)}.new"
        try:
            fresh.write_bytes(content)
            fresh.rename(place)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise


def _remove_here(operation: str, key: object, place: Path) -> None:
    with _blame(operation, key):
        try:
            place.unlink()
        except (FileNotFoundError, NotADirectoryError):
            pass


def _id(content: bytes | None) -> str | None:
    """None for what is no id: the remote of an id that was torn is none that is known."""
    text = (content or b"").decode("ascii", "replace").strip()
    return text if len(text) == 32 and text.isalnum() else None


def _read_id(place: Path) -> str | None:
    try:
        return _id(place.read_bytes())
    except FileNotFoundError:
        return None


def _write_id(place: Path, found: str) -> None:
    """Durable before anything is stored under it. Blocking; raises OSError."""
    fresh = place.with_name(f"{place.name}.new")
    with open(
        os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
    ) as file:
        file.write(f"{found}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(place)
    fsync_folder(place.parent)
