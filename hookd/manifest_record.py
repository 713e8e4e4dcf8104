"""The manifest's records in a store: itself, and where it says more than the files do, a copy."""

from __future__ import annotations

from hookd import faults, manifest
from hookd.digest import digest_of
from hookd.errors import ChecksumMismatch
from hookd.log import get
from hookd.manifest import Manifest, ManifestBad
from hookd.stores.base import Store

log = get("fence")


class ManifestRecord:
    """Reads and writes them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._copied: bool | None = None
        """Whether the store has a copy; None: not known."""

    async def read(self) -> tuple[Manifest | None, bytes | None]:
        """The manifest in the store and its digest; (None, None) where there provably is none.

        Raises StoreError, ManifestBad, ManifestNewer.
        """
        content = await self._store.get_record(manifest.NAME)
        if content is None:
            await self._store.prove_absence()
            return None, None
        return manifest.decode(content), digest_of(content)

    async def read_any(self) -> tuple[Manifest | None, bytes | None]:
        """As `read`; of a manifest that is damaged its copy, with the digest of the damaged one.

        Raises StoreError, ManifestNewer; ManifestBad where there is no good copy.
        """
        try:
            return await self.read()
        except ManifestBad as error:
            content = await self._store.get_record(manifest.COPY)
            if content is None:
                raise
            copy = manifest.decode(content)
            log.error("the manifest is damaged, its copy is used", error=str(error))
            return copy, await self._store.stat_record(manifest.NAME)

    async def put(self, made: Manifest, content: bytes) -> None:
        """Write one, `content` its bytes, and see that it is there.

        Raises StoreError; ChecksumMismatch where another one is there at the end.
        """
        if made.stale or made.given_up or await self._has_copy():
            await self._store.put_record(manifest.COPY, content)
            self._copied = True
        faults.point("manifest-begin")
        await self._store.put_record(manifest.NAME, content)
        faults.point("manifest-put")
        if await self._store.stat_record(manifest.NAME) != digest_of(content):
            raise ChecksumMismatch("publish", manifest.NAME, "the store has another manifest now")

    async def _has_copy(self) -> bool:
        if self._copied is None:
            self._copied = await self._store.stat_record(manifest.COPY) is not None
        return self._copied
