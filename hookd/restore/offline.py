"""`hookd restore` without a daemon: into a folder to look at, or in place beside a stopped zdb. Blocking.

Into a folder nothing but that folder is written, and everything comes, for no hook brings the rest later.
In place it is what namespaces-init would do (`survey`), under the daemon's own lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

import anyio

from hookd import zdb
from hookd.admin.words import count, size, verb
from hookd.audit.offline import private_folder
from hookd.backoff import Backoff
from hookd.config import Config
from hookd.errors import Exit, StoreError, UserError
from hookd.fence import Fence
from hookd.files import FileKey, Roots
from hookd.identity import home_of, identity_of
from hookd.intake.spool import events_in
from hookd.journal import Journal, tables
from hookd.log import register_secret
from hookd.manifest import COPY, NAME, Manifest, ManifestBad, ManifestNewer, decode
from hookd.recovery import Retriever
from hookd.recovery_rest import Rest, sizes_of
from hookd.restore import remote
from hookd.restore.fit import Refused
from hookd.restore.folder import begin, renew
from hookd.restore.newest import newest_snapshot
from hookd.restore.progress import Progress
from hookd.restore.restorer import Restorer
from hookd.restore.result import Result, told, with_rest, without
from hookd.restore.short import mend
from hookd.restore.wiring import survey_of
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging
from hookd.sockets import lock_file, lock_folder
from hookd.startup import known_store, note_store, open_journal, recognise
from hookd.stores import attach_store, open_store
from hookd.stores.base import Store
from hookd.zdb import ZdbLife

Show = Callable[[Progress], None]


def to_folder(config: Config, folder: Path, names: Collection[str], show: Show) -> Result:
    """Everything of these namespaces (none named: of all) into `folder/index` and `folder/data`.

    Done again it goes on where it was, and brings anew what has changed. Raises UserError.
    """
    for secret in config.secrets():
        register_secret(secret)
    roots = Roots(config.zdb.index, config.zdb.data)
    begin(config, folder)
    with private_folder(config.staging_path) as private:
        store = attach_store(config, roots, private)
        return anyio.run(_to_folder, config, store, folder, names, show)


async def _to_folder(
    config: Config, store: Store, folder: Path, names: Collection[str], show: Show
) -> Result:
    target = Roots(folder / "index", folder / "data")
    result = Result()
    name = ""
    try:
        manifest = await _manifest(store)
        restorer = Restorer(store=store, roots=target, full=True, as_it_is=True, say=show)
        for name in names or await _all_names(config, store, manifest):
            try:
                await _one_to_folder(restorer, store, folder, manifest, name, bool(names), result)
            except StoreError as error:
                await store.prove_absence()  # of a store that is away no other one comes, too
                result.refused[name] = str(error)
            except OSError as error:
                result.refused[name] = f"cannot write there: {error}"
    except StoreError as error:
        if not result.restored:
            raise UserError(str(error), code=Exit.UNAVAILABLE) from error
        result.refused[name] = f"{error}; what comes after it was not asked for"
    else:
        for name in sorted(set(target.namespaces()) - {*result.restored, *result.refused}):
            if not names:
                result.left[name] = "it is of an earlier run, and the store has nothing of it now"
    finally:
        await store.aclose()
    return result


async def _one_to_folder(
    restorer: Restorer,
    store: Store,
    folder: Path,
    manifest: Manifest | None,
    name: str,
    named: bool,
    result: Result,
) -> None:
    """Into `result`; `named`: somebody asked for it. Raises StoreError, OSError."""
    meant, only = _meant(manifest, name)
    there = await remote.look(store, name, meant, only=only)
    if there.replaced is not None:
        there, meant = await remote.look(store, name, manifest), manifest
    target = Roots(folder / "index", folder / "data")
    if not there.indexes:
        if named:
            result.refused[name] = "the store has no files of it"
        return
    try:
        local = await renew(folder, store, target, there, meant)
        done = await restorer.restore(local, there, meant)
    except Refused as error:
        result.refused[name] = str(error)
        return
    brought = f"{count(done.files, 'file')}, {size(done.bytes)}"
    result.restored[name] = f"{brought}{without(done.holes)}"
    if done.altered:
        result.refused[name] = f"brought as it is, but {done.altered}"


def _meant(
    manifest: Manifest | None, name: str
) -> tuple[Manifest | None, dict[FileKey, bytes] | None]:
    """Where nothing else is whole, what an administrator gave up (see `Choices.meant`)."""
    files = {} if manifest is None else manifest.given_up
    given = {key: each for key, each in files.items() if key.namespace == name}
    if manifest is None or not given:
        return manifest, None
    return manifest.taking_back(name, given), {key: each.digest for key, each in given.items()}


async def _manifest(store: Store) -> Manifest | None:
    content = await store.get_record(NAME)
    if content is None:
        await store.prove_absence()
        return None
    try:
        return decode(content)
    except ManifestBad:
        copy = await store.get_record(COPY)
        with contextlib.suppress(ManifestBad):
            return None if copy is None else decode(copy)
        return None  # the files are asked for one by one
    except ManifestNewer as error:
        raise UserError(str(error)) from error


async def _all_names(config: Config, store: Store, manifest: Manifest | None) -> list[str]:
    listed = await store.namespaces()
    names = set(config.restore.namespaces if listed is None else listed)
    if manifest is not None:
        given = {key.namespace for key in manifest.given_up}
        names = (names - set(manifest.deleted)) | set(manifest.namespaces) | given
    return sorted(names - set(config.zdb.skip_namespaces))


# -- in place --------------------------------------------------------------------------------------


def in_place(config: Config, only: Collection[str] | None, *, full: bool, show: Show) -> Result:
    """What is missing comes back where zdb looks for it: of `only` these namespaces, else of all. Raises
    UserError: zdb runs, a daemon has the journal, the store cannot be read.
    """
    for secret in config.secrets():
        register_secret(secret)
    roots = Roots(config.zdb.index, config.zdb.data)
    lock = config.journal.path.with_name(config.journal.path.name + ".lock")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock_file(lock, "journal.path"))
        stack.callback(os.close, lock_folder(config.staging_path, "snapshot.staging"))
        if zdb.runs(ZdbLife(address=config.zdb.address), (roots.index, roots.data)):
            raise UserError(
                "zdb runs: what it misses comes back when it asks for it; stop zdb, or give --to"
            )
        _heard_all(config)
        return anyio.run(_in_place, config, roots, only, full, show)


def _heard_all(config: Config) -> None:
    """Raises UserError while zdb has announced what no journal knows: a namespace that it has deleted
    looks like one that was lost.
    """
    events, shims = events_in(str(config.hook.spool)), zdb.shims_alive(config.hook.socket)
    if events or shims:
        what = count(events, "event") if events else count(shims, "hook")
        raise UserError(
            f"{what} of zdb {verb(events or shims, 'waits', 'wait')} for hookd ({config.hook.spool}): a"
            " namespace may have been deleted; start hookd, which hears of it, and say this again"
        )


async def _in_place(
    config: Config, roots: Roots, only: Collection[str] | None, full: bool, show: Show
) -> Result:
    db, _ = open_journal(config.journal.path)
    meta = tables.get_meta(db)
    heard = meta.get(zdb.HEARD)
    if isinstance(heard, str) and zdb.listens(heard):
        db.close()
        raise UserError(
            f"somebody listens at {heard}, where zdb did: it runs, perhaps, where it cannot be seen"
            " from here; stop it, or give --to"
        )
    scheduler = Scheduler()
    for job in tables.open_jobs(db):
        scheduler.add(job, 0.0)
    staging = Staging(config.staging_path, max_bytes=None)
    for staged, content in tables.snapshots(db):
        staging.restore(staged, content)
    broken: list[Exception] = []
    journal = Journal(db, on_broken=broken.append)
    ledger = await journal.ledger()
    try:
        store = _opened(config, roots, known_store(meta, ledger))
    except UserError:
        await journal.aclose()
        staging.close()
        raise
    try:
        recognise(store, meta, ledger, config.journal.path)
    except UserError:
        await store.aclose()
        await journal.aclose()
        staging.close()
        raise
    await note_store(store, journal)
    backoff = Backoff(base_s=0.2, cap_s=1.0)

    async def compare(manifest: Manifest | None) -> str | None:
        return await survey.compare(manifest)

    async def changed() -> None:
        """Nobody else is here."""

    fence = Fence(
        store=store,
        journal=journal,
        identity=identity_of(meta),
        compare=compare,
        home=home_of(config.journal.path),
    )
    held, takes = meta.get("held"), meta.get("takes")
    survey = survey_of(
        journal=journal,
        store=store,
        roots=roots,
        fence=fence,
        restorer=Restorer(
            store=store,
            roots=roots,
            full=full or config.restore.full,
            snapshot=newest_snapshot(scheduler, staging.path),
            say=show,
        ),
        scheduler=scheduler,
        skip=frozenset(config.zdb.skip_namespaces),
        names=config.restore.namespaces,
        held=dict(held) if isinstance(held, dict) else {},
        changed=changed,
        backoff=backoff,
        private=config.staging_path,
        takes=dict(takes) if isinstance(takes, dict) else {},
    )
    try:
        if why := await survey.by_hand(only):
            raise UserError(why, code=Exit.UNAVAILABLE)
        result = told(survey.findings, only, survey.unread)
        await mend(result, await journal.ledger(), store, roots)
        if full:
            retriever = Retriever(
                journal=journal,
                store=store,
                staging=staging,
                scheduler=scheduler,
                roots=roots,
                deadline_s=config.hook.missing_data_deadline_s,
                backoff=backoff,
            )
            rest = Rest(retriever, roots, keep_free=config.zdb.keep_free_bytes or 0, say=show)
            sizes, lost = await sizes_of(journal), await journal.holes()
            brought = await rest.bring(result.whole, sizes, store.readers, lost)
            with_rest(result, brought)
        return result
    finally:
        await store.aclose()
        await journal.aclose()
        staging.close()


def _opened(config: Config, roots: Roots, known: str | None) -> Store:
    """The store, if it is one: an empty folder, where one should be mounted, does not become a new one,
    and in another one than is `known` nothing is made or removed.

    Raises UserError.
    """
    if config.store.directory is not None and not (config.store.directory.path / "index").is_dir():
        attach_store(config, roots, config.staging_path)
    return open_store(config, roots, known=known)[0]
