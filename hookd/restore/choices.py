"""An administrator's `hookd restore NAMESPACE --take local|remote`: kept until a survey has followed it.

Local files that are given up are set aside (`aside`), never removed; what the store has and is given up
is nobody's any more (`Journal.give_up`), and stays there until it is stored over. Until an index of what
is here is stored in its place it is named in the manifest, and can be taken back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import anyio.to_thread

from hookd.errors import JournalError, StoreError
from hookd.files import FileKey, Kind, Roots
from hookd.journal import JobState, Journal
from hookd.log import get
from hookd.manifest import Manifest, Named, entries_of, named
from hookd.restore import aside, compare, remote
from hookd.restore.finding import Finding, Waits
from hookd.restore.local import Local, forget_chosen, forget_fetched, look
from hookd.restore.table import Decision, Here, There
from hookd.restore.view import View
from hookd.scheduler import Scheduler
from hookd.stores.base import Store

log = get("survey")

DONE = "done"
"""Of one namespace, where a choice for all of them waits: this one is decided, and not meant any more."""


def chosen(takes: Mapping[str, str], name: str, take: str) -> dict[str, str]:
    """`takes` after one more choice: a later one for all of them (`*`) is meant for each."""
    return {name: take} if name == "*" else {**takes, name: take}


def without(takes: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """`takes` once these were decided: what was chosen for them earlier must not be done any more."""
    left = {name: take for name, take in takes.items() if name not in names}
    if "*" not in left:
        return {name: take for name, take in left.items() if take != DONE}
    return {**left, **dict.fromkeys(names, DONE)}


def _theirs(view: View) -> bool:
    """Whether what our journal says of the store counts nothing."""
    return view.conflict is not None or view.superseded


def half_of(local: Local) -> tuple[Here, str | None]:
    """What is here, and why it cannot go over what is stored: zdb would load half of it. Or None."""
    # what is left of a restore tells nothing of the files themselves
    here, why = compare.classify(replace(local, interrupted=False), {})
    if here not in (Here.GAP, Here.NO_ACTIVE_DATA):
        return here, None
    return here, (
        f"{why}: zdb would load half of its files. `--take local` is not followed, nothing stored was"
        f" given up: set them aside, or `hookd restore {local.namespace} --take remote` does"
    )


@dataclass(slots=True)
class Choices:
    """What was chosen, and how it is followed."""

    journal: Journal
    store: Store
    roots: Roots
    scheduler: Scheduler
    takes: dict[str, str] = field(default_factory=dict)
    """Namespace (or `*`) → `local` or `remote`: what an administrator chose for the next survey."""
    disown: Callable[[str, str], Awaitable[None]] | None = None
    """Gives up the open jobs of a namespace, for a reason; None where nobody works on them."""
    only: Collection[str] | None = None
    """Namespaces that the survey which runs is about; what was chosen for others is kept. None: all."""
    _set_aside: set[str] = field(default_factory=set)
    """What this survey has set aside already: it may have to wait afterwards."""

    def begin(self, only: Collection[str] | None = None) -> None:
        """A survey begins, of these namespaces (None: of all)."""
        self._set_aside.clear()
        self.only = only

    @property
    def wait(self) -> bool:
        """Whether something was chosen that the survey which runs is to follow."""
        if self.only is None:
            return bool(self.takes)
        return any(self.of(name) for name in self.only)

    def meant_for(self, name: str) -> bool:
        """Whether the survey which runs may do anything about a namespace."""
        return self.only is None or name in self.only

    def of(self, name: str) -> str | None:
        """What an administrator chose for a namespace."""
        if not self.meant_for(name):
            return None
        take = self.takes.get(name) or self.takes.get("*")
        return None if take == DONE else take

    async def stale(self, view: View) -> Mapping[FileKey, bytes]:
        """What we say is nobody's in the store. Of another frontend's its manifest says that alone."""
        return {} if _theirs(view) else await self.journal.retired()

    async def given_up(self, name: str, view: View) -> dict[FileKey, Named]:
        """What of a namespace was given up and can still be had back."""
        own = {} if _theirs(view) else named(await self.journal.given_up())
        theirs = view.manifest.given_up if view.manifest is not None else {}
        return {k: each for k, each in {**own, **theirs}.items() if k.namespace == name}

    async def blank_again(self, name: str, local: Local, view: View) -> str | None:
        """Why zdb may not serve a namespace of which nothing is here: the store has a whole of it, given
        up for what is lost by now. None where there is none, or somebody chose to begin with nothing.
        """
        if not local.nothing or self.of(name) == "remote" or not await self.given_up(name, view):
            return None
        if name in await self.journal.begun_blank():
            return None
        return (
            "what was here was chosen over what is stored, and is lost before it was stored;"
            f" `hookd restore {name} --take remote` brings back what was given up,"
            f" `hookd restore {name} --take local` begins anew, blank"
        )

    async def meant(
        self, name: str, view: View, manifest: Manifest | None
    ) -> tuple[Manifest | None, dict[FileKey, bytes] | None]:
        """The manifest of what a restore is about, and, where that was given up, which files alone."""
        given = await self.given_up(name, view) if self.of(name) == "remote" else {}
        if not given:
            return manifest, None
        whole = manifest or Manifest("", "", 0, 0.0)
        return whole.taking_back(name, given), {key: each.digest for key, each in given.items()}

    async def give_up(self, name: str, manifest: Manifest | None) -> None:
        """What is here counts, and what the store has of that namespace is nobody's from now on; as long
        as nothing whole is stored in its place, that can be had back.

        `manifest`: another frontend's; None where the ledger knows better. Raises StoreError,
        JournalError.
        """
        local = await anyio.to_thread.run_sync(look, self.roots, name)
        ours = manifest is None
        if manifest is None:
            entries = [each for each in await self.journal.ledger() if each.key.namespace == name]
            manifest = Manifest("", "", 0, 0.0, named(entries))
        stale = await self.journal.retired() if ours else None
        there = await remote.look(self.store, name, manifest, stale)
        sealed = {
            key: each
            for key, each in manifest.files.items()
            if key.namespace == name and key.kind is Kind.DATA and each.sealed
        }
        data = {*there.indexes, *manifest.numbers(name, Kind.DATA)} - {k.number for k in sealed}
        await remote.look_for_data(self.store, there, sorted(data), manifest)
        found = {
            key: Named(each.size_bytes or 0, each.digest, time.time(), sealed=False)
            for key, each in there.files.items()
        }
        files = {**sealed, **found}
        if not there.indexes:  # given up before, by the frontend before us
            files = {k: each for k, each in manifest.given_up.items() if k.namespace == name}
        await self.journal.give_up(name, entries_of(files), blank=local.nothing)
        self.scheduler.forget(name)

    async def choose(self, name: str, take: str) -> None:
        """An administrator's `hookd restore NAME --take local|remote`, for the next survey."""
        await self._keep(chosen(self.takes, name, take))

    async def decided(self, names: Collection[str]) -> None:
        """What was chosen for these (`*`: for all) is done, or something else is. Durable.

        Raises JournalError.
        """
        await self._keep(without(self.takes, names))

    async def _keep(self, takes: Mapping[str, str]) -> None:
        await self.journal.set_meta("takes", dict(takes) or None)
        self.takes.clear()
        self.takes.update(takes)

    async def follow(self, name: str, local: Local, view: View) -> Finding | Local:
        """Do what was chosen for a namespace: a finding that ends the matter, or what is here now.

        Raises Waits.
        """
        take = self.of(name) if view.readable else None
        if self.of(name) is None:  # what came for a choice that was refused, or withdrawn
            await anyio.to_thread.run_sync(forget_chosen, self.roots, name)
        if take == "local":
            return await self._take_local(name, local, view)
        if take == "remote" and name not in self._set_aside:
            return await self._take_remote(name, local, view)
        return local

    async def forget(self) -> None:
        """What was chosen is done. Raises Waits: it must not be done again over what zdb makes of it."""
        if not self.wait:
            return
        try:
            await self._keep({} if self.only is None else without(self.takes, self.only))
        except JournalError as error:
            raise Waits(f"that a choice was followed cannot be kept: {error}") from error

    async def _take_remote(self, name: str, local: Local, view: View) -> Local:
        """What is here does not count, if there is anything to take its place: once that is fetched, it
        goes aside (`make_way`). Raises Waits.
        """
        if view.manifest is None and view.conflict is not None:
            return local  # a newer hookd's: it cannot be read
        of_it = (job for job in self.scheduler if job.key.namespace == name)
        if any(job.state is JobState.RUNNING for job in of_it):  # from here on none of them stores
            raise Waits(f"{name}: what is here is still being stored")
        try:
            manifest, given = await self.meant(name, view, view.manifest)
            there = await remote.look(self.store, name, manifest, await self.stale(view), given)
            if there.replaced is not None:
                manifest = view.manifest
                there = await remote.look(self.store, name, manifest, await self.stale(view))
        except StoreError as error:
            raise Waits(f"{name}: {error}") from error
        if not there.indexes:
            log.warning("the store has nothing to take", namespace=name)
            return local
        return Local(name)

    async def make_way(self, name: str) -> None:
        """What was chosen over the files here is fetched, and can take their place. Raises JournalError,
        OSError.
        """
        if self.of(name) != "remote" or name in self._set_aside:
            return
        if self.disown is not None:
            await self.disown(name, "an administrator took what is stored instead")
        await anyio.to_thread.run_sync(aside.set_aside, self.roots, name)
        self._set_aside.add(name)

    async def _take_local(self, name: str, local: Local, view: View) -> Finding:
        """What is here goes over what is there: the store's files of that name are nobody's now.

        Raises Waits.
        """
        here, half = half_of(local)
        if half is not None:
            return Finding(Decision.REFUSE, here, There.FILES, half)
        log.warning("local files are taken", namespace=name)
        try:
            await self.give_up(name, view.manifest)
        except StoreError as error:
            raise Waits(f"{name}: {error}") from error
        # else the next survey would go on with it
        await anyio.to_thread.run_sync(forget_fetched, self.roots, name)
        return Finding(Decision.SERVE, here, There.EMPTY)
