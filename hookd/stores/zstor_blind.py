"""Whether zstor is blind, told apart from a plain outage, and what is done about it.

A zstor that started while metadata backends were down never sees them again: it says "not found" of what
it has, and refuses every store as "not writable". Only a restart helps (0-stor_v2 zstor/src/lib.rs:
backends that failed to connect at the start are left out). The same words come for some seconds when
backends are lost or back, and for good when one is full.

So blindness is claimed only beside this evidence: hookd itself has reached *all* metadata backends of
zstor's configuration, with room on each, for CONFIRM_S without a gap; and then zstor still refuses to
store the canary, or cannot put together what it has. It is over once zstor stores the canary.

    well ── an error that blindness would cause ──→ suspected ── evidence ──→ blind
      ↑                                                │                       │
      └──────────────── the canary is stored ──────────┴───────────────────────┘
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from hookd.errors import JournalError, StoreError
from hookd.log import get
from hookd.stores.restart import Ran, Restart
from hookd.stores.zstor_probe import Backend, unusable

if TYPE_CHECKING:
    from hookd.config import Config
    from hookd.journal import Journal
    from hookd.stores.base import Store

log = get("zstor")

LOOK_EVERY_S = 5.0
"""While it is suspected or blind."""

CONFIRM_S = 15.0
"""zstor finds backends that were lost after its start again within some 3 s."""

SIGNS = (
    "metastore is not writable",
    "key reconstruction failed",
    "does not see its own metadata",
    "mailbox has closed",
)
"""What zstor (or the canary) says when it is blind, and at times when it is not; or when a part of it has
panicked, and only a restart brings that back."""

META_RESTARTED = "zstor_restarted_at"


class State(enum.StrEnum):
    """What is known of zstor's sight."""

    WELL = "well"
    SUSPECTED = "suspected"
    """It may be an outage: the evidence is not complete."""
    BLIND = "blind"


