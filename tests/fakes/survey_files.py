"""Files of a (fake) zdb, here and in a store, for the tests of namespaces-init."""

from __future__ import annotations

import shutil
from pathlib import Path

from hookd import manifest
from hookd.digest import digest_of
from hookd.files import FileKey, Kind
from hookd.journal import LedgerEntry
from hookd.restore.local import WORK
from hookd.restore.table import Here
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore

NS = "ns"

EXPECTED = (
    "restoring", "restored", "held", "zdb waits", "fenced: nothing is stored any more",
    "the manifest is ignored", "the store does not take our name yet", "set aside",
    "local files are taken", "the store has nothing to take", "the manifest will be written anew",
    "store is down", "the store has lost it, all is stored again",
)  # fmt: skip
"""What is said loudly there."""


def zdb_at(folder: Path, *, rotations: int = 3) -> SilentZdb:
    """A zdb with one namespace, some rotations long, its old indexes rewritten."""
    zdb = SilentZdb.at(folder)
    zdb.create(NS)
    for _ in range(rotations):
        zdb.churn(NS, 6)
        zdb.rotate(NS)
    zdb.churn(NS, 3)
    return zdb


def files_of(folder: Path) -> dict[FileKey, bytes]:
    """Every file of zdb below the two roots."""
    found = [*folder.glob("index/*/*"), *folder.glob("data/*/*")]
    return {
        FileKey.parse("/".join(path.parts[-3:])): path.read_bytes()
        for path in found
        if path.is_file()
    }


def fill(
    store: MemoryStore, files: dict[FileKey, bytes], *, named: bool, writer: str = "w"
) -> None:
    """The store has these, with a manifest of somebody's or without."""
    store.content.update(files)
    if named:
        made = manifest.build(entries_of(files), lineage="l", writer=writer, sequence=7)
        store.records[manifest.NAME] = manifest.encode(made)


def zdb_and_store(
    folder: Path, *, named: bool = True, writer: str = "w"
) -> tuple[dict[FileKey, bytes], MemoryStore]:
    """A zdb, its files, and a store that has all of them."""
    zdb_at(folder)
    newest, store = files_of(folder), MemoryStore()
    fill(store, newest, named=named, writer=writer)
    return newest, store


def entries_of(files: dict[FileKey, bytes]) -> list[LedgerEntry]:
    """What a ledger says of them once they are stored."""
    active = max(key.number for key in files if key.kind is Kind.INDEX)
    return [
        LedgerEntry(
            key=key,
            size_bytes=len(content),
            digest=digest_of(content),
            stored_at=1.0,
            sealed=key.kind is Kind.DATA and key.number < active,
        )
        for key, content in files.items()
    ]


def wipe(folder: Path) -> None:
    """The disk is lost."""
    for root in ("index", "data"):
        shutil.rmtree(folder / root)
        (folder / root).mkdir()


def lose(folder: Path, *names: str) -> None:
    """These files are gone."""
    for name in names:
        (folder / ("data" if name[0] == "d" else "index") / NS / name).unlink()


def put_here(folder: Path, here: Here, older: dict[FileKey, bytes]) -> None:
    """Make the disk so; it has everything."""
    index = folder / "index" / NS
    match here:
        case Here.EMPTY:
            wipe(folder)
        case Here.GAP:
            lose(folder, "i1")
        case Here.NO_ACTIVE_DATA:
            lose(folder, "d3")
        case Here.NO_DESCRIPTOR:
            lose(folder, "zdb-namespace")
        case Here.OLDER:
            wipe(folder)
            for key, content in older.items():
                path = folder / str(key)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        case Here.FOREIGN:
            wipe(folder)
            other = SilentZdb.at(folder, seed=99)
            other.create(NS)
            for _ in range(4):
                other.churn(NS, 6)
                other.rotate(NS)
            other.churn(NS, 9)
        case Here.INTERRUPTED:
            (index / WORK).mkdir()
            lose(folder, "i0", "i1", "zdb-namespace")


def mine(folder: Path) -> dict[FileKey, bytes]:
    """The files of the namespace that these tests are about."""
    return {key: content for key, content in files_of(folder).items() if key.namespace == NS}


async def store_all(found: Rig) -> None:
    """What lies in the folders, closed or as it is."""
    files = mine(found.folder)
    newest = max(key.number for key in files if key.kind is Kind.INDEX)
    for key in sorted(files, key=lambda key: (key.kind is not Kind.DATA, -key.number)):
        sealed = key.kind is Kind.DATA and key.number < newest
        needs = newest if key.kind is Kind.INDEX else None
        await found.owe(key, sealed=sealed, freeze=not sealed, needs=needs)
    await found.empty()


async def store_and_say(found: Rig) -> None:
    """All of it, with a manifest of ours."""
    await found.fence.guard()
    await store_all(found)
    await found.fence.publish()


async def stored_by_us(
    folder: Path, store: MemoryStore | None = None, *, rotations: int = 3
) -> MemoryStore:
    """A zdb, and the store in which a frontend that has ended stored all of it."""
    zdb_at(folder, rotations=rotations)
    store = store or MemoryStore()
    async with rig(folder, store, names=(NS,)) as found:
        await store_and_say(found)
    return store
