"""The store at a hundred random moments of a zdb that writes: each copy restores to a consistent whole.

Before each moment a checkpoint; then, in the middle of writes, parts are killed with kill -9 (the
daemon, zdb, its shims, all of them) or nothing is, and the store is copied as it is. The copy is restored
elsewhere by another daemon, for another zdb: it starts, every key says a value that it had at the
checkpoint or after it, and passes zdb's own CHECK; zdb's integrity-check, where that is on PATH, finds no
fault in any data file.

`RESTORE_MOMENTS` (20), rounded up to tens: a life has ten. `KILL_SEED` is the first life's seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.resp import RespError
from hookd.demo.stage import DemoFailed
from hookd.errors import Exit
from tests.e2e.daemon import Daemon
from tests.real.test_real_restore import LOUD
from tests.real.world import PASSWORD, TERMINATED, World

MOMENTS = int(os.environ.get("RESTORE_MOMENTS", "20"))
OF_A_LIFE = 10
LIVES = -(-MOMENTS // OF_A_LIFE)
FIRST_SEED = int(os.environ.get("KILL_SEED") or random.randrange(1 << 32))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
    pytest.mark.timeout(600),
]
pytest_plugins = ["tests.shim_build"]

NAMES = {"users": "user", "numbers": "seq"}
CHECKER = shutil.which("integrity-check")
"""zdb's own (0-db tools/integrity-check)."""

CUT_OFF = "read failed"
"""What it says of a file that ends within a value, as a zdb that was killed in a write leaves it. No
index entry points to that value, so it costs nothing."""

History = dict[str, dict[bytes, list[bytes | None]]]


