"""`hookd restore` beside a running daemon: what zdb's next start would bring, now; or all data files.

Beside a running zdb only data files come (`--full`), by the lane of missing-data: zdb has loaded its
indexes, and would not see other ones. Everything else needs a stopped zdb; one that is started
meanwhile waits in its namespaces-init. Whoever hangs up ends the restore; done again it goes on.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.to_thread

from hookd.admin.lines import Gone, Refused
from hookd.admin.picture import AsksZdb
from hookd.errors import Exit, HookdError, PathRefused
from hookd.files import index_key
from hookd.log import get, scrub
from hookd.recovery_rest import Rest, sizes_of
from hookd.restore import short
from hookd.restore.result import Result, told, with_rest
from hookd.zdb import listens

if TYPE_CHECKING:
    from hookd.parts import Parts
    from hookd.restore.progress import Progress

log = get("admin")

SAY_EVERY_S = 0.5

T = TypeVar("T")


class Restores(Protocol):
    """The daemon, as far as it is needed here."""

    async def by_hand(self, only: list[str] | None) -> str | None:
        """`Survey.by_hand`, ended by a stop."""
        ...


async def restore(
    parts: Parts,
    zdb: AsksZdb,
    daemon: Restores,
    rest: str,
    uid: int,
    say: Callable[[dict[str, Any]], Awaitable[None]],
) -> dict[str, Any]:
    """The outcome as plain data, with the `code` to exit with; `say` is told how far it is. Raises
    Refused, Gone.
    """
    only, full = _arguments(rest)
    if parts.phase != "running":
        raise Refused(f"hookd is {parts.phase}: it restores nothing now")
    seen = await zdb.zdb_runs()
    heard = parts.life.heard_before
    runs = seen or await anyio.to_thread.run_sync(listens, heard, abandon_on_cancel=True)
    if parts.survey.running or (runs and parts.survey.undecided):
        raise Refused(
            "a restore runs already, or zdb is starting: `hookd status` says how far it is"
        )
    if runs and not full:
        raise Refused(_zdb_runs(parts, only) if seen else _zdb_may_run(parts))
    log.info("restore by hand", namespaces=only or "all", full=full, zdb=runs, uid=uid)
    lane = Rest(parts.retriever, parts.roots, keep_free=parts.room.keep_free_bytes)

    async def work() -> Result | str:
        if runs:
            result = _as_it_is(parts, only)
            await short.name_them(result, await parts.journal.ledger(), parts.roots)
        elif why := await daemon.by_hand(only):
            return why
        else:
            result = told(parts.survey.findings, only, parts.survey.unread)
            await short.mend(result, await parts.journal.ledger(), parts.store, parts.roots)
        if full:
            at_once = 1 if runs else parts.store.readers
            sizes, lost = await sizes_of(parts.journal), await parts.journal.holes()
            with_rest(result, await lane.bring(result.whole, sizes, at_once, lost))
        return result

    def progress() -> Progress | None:
        return parts.survey.restorer.progress or lane.progress

    found = await _telling(work, progress, say)
    if isinstance(found, str):
        return {"code": Exit.UNAVAILABLE, "error": scrub(found)}
    log.info("restored by hand", **found.as_dict())
    code = Exit.FAILED if found.refused else Exit.OK
    clean: dict[str, Any] = json.loads(scrub(json.dumps(found.as_dict())))
    return {"code": code, **clean}


def _arguments(rest: str) -> tuple[list[str] | None, bool]:
    """(namespaces, full). Raises Refused."""
    only: list[str] | None = None
    full = False
    try:
        words = iter(shlex.split(rest))
    except ValueError as error:
        raise Refused(f"read {rest[:40]!r}: {error}") from None
    for word in words:
        if word == "--full":
            full = True
        elif word == "--namespace" and (name := next(words, "")):
            try:
                index_key(name, 0)
            except PathRefused as error:
                raise Refused(str(error)) from None
            only = [*(only or ()), name]
        else:
            raise Refused(f"read {word[:40]!r}, expected --namespace NAME or --full")
    return only, full


def _zdb_runs(parts: Parts, only: list[str] | None) -> str:
    here = set(parts.roots.namespaces())
    what = "has loaded what is here"
    if only is not None and (absent := sorted(set(only) - here)):
        what = f"has no namespace {absent[0]}"
    return (
        f"zdb runs, and {what}: data files come when it asks for them, `--full` brings all of them now;"
        " for anything else stop zdb and say this again, or give --to DIR"
    )


def _zdb_may_run(parts: Parts) -> str:
    return (
        f"somebody listens at {parts.life.heard_before}, where zdb did: it runs, perhaps, where hookd"
        " does not see it; stop it and say this again, or give --to DIR"
    )


def _as_it_is(parts: Parts, only: list[str] | None) -> Result:
    """Beside a running zdb: what it serves is complete but for data files; what is held stays."""
    result = Result()
    here, skip = parts.roots.namespaces(), parts.config.zdb.skip_namespaces
    for name in sorted({*(only if only is not None else here)}):
        if name in skip:
            if only is not None:
                result.refused[name] = "zdb.skip_namespaces names it: nothing of it is stored"
        elif name in parts.held:
            result.refused[name] = parts.held[name]
        elif name not in here:
            result.refused[name] = "zdb runs and does not have it; stop zdb, and say this again"
        else:
            result.complete.append(name)
    return result


async def _telling(
    work: Callable[[], Awaitable[T]],
    progress: Callable[[], Progress | None],
    say: Callable[[dict[str, Any]], Awaitable[None]],
) -> T:
    """What `work` returns; `say` is told meanwhile. Raises Gone, Refused."""
    gone: Gone | None = None
    failed: HookdError | None = None
    found: list[T] = []
    async with anyio.create_task_group() as group:

        async def tell() -> None:
            nonlocal gone
            try:
                while True:
                    now = progress()
                    await say({"doing": None if now is None else now.as_dict()})
                    await anyio.sleep(SAY_EVERY_S)
            except Gone as error:
                gone = error
                group.cancel_scope.cancel()

        group.start_soon(tell)
        try:
            found.append(await work())
        except HookdError as error:
            failed = error
        group.cancel_scope.cancel()
    if found:
        return found[0]
    if failed is not None:
        raise Refused(str(failed)) from failed
    assert gone is not None
    raise gone
