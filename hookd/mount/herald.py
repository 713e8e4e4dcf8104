"""Stage mount, who is told: the phase of a life into state, ready file, sd_notify, log and a line.

Owns the invariant that all of them say ready together, and that the ready file exists only while it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from hookd.admin.words import one_line
from hookd.log import get
from hookd.mount.state import Phase, State
from hookd.notify import Notify

log = get("mount")

EXTEND_S = 30.0


class Herald:
    """Of one `hookd mount`."""

    def __init__(
        self,
        state: State,
        *,
        notify: Notify,
        announce: Callable[[str], None],
        ready_file: Path | None,
    ) -> None:
        """`announce` prints a line for whoever started us."""
        self._state = state
        self._notify = notify
        self._announce = announce
        self._ready_file = ready_file

    def ready(self) -> None:
        """From now on it is."""
        state = self._state
        state.phase = Phase.RUNNING
        if state.ready_after_s is None:
            state.ready_after_s = time.time() - state.started_at
        text = f"{state.target} is mounted at {state.mountpoint}"
        if (path := self._ready_file) is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{state.mountpoint}\n")
            except OSError as error:
                notice = f"mount.ready_file: {path}: {error.strerror}"
                log.error("notice", text=notice)
                state.notices.append(notice)
        self._notify.ready(text)
        log.info("ready", target=state.target, mountpoint=state.mountpoint)
        self._announce(f"hookd mount is ready: {text}")

    def not_ready(self, phase: Phase) -> None:
        """No longer, or not yet: a kill -9 leaves the ready file."""
        self._state.phase = phase
        if (path := self._ready_file) is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """What it waits for; the service manager gives it more time."""
        self._state.waiting_for = text
        self._notify.status(text)
        self.extend()
        self._announce(one_line(text))

    def extend(self) -> None:
        """It lives and has work: the service manager waits on."""
        self._notify.extend(EXTEND_S)

    def notice(self, text: str) -> None:
        """What stays in `hookd status`."""
        log.warning("notice", text=text)
        self._state.notices.append(text)

    def remounting(self, why: str, tries: int) -> None:
        """The mounter is replaced."""
        self.not_ready(Phase.REMOUNTING)
        self._state.remounts += 1
        self._state.last_remount = why
        log.warning("remounting", why=why, tries=tries)
        self._announce(one_line(f"{why}; mounting again"))

    def draining(self, timeout_s: float | None) -> None:
        """The stop has begun."""
        self._notify.stopping(f"draining {self._state.target}")
        self._state.phase = Phase.DRAINING
        log.info("draining", timeout_s=timeout_s)
