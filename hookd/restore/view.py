"""Looks: here, at every namespace; there, whose the store is and whether anything may go on from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from hookd.errors import StoreError
from hookd.fence import Fence
from hookd.files import FileKey, Roots
from hookd.identity import Identity
from hookd.log import get
from hookd.manifest import NAME, Manifest, ManifestBad, ManifestNewer
from hookd.restore.finding import Finding
from hookd.restore.local import Local, look
from hookd.restore.table import There
from hookd.stores.base import Store

log = get("survey")


@dataclass(slots=True)
class View:
    """What one look at the store brought."""

    there: There
    """MANIFEST where it can be read at all; UNREACHABLE or BLIND."""
    manifest: Manifest | None = None
    digest: bytes | None = None
    ours: bool = False
    trouble: str = ""
    """Why it cannot be read."""
    conflict: str | None = None
    """Why nothing here may be stored: another frontend, another lineage, a newer hookd."""
    superseded: bool = False
    """Whether its manifest is later than anything this journal knows of: another frontend's, or our own,
    and the journal was set back. Then what waits here is older, and only the manifest counts."""
    stuck: str | None = None
    """Why somebody must decide before the store is taken over: what is here is not what is there."""
    unasked: bool = False
    """Whether it is ours, and what nobody here knows of was not asked for yet (`Asked`)."""
    claimed: bool = False
    """Whether our name was put there while looking on."""
    proven: Mapping[str, Mapping[FileKey, int]] = field(default_factory=dict)
    """Namespace → what our ledger says is there, with its length."""
    found: dict[str, Finding] = field(default_factory=dict)
    """What was decided so far."""

    @property
    def readable(self) -> bool:
        """Whether the store can be read."""
        return self.there not in (There.UNREACHABLE, There.BLIND)


async def look_here(roots: Roots, names: Collection[str]) -> dict[str, Local]:
    """What of each of these is on disk."""

    def all_of_them() -> dict[str, Local]:
        return {name: look(roots, name) for name in names}

    return await anyio.to_thread.run_sync(all_of_them)


async def look_there(store: Store, fence: Fence, limit_s: float) -> View:
    """Never raises for a store that cannot be read: the view says so."""
    try:
        with anyio.fail_after(limit_s):
            found = await store.stat_record(NAME)
            if fence.is_ours(found):
                fence.seen_ours()
                return View(There.MANIFEST, digest=found, ours=True)
            if found is None:
                try:
                    await store.prove_absence()
                except StoreError as error:
                    return View(There.BLIND, trouble=str(error))
                return View(There.EMPTY)
            manifest, digest = await fence.record.read_any()
            conflict = None if manifest is None else conflict_of(fence.identity, manifest)
            superseded = manifest is not None and is_superseded(fence.identity, manifest)
            return View(There.MANIFEST, manifest, digest, conflict=conflict, superseded=superseded)
    except ManifestNewer as error:
        return View(There.MANIFEST, conflict=str(error))
    except ManifestBad as error:
        log.error("the manifest is ignored", error=str(error))
        return View(There.EMPTY, digest=found)
    except (StoreError, TimeoutError) as error:
        text = str(error) or f"the store does not answer within {limit_s:g} s"
        return View(There.UNREACHABLE, trouble=text)


def is_superseded(ours: Identity | None, manifest: Manifest) -> bool:
    """Whether what this journal knows, and what waits in it, is older than the manifest."""
    return ours is not None and not ours.goes_on(
        lineage=manifest.lineage, writer=manifest.writer, sequence=manifest.sequence
    )


def conflict_of(ours: Identity | None, manifest: Manifest) -> str | None:
    """Why a manifest that is not our last one forbids to go on from what is here."""
    if ours is None:
        return None
    if manifest.lineage != ours.lineage:
        return "the store holds another history of files (another lineage) than this frontend's"
    if not ours.wrote(lineage=manifest.lineage, writer=manifest.writer, sequence=manifest.sequence):
        return (
            f"another frontend has taken the store over (manifest {manifest.sequence}, ours was"
            f" {ours.sequence}), or this is an older copy of its disk"
        )
    return None
