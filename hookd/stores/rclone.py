"""Stage store: any remote that rclone knows (S3, SFTP, WebDAV, a folder, encrypted or not).

In: `Store` calls; out: `REMOTE/index/NAMESPACE/iN`, `REMOTE/data/NAMESPACE/dN`, exact bytes; hookd's
own objects under `REMOTE/.hookd/`. One rclone does the transfers, several at once.

    REMOTE/.hookd/store-id                    random; another one, or none, means another remote
    REMOTE/.hookd/manifest.json               what is here, and whose it is (hookd.manifest)
    REMOTE/.hookd/tmp/                        what is being uploaded where half of it could be seen
    REMOTE/.hookd/sums/ROOT/NAMESPACE/NAME    what an object hashed to, while it was this very object

How an object is put there, proven and moved into place: `rclone_uploads`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import (
    PathRefused,
    RemoteMissing,
    StoreError,
    StoreTemporary,
    StoreUnreachable,
    UserError,
)
from hookd.files import FileKey
from hookd.log import get
from hookd.rclone.control import Content
from hookd.stores.base import Remote
from hookd.stores.rclone_names import from_standard, to_standard
from hookd.stores.rclone_plan import Plan
from hookd.stores.rclone_process import FS, RcloneProcess
from hookd.stores.rclone_remote import OWN, RcloneRemote
from hookd.stores.rclone_source import read
from hookd.stores.rclone_sums import Item, Sum
from hookd.stores.rclone_uploads import Uploads
from hookd.stores.rclone_words import RcloneScrubber, secrets_of

log = get("rclone")

READERS = 8
"""Gets and stats at once: each waits for round trips, not for this machine."""

SUMS_KEPT = 1024


class RcloneStore:
    """A `Store` behind rclone. Call `prepare` before anything else."""

    kind = "rclone"
    readers = READERS

    def __init__(
        self,
        *,
        remote: str,
        folder: Path,
        known_id: Path,
        program: str = "rclone",
        config: Path | None = None,
        verify: str = "hash",
        concurrency: int = 4,
        health_timeout_s: float = 60.0,
        process: RcloneProcess | None = None,
    ) -> None:
        """`folder` is made, private, for rclone's socket; `known_id` is a file that outlives us.

        `verify`: "hash" (the remote's own, read back where it has none), "read-back" (always) or
        "size" (its hash, else its size alone). `process` is for tests.
        """
        self.concurrency = concurrency
        self.proves_copies = verify != "size"
        self._verify = verify
        self._folder = folder
        self._known_id = known_id
        self._health_timeout_s = health_timeout_s
        self._scrub = RcloneScrubber(secrets_of(remote, os.environ, _config_path(config)))
        self._process = process or RcloneProcess(
            remote=remote, folder=folder, program=program, config=config, scrub=self._scrub
        )
        self._remote = RcloneRemote(
            self._process, known_id=known_id, verify=verify, scrub=self._scrub
        )
        self._uploads = Uploads(self._process, self._remote, verify=verify)
        self._records: dict[str, tuple[Item, bytes]] = {}
        """Name → a record as it was last seen, and its digest."""
        self._sums: dict[FileKey, Sum] = {}
        """The newest records, so that a stat after a put asks for the object alone."""

    @property
    def process(self) -> RcloneProcess:
        """The rclone behind it."""
        return self._process

    def prepare(self) -> None:
        """Find rclone and its remote. Blocking; call it at start. The remote may be away.

        Raises ConfigError, UserError with the one line to print.
        """
        self._process.prepare()
        try:
            self._known_id.parent.mkdir(0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._known_id.parent}: {error.strerror or error}") from error

    # -- files ---------------------------------------------------------------------------------

    async def put(self, key: FileKey, source: Path, digest: bytes | None) -> None:
        """See `Store.put`. Proven as the setting `verify` says."""
        plan = await self._remote.ready("put", key)
        hash_name = plan.hash_name if plan.hash_here else None
        read_source = await run_sync(read, key, source, digest, hash_name, abandon_on_cancel=True)
        self._sums.pop(key, None)
        if not plan.hash_is_cheap:
            # a time that is not fine enough would pass the new object for the old one
            await self._remote.remove("put", key, _sum_place(key))
        item = await self._uploads.replace("put", key, source, read_source, _place(key), plan)
        with suppress(StoreError):  # then stat reads the object
            await self._keep_sum(key, read_source.digest, item, plan)

    async def stat(self, key: FileKey) -> Remote | None:
        """See `Store.stat`. Reads the whole object if no record of this very object is kept."""
        plan = await self._remote.ready("stat", key)
        by_hash = plan.hash_name if plan.hash_is_cheap else None
        item = await self._item("stat", key, _place(key), by_hash)
        if item is None:
            return None
        kept = self._sums.get(key)
        if kept is None:
            kept = Sum.parse(await self._remote.small("stat", key, _sum_place(key)))
        if kept is not None:
            digest = kept.digest_of(item, plan.hash_name, by_hash=plan.hash_is_cheap)
            if digest is not None:
                return Remote(digest, item.size_bytes)
        return await self._read_back(key, item, by_hash, plan)

    async def get(self, key: FileKey, target: Path) -> None:
        """See `Store.get`."""
        await self._remote.ready("get", key)
        try:
            await self._get(key, target)
        except RemoteMissing:
            await self._remote.ready("get", key, fresh=True)
            await self._get(key, target)  # see _item

    async def health(self) -> None:
        """Look for the store's id. Raises StoreUnreachable, also when that takes too long."""
        await self._bounded("health")

    async def prove_absence(self) -> None:
        """Return if the remote answers and is the known one. Raises StoreUnreachable."""
        await self._bounded("prove absence")

    async def namespaces(self) -> Sequence[str]:
        """Names of the namespaces with files here, sorted. Raises StoreUnreachable."""
        await self._remote.ready("namespaces", FS, fresh=True)
        found: set[str] = set()
        for root in ("index", "data"):
            for standard in await self._remote.names("namespaces", root, folders=True):
                name = from_standard(standard)
                if name not in found and await self._has_files(root, standard):
                    found.add(name)
        return sorted(found)

    # -- records -------------------------------------------------------------------------------

    async def put_record(self, name: str, content: bytes) -> None:
        """See `Store.put_record`: `REMOTE/.hookd/NAME.json`."""
        plan = await self._remote.ready("put record", name)
        staged = self._folder / f"{name}.{secrets.token_hex(8)}"
        try:
            try:
                await run_sync(staged.write_bytes, content)
            except OSError as error:  # the disk is full
                raise StoreTemporary("put record", name, str(error)) from error
            hash_name = plan.hash_name if plan.hash_here else None
            source = await run_sync(read, name, staged, digest_of(content), hash_name)
            place = _record_place(name)
            await self._uploads.replace("put record", name, staged, source, place, plan)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(staged.unlink, True)

    async def get_record(self, name: str) -> bytes | None:
        """See `Store.get_record`."""
        await self._remote.ready("get record", name)
        content = await self._remote.small("get record", name, _record_place(name))
        if content is None:
            await self._remote.ready("get record", name, fresh=True)
            content = await self._remote.small("get record", name, _record_place(name))  # see _item
        return content

    async def stat_record(self, name: str) -> bytes | None:
        """See `Store.stat_record`. Cheap where the remote tells versions apart; else reads it."""
        plan = await self._remote.ready("stat record", name)
        by_hash = plan.hash_name if plan.hash_is_cheap else None
        item = await self._item("stat record", name, _record_place(name), by_hash)
        if item is None:
            return None
        known = self._records.get(name)
        if known is not None and known[0] == item and (known[0].hash or plan.exact_times):
            return known[1]
        content = await self.get_record(name)
        if content is None:
            return None
        digest = digest_of(content)
        if item == await self._item("stat record", name, _record_place(name), by_hash):
            self._records[name] = (item, digest)
        return digest

    async def aclose(self) -> None:
        """End rclone, and with it every upload. Idempotent."""
        await self._process.aclose()
        self._uploads.close()

    # -- content -------------------------------------------------------------------------------

    async def _item(
        self, operation: str, key: object, path: str, hash_name: str | None
    ) -> Item | None:
        """What lies at `path`; None only if this is the known remote, and it says so twice.

        Some servers replace in two steps, with a moment without either.
        """
        item = await self._remote.item(operation, key, path, hash_name)
        if item is None:
            await self._remote.ready(operation, key, fresh=True)
            item = await self._remote.item(operation, key, path, hash_name)
        return item

    async def _get(self, key: FileKey, target: Path) -> None:
        async with self._remote.read("get", key, _place(key)) as content:
            await _write(key, target, content)

    async def _read_back(
        self, key: FileKey, item: Item, by_hash: str | None, plan: Plan
    ) -> Remote | None:
        try:
            digest, size = await self._uploads.digest_of("stat", key, _place(key))
        except RemoteMissing:
            return None
        again = await self._remote.item("stat", key, _place(key), by_hash)
        if again == item and size == item.size_bytes:
            with suppress(StoreError):  # a shortcut for the next time
                await self._keep_sum(key, digest, item, plan)
        return Remote(digest, size)

    async def _keep_sum(self, key: FileKey, digest: bytes, item: Item, plan: Plan) -> None:
        kept = Sum.of(digest, item, plan.hash_name)
        self._sums[key] = kept
        if len(self._sums) > SUMS_KEPT:
            self._sums.pop(next(iter(self._sums)))
        await self._remote.write_small("keep sum", key, _sum_place(key), kept.encode())

    async def _has_files(self, root: str, namespace: str) -> bool:
        for name in await self._remote.names("namespaces", f"{root}/{namespace}", folders=False):
            with suppress(PathRefused):
                FileKey.named(root, namespace, name, shown=name)
                return True
        return False

    async def _bounded(self, operation: str) -> None:
        try:
            with anyio.fail_after(self._health_timeout_s):
                await self._remote.ready(operation, FS, fresh=True)
        except TimeoutError as error:
            raise StoreUnreachable(
                operation, FS, f"no answer within {self._health_timeout_s:g} s"
            ) from error
        except StoreUnreachable:
            raise
        except StoreError as error:
            raise StoreUnreachable(operation, FS, error.detail) from error


def _place(key: FileKey) -> str:
    return f"{key.root}/{to_standard(key.namespace)}/{key.name}"


def _sum_place(key: FileKey) -> str:
    return f"{OWN}/sums/{_place(key)}"


def _record_place(name: str) -> str:
    return f"{OWN}/{name}.json"


def _config_path(config: Path | None) -> Path | None:
    """The file that rclone reads, to know what in it is secret."""
    if config is not None:
        return config
    if os.environ.get("RCLONE_CONFIG"):
        return Path(os.environ["RCLONE_CONFIG"])
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "rclone" / "rclone.conf"


async def _write(key: FileKey, target: Path, content: Content) -> None:
    """Write an object to the new file `target`. Raises StoreTemporary, HungUp."""

    def create() -> int:
        return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[os.write(handle, left) :]

    try:
        # not left behind when cancelled: the caller may remove the target already
        handle = await run_sync(create)
        try:
            async for chunk in content.chunks:
                await run_sync(write, chunk)
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreTemporary("get", key, f"{target}: {error.strerror or error}") from error
