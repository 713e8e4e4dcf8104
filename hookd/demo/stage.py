"""The demo's folder and processes: a daemon, its directory store, the shim.

What goes wrong on purpose is done here, from outside: the store's folder is renamed away, the
daemon is killed, a spool file is put back. The daemon under test is the product, started as anybody
starts it, with a configuration file and a command line.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookd.admin.client import ask
from hookd.errors import Exit, UserError

SHIM = "hookd-shim"
SHIM_PATIENCE_S = 0.4
"""How long a shim tries to reach a daemon that is away, before it spools (HOOKD_TIMEOUT_S)."""

PATIENT_S = 10.0
"""The same where a daemon is known to be there: a busy machine must not make the shim spool."""

WITHIN_S = 60.0
"""What takes longer than this here has failed."""

_LONGEST_SOCKET = 100
"""Bytes that the path of a socket may have; the kernel's limit is 107."""


class DemoFailed(Exception):
    """The demo cannot go on; the message is the line that says why."""


@dataclass(frozen=True, slots=True)
class Called:
    """What became of one shim."""

    code: int
    seconds: float


def find_shim() -> Path:
    """The compiled shim: beside this Python, beside its scripts, on PATH. Raises UserError."""
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in beside:
        if os.access(folder / SHIM, os.X_OK):
            return folder / SHIM
    if found := shutil.which(SHIM):
        return Path(found)
    raise UserError(
        f"{SHIM} is neither in {beside[0]} nor on PATH; install hookd with pip, which compiles it",
        code=Exit.UNAVAILABLE,
    )


