"""Stage store: zstor, asked over its unix socket.

In: `Store` calls; out: one request on one connection each. Only blocking stores, one in flight:
zstor is strictly serial, first in first out, so a put that was given up here still happens there,
but before any later one (0-stor_v2 actors/zstor_scheduler.rs; a non-blocking failure would go to
the front of its queue forever). Whoever gives up a put must leave its source file alone until a
later call has been answered, or zstor stores something else.

This module owns the invariant that zstor is never given a path at which it could overwrite a live
file (`Stage`). Weakness: for a key without a local file zstor makes an empty one for a moment,
then unlinks it (actors/pipeline.rs `canonicalize_path`), so a put of a snapshot must not run
beside a restore of its live file.
"""

from __future__ import annotations

import os
import shutil
import socket as sockets
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import UNIXSocketStream
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import (
    ChecksumMismatch,
    FrameError,
    SourceChanged,
    SourceGone,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
    UserError,
)
from hookd.files import FileKey, Roots
from hookd.stores.base import Remote
from hookd.stores.directory_copy import ReadFailed
from hookd.stores.zstor_config import read_config
from hookd.stores.zstor_probe import Backend
from hookd.stores.zstor_stage import Stage, remove_leftovers, write_canary, write_record
from hookd.stores.zstor_torn import CLOSED, MetaStore, is_sign, mend
from hookd.stores.zstor_wire import (
    Checksum,
    Failure,
    Reply,
    ReplyReader,
    encode_check,
    encode_retrieve,
    encode_store,
)
from hookd.stores.zstor_words import NAMESPACES_HINT, Scrubber, understand

CANARY_NAME = ".hookd-canary"
CANARY = b"hookd stores this to see whether zstor sees its own metadata\n"
"""The same for ever, so that one stored by any earlier hookd will do."""

RECORD_TRIES = 3
"""Another frontend may replace a record between the check and the retrieve."""

_BLIND = "zstor answers but does not see its own metadata; if the backends are up, restart zstor"


