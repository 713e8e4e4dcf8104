"""Taking the store over: our name is there before zdb serves what was restored or compared.

Only where everything here and there was decided. What the last manifest names and nobody here knows
stays named. The fence asks `compare` where zdb was served before the manifest could be read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread

from hookd.errors import JournalError, StoreError, StoreTemporary
from hookd.fence import CHOICE, Fence, ManifestMoved
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal import Journal
from hookd.log import get
from hookd.manifest import NAME, Manifest, ManifestBad, entries_of
from hookd.restore import compare, remote
from hookd.restore.asked import Asked
from hookd.restore.choices import Choices, half_of
from hookd.restore.finding import APART, WITH_FILES, Finding, Holds, Waits, to_decide
from hookd.restore.local import Local, look
from hookd.restore.table import Decision, Here, There
from hookd.restore.view import View, conflict_of, is_superseded, look_here
from hookd.restore.weigh import Scales
from hookd.scheduler import Scheduler
from hookd.stores.base import Store

log = get("survey")

ANSWER_LIMIT_S = 10.0
"""How long the store may take to accept our name while zdb waits."""

CALL_LIMIT_S = 120.0

SET_BACK = "the store has later files than this journal knows of"
"""Why what waits is given up."""


@dataclass(slots=True)
class Claim:
    """Puts our name on the store, or says why not."""

    journal: Journal
    store: Store
    roots: Roots
    fence: Fence
    scheduler: Scheduler
    skip: Collection[str]
    holds: Holds
    choices: Choices
    scales: Scales
    asked: Asked
    let_go: Callable[[str, Collection[str]], Awaitable[None]]
    """Gives up all frozen copies that wait, for a reason, but for those of some namespaces."""
    brought: set[str] | None = None
    """Namespaces restored while the store did not take our name; None: an earlier process knew."""

    async def still_so(self, view: View, there: remote.There, manifest: Manifest | None) -> None:
        """All is fetched. Take the store over, and see that what was fetched is what is there.

        The frontend that had the store may have stored on meanwhile; from here on it cannot. Raises
        StoreError: look again.
        """
        if view.ours or view.claimed or view.manifest is None:
            return
        held = {name: each.reason for name, each in view.found.items() if each.reason}
        try:
            await self.holds.add(held)
            await self._adopt_rest(view.manifest, self._given_up(view.found))
            await self.asked.note(False)
            await self.forsake(view.manifest, view.found)
            with anyio.fail_after(CALL_LIMIT_S):
                await self.fence.take_over(view.manifest, view.digest)
        except ManifestMoved:
            raise
        except (StoreError, JournalError, TimeoutError) as error:
            # Readable, but not writable, for the one before us too; nothing is stored before our name is.
            log.warning("the store does not take our name yet", error=str(error))
            self.brought = {*(self.brought or ()), there.namespace}
            return
        view.claimed = True
        await anyio.sleep(self.fence.settle_s)
        again = await remote.look(self.store, there.namespace, manifest, there.stale, there.only)
        data = [key.number for key in there.files if key.kind is Kind.DATA]
        await remote.look_for_data(self.store, again, data, manifest)
        if again.files != there.files:
            detail = "another frontend has stored meanwhile; what has changed is fetched again"
            raise StoreTemporary("restore", there.namespace, detail)

    async def claim(self, view: View, found: Mapping[str, Finding]) -> None:
        """Put our name on the store before zdb serves what was restored or compared. Raises Waits."""
        restored = any(each.decision is Decision.RESTORE for each in found.values())
        unread = [
            name for name, each in found.items() if each.there in (There.UNREACHABLE, There.BLIND)
        ]
        if not view.readable or (unread and not restored):
            return  # the fence compares before the first put
        if unread:
            raise Waits(f"{unread[0]}: the store cannot tell what it has of it")
        if view.ours and not restored and not self.choices.wait:
            return
        newer = view.conflict is not None and view.manifest is None
        idle = view.conflict is not None and not restored and not self.choices.wait
        if view.stuck is not None or newer or idle:
            return  # somebody has to decide; the fence says so with the first put
        self.brought = self.brought or set()
        lost = [
            name
            for name, each in found.items()
            if each.there is There.LOST and each.decision is Decision.SERVE
        ]
        try:
            await self._forget_lost(lost, limit_s=ANSWER_LIMIT_S)
            if view.manifest is not None:
                await self._adopt_rest(view.manifest, self._given_up(found))
            if not view.ours and not view.claimed:
                await self.asked.note(False)
                await self.forsake(view.manifest, found)
            with anyio.fail_after(ANSWER_LIMIT_S):
                if (view.ours or view.claimed) and not self.choices.wait:
                    await self.fence.publish()
                else:
                    await self.fence.take_over(view.manifest, view.digest)
        except ManifestMoved as error:
            raise Waits(str(error)) from error
        except (StoreError, JournalError, TimeoutError) as error:
            # Readable, but not writable: nothing is stored before our name is.
            log.warning("the store does not take our name yet", error=str(error))
            if self.choices.wait and not self.fence.is_ours(view.digest):
                raise Waits(f"a choice was made, and the store does not answer: {error}") from error
        await self.choices.forget()

    async def forsake(self, manifest: Manifest | None, found: Mapping[str, Finding]) -> None:
        """Before the store becomes ours: frozen copies that wait would go over what is stored by now,
        where its manifest is later than what this journal knows. Raises JournalError.
        """
        await self._forsake(manifest, self._given_up(found))

    async def _forsake(self, manifest: Manifest | None, chosen: Collection[str]) -> None:
        """The same; of those `chosen` what is here counts, and what waits."""
        if manifest is not None and is_superseded(self.fence.identity, manifest):
            await self.let_go(SET_BACK, chosen)
            await self.holds.changed()  # a scan finds what is here and later than what is stored

    async def _forget_lost(self, names: Collection[str], *, limit_s: float | None = None) -> None:
        """The store has no index file of these any more: what the ledger says of files that are here is
        withdrawn before a manifest names them, and a scan has them stored again.

        What is not here stays in it: an index would wait for it for ever; the audit names it, if it is
        lost. Of what the store was not heard about nothing is withdrawn: while zdb waits there is a
        limit, and past it the fence asks before the first put. Raises StoreError, JournalError.
        """
        if not names:
            return
        here = await look_here(self.roots, names)
        entries = [each for each in await self.journal.ledger() if each.key.namespace in names]
        known = [each.key for each in entries if each.key in here[each.key.namespace].lengths]
        try:
            with anyio.fail_after(limit_s):
                left = await remote.ask(self.store, known)
        except TimeoutError:
            detail = "it takes long to tell which files are left"
            raise StoreTemporary("look", self.store.kind, detail) from None
        gone = {key for key in known if key not in left}
        await self.journal.forget(list(gone))
        for name in sorted({key.namespace for key in gone}):
            self.scheduler.forget(name)
            log.warning("the store has lost it, all is stored again", namespace=name)
        for entry in entries:
            if entry.key not in gone:
                self.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)

    async def recheck(self) -> str | None:
        """Our name came later than what was restored: why the store has something else by now, or None.

        Nothing of ours is stored before our name is, so the ledger says what was brought.

        Raises StoreError, JournalError.
        """
        newest: dict[str, int] = {}
        known: dict[FileKey, bytes | None] = {}
        for entry in await self.journal.ledger():
            name = entry.key.namespace
            others = self.brought is not None and name not in self.brought
            if others or name in self.skip or entry.sealed:
                continue
            known[entry.key] = entry.digest
            if entry.key.kind is Kind.INDEX:
                newest[name] = max(newest.get(name, 0), entry.key.number)
        stale = await self.journal.retired()
        for name, number in newest.items():
            for beyond in (index_key(name, number + 1), data_key(name, number + 1)):
                known[beyond] = stale.get(beyond)
        found = await remote.ask(self.store, known)
        for key in sorted(found, key=str):
            if found[key].digest != known[key]:
                what = f"another frontend has stored {key} after it was brought back here"
                return f"{what}; stop it; {CHOICE}"
        return None

    async def take_local_now(self, name: str) -> list[str]:
        """The same beside a zdb that serves, at once: for one namespace, or `*` for all that is here.

        Returns the namespaces. What zdb would load half of next time is not taken, but held; so is what
        differs of the others, where it was not our store. Raises StoreError, JournalError, ManifestNewer.
        """
        try:
            seen, digest = await self.fence.record.read_any()
        except ManifestBad:
            seen, digest = None, await self.store.stat_record(NAME)
        names = [name] if name != "*" else sorted({*self.holds.held, *self.roots.namespaces()})
        halves = await self._halves(each for each in names if each not in self.skip)
        names = [each for each in names if each not in self.skip and each not in halves]
        if halves:
            await self.holds.add(halves)
        if not names:
            return []
        ours = self.fence.is_ours(digest)
        if not ours:
            await self.asked.note(False)
            here = [each for each in self.roots.namespaces() if each not in self.skip]
            others, _, _ = await self._compared(here, [*names, *halves], seen)
            if others:
                await self.holds.add(others)
            await self._forsake(seen, names)
        for each in names:
            await self.choices.give_up(each, None if ours else seen)
        if seen is not None:
            await self._adopt_rest(seen, names)
        await self.fence.take_over(seen, digest)
        await self.choices.decided(names if name != "*" else [*self.choices.takes])
        await self.holds.keep({k: v for k, v in self.holds.held.items() if k not in names})
        log.warning("local files are taken", namespaces=names)
        return names

    async def _halves(self, names: Iterable[str]) -> dict[str, str]:
        """Those of which zdb would load half of what is here, and why they cannot be chosen."""
        here = await look_here(self.roots, [*names])
        reasons = {name: half_of(local)[1] for name, local in here.items()}
        return {name: why for name, why in reasons.items() if why is not None}

    async def compare(self, manifest: Manifest | None) -> str | None:
        """The fence found a manifest that is not ours, with zdb served already (see `Fence`).

        Holds what differs; returns why nothing at all may be stored.
        """
        self.brought = self.brought or set()
        names = [name for name in self.roots.namespaces() if name not in self.skip]
        chosen = [name for name in names if self.choices.of(name) == "local"]
        halves = await self._halves(chosen)  # zdb may be stopped, and files be lost since it was
        chosen = [name for name in chosen if name not in halves]
        if manifest is not None and (conflict := conflict_of(self.fence.identity, manifest)):
            here = await look_here(self.roots, set(names) - set(chosen))
            if not chosen or any(local.indexes and not local.blank for local in here.values()):
                return f"{conflict}; {CHOICE}"
        await self.asked.note(False)  # before the first survey what is not here would be forgotten
        held, apart, lost = await self._compared(names, [*chosen, *halves], manifest)
        held |= halves
        if held:
            await self.holds.add(held)
        if apart:  # somebody else may be storing there
            return f"{apart[0]}: {held[apart[0]]}"
        await self._forsake(manifest, chosen)
        await self._forget_lost(lost)
        for name in chosen:
            await self.choices.give_up(name, manifest)
        if manifest is not None:
            await self._adopt_rest(manifest, chosen)
        if chosen:
            everywhere = self.choices.takes.get("*") == "local"
            await self.choices.decided([*chosen, "*"] if everywhere else chosen)
        return None

    async def _compared(
        self, names: Collection[str], chosen: Collection[str], manifest: Manifest | None
    ) -> tuple[dict[str, str], list[str], list[str]]:
        """What must be held and why, which of that is another history, and what the store has lost: of
        `names` here, but for the `chosen`, and of all that the store may have. Raises StoreError.
        """
        held: dict[str, str] = {}
        apart: list[str] = []
        lost: list[str] = []
        indexed = {
            each.key.namespace
            for each in await self.journal.ledger()
            if each.key.kind is Kind.INDEX
        }
        there = {*await self.asked.listed(), *(manifest.namespaces if manifest else ())}
        there -= await self.asked.deleted(manifest)
        for name in sorted({*names, *there} - {*self.skip, *chosen}):
            row, why, empty = await self._against(name, manifest)
            if empty and name in indexed and row is Here.COMPLETE:
                lost.append(name)
            if row is Here.EMPTY:  # what zdb makes under that name is not what is stored
                held[name] = f"{why}, and come back with zdb's next start"
            elif row in APART or (row is not Here.COMPLETE and manifest is not None):
                held[name] = f"{why}; {to_decide(name)}"
            if row in APART:
                apart.append(name)
        return held, apart, lost

    async def _against(self, name: str, manifest: Manifest | None) -> tuple[Here, str, bool]:
        """What speaks against storing what is here over what is there, and whether it has no index.

        Raises StoreError.
        """
        # the manifest may be behind, or absent where hook.sh stored
        there = await remote.look(self.store, name, manifest, await self.journal.retired())
        local = await anyio.to_thread.run_sync(look, self.roots, name)
        try:
            weighed = await self.scales.weigh(local, there, manifest)
        except OSError as error:
            raise StoreTemporary("compare", name, str(error)) from error
        sizes = dict(weighed.lengths)
        for key, size in manifest.sizes(name).items() if manifest is not None else ():
            sizes[key] = max(sizes.get(key, 0), size)
        here, why = compare.classify(local, sizes)
        indexes = {key: size for key, size in sizes.items() if key.kind is Kind.INDEX}
        if here is Here.EMPTY and not compare.worth(indexes):
            return (
                Here.COMPLETE,
                "",
                not there.indexes,
            )  # nothing is there that a restore would bring
        if weighed.apart is not None and here not in APART and not local.blank:
            return weighed.apart, weighed.why, False
        if here in WITH_FILES and manifest is not None:
            why_not = await differs(self.roots, local, manifest)
            here, why = (Here.FOREIGN, why_not) if why_not else (here, why)
        return here, why, not there.indexes

    def _given_up(self, found: Mapping[str, Finding]) -> list[str]:
        """Those of which somebody chose what is here, and it could be followed."""
        return [
            name
            for name, each in found.items()
            if self.choices.of(name) == "local" and each.decision is not Decision.REFUSE
        ]

    async def _adopt_rest(self, manifest: Manifest, chosen: Collection[str]) -> None:
        """What the manifest names and we know nothing of stays named: files of namespaces that are held,
        data files that no index points into any more; nothing of those where what is here was chosen.
        """
        ledger = {entry.key for entry in await self.journal.ledger()}
        rest = [
            entry
            for entry in entries_of(manifest.files)
            if entry.key not in ledger and entry.key.namespace not in chosen
        ]
        await self.journal.adopt(rest)
        await self.journal.adopt_given_up(entries_of(manifest.given_up))
        await self.journal.adopt_retired(manifest.stale)
        holes = [key for key in manifest.holes if key.namespace not in chosen]
        sealed = {key for key, each in manifest.files.items() if each.sealed}
        named = sealed.intersection(holes)  # stored once, and lost there
        await self.journal.note_holes([key for key in holes if key not in named])
        await self.journal.note_holes(named, spared=True)
        for entry in rest:
            self.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)


async def differs(roots: Roots, local: Local, manifest: Manifest) -> str:
    """Why the data files here are another history than the manifest's, or nothing."""
    find = partial(compare.descends, roots, local, manifest)
    found: str | None = await anyio.to_thread.run_sync(find)
    return found or ""
