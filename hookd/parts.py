"""The parts of the daemon: what the journal says at the start, and every stage made and wired.

    journal → staging → store → scheduler → dispatcher → recovery → admission → spool → hook socket

Each is made from the ones before it; nothing runs yet. The hook socket comes last, so that a shim
which gets through finds a daemon that can keep its promise.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio.to_thread

from hookd import zdb
from hookd.admission import Actions, Admission
from hookd.audit.auditor import Auditor, DaemonWorld
from hookd.backoff import Backoff
from hookd.checkpoint import Checkpoints
from hookd.checkpoint_timer import Timer
from hookd.config import Config
from hookd.descriptors import for_shims
from hookd.dispatcher import Dispatcher
from hookd.drain import Drain
from hookd.fence import Fence
from hookd.files import Roots
from hookd.identity import home_of, identity_of
from hookd.intake.hearing import Hearing
from hookd.intake.server import Intake
from hookd.intake.spool import Spool
from hookd.journal import Journal
from hookd.leftover import Leftovers
from hookd.log import get
from hookd.manifest import Manifest
from hookd.orphans import ORPHANED
from hookd.policy import Rules
from hookd.publisher import Publisher
from hookd.recovery import Retriever
from hookd.restore.newest import newest_snapshot
from hookd.restore.restorer import Restorer
from hookd.restore.survey import Survey
from hookd.restore.wiring import survey_of
from hookd.room import LIMITS, Room
from hookd.scanner import Scanner
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging
from hookd.sockets import allowed_uids, listen
from hookd.startup import (
    Loaded,
    awaited,
    claim_spool,
    kept_out,
    known_store,
    recognise,
    texts,
)
from hookd.stores import open_store
from hookd.stores.base import Store
from hookd.stores.zstor_blind import BlindWatch, watch_of
from hookd.zdb_jump import jump
from hookd.zdbfs import Zdbfs

log = get("daemon")

BACKLOG = 1024


@dataclass(slots=True)
class Parts:
    """The running daemon, for those that look at it (admin) and for the wiring below."""

    config: Config
    roots: Roots
    journal: Journal
    staging: Staging
    scheduler: Scheduler
    store: Store
    dispatcher: Dispatcher
    admission: Admission
    retriever: Retriever
    fence: Fence
    publisher: Publisher
    survey: Survey
    intake: Intake
    spool: Spool
    life: zdb.ZdbLife
    auditor: Auditor
    blind: BlindWatch | None
    """Whether zstor is blind; None with another store."""
    held: dict[str, str]
    """Namespace → why it takes no stores."""
    checkpoints: Checkpoints
    leftovers: Leftovers
    room: Room
    started_at: float
    """Unix seconds."""
    checkpoint_timer: Timer | None = None
    """None without `checkpoint.interval_s`."""
    phase: str = "running"
    """running, draining or stopping."""
    drain: Drain | None = None
    notices: list[str] = field(default_factory=list)
    """What an administrator must hear of this run (a rebuilt journal, settings without effect)."""


def assemble(
    config: Config,
    *,
    journal: Journal,
    staging: Staging,
    loaded: Loaded,
    rebuilt: str | None,
    actions: Actions,
    holds_changed: Callable[[], Awaitable[None]],
    hook: socket.socket | None,
    scanner: Scanner,
    retrieving: Callable[[], bool],
) -> Parts:
    """Every stage, each given its neighbours, and the listening hook socket.

    `rebuilt`: where a damaged journal was moved to; `hook`: the socket if it was passed to us;
    `retrieving` says whether zdb waits for a data file. `scanner` gets these parts afterwards. Raises
    UserError with one line.
    """
    claim_spool(config, loaded)
    roots = Roots(config.zdb.index, config.zdb.data)
    lost = staging.open(
        [job.staged for job in loaded.jobs if job.staged],
        begin=journal.begin,
        keep_unknown=loaded.blank,
    )
    notices = list(config.warnings())
    store, warnings = open_store(config, roots, known=known_store(loaded.meta, loaded.ledger))
    recognise(store, loaded.meta, loaded.ledger, config.journal.path)
    if reason := awaited(store):
        log.warning("the store is waited for", reason=reason)
    notices.extend(warnings)
    if rebuilt:
        notices.append(f"the journal was damaged; it was moved to {rebuilt} and rebuilt")
    if orphans := staging.orphans():
        notices.append(
            f"{orphans} snapshots that no journal knows are kept in {staging.folder / ORPHANED};"
            " compare them with what is stored, then remove that folder"
        )
    if lost:
        notices.append(f"{len(lost)} snapshots are gone from {config.staging_path}")
    held = texts(loaded.meta, "held")
    life = zdb.ZdbLife(address=config.zdb.address)
    heard = loaded.meta.get(zdb.HEARD)
    life.heard_before = heard if isinstance(heard, str) else None
    skip = frozenset(config.zdb.skip_namespaces)
    rules = Rules(skip=skip, held=held)
    scheduler = Scheduler(supersede_within_s=config.dispatch.supersede_within_s)
    backoff = partial(
        Backoff, base_s=config.dispatch.backoff_base_s, cap_s=config.dispatch.backoff_max_s
    )

    async def compare(manifest: Manifest | None) -> str | None:
        return await survey.compare(manifest)

    fence = Fence(
        store=store,
        journal=journal,
        identity=identity_of(loaded.meta),
        compare=compare,
        home=home_of(config.journal.path),
    )
    dispatcher = Dispatcher(
        scheduler=scheduler,
        journal=journal,
        store=store,
        staging=staging,
        roots=roots,
        workers=config.dispatch.workers,
        time_limit_s=config.store.time_limit_s,
        backoff=backoff(),
        held=held.get,
        guard=fence.guard,
        changed=fence.changed,
        chosen=lambda namespace: survey.brings_chosen(namespace),
    )
    retriever = Retriever(
        journal=journal,
        store=store,
        staging=staging,
        scheduler=scheduler,
        roots=roots,
        deadline_s=config.hook.missing_data_deadline_s,
        backoff=backoff(cap_s=5.0),
        prefetch=config.restore.prefetch,
        noted=fence.changed,
    )
    restorer = Restorer(
        store=store,
        roots=roots,
        full=config.restore.full,
        snapshot=newest_snapshot(scheduler, staging.path),
    )
    survey = survey_of(
        journal=journal,
        store=store,
        roots=roots,
        fence=fence,
        restorer=restorer,
        scheduler=scheduler,
        skip=skip,
        names=config.restore.namespaces,
        held=held,
        changed=holds_changed,
        backoff=backoff(cap_s=5.0),
        private=config.staging_path,
        takes=texts(loaded.meta, "takes"),
        disown=dispatcher.departures.disown,
        forsake=dispatcher.departures.forsake,
    )
    admission = Admission(
        journal=journal,
        staging=staging,
        roots=roots,
        rules=lambda: rules,
        enqueue=dispatcher.enqueue,
        actions=actions,
        seen=life.see,
    )
    spool = Spool(config.hook.spool, admit=admission.admit, expect=admission.recall.expect)
    hearing = Hearing(
        shims=partial(anyio.to_thread.run_sync, zdb.shims, config.hook.socket),
        committing=lambda: admission.committing,
        sweep=spool.sweep,
    )
    auditor = Auditor(
        DaemonWorld(
            roots=roots,
            store=store,
            journal=journal,
            scheduler=scheduler,
            dispatcher=dispatcher,
            skip=skip,
            held=held,
            private=config.staging_path,
            limit_s=config.store.time_limit_s,
            is_undecided=lambda: survey.undecided,
            is_ours=fence.still_ours,
            noted=fence.changed,
            look=scanner.for_audit,
            retrieving=retrieving,
            hear=hearing.out,
        ),
        interval_s=config.audit.interval_s,
        meta=loaded.meta,
    )
    # a put that the frontend before us had begun has ended by then
    fence.taken = lambda largest: auditor.also_in(config.store.time_limit_s(largest))
    dispatcher.departures.scan = scanner.ask
    survey.hear = hearing.out
    survey.zdb_runs = scanner.zdb_may_run
    spool.prepare()
    users = config.hook.allow_users
    notices.extend(kept_out(config))
    wanted, connections = config.hook.max_connections, for_shims(config.hook.max_connections)
    if connections < wanted:
        notices.append(
            f"hook.max_connections: {wanted} are wanted, but too few files may be open (`ulimit -n`,"
            f" LimitNOFILE=): {connections} shims are served at once"
        )
    for notice in notices:
        log.warning("notice", text=notice)
    mode = 0o666 if users else 0o600
    if hook is None:
        hook = listen(config.hook.socket, "hook.socket", mode=mode, backlog=BACKLOG)
    intake = Intake(
        hook,
        admit=admission.admit,
        allowed_uids=allowed_uids(users),
        max_connections=connections,
        frame_timeout_s=config.hook.frame_timeout_s,
    )
    leftovers = Leftovers(
        roots=roots, socket=config.hook.socket, spool=spool, held=held, unstored=scanner.unstored
    )
    flush = None if config.checkpoint.mount is None else Zdbfs(config.checkpoint.mount).flush
    checkpoints = Checkpoints(
        scheduler=scheduler,
        roots=roots,
        skip=skip,
        held=lambda: {*held, *leftovers.nameless},
        newest_job=lambda: journal.newest_job,
        paused=lambda: dispatcher.paused,
        zdb_runs=scanner.zdb_runs,
        jump=partial(jump, life, roots, config.zdb.admin_password),
        flush=flush,
        sweep=spool.sweep,
        scan=scanner.count,
        unscanned=scanner.owed,
        publish=fence.confirm,
    )
    parts = Parts(
        config=config,
        roots=roots,
        journal=journal,
        staging=staging,
        scheduler=scheduler,
        store=store,
        dispatcher=dispatcher,
        admission=admission,
        retriever=retriever,
        fence=fence,
        publisher=Publisher(fence, backoff()),
        survey=survey,
        intake=intake,
        spool=spool,
        life=life,
        auditor=auditor,
        blind=watch_of(config, store, journal=journal, meta=loaded.meta),
        held=held,
        checkpoints=checkpoints,
        leftovers=leftovers,
        room=Room(
            roots,
            journal,
            keep_free=config.zdb.keep_free_bytes or 0,
            address=lambda: life.address or life.heard_before,
            admin_password=config.zdb.admin_password,
            limits=loaded.meta.get(LIMITS),
        ),
        started_at=time.time(),
        notices=notices,
    )
    if config.checkpoint.interval_s is not None:
        parts.checkpoint_timer = Timer(
            checkpoints,
            interval_s=config.checkpoint.interval_s,
            hindrance=partial(_hindrance, parts),
            flush=flush,
        )
    return parts


def _hindrance(parts: Parts) -> str | None:
    """Why the timer should make no checkpoint now."""
    if parts.phase != "running":
        return f"hookd is {parts.phase}"
    if parts.fence.fenced is not None:
        return parts.fence.fenced
    if parts.dispatcher.store_state.down_since is not None:
        return f"the store is down: {parts.dispatcher.store_state.last_error}"
    if parts.room.shut:
        return "the disk is nearly full, and closing files takes room"
    return "storing is paused" if parts.dispatcher.paused else None


def refill(parts: Parts, loaded: Loaded) -> None:
    """What the journal owes goes back into the line."""
    for entry in loaded.ledger:
        parts.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)
    parts.admission.recall.load(loaded.events)
    skips = parts.dispatcher.departures.skips
    skips.load(loaded.meta)
    for key in skips:
        parts.scheduler.give_up(key, skips.length(key))
        log.info("not stored, somebody decided so", file=str(key))
    parts.dispatcher.enqueue(loaded.jobs)
    if loaded.jobs:
        log.info("work kept from before", files=len(loaded.jobs))