class ZstorStore:
    """A `Store` behind the zstor that listens on `socket`. Call `prepare` before anything else.

    `staging` must lie where zstor sees it under the same path. `secrets` are never shown.
    """

    kind = "zstor"
    proves_copies = False
    concurrency = 1
    readers = 2
    """It works on one request at a time; the next one may wait at its door."""

    def __init__(
        self,
        *,
        socket: Path,
        roots: Roots,
        staging: Path,
        secrets: Sequence[str] = (),
        meta: MetaStore | None = None,
        health_timeout_s: float = 60.0,
    ) -> None:
        """`health_timeout_s`: it includes the wait for a store that is under way (64 MB/s)."""
        self._socket = socket
        self._roots = roots
        self._staging = _absolute(staging)
        self._meta = meta
        self.on_error: Callable[[StoreError], None] = lambda error: None
        """Told each refusal of zstor, and each canary that is not seen."""
        self.scrub = Scrubber(secrets)
        self._health_timeout_s = health_timeout_s
        self._storing = anyio.Lock()
        self._sources: list[Path] = []
        """Folders of records whose put has not been answered: zstor may still read them."""

    @classmethod
    def from_config(
        cls, config_path: Path, roots: Roots, staging: Path
    ) -> tuple[ZstorStore, list[str]]:
        """The store that zstor's own configuration describes, and warnings to show. Blocking.

        Raises ConfigError.
        """
        config = read_config(config_path, roots)
        store = cls(
            socket=config.socket,
            roots=roots,
            staging=staging,
            secrets=config.secrets,
            meta=config.meta,
        )
        return store, list(config.warnings)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Metadata backends of zstor's configuration."""
        return self._meta.backends if self._meta is not None else ()

    def prepare(self) -> None:
        """Make the staging folder, remove what a killed daemon left. Blocking; call it at start.

        Raises UserError with the one line to print.
        """
        try:
            self._staging.mkdir(0o700, parents=True, exist_ok=True)
            remove_leftovers(self._staging)
        except OSError as error:
            raise UserError(f"{self._staging}: {error.strerror or error}") from error

    async def put(self, key: FileKey, source: Path, digest: bytes | None) -> None:
        """See `Store.put`. Given up, it may still happen, but before any later call.

        zstor reads the source twice (hash, then content), hence SourceChanged if it moved at all;
        whether what was hashed is `digest`, a `stat` tells.
        """
        source = _absolute(source)
        live = self._roots.path(key)
        if source.name != key.name:
            raise ValueError(f"{source} would be stored under another key than {key}")
        async with self._storing:
            before = await run_sync(_look, key, source, live.parent)
            key_folder = None if source == live else live.parent
            try:
                await self._store(key, source, key_folder)
            except SourceGone as error:
                # zstor says so; is it?
                await run_sync(_look, key, source, live.parent)
                raise StorePermanent("put", key, f"{error.detail} ({NAMESPACES_HINT})") from error
            if await run_sync(_look, key, source, live.parent) != before:
                raise SourceChanged("put", key, f"{source} changed while zstor read it")

    async def stat(self, key: FileKey) -> Remote | None:
        """See `Store.stat`. Reads metadata only; waits for a store that is under way."""
        digest = await self._check("stat", key, self._roots.path(key))
        return None if digest is None else Remote(digest, None)

    async def get(self, key: FileKey, target: Path) -> None:
        """See `Store.get`. The content passes through a private folder in staging."""
        stage = Stage(self._staging, self._roots.path(key))
        try:
            await run_sync(stage.open)
            await self._ask("get", key, encode_retrieve(stage.path))
            if not await run_sync(stage.staged.is_file):
                raise StorePermanent("get", key, f"zstor wrote elsewhere: {NAMESPACES_HINT}")
            await run_sync(stage.deliver, target)
        except FrameError as error:
            raise StorePermanent("get", key, str(error)) from error
        except (OSError, ReadFailed) as error:
            raise StoreTemporary("get", key, f"{self._staging} or {target}: {error}") from error
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(stage.close)

    async def health(self) -> None:
        """Have zstor look for one object. Raises StoreUnreachable, also when it does not answer."""
        try:
            with anyio.fail_after(self._health_timeout_s):
                await self._check("health", self._socket, self._canary_place())
        except TimeoutError as error:
            raise StoreUnreachable(
                "health", self._socket, f"no answer within {self._health_timeout_s:g} s"
            ) from error
        except StoreError as error:
            raise _unreachable(error) from error

    async def prove_absence(self) -> None:
        """Return only beside a positive check of an object that is known to be there.

        A zstor that started while metadata backends were down says "not found" of everything, for
        ever. Stores the canary where it is missing, which a blind zstor refuses.
        """
        where, wanted = self._canary_place(), digest_of(CANARY)
        try:
            if await self._check("prove absence", where, where) == wanted:
                return
            async with self._storing:
                canary = self._staging / CANARY_NAME
                await run_sync(write_canary, canary, CANARY)
                await self._store("canary", canary, where.parent)
            found = await self._check("prove absence", where, where)
        except StoreError as error:
            raise StoreUnreachable("prove absence", where, f"{_BLIND} ({error.detail})") from error
        except OSError as error:
            raise StoreUnreachable("prove absence", where, str(error)) from error
        if found != wanted:
            unseen = StoreUnreachable("prove absence", where, _BLIND)
            self.on_error(unseen)
            raise unseen

    async def store_canary(self) -> None:
        """Have zstor store the canary, whether it has it or not: a blind one refuses.

        Raises StoreError, also when it does not answer.
        """
        where = self._canary_place()
        try:
            with anyio.fail_after(self._health_timeout_s):
                async with self._storing:
                    canary = self._staging / CANARY_NAME
                    await run_sync(write_canary, canary, CANARY)
                    await self._store("canary", canary, where.parent)
                found = await self._check("canary", where, where)
        except TimeoutError as error:
            raise StoreUnreachable(
                "canary", where, f"no answer within {self._health_timeout_s:g} s"
            ) from error
        except OSError as error:
            raise StoreTemporary("canary", where, str(error)) from error
        if found != digest_of(CANARY):
            raise StoreUnreachable("canary", where, _BLIND)

    async def namespaces(self) -> None:
        """zstor cannot list."""

    async def put_record(self, name: str, content: bytes) -> None:
        """See `Store.put_record`: stored under the index root, where no file of that name is.

        Given up, zstor may still read the source, up to the answer to a later call.
        """
        place = self._record_place(name)
        async with self._storing:
            try:
                source = await run_sync(write_record, self._staging, place.name, content)
            except OSError as error:  # the disk is full
                raise StoreTemporary("put record", name, str(error)) from error
            self._sources.append(source.parent)
            try:
                await self._store(name, source, place.parent)
            except SourceGone as error:
                raise StorePermanent(
                    "put record", name, f"{error.detail} ({NAMESPACES_HINT})"
                ) from error
            while self._sources:
                await run_sync(shutil.rmtree, self._sources.pop(), True)

    async def get_record(self, name: str) -> bytes | None:
        """See `Store.get_record`. Raises ChecksumMismatch if zstor gives other bytes than it checks."""
        place = self._record_place(name)
        for _ in range(RECORD_TRIES):
            digest = await self._check("get record", name, place)
            if digest is None:
                return None
            stage = Stage(self._staging, place)
            try:
                await run_sync(stage.open)
                await self._ask("get record", name, encode_retrieve(stage.path))
                content: bytes = await run_sync(stage.staged.read_bytes)
            except FrameError as error:
                raise StorePermanent("get record", name, str(error)) from error
            except OSError as error:
                raise StoreTemporary("get record", name, str(error)) from error
            finally:
                with anyio.CancelScope(shield=True):
                    await run_sync(stage.close)
            if digest_of(content) == digest:
                return content
        raise ChecksumMismatch("get record", name, "it is not what zstor says that it is")

    async def stat_record(self, name: str) -> bytes | None:
        """See `Store.stat_record`."""
        return await self._check("stat record", name, self._record_place(name))

    async def aclose(self) -> None:
        """Nothing is held open between calls."""

    # -- inside --------------------------------------------------------------------------------

    def _record_place(self, name: str) -> Path:
        return self._roots.index / f".hookd-{name}.json"

    def _canary_place(self) -> Path:
        return self._roots.index / CANARY_NAME

    async def _store(self, key: object, file: Path, key_folder: Path | None) -> None:
        try:
            request = encode_store(file, key_folder=key_folder)
        except FrameError as error:
            raise StorePermanent("put", key, str(error)) from error
        place = (key_folder or file.parent) / file.name
        await self._ask_mending("put", key, request, place, replace=True)

    async def _check(self, operation: str, key: object, path: Path) -> bytes | None:
        try:
            request = encode_check(path)
        except FrameError as error:
            raise StoreTemporary(operation, key, str(error)) from error
        ours = path.name.startswith(".hookd-")  # the canary and the records can be made anew
        reply = await self._ask_mending(operation, key, request, path, replace=ours)
        return reply.digest if isinstance(reply, Checksum) else None

    async def _ask_mending(
        self, operation: str, key: object, request: bytes, place: Path, *, replace: bool
    ) -> Reply:
        """As `_ask`; once more where metadata that a killed zstor has left was in its way."""
        try:
            return await self._ask(operation, key, request)
        except StoreError as error:
            if (meta := self._meta) is None or not is_sign(error.detail):
                raise
            if not await run_sync(partial(mend, meta, place, replace=replace)):
                raise
        return await self._ask(operation, key, request)

    async def _ask(self, operation: str, key: object, request: bytes) -> Reply:
        """One request, one reply. Cancelled, it hangs up; zstor goes on with the request.

        Raises what a refusal means (`understand`), StoreUnreachable, StoreTemporary.
        """
        reader = ReplyReader()
        async with await self._connect(operation, key) as stream:
            try:
                await stream.send(request)
                while (reply := reader.feed(await stream.receive())) is None:
                    pass
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                raise StoreUnreachable(
                    operation,
                    key,
                    f"{CLOSED}: it was killed or did not understand",
                ) from error
            except FrameError as error:
                raise StoreTemporary(operation, key, f"no reply of zstor: {error}") from error
        if isinstance(reply, Failure):
            refusal = understand(operation, key, reply.text, self.scrub)
            self.on_error(refusal)
            raise refusal
        return reply

    async def _connect(self, operation: str, key: object) -> UNIXSocketStream:
        """A connection, at once or not at all.

        anyio.connect_unix spins while the queue of a zstor that does not accept is full (EAGAIN).
        """
        raw = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        raw.setblocking(False)
        try:
            raw.connect(os.fspath(self._socket))
        except OSError as error:
            raw.close()
            raise StoreUnreachable(
                operation, key, f"{self._socket}: {error.strerror or error}"
            ) from error
        return await UNIXSocketStream.from_socket(raw)  # anyio 4.10


def _absolute(path: Path) -> Path:
    """zstor has a working directory of its own, and compares paths as text."""
    return Path(os.path.abspath(path))


def _unreachable(error: StoreError) -> StoreUnreachable:
    if isinstance(error, StoreUnreachable):
        return error
    return StoreUnreachable(error.operation, error.key, error.detail)


def _look(key: FileKey, source: Path, live_folder: Path) -> tuple[int, int, int]:
    """What changes when `source` is written to. Blocking.

    Raises SourceGone if it or the folder that its key lies in is not there, StorePermanent,
    StoreTemporary.
    """
    try:
        found = os.stat(source, follow_symlinks=False)
        os.stat(live_folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceGone("put", key, f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        raise StoreTemporary("put", key, f"{error.filename}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StorePermanent("put", key, f"{source} is no regular file")
    return found.st_ino, found.st_size, found.st_mtime_ns
