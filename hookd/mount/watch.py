"""Stage watch: looks at mount, remote and cache now and then, and says when the mounter must go.

Every look is bounded. What only the remote can mend (away, credentials revoked, uploads failing) is
told, not acted on: another mounter would meet the same. What only another mounter can mend (ended,
dead endpoint, hanging) ends the watch.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

import anyio

from hookd.errors import RemoteRefused, UserError
from hookd.log import get
from hookd.mount import endpoints
from hookd.mount.bounded import bounded
from hookd.mount.cache import PROBE_PREFIX, Cache, Dirty
from hookd.mount.endpoints import State as Endpoint
from hookd.mount.provider import ControlError, Mount, Queue
from hookd.mount.rescue import lines
from hookd.mount.state import Finding

log = get("mount")

HANGS_AFTER = 2
"""Looks in a row that find the mount hanging before its mounter is ended."""

SCAN_WITHIN_S = 60.0


class Watch:
    """Looks at one mount until its mounter must be replaced."""

    def __init__(
        self,
        mount: Mount,
        cache: Cache,
        *,
        interval_s: float,
        timeout_s: float,
        found: Callable[[Finding], None],
    ) -> None:
        self._mount = mount
        self._cache = cache
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._found = found
        self._hangs = 0

    async def run(self) -> str:
        """Until the mounter must be replaced; returns why."""
        why = ""

        async def look_forever() -> None:
            nonlocal why
            while True:
                finding = await self.look()
                self._found(finding)
                if finding.dead:
                    why = finding.mount
                    group.cancel_scope.cancel()
                    return
                await anyio.sleep(self._interval_s)

        async with anyio.create_task_group() as group:
            group.start_soon(look_forever)
            ended = await self._mount.wait()
            group.cancel_scope.cancel()
            why = f"the mounter ended (code {ended.code})"
        return why

    async def look(self) -> Finding:
        """One look; takes at most about four times `timeout_s`."""
        mount, dead = await self._look_at_mount()
        remote, refused = await self._look_at_remote()
        queue = Queue()
        try:
            queue = await self._mount.queue()
        except ControlError as error:
            mount = mount or f"the mounter does not answer: {error}"
        dirty: tuple[Dirty, ...] = ()
        aside: tuple[str, ...] = ()
        free: int | None = None
        try:
            dirty = tuple(await bounded(self._cache.dirty, SCAN_WITHIN_S))
            aside = tuple(await bounded(lambda: lines(self._cache), SCAN_WITHIN_S))
            free = await bounded(self._cache.free_bytes, self._timeout_s)
        except (TimeoutError, OSError) as error:
            mount = mount or f"the cache cannot be read: {error}"
        return Finding(
            mount=mount,
            dead=dead,
            remote=remote,
            refused=refused,
            queue=queue,
            dirty=dirty,
            aside=aside,
            free_bytes=free,
        )

    async def _look_at_mount(self) -> tuple[str, bool]:
        """(what is wrong, whether the mounter must go).

        A stat is answered without the remote, so it hangs only if the mounter does; a listing may
        hang because the remote does, and that is no reason to break every open file.
        """
        point = self._mount.mountpoint
        try:
            if await bounded(lambda: endpoints.top(point), self._timeout_s) is None:
                return "nothing is mounted any more", True
            await bounded(lambda: os.stat(point), self._timeout_s)
        except TimeoutError:
            self._hangs += 1
            return (
                f"the mount hangs (no answer in {self._timeout_s:g} s)",
                self._hangs >= HANGS_AFTER,
            )
        except OSError as error:
            return f"the mount is dead ({error.strerror})", True
        self._hangs = 0
        try:
            state = await bounded(lambda: endpoints.look(point), self._timeout_s)
        except TimeoutError:
            return f"listing the mount takes more than {self._timeout_s:g} s", False
        except OSError as error:
            return f"the mount cannot be listed ({error.strerror})", False
        dead = state is Endpoint.DEAD
        return ("the mount is dead" if dead else ""), dead

    async def _look_at_remote(self) -> tuple[str, bool]:
        """(what is wrong, whether the credentials are refused): asks for a file that is not there."""
        try:
            await self._mount.ask_remote(f"{PROBE_PREFIX}{secrets.token_hex(4)}")
        except RemoteRefused as error:
            return str(error), True
        except UserError as error:
            return str(error), False
        except ControlError as error:
            return f"the remote does not answer: {error}", False
        return "", False