class Life:
    """A zdb that writes, its daemon, and how much of it a checkpoint has promised."""

    def __init__(self, folder: Path, shim: Path, seed: int) -> None:
        folder.mkdir()
        self._dice = random.Random(seed)
        self.daemon = Daemon(folder, shim)
        self.daemon.expect(*LOUD, "alarm", "checkpoint failed")
        self.world = World(self.daemon, shim, seed=seed, value_bytes=30_000)
        self.zdb_was_killed = False
        self._safe: dict[str, dict[bytes, int]] = {}
        self.daemon.start()
        self._start_zdb()
        for name, mode in NAMES.items():
            self.world.create(name, mode)
            self.world.write(name, 10)

    def close(self) -> None:
        if self.world.zdb is not None:
            self.world.zdb.close()
        self.daemon.close()

    def end(self, folder: Path) -> None:
        """Stop all, with nothing left: the store, as it is, says all that was promised."""
        assert self.world.zdb is not None
        assert self.world.zdb.stop() == TERMINATED
        code = self.daemon.stop()
        assert code == Exit.OK, self.daemon.log.read_text()
        self.world.check_store(folder)

    def _start_zdb(self) -> None:
        self.world.start(patience_s="0.3")  # its hooks find no daemon now and then

    # -- one moment ----------------------------------------------------------------------------

    def moment(self, copy: Path) -> str:
        """A checkpoint, writes, a death in the middle of them; the store as it is then. What died."""
        self._checkpoint()
        dies = self._dice.choice(("daemon", "zdb", "shims", "all", "nothing"))
        killer = threading.Thread(target=self._kill, args=(dies, self._dice.uniform(0, 0.5), copy))
        killer.start()
        with contextlib.suppress(OSError):  # zdb has died
            for _ in range(self._dice.randrange(1, 4)):
                self.world.write(self._dice.choice([*NAMES]), self._dice.randrange(2, 25))
        killer.join()
        assert copy.exists()
        if not self.daemon.running:
            self.daemon.start()
        if dies in ("zdb", "all"):
            self.zdb_was_killed = True
            assert self.world.zdb is not None
            self.world.zdb.close()
            self._start_zdb()
            # zdb 2.0.7 does not find keys that it gives out over an empty newest index file
            for name in NAMES:
                self.world.client.ask("SELECT", name, PASSWORD)
                self.world.client.ask("NSJUMP")
        return dies

    def _checkpoint(self) -> None:
        """All that is written by now is safe, whatever hooks were killed before."""
        written = {
            name: {key: len(told) for key, told in keys.items()}
            for name, keys in self.world.history.items()
        }
        command = [sys.executable, "-m", "hookd", "checkpoint", "--config", str(self.daemon.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, (done.stdout, done.stderr, self.daemon.log.read_text())
        self._safe = written

    def _kill(self, dies: str, after_s: float, copy: Path) -> None:
        time.sleep(after_s)
        if dies in ("shims", "all"):
            for pid in self._shims():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if dies in ("zdb", "all"):
            assert self.world.zdb is not None
            self.world.zdb.kill()
        if dies in ("daemon", "all"):
            self.daemon.kill()
            shutil.copytree(self.daemon.store, copy)
            return
        time.sleep(self._dice.uniform(0, 0.2))
        self.daemon.send_signal(signal.SIGSTOP)  # it writes nothing while it is looked at
        try:
            _until_stopped(self.daemon.pid)
            shutil.copytree(self.daemon.store, copy)
        finally:
            self.daemon.send_signal(signal.SIGCONT)

    def _shims(self) -> Iterator[int]:
        mine = f"HOOKD_SOCKET={self.daemon.setting('hook.socket')}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = mine in (path / "environ").read_bytes()
                if ours and (path / "comm").read_text() == "hookd-shim\n":
                    yield int(path.name)

    def allowed(self) -> History:
        """What each key may say after a restore of that moment."""
        return {
            name: {key: self._of_key(name, key, told) for key, told in keys.items()}
            for name, keys in self.world.history.items()
        }

    def _of_key(self, name: str, key: bytes, told: list[bytes | None]) -> list[bytes | None]:
        promised = self._safe.get(name, {}).get(key)
        if promised is None:
            return [None, *told]
        # the last command before the checkpoint may be one that zdb died in
        doubtful = key in self.world.doubtful[name]
        return [*([None, *told[:promised]] if doubtful else ()), *told[promised - 1 :]]


def _until_stopped(pid: int) -> None:
    ends = time.monotonic() + 10
    while " T " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < ends
        time.sleep(0.001)


def restored_wrongly(
    folder: Path, shim: Path, store: Path, allowed: History, *, full: bool, cut_off: bool
) -> list[str]:
    """Restore a store for another zdb, and see what that says."""
    folder.mkdir()
    daemon = Daemon(folder, shim, settings={"restore.full": full})
    daemon.expect(*LOUD, "alarm")
    store.rename(daemon.store)
    world = World(daemon, shim)
    found: list[str] = []
    daemon.start()
    try:
        world.start()
        for name, keys in allowed.items():
            found += _namespace(world, name, keys)
        found += _integrity(daemon.data, cut_off=cut_off)
    except DemoFailed as error:
        found.append(f"{error}; {daemon.ask('stats')}")
    finally:
        if world.zdb is not None:
            world.zdb.close()
        daemon.close()
    return found


def _namespace(world: World, name: str, keys: dict[bytes, list[bytes | None]]) -> Iterator[str]:
    try:
        world.client.ask("SELECT", name, PASSWORD)
    except RespError as error:
        if any(None not in told for told in keys.values()):
            yield f"{name}: {error}"
        return
    try:
        world.client.ask("SELECT", name)
    except RespError:
        pass
    else:
        yield f"{name}: it had a password"
    for key, told in sorted(keys.items()):
        try:
            answer = world.client.ask("GET", key)
            if answer not in told:
                what = "nothing" if answer is None else "an older value, or other bytes"
                yield f"{name} {key!r}: {what}"
            elif answer is not None and world.client.ask("CHECK", key) != 1:
                yield f"{name} {key!r}: zdb's own check fails"
        except RespError as error:
            yield f"{name} {key!r}: {error}"


def _integrity(data: Path, *, cut_off: bool) -> Iterator[str]:
    """zdb's integrity-check of every data file; it takes them by the name that they had before v2."""
    if CHECKER is None:
        return
    for path in data.glob("*/d*"):
        alias = path.with_name(f"zdb-data-{path.name[1:]}")
        alias.symlink_to(path.name)
        done = subprocess.run([CHECKER, str(alias)], capture_output=True, text=True)
        alias.unlink()
        if done.returncode and not (cut_off and CUT_OFF in done.stderr + done.stdout):
            yield f"{path.parent.name}/{path.name}: {(done.stderr or done.stdout)[-300:]}"


@pytest.mark.parametrize("number", range(LIVES))
def test_moments(shim: Path, tmp_path: Path, number: int) -> None:
    """Whatever dies and whenever: what the store has is a whole, and not older than its checkpoint."""
    seed = FIRST_SEED + number
    print(f"KILL_SEED={seed}")
    life = Life(tmp_path / "life", shim, seed)
    died: list[str] = []
    try:
        for moment in range(OF_A_LIFE):
            copy = tmp_path / f"copy-{moment}"
            died.append(life.moment(copy))
            place = tmp_path / f"elsewhere-{moment}"
            wrong = restored_wrongly(
                place,
                shim,
                copy,
                life.allowed(),
                full=bool(moment % 2),
                cut_off=life.zdb_was_killed,
            )
            assert wrong == [], f"moment {moment} of {died}"
            shutil.rmtree(place)
        life.end(tmp_path / "anew")
    finally:
        print(died)
        life.close()