class BlindWatch:
    """Watches one zstor. `suspect` is called with errors; `run` looks and acts."""

    def __init__(
        self,
        *,
        backends: Sequence[Backend],
        look: Callable[[], Awaitable[None]],
        restart: Restart | None,
        keep: Callable[[float], Awaitable[None]] | None = None,
        restarted_at: float | None = None,
        every_s: float = LOOK_EVERY_S,
        confirm_s: float = CONFIRM_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`look` has zstor store the canary, and raises StoreError where it does not; `keep` makes the
        time of a restart durable (`restarted_at` is the one from before); `clock` is Unix seconds.
        """
        self._backends = backends
        self._look = look
        self._restart = restart
        self._keep = keep
        self._every_s = every_s
        self._confirm_s = confirm_s
        self._clock = clock
        self._suspected = anyio.Event()
        self._reached_since: float | None = None
        """Monotonic seconds since when all backends are reached."""
        self.state = State.WELL
        self.since: float | None = None
        """Unix seconds; when it was found blind."""
        self.evidence: str | None = None
        """zstor's own words, scrubbed."""
        self.unusable: dict[str, str] = {}
        """Metadata backends that hookd cannot use itself, and why."""
        self.restarted_at = restarted_at
        self.restarts = {"done": 0, "failed": 0}
        self.last_restart: str | None = None
        """How the newest restart command ended."""
        self._restarts_in_vain = 0

    def suspect(self, error: StoreError) -> None:
        """An error of zstor's; whatever blindness would not cause is passed over."""
        text = error.detail.lower()
        if self.state is State.WELL and any(sign in text for sign in SIGNS):
            self.state = State.SUSPECTED
            self.evidence = error.detail
            self._suspected.set()

    @property
    def advice(self) -> str | None:
        """One line of what to do, None while it is not blind."""
        if self.state is not State.BLIND:
            return None
        reached = f"hookd reaches all {len(self._backends)} of them"
        line = (
            "zstor is blind: it started while its metadata backends were down, and never sees them"
            f" again ({reached}); restart zstor"
        )
        if self._restarts_in_vain > 1:
            line += (
                f" (restart_command has been run {self._restarts_in_vain} times and did not help: does"
                " zstor reach the backends from where it runs?)"
            )
        elif self._restart is None:
            line += ", or set store.zstor.restart_command"
        return line

    def view(self) -> dict[str, Any]:
        """For status: plain data."""
        return {
            "state": self.state.value,
            "since": self.since,
            "advice": self.advice,
            "evidence": self.evidence,
            "unreachable_backends": dict(sorted(self.unusable.items())),
            "restarts": dict(self.restarts),
            "restarted_at": self.restarted_at,
            "last_restart": self.last_restart,
        }

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._suspected.wait()
            await self.step()
            if self._suspected.is_set():  # it does not see again
                await anyio.sleep(self._every_s)

    async def step(self) -> None:
        """One look: backends first, then zstor, so that its answer is about backends that are there."""
        self.unusable = await unusable(self._backends)
        if self.unusable or not self._backends:
            self._reached_since = None
        elif self._reached_since is None:
            self._reached_since = time.monotonic()
        reached_since = self._reached_since
        began = time.monotonic()
        try:
            await self._look()
        except StoreError as error:
            self._judge(
                error, reached_since is not None and began - reached_since >= self._confirm_s
            )
        else:
            self._sees_again()
        if self.state is State.BLIND:
            await self._mend()

    def _judge(self, error: StoreError, reached: bool) -> None:
        if not any(sign in error.detail.lower() for sign in SIGNS):
            if self.state is State.SUSPECTED:  # an outage, that is over when stores work again
                self.evidence = error.detail
            return
        self.evidence = error.detail
        if reached and self.state is not State.BLIND:
            self.state, self.since = State.BLIND, self._clock()
            log.error("zstor is blind", evidence=error.detail, advice=self.advice)

    def _sees_again(self) -> None:
        if self.state is State.BLIND:
            log.warning("zstor sees again")
        self.state, self.since, self.evidence = State.WELL, None, None
        self._reached_since, self._restarts_in_vain = None, 0
        self._suspected = anyio.Event()

    async def _mend(self) -> None:
        """Run the command, if there is one and its time has come."""
        restart, now = self._restart, self._clock()
        if restart is None:
            return
        if self.restarted_at is not None and 0 <= now - self.restarted_at < restart.every_s:
            return
        self.restarted_at = now
        if self._keep is not None:
            await self._keep(
                now
            )  # before it: one that takes hookd down with it is not run in a loop
        log.warning("restarting zstor", command=restart.command)
        ran: Ran = await restart.run()
        self.restarts["done" if ran.ok else "failed"] += 1
        self._restarts_in_vain += 1
        self.last_restart = ran.line
        self._reached_since = None  # it has to be found blind anew
        (log.warning if ran.ok else log.error)("restarted zstor", outcome=ran.line, said=ran.said)


def watch_of(
    config: Config, store: Store, *, journal: Journal, meta: Mapping[str, object]
) -> BlindWatch | None:
    """The watch of a zstor store, told of its errors from now on; None for another store."""
    from hookd.stores.zstor import ZstorStore

    section = config.store.zstor
    if not isinstance(store, ZstorStore) or section is None:
        return None
    at = meta.get(META_RESTARTED)

    async def keep(now: float) -> None:
        try:
            await journal.set_meta(META_RESTARTED, now)
        except JournalError as error:
            log.error("time of the restart not kept", error=str(error))

    restart = None
    if section.restart_command is not None:
        restart = Restart(
            section.restart_command, every_s=section.restart_every_s, scrub=store.scrub
        )
    watch = BlindWatch(
        backends=store.backends,
        look=store.store_canary,
        restart=restart,
        keep=keep,
        restarted_at=float(at) if isinstance(at, int | float) else None,
    )
    store.on_error = watch.suspect
    return watch
