"""Stage mount, what lies below it: taken, looked at after every mount, told, left at the end.

See `ground`; this is its skin for the event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio

from hookd.admin.words import count, listed, one_line
from hookd.errors import ConfigError, Exit
from hookd.log import get
from hookd.mount.bounded import bounded
from hookd.mount.ground import Ground

log = get("mount")

GUARD_WITHIN_S = 5.0
TAKE_WITHIN_S = 30.0
LOOK_WITHIN_S = 60.0
MOST_NAMED = 1000


class Below:
    """The folder of one mount, and who is told what came into it."""

    def __init__(
        self,
        ground: Ground,
        mountpoint: Path,
        *,
        notices: list[str],
        announce: Callable[[str], None],
    ) -> None:
        self._ground = ground
        self._mountpoint = mountpoint
        self._notices = notices
        self._announce = announce
        self.strays: list[str] = []
        """What was written beside the mount, as of the last look."""

    async def take(self, *, may_hide: bool) -> None:
        """Raises UserError (78). Not cancelled half-way: what it took would be left."""
        with contextlib.suppress(TimeoutError):
            if left := await bounded(self._ground.release_former, TAKE_WITHIN_S):
                self._notice(
                    "written beside a mount of an earlier run that was elsewhere, and not uploaded:"
                    f" {_named(left)}"
                )
        try:
            with anyio.CancelScope(shield=True):
                await bounded(partial(self._ground.take, may_hide=may_hide), TAKE_WITHIN_S)
        except TimeoutError:
            raise ConfigError(
                "mount.local_path", f"{self._mountpoint} does not answer; look at its disk"
            ) from None
        await self.look()

    async def guard(self) -> None:
        """Again, for `hookd mount cleanup` takes it too. Raises UserError, TimeoutError."""
        with anyio.CancelScope(shield=True):
            await bounded(self._ground.guard, GUARD_WITHIN_S)

    @contextlib.contextmanager
    def opened(self, mountpoint: Path) -> Iterator[None]:
        """While a mounter mounts at `mountpoint`, if that is ours."""
        ours = mountpoint == self._mountpoint
        if ours:
            self._ground.open_up(True)
        try:
            yield
        finally:
            if ours:
                self._ground.open_up(False)

    async def look(self) -> None:
        """Tell what is new."""
        try:
            found = await bounded(self._ground.strays, LOOK_WITHIN_S)
        except (OSError, TimeoutError) as error:
            log.error("the folder below the mount cannot be looked at", error=str(error))
            found = ["(it cannot be looked at)"]
        if new := [name for name in found if name not in self.strays]:
            self._notice(
                f"{count(len(new), 'file')} written into {self._mountpoint} beside the mount"
                f" {'is' if len(new) == 1 else 'are'} not uploaded: {_named(new)}; move them into the"
                " mount"
            )
        self.strays = found

    async def leave(self, *, remove: bool) -> None:
        """Lift the guard. `remove`: and the folder, if it is empty."""
        with contextlib.suppress(TimeoutError):
            await bounded(partial(self._ground.leave, remove=remove), GUARD_WITHIN_S)

    def end(self, code: Exit) -> Exit:
        """The exit code of a run that would end with `code`; names what is left."""
        if not self.strays:
            return code
        if code is Exit.OK:
            self._announce("drained: every file in the mount is on the remote; unmounted")
        self._announce(
            f"not uploaded is what was written into {self._mountpoint} beside the mount:"
        )
        for name in self.strays[:MOST_NAMED]:
            self._announce(one_line(f"left: {name!r}"))
        if len(self.strays) > MOST_NAMED:
            self._announce(f"left: and {len(self.strays) - MOST_NAMED} more")
        return Exit.TEMPFAIL

    def _notice(self, text: str) -> None:
        log.warning("notice", text=text)
        self._notices.append(text)
        self._announce(one_line(text))


def _named(names: Sequence[str]) -> str:
    return listed([repr(name) for name in names])
