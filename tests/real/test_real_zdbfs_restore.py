"""A file system on zdbfs loses its machine: written, stopped, wiped, restarted, every byte compared."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.living_zdb import LivingZdb
from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, Daemon
from tests.real.grid import Grid, missing_programs
from tests.real.mount import mounted, needs_zdbfs
from tests.real.test_real_restore import LOUD
from tests.real.world import TERMINATED

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
    pytest.mark.timeout(300),
    needs_zdbfs,
]
pytest_plugins = ["tests.shim_build"]

STORES = ("directory", "zstor", "zstor-0.4.0")
SCRATCH = "zdbfs-temp"
ROUNDS = 3

Tree = dict[str, bytes | None]
"""Path → content; None for a folder."""


@pytest.fixture(params=STORES)
def daemon(request: pytest.FixtureRequest, shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """With each store that is there."""
    (tmp_path / "front").mkdir()
    with contextlib.ExitStack() as stack:
        settings: dict[str, object] = {}
        if request.param != "directory":
            if missing := missing_programs(request.param):
                pytest.skip(f"not on PATH: {', '.join(missing)}")
            grid = stack.enter_context(Grid(tmp_path / "grid", zstor=request.param))
            settings = {
                "store.kind": "zstor",
                "store.directory.path": None,
                "store.zstor.config": str(grid.config),
            }
        made = Daemon(tmp_path / "front", shim, settings=settings)
        made.expect(*LOUD)
        yield made
        made.close()


class Session:
    """One life of zdb, zdbfs and the daemon, from a start to a stop with nothing left."""

    def __init__(self, daemon: Daemon, shim: Path) -> None:
        self._daemon, self._shim = daemon, shim

    @contextlib.contextmanager
    def run(self) -> Iterator[Path]:
        """The mount point."""
        daemon = self._daemon
        daemon.start()
        finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
        zdb = LivingZdb(daemon.folder, hook=self._shim, environment=finds)
        try:
            with mounted(zdb, daemon.folder) as mount:
                yield mount.path
                mount.stop()
            assert zdb.stop() == TERMINATED
        finally:
            zdb.close()
        code = daemon.stop()
        assert code == Exit.OK, daemon.log.read_text()


def change(root: Path, dice: random.Random, round_: int) -> None:
    """New files and folders, longer and shorter ones, others renamed and removed."""
    folder = root / f"folder-{round_}" / "deeper"
    folder.mkdir(parents=True)
    for number in range(8):
        size = dice.choice((0, 1, 4096, 70_000, dice.randrange(1, 900_000)))
        (folder / f"file-{number}").write_bytes(dice.randbytes(size))
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for path in dice.sample(files, 6):
        match dice.randrange(4):
            case 0:
                with path.open("ab") as file:
                    file.write(dice.randbytes(50_000))
            case 1:
                path.write_bytes(dice.randbytes(dice.randrange(1, 200_000)))
            case 2:
                path.rename(path.with_name(f"{path.name}-renamed-{round_}"))
            case 3:
                path.unlink()


def tree(root: Path) -> Tree:
    """Everything below."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("full", [False, True], ids=["lazy", "full"])
def test_round_trip(daemon: Daemon, shim: Path, full: bool) -> None:
    """Round after round: what is read back from the store is what was written, and it goes on."""
    daemon.configure(restore__full=full, zdb__skip_namespaces=[SCRATCH])
    session = Session(daemon, shim)
    dice = random.Random(41)
    wanted: Tree = {}
    for round_ in range(ROUNDS):
        with session.run() as root:
            found = tree(root)
            assert sorted(found) == sorted(wanted)
            assert [path for path in found if found[path] != wanted[path]] == []
            change(root, dice, round_)
            wanted = tree(root)
        assert len(list((daemon.data / "zdbfs-data").glob("d*"))) > 3
        for place in (daemon.index, daemon.data):
            shutil.rmtree(place)
            place.mkdir()
        shutil.rmtree(daemon.journal.parent)
    with session.run() as root:
        assert tree(root) == wanted
    restored = [line["namespace"] for line in daemon.logged("restored")]
    assert restored.count("zdbfs-data") == restored.count("zdbfs-meta") == ROUNDS
