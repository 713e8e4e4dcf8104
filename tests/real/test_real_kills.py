"""kill -9 at random around a real zdb: the daemon, shims, zdb, round after round."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.demo.living_zdb import LivingZdb
from hookd.digest import digest_of
from hookd.errors import Exit
from tests.faults.history import named
from tests.faults.supervised import Supervised, Watch
from tests.real.announced import Announced, holds, recording_hook
from tests.real.world import NO_CLOSING, TERMINATED, World, copy_store, sealed

ROUNDS = int(os.environ.get("KILL_ROUNDS", "30"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
    pytest.mark.timeout(120 + 6 * ROUNDS),
]
pytest_plugins = ["tests.shim_build"]

STOPPED_AT_ONCE = ("answer not kept", "cannot commit, the shim spools")
"""What a daemon says of events that it was working on at the second signal."""

GONE = "will retry"
"""What it says of a file that was stored when the daemon before it died, and is away now."""

NAMES = {"users": "user", "numbers": "seq"}
NOT_NUMBERED = ["users"]
"""What zdb is killed over. In sequential mode a zdb (2.0.7) that starts on an empty newest index file,
as a kill in a rotation or an NSJUMP leaves it, gives out keys that it does not find afterwards."""

VALUE_BYTES = 40_000
PATIENCE_S = "1"


TORN = "alarm"
"""What the audit says of a zdb that died, or is at work, between an index entry and its value."""


class RealWorld(Supervised):
    """A real zdb over the daemon's folders, its clients, and what it announced."""

    def __init__(self, folder: Path, shim: Path, seed: int) -> None:
        super().__init__(folder, shim)
        record = folder / "record"
        record.mkdir()
        self.announced = Announced(record)
        self.clients = World(
            self.daemon,
            recording_hook(folder),
            seed=seed,
            value_bytes=VALUE_BYTES,
            RECORD=str(record),
            SHIM=str(shim),
            HOOKD_WAIT_S="120",
        )
        self._last: dict[str, bytes | tuple[int, bytes]] = {}
        self._proven: dict[str, Path] = {}
        self.watch = Watch(self.daemon.store, self._compare)
        self.watch.start()

    def close(self) -> None:
        """End everything; no daemon has warned of anything unexpected."""
        if self.clients.zdb is not None:
            self.clients.zdb.close()
        self.daemon.close(check=False)
        self.watch.end()
        self.kill_shims(lambda: True)
        self.daemon.close()

    def kill_shims(self, chosen: Callable[[], bool]) -> None:
        """kill -9 of those that run and are `chosen`."""
        self.announced.look()
        for call in list(self.announced.running):
            pid = call.shim
            with contextlib.suppress(OSError):
                if pid and Path(f"/proc/{pid}/comm").read_text() == "hookd-shim\n" and chosen():
                    os.kill(pid, signal.SIGKILL)

    def finish_hooks(self) -> None:
        """Until every hook that was called has ended."""

        def ended() -> bool:
            self.announced.look()
            return not self.announced.running and not list(self.announced.folder.glob("*.new"))

        self.until(ended, "hooks still run")

    # -- the invariant -------------------------------------------------------------------------

    def _compare(self, name: str, content: bytes) -> str | None:
        """The store must not go back; of a data file its digest is enough to see that."""
        last = self._last.get(name)
        if name.startswith("data/"):
            self._last[name] = (len(content), digest_of(content))
            if isinstance(last, tuple) and digest_of(content[: last[0]]) != last[1]:
                return f"{name}: {len(content)} bytes do not begin with the {last[0]} of before"
        elif not name.endswith("zdb-namespace"):
            self._last[name] = content
            if isinstance(last, bytes) and not holds(name, content, last):
                return f"{name}: went back"
        return None

    def check_promises(self) -> None:
        """Each content that was acknowledged is stored, or something durable stands for it."""
        required = self.announced.required()
        spooled = {
            file for frame in self.spooled() for file in named(frame.argv[0], frame.argv[2:])
        }
        owed = self.owed()
        broken = []
        for name, copy in required.items():
            if self._proven.get(name) == copy:
                continue  # the store does not go back: somebody watches that
            wanted = copy.read_bytes()
            stored = self.stored(name)
            if stored is not None and holds(name, stored, wanted):
                self._proven[name] = copy
                continue
            found = owed.get(name, []) + [None] * (name in spooled)
            live = (self.daemon.folder / name).read_bytes() if None in found else b""
            if not any(holds(name, live if each is None else each, wanted) for each in found):
                broken.append(f"{name}: {copy} was acknowledged, {len(found)} others are kept")
        assert not broken, "\n".join([*broken, self.daemon.log.read_text()])

    def check_end(self) -> None:
        """After a drain that ended with 0."""
        self.watch.look()
        assert not self.watch.wrong, "\n".join([*self.watch.wrong, self.daemon.log.read_text()])
        stored, local = self.daemon.stored(), self.daemon.local()
        assert sorted(stored) == sorted(local)
        assert [name for name in local if stored[name] != local[name]] == []
        for name, copy in self.announced.required().items():
            assert holds(name, stored[name], copy.read_bytes()), f"{name}: not all of {copy}"
        self.check_journal()
        self.check_leftovers()
        anew = self.daemon.folder / "anew"
        copy_store(self.daemon, anew)
        self.clients.check_files(anew)


