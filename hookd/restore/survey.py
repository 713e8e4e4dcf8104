"""namespaces-init and ready: what zdb may load, what comes back first, and what somebody must decide.

    look here, look there → table → serve | restore | wait | refuse

The findings (namespace → why it takes no stores) are `held`: durable, shared with policy and dispatcher.
The invariants: zdb is let go only when every namespace is decided; complete files are never touched; a
restored namespace has this frontend's name on the store before zdb serves it, or takes no stores until it
has.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from hookd.backoff import Backoff
from hookd.errors import Conflict, JournalError, StoreError, StoreTemporary
from hookd.fence import Fence
from hookd.files import FileKey, Roots
from hookd.journal import Journal
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore import compare, short
from hookd.restore.asked import Asked
from hookd.restore.choices import Choices
from hookd.restore.claim import CALL_LIMIT_S, Claim
from hookd.restore.finding import APART, Finding, Holds, Waits
from hookd.restore.local import Local, look
from hookd.restore.restorer import UNWAITED, Restorer
from hookd.restore.table import Decision, Here, There
from hookd.restore.verdict import Verdicts
from hookd.restore.view import View, look_here, look_there
from hookd.scheduler import Scheduler
from hookd.stores.base import Store
from hookd.wire import ANSWER_SPOOL, Answer

log = get("survey")

SAY_EVERY_S = 10.0

LOOK_EVERY_S = 0.02

ZDB_STARTED = "zdb has started meanwhile, and has loaded what is here: stop it, and say this again"

PATIENCE_S = 3.0
"""How long the store may take to name its manifest while all that is known is here: zdb waits."""


LENGTHEN_S = 60.0
"""How long zdb waits for data files that were cut off here; it is served without the rest of them."""


@dataclass(slots=True)
class Survey:
    """Decides at namespaces-init; answers ready by what it found."""

    journal: Journal
    store: Store
    roots: Roots
    fence: Fence
    restorer: Restorer
    scheduler: Scheduler
    verdicts: Verdicts
    skip: Collection[str]
    asked: Asked
    holds: Holds
    choices: Choices
    claim: Claim
    backoff: Backoff
    hear: Callable[[], Awaitable[None]] | None = None
    """Waits until all that was announced before is known; None where nobody announces."""
    zdb_runs: Callable[[], Awaitable[bool]] | None = None
    """Whether zdb may run, asked before a restore by hand changes anything; None: nobody can tell."""
    stopping: Callable[[], bool] = lambda: False
    findings: dict[str, Finding] = field(default_factory=dict)
    """Of the newest survey."""
    unread: dict[str, str] = field(default_factory=dict)
    """Namespace → why the store could not tell enough of it for the newest restore by hand, which went
    on with the others."""
    waiting: str | None = None
    """Why zdb is kept waiting now."""
    why: str = ""
    """The last of these reasons."""
    running: bool = False
    """Whether namespaces-init has not been answered yet."""
    undecided: bool = False
    """Between namespaces-init and ready: zdb is about to make or load files."""
    _asked_now: bool = False
    """Whether the round that runs asked for every name."""
    surveys: int = 0
    """How many have begun: each is a zdb that starts."""
    _turn: anyio.Lock = field(default_factory=anyio.Lock)
    """A zdb that was killed in this hook leaves its survey behind; the next one's begins after it."""

    # -- the two hooks -------------------------------------------------------------------------

    async def survey(self) -> Answer:
        """namespaces-init: returns when zdb may load what is here."""
        async with self._turn:
            return await self._survey()

    async def _survey(self) -> Answer:
        self.choices.begin()
        self.surveys += 1
        self.undecided = self.running = True
        self.findings = {}
        try:
            if self.hear is not None:  # a deletion that is still on its way looks like lost files
                await self.hear()
            await self._lengthen()
            found = await self._until_decided()
        finally:
            self.running, self.waiting = False, None
        if found is None:
            return Answer(ANSWER_SPOOL, "hookd stops; it goes on with its next start")
        await self.holds.keep({name: each.reason for name, each in found.items() if each.reason})
        await self._note_asked(found)
        self.findings = found
        return Answer(0, "")

    async def _lengthen(self) -> None:
        """Closed data files that a crash cut off: zdb would never ask for the rest."""
        ledger = await self.journal.ledger()
        names = {entry.key.namespace for entry in ledger} - {*self.skip, *self.holds.held}
        names = {name for name in names if self.choices.of(name) is None}
        cut = await short.cut_off(ledger, names, self.roots)
        self.waiting = (
            "data files that a crash cut off come back" if cut else None
        )  # a stop ends it
        try:
            with anyio.move_on_after(LENGTHEN_S):
                await short.at_start(cut, self.store, self.roots, PATIENCE_S)
        finally:
            self.waiting = None

    async def _note_asked(self, found: Mapping[str, Finding]) -> None:
        """All was asked for, if nothing is open: what is held is not named by any manifest of ours."""
        unsure = (There.UNREACHABLE, There.BLIND, There.LOST)
        open_still = self.holds.held or any(each.there in unsure for each in found.values())
        if self._asked_now and not open_still:
            with contextlib.suppress(JournalError):  # the next survey asks again
                await self.asked.note(True)

    async def _until_decided(self) -> dict[str, Finding] | None:
        """Round after round; None when hookd is told to stop first."""
        attempts = 0
        said = float("-inf")
        while True:
            try:
                return await self._round()
            except Waits as error:
                self.waiting = self.why = str(error)
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                log.warning("zdb waits", reason=self.waiting)
            attempts += 1
            wait_s = min(SAY_EVERY_S, self.backoff.after(attempts))
            if not await self._pause(wait_s):
                return None

    async def judge(self) -> Answer:
        """ready: 0, or 1 with one line."""
        if self.running and await self._unwaited():
            return Answer(1, f"zdb may not serve: {UNWAITED}")
        # After a restart of ours between the two the earlier finding stands: by now zdb may have made
        # blank files, and nothing would be missing any more.
        if not self.undecided and not self.holds.held:
            if (answer := await self.survey()).code:
                return answer
            if any(each.decision is Decision.RESTORE for each in self.findings.values()):
                # zdb has loaded what was here before: nobody answered its namespaces-init
                return Answer(1, f"zdb may not serve: {UNWAITED}")
        self.undecided = False
        if not self.holds.held:
            return Answer(0, "")
        namespace, reason = next(iter(self.holds.held.items()))
        more = f" (and {len(self.holds.held) - 1} more)" if len(self.holds.held) > 1 else ""
        return Answer(1, f"zdb may not serve: {namespace}: {reason}{more}; see `hookd status`")

    async def _unwaited(self) -> bool:
        """zdb did not wait for namespaces-init: whether it has loaded less than it should have.

        Where nothing was to be brought, the survey ends soon, and its finding holds all the same.
        """
        while self.running:
            if self.waiting is not None or self.restorer.progress is not None:
                return True
            await anyio.sleep(LOOK_EVERY_S)
        return any(each.decision is Decision.RESTORE for each in self.findings.values())

    async def _pause(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.stopping():
                return False
            await anyio.sleep(min(0.2, seconds))
        return not self.stopping()

    async def compare(self, manifest: Manifest | None) -> str | None:
        """For the fence, see `Claim.compare`. Raises StoreError."""
        if self.running:  # half a restore differs from anything
            raise StoreTemporary("compare", "namespaces", "namespaces-init is not answered yet")
        try:
            return await self.claim.compare(manifest)
        except OSError as error:
            raise StoreTemporary("compare", "namespaces", str(error)) from error

    def brings_chosen(self, name: str) -> bool:
        """Whether what is stored of a namespace was chosen, and comes back now: nothing goes over it."""
        return self.running and self.choices.of(name) == "remote"

    def _decides(self) -> bool:
        """Whether zdb is about to make or load files, and a survey looks at what is chosen."""
        return self.running or self.undecided

    async def take_local(
        self, name: str, serves: Callable[[], Awaitable[bool]]
    ) -> list[str] | None:
        """`Claim.take_local_now`, if zdb serves what is here; None where it does not: then a survey
        decides. Raises as that does.
        """
        if self._decides():
            return None
        async with self._turn:
            if self._decides() or not await serves():
                return None
            return await self.claim.take_local_now(name)

    async def by_hand(self, only: Collection[str] | None = None) -> str | None:
        """What namespaces-init would do, once, beside a stopped zdb; why nothing came of it, or None:
        `findings` say what.

        Of `only` these namespaces where they are given: all others are looked at (whether the store may
        be taken over hangs on them) and left as they are, with what was chosen for them. Raises
        JournalError.
        """
        surveys = self.surveys
        async with self._turn:
            before, self.undecided, self.running = self.undecided, True, True
            self.choices.begin(only)
            self.unread = {}
            try:
                if self.hear is not None:
                    await self.hear()
                # One that starts from here on waits in its namespaces-init for its turn.
                if self.surveys != surveys or (self.zdb_runs and await self.zdb_runs()):
                    return ZDB_STARTED
                found = await self._round(self.unread)
            except Waits as error:
                return str(error)
            finally:
                self.choices.begin()
                self.undecided, self.running = before, False
            held = {} if only is None else self.holds.held
            held = {name: why for name, why in held.items() if name not in found}
            held |= {name: why for name, why in self.holds.held.items() if name in self.unread}
            reasons = {name: each.reason for name, each in found.items() if each.reason}
            await self.holds.keep({**held, **reasons})
            if only is None and not self.unread:
                await self._note_asked(found)
            self.findings = found
            return None

    # -- one round -----------------------------------------------------------------------------

    async def _round(self, unread: dict[str, str] | None = None) -> dict[str, Finding]:
        """Decide all; restore what can be. Raises Waits.

        `unread`, of a restore by hand, gets those that had to wait while others were restored; then the
        store is not taken over for the rest, which zdb's next start does.
        """
        only = self.choices.only
        known, proven = await self._known()
        here = await look_here(self.roots, {*known, *self.roots.namespaces()} - set(self.skip))
        unsound = {
            name
            for name, local in here.items()
            if local.blank or compare.classify(local, known.get(name, {}))[0] is not Here.COMPLETE
        }
        served_at_once = any(local.indexes for local in here.values()) and all(
            here[name].blank and not known.get(name) and self.verdicts.had_store for name in unsound
        )
        limit_s = PATIENCE_S if served_at_once and unread is None else CALL_LIMIT_S
        view = await look_there(self.store, self.fence, limit_s)
        if view.conflict is not None or view.superseded:
            known = {}
        else:
            view.proven = proven
        view.unasked = view.ours and not await self.asked.all()
        names = await self._names(view, here, known)
        found = view.found

        # what is here comes first: whether the store may be taken over for what is not hangs on it
        def turn(name: str) -> tuple[bool, bool, str]:
            return only is not None and name in only, name in unsound, name

        for name in sorted({*names, *(only or ())} - set(self.skip), key=turn):
            local = here[name] if name in here else await self._look(name)
            try:
                each = await self.verdicts.of(name, local, known.get(name, {}), view)
            except Waits as error:
                # what is here may be another history, what no manifest names would be named by none
                if unread is None or not (view.ours or (view.manifest and local.nothing)):
                    raise
                unread[name] = str(error).removeprefix(f"{name}: ")
                continue
            found[name] = each
            apart = each.here in APART or each.there is There.LOST  # or it is another store
            # a manifest of ours would not name them, and nobody would ask for them again
            unnamed = only is not None and name not in only and each.there is There.FILES
            if each.decision is Decision.REFUSE and (apart or unnamed):
                view.stuck = view.stuck or f"{name}: {each.reason}"
        waits = [(name, each) for name, each in found.items() if each.decision is Decision.WAIT]
        if waits:
            name, each = waits[0]
            raise Waits(f"{name}: {each.reason}; {view.trouble}")
        if unread is not None and not view.readable:
            raise Waits(f"the store cannot be read: {view.trouble}; nothing was compared with it")
        if unread:
            if not any(each.decision is Decision.RESTORE for each in found.values()):
                raise Waits(next(iter(unread.values())))
            return found
        await self.claim.claim(view, found)
        return found

    async def _known(
        self,
    ) -> tuple[dict[str, dict[FileKey, int]], dict[str, dict[FileKey, int]]]:
        """What was proven remote or is frozen on its way there, with its length; the former alone."""
        proven: dict[str, dict[FileKey, int]] = {}
        for entry in await self.journal.ledger():
            proven.setdefault(entry.key.namespace, {})[entry.key] = entry.size_bytes
        known = {name: dict(sizes) for name, sizes in proven.items()}
        for job in self.scheduler:
            if job.staged is not None and job.error_class != Conflict.error_class:
                sizes = known.setdefault(job.key.namespace, {})
                sizes[job.key] = max(sizes.get(job.key, 0), job.size_bytes or 0)
        return known, proven

    async def _look(self, name: str) -> Local:
        return await anyio.to_thread.run_sync(look, self.roots, name)

    async def _names(
        self, view: View, here: Mapping[str, Local], known: Collection[str]
    ) -> set[str]:
        """Every namespace that must be decided. Raises JournalError."""
        given = {entry.key.namespace for entry in await self.journal.given_up()}
        # what is held may be there only, and is in no manifest of ours then
        held = set(self.holds.held) - await self.asked.deleted(None)
        names = {*here, *known, *given, *held}
        self._asked_now = view.ours and not view.unasked
        if self._asked_now:
            return names
        if view.manifest is not None:
            names.update(key.namespace for key in view.manifest.given_up)
            names.update(view.manifest.namespaces)
        if view.readable and (view.conflict is None or view.manifest is not None):
            try:
                names.update(await self.asked.listed())
            except StoreError as error:
                raise Waits(f"which namespaces the store has: {error}") from error
            self._asked_now = True
            deleted = await self.asked.deleted(view.manifest, theirs=view.superseded)
            return names - (deleted - set(here))
        if self.verdicts.had_store and any(each.indexes for each in here.values()):
            return names
        return {*names, *self.asked.names}
