"""kill -9 at random: the daemon, shims, zdb, round after round over the same folders."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.zdb import ROTATION
from tests.faults.history import SKIPPED
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

ROUNDS = int(os.environ.get("KILL_ROUNDS", "30"))

pytestmark = pytest.mark.timeout(120 + 6 * ROUNDS)
STOPPED_AT_ONCE = (
    "answer not kept",
    "cannot commit, the shim spools",
    "finding not kept",
    "zdb waits",  # for the next daemon: this one decides no more what comes back
)
"""What a daemon says of events that it was working on at the second signal."""

GAP_S = 0.002
"""From making a file to its first bytes: long enough that an event falls in between now and then."""

REMADE = "remade"
"""The namespace that is deleted and made again, now and then."""

NAMES = ("default", "files", SKIPPED, REMADE)

DELETED = ("withdrawn", "will retry", "quarantined")
"""What a daemon says of files whose namespace is deleted, before and after it hears of that."""


class Rounds:
    """One zdb, its daemons and their shims; `seed` decides all but the exact moments."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._zdb = world.zdb
        self._random = random.Random(seed)
        self._zdb.gap_s = GAP_S

    def run(self, rounds: int) -> None:
        """From the start of zdb to its end."""
        self._world.start()
        with self._world.supervised(lambda: self._random.choice((0, 0.1, 0.5))):
            self._start_zdb()
            for name in NAMES[1:]:
                self._zdb.create(name, user=name == "files")
            for number in range(rounds):
                daemon = self._random.choice((None, self._kill_daemon, self._stop_daemon))
                shims = self._random.choice((None, None, self._kill_shims))
                zdb = self._random.choice((None, self._kill_zdb, self._stop_zdb))
                killers = [each for each in (daemon, shims) if each]
                print(f"{number}:", *(each.__name__ for each in (daemon, shims, zdb) if each))
                with contextlib.ExitStack() as dying:
                    for each in killers:
                        dying.enter_context(self._beside(each))
                    self._work(asks_back=shims is None)
                    if zdb is not None:
                        zdb()
            self._fresh_daemon()
            self._zdb.stop()
            self._zdb.finish_hooks()

    def _fresh_daemon(self) -> None:
        """The one that runs may have been told to end already."""
        before = len(self._world.deaths)

        def died() -> bool:
            self._world.signal(signal.SIGKILL)
            return len(self._world.deaths) > before

        self._world.until(died, "no daemon died")

    # -- what zdb does -------------------------------------------------------------------------

    def _work(self, *, asks_back: bool) -> None:
        for _ in range(self._random.randrange(1, 4)):
            name = self._random.choice(NAMES)
            self._zdb.churn(name, self._random.randrange(1, 15))
            dice = self._random.random()
            if name == REMADE and dice < 0.4:
                self._zdb.remove(name)
                self._zdb.create(name)
            elif dice < 0.5:
                self._zdb.rotate(name)
            elif dice < 0.7:
                self._zdb.update(name)
            elif asks_back:
                self._ask_back(name)

    def _ask_back(self, name: str) -> None:
        """A sealed data file that is stored is removed, and comes back as it was."""
        for number in range(self._zdb._namespaces[name].active):
            path = self._zdb.data / name / f"d{number}"
            content = path.read_bytes()
            if self._world.stored(f"data/{name}/d{number}") == content:
                path.unlink()
                with contextlib.suppress(StopIteration):  # all its keys were written anew
                    self._zdb.get(name, self._zdb.key_in(name, number))
                if not path.exists():
                    assert self._zdb.hook("missing-data", str(path)) == 0
                assert path.read_bytes() == content
                return

    def _start_zdb(self) -> None:
        """Also while the shim of a deletion is still on its way, or has spooled."""
        assert self._zdb.start() == 0

    def _kill_zdb(self) -> None:
        name = self._random.choice(NAMES)
        if self._random.random() < 0.6:
            self._zdb.rotate(name, until=self._random.choice(ROTATION))
        self._zdb.kill()
        self._start_zdb()

    def _stop_zdb(self) -> None:
        self._zdb.stop()
        self._start_zdb()

    # -- who else dies -------------------------------------------------------------------------

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
        while not over.wait(0.001):
            for call in self._zdb.calls[-4:]:
                # of a deletion that nobody hears of, files that begin anew are a conflict for ever
                if call.argv[0] == "namespace-deleted":
                    continue
                if call.process.poll() is None and self._random.random() < 0.3:
                    call.process.kill()


@pytest.fixture
def seed() -> int:
    """$KILL_SEED, or another one each time; shown when a test fails."""
    seed = int(os.environ.get("KILL_SEED") or random.randrange(1 << 32))
    print(f"KILL_SEED={seed}")
    return seed


def test_rounds(world: World, seed: int) -> None:
    """Nothing that was acknowledged is lost, nothing goes back, and all is stored in the end."""
    world.daemon.expect("zdb ended without its closing hooks", "zdb is there again")
    world.daemon.expect(*STOPPED_AT_ONCE, *DELETED)
    Rounds(world, seed).run(ROUNDS)
    world.drain()
    world.check_end()