class Rounds:
    """`seed` decides all but the exact moments."""

    def __init__(self, world: RealWorld, seed: int) -> None:
        self._world = world
        self._clients = world.clients
        self._random = random.Random(seed)
        self.deaths = {"daemon": 0, "zdb": 0, "asked back": 0}

    def run(self, rounds: int) -> None:
        """From the start of zdb to its end."""
        self._world.start()
        with self._world.supervised(lambda: self._random.choice((0, 0.1, 0.5))):
            self._start_zdb()
            for name, mode in NAMES.items():
                self._clients.create(name, mode)
            for number in range(rounds):
                self._round(number)
            self._fresh_daemon()
            assert not self._clients.wrong(self._zdb)
            assert self._zdb.stop() == TERMINATED
            self._world.finish_hooks()
        self.deaths["daemon"] = len(self._world.deaths)

    def _round(self, number: int) -> None:
        choose = self._random.choice
        daemon = choose((None, self._kill_daemon, self._stop_daemon))
        shims = choose((None, None, self._kill_shims))
        zdb = choose((None, None, self._kill_zdb, self._stop_zdb))
        dying = [each for each in (daemon, shims) if each]
        if zdb == self._kill_zdb:
            dying.append(self._kill_zdb)
        print(f"{number}:", *(each.__name__ for each in (daemon, shims, zdb) if each))
        with contextlib.ExitStack() as beside:
            for each in dying:
                beside.enter_context(self._beside(each))
            if zdb == self._kill_zdb:
                with contextlib.suppress(OSError):
                    self._work(NOT_NUMBERED, asks_back=False)
            else:
                self._work([*NAMES], asks_back=shims is None)
        if zdb == self._kill_zdb:
            self._zdb.close()
            self._start_zdb()
        elif zdb is not None:
            self._stop_zdb()

    @property
    def _zdb(self) -> LivingZdb:
        assert self._clients.zdb is not None
        return self._clients.zdb

    def _start_zdb(self) -> None:
        self._clients.start(patience_s=PATIENCE_S)

    def _fresh_daemon(self) -> None:
        """The one that runs may have been told to end already."""
        before = len(self._world.deaths)

        def died() -> bool:
            self._world.signal(signal.SIGKILL)
            return len(self._world.deaths) > before

        self._world.until(died, "no daemon died")

    # -- what zdb does -------------------------------------------------------------------------

    def _work(self, names: list[str], *, asks_back: bool) -> None:
        for _ in range(self._random.randrange(1, 4)):
            name = self._random.choice(names)
            self._clients.write(name, self._random.randrange(1, 10))
            dice = self._random.random()
            if dice < 0.3:
                self._zdb.client.ask("NSJUMP")
                self._clients.write(name, 1)  # see NOT_NUMBERED
            elif dice < 0.5 and asks_back:
                self._ask_back(name)

    def _ask_back(self, name: str) -> None:
        """A sealed data file that is stored is removed; the next GET of a key in it finds all well."""
        for path in sealed(self._world.daemon, name)[-3:]:
            content = path.read_bytes()
            if self._world.stored(f"data/{name}/{path.name}") == content:
                path.unlink()
                wrong = self._clients.wrong(self._zdb)
                assert not wrong
                if path.exists():  # else all its keys were written anew
                    self.deaths["asked back"] += 1
                    assert path.read_bytes() == content
                else:
                    path.write_bytes(content)
                return

    # -- who dies --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _beside(self, killer: Callable[[threading.Event], None]) -> Iterator[None]:
        """`killer` at work while the body is."""
        over = threading.Event()
        thread = threading.Thread(target=killer, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _kill_daemon(self, over: threading.Event) -> None:
        over.wait(self._random.uniform(0, 0.3))
        self._world.signal(signal.SIGKILL)

    def _stop_daemon(self, over: threading.Event) -> None:
        """SIGTERM, and when it has not ended soon, another one: stop at once."""
        for _ in range(2):
            over.wait(self._random.uniform(0, 0.3))
            self._world.signal(signal.SIGTERM)

    def _kill_shims(self, over: threading.Event) -> None:
        while not over.wait(0.005):
            self._world.kill_shims(lambda: self._random.random() < 0.3)

    def _kill_zdb(self, over: threading.Event) -> None:
        over.wait(self._random.uniform(0, 0.3))
        self._zdb.kill()
        self.deaths["zdb"] += 1

    def _stop_zdb(self) -> None:
        assert self._zdb.stop() == TERMINATED
        self._start_zdb()


@pytest.fixture
def seed() -> int:
    """$KILL_SEED, or another one each time; shown when a test fails."""
    seed = int(os.environ.get("KILL_SEED") or random.randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    return seed


@pytest.fixture
def world(shim: Path, tmp_path: Path, seed: int) -> Iterator[RealWorld]:
    made = RealWorld(tmp_path, shim, seed)
    yield made
    made.close()


def test_rounds(world: RealWorld, seed: int) -> None:
    """Nothing that was acknowledged is lost, nothing goes back; a zdb on the store has every key."""
    world.daemon.expect(NO_CLOSING, "zdb is there again", GONE, TORN, *STOPPED_AT_ONCE)
    rounds = Rounds(world, seed)
    rounds.run(ROUNDS)
    code = world.daemon.stop()
    assert code == Exit.OK, world.daemon.log.read_text()
    world.check_end()
    print(rounds.deaths, world.announced.calls, "hooks")
    assert world.announced.calls > ROUNDS
