"""Whether a namespace that zdb does not have may be made, blank: for `hookd namespaces`.

zdb may have been let serve although one namespace was absent and the store could not say whether it
holds files of it (`recovery.Judge`); or a restore is putting files in place that zdb has not loaded.
A blank namespace made then would be served in place of the real one. So "yes" is said only when
neither disk nor journal nor store has anything of it, the store's "not found" being proven.

Three answers, one line each: `yes`, `no: REASON` (somebody has to decide), `wait: REASON` (it may
change by itself).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from hookd.admin.words import count, one_line
from hookd.errors import JournalError, PathRefused, StoreError
from hookd.files import FileKey, Kind, Roots, index_key
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.parts import Parts

STORE_LIMIT_S = 20.0
"""Less than whoever asks waits for an answer (`client.ANSWER_WITHIN_S`)."""

YES, NO, WAIT = "yes", "no: ", "wait: "


async def may_begin(parts: Parts, namespace: str) -> str:
    """The answer, one line."""
    try:
        first = index_key(namespace, 0)
    except PathRefused as error:
        return f"{NO}{one_line(str(error))}"
    if namespace in parts.config.zdb.skip_namespaces:
        return YES  # nothing of it is ever stored or brought back
    if reason := _unsettled(parts, namespace):
        return f"{WAIT}{reason}"
    if reason := parts.held.get(namespace):
        return f"{NO}{one_line(scrub(reason))}"
    if found := await anyio.to_thread.run_sync(_local, parts.roots, namespace):
        return f"{NO}{found} is on disk, but zdb has not loaded it: restart zdb"
    try:
        known = sum(entry.key.namespace == namespace for entry in await parts.journal.ledger())
        if known:
            return f"{NO}the store has {count(known, 'file')} of it, and they are not here"
        if await parts.journal.was_retired(first):
            return YES  # what the store has is of one that zdb deleted
        with anyio.fail_after(STORE_LIMIT_S):
            if await parts.store.stat(first) is not None:
                return f"{NO}the store has its files, but they are not here"
            await parts.store.prove_absence()
    except JournalError as error:
        return f"{WAIT}the journal cannot be read: {one_line(scrub(str(error)))}"
    except (StoreError, TimeoutError) as error:
        text = one_line(scrub(str(error))) or f"no answer within {STORE_LIMIT_S:g} s"
        return f"{WAIT}the store cannot tell whether it has files of it: {text}"
    return YES


def _unsettled(parts: Parts, namespace: str) -> str | None:
    """What goes on now and may end by itself."""
    if parts.phase != "running":
        return f"hookd is {parts.phase}"
    if parts.survey.undecided:
        return "it is being decided whether zdb may serve"
    if any(key.namespace == namespace for key in parts.retriever.running):
        return "files of it are being brought back"
    queued = sum(job.key.namespace == namespace for job in parts.scheduler)
    return f"{count(queued, 'file')} of it on the way to the store" if queued else None


def _local(roots: Roots, namespace: str) -> FileKey | None:
    """A file of it on disk. Blocking."""
    for kind in (Kind.INDEX, Kind.DATA):
        if numbers := roots.numbers(kind, namespace):
            return FileKey(kind, namespace, numbers[0])
    return None