class Stage:
    """One folder with all there is, and at most one daemon at a time in it."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.folder = folder
        self.shim = shim
        self.index, self.data = folder / "index", folder / "data"
        self.store, self.spool = folder / "store", folder / "spool"
        self.journal = folder / "state" / "journal.db"
        self.log = folder / "hookd.log"
        for root in (self.index, self.data):
            root.mkdir(parents=True)
        self._run = folder / "run"
        self._short: tempfile.TemporaryDirectory[str] | None = None
        if len(os.fsencode(self._run)) + len("/stats.sock") > _LONGEST_SOCKET:
            self._short = tempfile.TemporaryDirectory(prefix="hookd-demo-")
            self._run = Path(self._short.name)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._shims: list[subprocess.Popen[bytes]] = []
        self.duplicates = 0
        """Events that came again, over all daemons here; see `note`."""
        self._noted = 0

    @property
    def environment(self) -> dict[str, str]:
        """What the shim finds its daemon by, for whoever calls it."""
        return {
            **_clean(os.environ),
            "HOOKD_SOCKET": str(self._run / "hook.sock"),
            "HOOKD_SPOOL": str(self.spool),
            "HOOKD_TIMEOUT_S": str(SHIM_PATIENCE_S),
        }

    # -- the daemon ------------------------------------------------------------------------------

    def start(self) -> float:
        """Start `hookd serve` and wait until it is ready; returns the seconds that took."""
        config = self._configure()
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "hookd", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_clean(os.environ),
            )
        self._noted = 0
        while not self._ready():
            self._alive(began, "hookd is not ready")
            time.sleep(0.01)
        return time.monotonic() - began

    def stop(self) -> None:
        """SIGTERM; see `ended`."""
        self.note()
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Wait for the end of the daemon; returns its exit code."""
        try:
            return self._process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"hookd still drains after {WITHIN_S:.0f} s") from None

    def freeze(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        self.note()
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stats(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        found: dict[str, Any] = json.loads(
            ask(self._run / "stats.sock", "stats", within_s=WITHIN_S)
        )
        return found

    def note(self) -> None:
        """Take over what the daemon only counts while it lives."""
        seen = int(self.stats()["totals"]["events"]["duplicate"])
        self.duplicates += seen - self._noted
        self._noted = seen

    def until_stored(self, *, but_blocked: bool = False) -> tuple[float, int]:
        """Wait until nothing is spooled or queued; returns the seconds that took, and what is left.

        With `but_blocked` index files may be left that point into the data file which zdb still
        fills: they have to wait until it is full.
        """
        began = time.monotonic()
        while True:
            found = self.stats()
            left = found["queue"]["files"]
            blocked = found["queue"]["states"]["blocked"]["files"] if but_blocked else 0
            if left == blocked and not found["spool"]["waiting"]:
                return time.monotonic() - began, left
            self._alive(began, f"{left} files are not stored")
            time.sleep(0.02)

    def draining(self) -> str:
        """Wait until the daemon drains; returns what it waits for."""
        began = time.monotonic()
        while not (drain := self.stats()["drain"]):
            self._alive(began, "hookd does not drain")
            time.sleep(0.02)
        return str(drain["waiting_for"])

    # -- hooks -----------------------------------------------------------------------------------

    def call(self, argv: Sequence[str], *, away: bool = False) -> Called:
        """Run the shim with a hook's arguments, as zdb does for the hooks that it waits for."""
        began = time.monotonic()
        code = self.begin(argv, away=away).wait(WITHIN_S)
        return Called(code, time.monotonic() - began)

    def begin(self, argv: Sequence[str], *, away: bool = False) -> subprocess.Popen[bytes]:
        """Start the shim and go on, as zdb does for the others. `away`: nobody will answer it."""
        patience = {} if away else {"HOOKD_TIMEOUT_S": str(PATIENT_S)}
        process = subprocess.Popen(
            [str(self.shim), *argv],
            env={**self.environment, **patience},
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        self._shims.append(process)
        return process

    # -- what goes wrong ---------------------------------------------------------------------------

    def spooled(self) -> list[Path]:
        """Events in the spool, oldest first."""
        return sorted(self.spool.glob("*.event"))

    def copy_spooled(self) -> Path:
        """A second copy of the oldest spooled event; see `deliver_again`."""
        first = self.spooled()[0]
        return Path(shutil.copy(first, self.folder / first.name))

    def deliver_again(self, copy: Path) -> None:
        """Wait until the spool is empty, and put the copy into it."""
        began = time.monotonic()
        while self.spooled():
            self._alive(began, "events are still spooled")
            time.sleep(0.01)
        copy.rename(self.spool / copy.name)

    def take_store_away(self) -> None:
        """Like a mount that is gone."""
        self.store.rename(self._elsewhere)

    def bring_store_back(self) -> None:
        """Unharmed."""
        self._elsewhere.rename(self.store)

    def close(self) -> None:
        """End what still runs."""
        for process in (self._daemon, *self._shims):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        if self._short is not None:
            self._short.cleanup()

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._daemon is not None
        return self._daemon

    @property
    def _elsewhere(self) -> Path:
        return self.store.with_name("store-that-is-away")

    def _configure(self) -> Path:
        values = {
            "zdb.index": self.index,
            "zdb.data": self.data,
            "store.kind": "directory",
            "store.directory.path": self.store,
            "hook.socket": self._run / "hook.sock",
            "hook.spool": self.spool,
            "stats.socket": self._run / "stats.sock",
            "journal.path": self.journal,
        }
        # a TOML string is written as in JSON
        lines = [f"{key} = {json.dumps(str(value))}" for key, value in values.items()]
        # a person is watching: no long pauses
        lines += [
            "drain.quiet_s = 0.5",
            "dispatch.backoff_base_s = 0.1",
            "dispatch.backoff_max_s = 0.5",
        ]
        path = self.folder / "hookd.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _ready(self) -> bool:
        try:
            return int(self.stats()["pid"]) == self._process.pid
        except UserError:
            return False

    def _alive(self, since: float, otherwise: str) -> None:
        if self._process.poll() is not None:
            last = self.log.read_text().splitlines()[-1:]
            raise DemoFailed(f"hookd ended with {self._process.returncode}: {''.join(last)}")
        if time.monotonic() - since > WITHIN_S:
            raise DemoFailed(f"{otherwise} after {WITHIN_S:.0f} s")


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without settings of another hookd."""
    return {name: value for name, value in environ.items() if not name.startswith("HOOKD_")}
