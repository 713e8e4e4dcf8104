"""Closed data files here that are shorter than what is stored of them. zdb would never ask for the rest.

A disk that was full, or a crash of the machine, cuts them off; no index says so, and a namespace with one
counts as complete. In: the ledger, after a survey; out: each whole again, if it is the beginning of the
stored one. The invariant: a file that is not is left as it is, and named.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.admin.words import size
from hookd.entries import DATA_HEADER_BYTES
from hookd.errors import HookdError, PathRefused, StoreError, StoreUnreachable
from hookd.files import FileKey, Kind, Roots
from hookd.journal import LedgerEntry
from hookd.log import get
from hookd.restore.belongs import belongs
from hookd.restore.compare import prefix_digest
from hookd.restore.local import WORK
from hookd.restore.place import check, make_folder, put_in_place
from hookd.restore.result import Result
from hookd.stores.base import Store

log = get("restore")

MEND = ".hookd-mend"
"""Folder in a namespace's data folder, for one that is fetched; nobody takes it for half a restore."""


class Other(HookdError):
    """What is here is not the beginning of what is stored."""


def find(roots: Roots, ledger: Sequence[LedgerEntry], names: Collection[str]) -> list[LedgerEntry]:
    """Those of which less is here than there. Blocking."""
    newest = {name: max(roots.numbers(Kind.INDEX, name), default=0) for name in names}
    return sorted(
        (
            entry
            for entry in ledger
            if entry.key.kind is Kind.DATA
            and entry.key.number < newest.get(entry.key.namespace, 0)
            and (here := _length(roots, entry.key)) is not None
            and here < entry.size_bytes
        ),
        key=lambda entry: (entry.key.namespace, entry.key.number),
    )


async def cut_off(
    ledger: Sequence[LedgerEntry], names: Collection[str], roots: Roots
) -> list[LedgerEntry]:
    """Those of `names`, but for what a restore has begun."""
    await anyio.to_thread.run_sync(_forget, roots)
    names = [name for name in names if not (roots.index / name / WORK).exists()]  # see `Restorer`
    return await anyio.to_thread.run_sync(find, roots, ledger, names)


async def at_start(
    cut: Sequence[LedgerEntry], store: Store, roots: Roots, patience_s: float
) -> None:
    """They become whole before zdb loads them. A store that does not answer within `patience_s` does not
    hold it up: they stay, and the audit names them. Raises nothing.
    """
    for entry in cut:
        try:
            with anyio.fail_after(patience_s):
                await store.stat(entry.key)
            await _bring(entry, store, roots)
        except (StoreError, Other, OSError, TimeoutError) as error:
            told = str(error) or "the store does not answer"
            log.warning("a data file is too short", file=str(entry.key), error=told)
            if isinstance(error, StoreUnreachable | TimeoutError):
                return
        else:
            log.warning("a data file was too short", file=str(entry.key), bytes=entry.size_bytes)


def _forget(roots: Roots) -> None:
    """What a kill has left. Blocking."""
    for work in roots.data.glob(f"*/{MEND}"):
        shutil.rmtree(work, ignore_errors=True)


async def mend(result: Result, ledger: Sequence[LedgerEntry], store: Store, roots: Roots) -> None:
    """Those of namespaces that are here become whole, beside a stopped zdb; `result` says which."""
    for entry in await anyio.to_thread.run_sync(find, roots, ledger, result.whole):
        key = entry.key
        told = _told(roots, entry)
        try:
            await _bring(entry, store, roots)
        except (StoreError, Other, OSError) as error:
            _name(result, key, f"{told}: {error}")
            continue
        log.warning("a data file was too short", file=str(key), bytes=entry.size_bytes)
        before = result.restored.get(key.namespace)
        if key.namespace in result.complete:
            result.complete.remove(key.namespace)
        came = f"{key.name}, which was too short, is whole"
        result.restored[key.namespace] = f"{before}; {came}" if before else came


async def name_them(result: Result, ledger: Sequence[LedgerEntry], roots: Roots) -> None:
    """The same beside a running zdb: nothing is changed, all are named in `result`."""
    for entry in await anyio.to_thread.run_sync(find, roots, ledger, result.whole):
        _name(result, entry.key, f"{_told(roots, entry)}; stop zdb, and say this again")


def _name(result: Result, key: FileKey, why: str) -> None:
    if key.namespace in result.complete:
        result.complete.remove(key.namespace)
    result.refused.setdefault(key.namespace, why)


def _told(roots: Roots, entry: LedgerEntry) -> str:
    here = size(_length(roots, entry.key) or 0)
    return f"{entry.key} has {here} here, but {size(entry.size_bytes)} are in the store"


def _length(roots: Roots, key: FileKey) -> int | None:
    """None where it is not here, or is a link."""
    try:
        return roots.length(key)
    except PathRefused:
        return None


async def _bring(entry: LedgerEntry, store: Store, roots: Roots) -> None:
    """Raises StoreError, Other, OSError."""
    live = roots.path(entry.key)
    work = live.parent / MEND
    await anyio.to_thread.run_sync(make_folder, work, live.parent)
    try:
        fetched = work / live.name
        await store.get(entry.key, fetched)
        await anyio.to_thread.run_sync(_place, entry, fetched, live, roots)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _place(entry: LedgerEntry, fetched: Path, live: Path, roots: Roots) -> None:
    check(entry.key, fetched, entry.digest)
    length = live.stat().st_size
    if length < DATA_HEADER_BYTES and not belongs(roots, entry.key, fetched):
        raise Other("and the indexes here do not point into what is stored; neither is touched")
    if length >= entry.size_bytes or prefix_digest(live, length) != prefix_digest(fetched, length):
        raise Other("and it is not the beginning of what is stored; neither is touched")
    put_in_place(fetched, live, replace=True)
