"""A daemon in bad company: a second one, wrong folders, a damaged journal, crowds of shims."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from hookd.wire import EventFrame
from tests.e2e.daemon import LAUNCHER, REPOSITORY, WITHIN_S, ZDB, Daemon
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers, header

pytest_plugins = ["tests.shim_build"]


def test_a_root_that_cannot_be_listed(daemon: Daemon) -> None:
    """EIO, ESTALE, and here ENOTDIR: the daemon stays, and goes on once the disk is back."""
    daemon.expect("zdb could not be told", "scan failed", "scan failed, will retry", "audit failed")
    daemon.start()
    away = daemon.folder / "away"
    daemon.index.rename(away)
    daemon.index.touch()
    ends = time.monotonic() + 30
    while not daemon.logged("zdb could not be told"):
        assert time.monotonic() < ends
        time.sleep(0.02)
    daemon.index.unlink()
    away.rename(daemon.index)
    assert daemon.stop() == 0


def test_never_done_twice(daemon: Daemon) -> None:
    """A call that comes again after a kill is known, also where settled rows are not kept at all."""
    daemon.configure(journal__keep_s=0)
    daemon.start()
    frame = EventFrame(os.urandom(16), ("close", ZDB), "/", 5000)
    assert daemon.hand_in(frame).code == 0
    daemon.kill()
    daemon.start()
    assert daemon.hand_in(frame).code == 0
    assert daemon.stop() == 0
    assert daemon.rows("SELECT count(*) FROM events") == [(1,)]


def test_few_descriptors(shim: Path, tmp_path: Path) -> None:
    """As many silent connections as there may be leave enough for everything else; it is said."""
    few = ("sh", "-c", 'ulimit -n 400; exec "$@"', "sh", *LAUNCHER)
    daemon = Daemon(tmp_path, shim, launcher=few, settings={"hook.frame_timeout_s": 2})
    daemon.expect("notice", "cannot accept")
    daemon.start()
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(OSError):  # the backlog is full
                client.connect(str(daemon.setting("hook.socket")))
        assert daemon.ask("health")
        time.sleep(1.2)  # the room, the pulse and the scan have looked meanwhile
        assert daemon.running
    assert [line for line in daemon.logged("notice") if "hook.max_connections" in line["text"]]
    assert not daemon.logged("cannot accept")
    assert daemon.stop() == 0
    daemon.close(check=False)


def test_more_descriptors(shim: Path, tmp_path: Path) -> None:
    """The soft limit is raised to the hard one."""
    launcher = ("sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh", *LAUNCHER)
    daemon = Daemon(tmp_path, shim, launcher=launcher)
    daemon.start()
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 17) or hard == resource.RLIM_INFINITY
    assert soft > 256
    assert daemon.stop() == 0
    daemon.close()


def refused(daemon: Daemon) -> tuple[int, str]:
    """Exit code and the one line for people of a `hookd serve` that does not start."""
    run = subprocess.run(
        [*LAUNCHER, "serve", "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        cwd=REPOSITORY,
        check=False,
    )
    lines = [line for line in run.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, run.stderr
    assert '"level": "error"' not in run.stderr
    return run.returncode, lines[0]


# -- what does not start -------------------------------------------------------------------------


def test_second_daemon(daemon: Daemon, tmp_path: Path, shim: Path) -> None:
    """Two never share anything: the later one names the earlier one and ends; that one goes on."""
    daemon.start()
    other = tmp_path / "other"
    other.mkdir()
    for shared in ("journal.path", "hook.socket", "stats.socket"):
        second = Daemon(other, shim, settings={shared: daemon.setting(shared)})
        code, line = refused(second)
        assert code == Exit.UNAVAILABLE
        assert line.startswith(f"hookd: {shared}: another hookd (pid {daemon.pid}) holds ")
    for shared, folder in (
        ("hook.spool", daemon.spool),
        ("snapshot.staging", daemon.journal.parent / "staging"),
    ):
        code, line = refused(Daemon(other, shim, settings={shared: str(folder)}))
        assert code == Exit.UNAVAILABLE
        assert line.startswith(f"hookd: {shared}: another hookd uses {folder}; ")
    assert daemon.hook("close", ZDB).code == 0
    assert daemon.ask("health").startswith("ok")


def test_second_daemon_beside_the_journal(daemon: Daemon, tmp_path: Path, shim: Path) -> None:
    """Two journals in one folder have one default staging folder: the snapshots of the first stay."""
    daemon.start()
    other = tmp_path / "other"
    other.mkdir()
    beside = str(daemon.journal.with_name("second.db"))
    code, line = refused(Daemon(other, shim, settings={"journal.path": beside}))
    assert code == Exit.UNAVAILABLE
    assert line.startswith("hookd: snapshot.staging: another hookd uses ")


@pytest.mark.parametrize("key", ["hook.socket", "stats.socket"])
def test_socket_path_too_long(daemon: Daemon, tmp_path: Path, key: str) -> None:
    """The kernel takes 107 bytes; whoever configured more is told so."""
    daemon.configure(**{key.replace(".", "__"): str(tmp_path / ("x" * 108))})
    code, line = refused(daemon)
    assert code == Exit.CONFIG
    assert line.startswith(f"hookd: {key}: ")
    assert "107" in line


def test_folder_of_another_user(daemon: Daemon) -> None:
    """Nobody else may be able to put a socket, or an event, where hookd looks for its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    daemon.spool.mkdir(mode=0o700)
    os.chown(daemon.spool, 65534, 65534)
    code, line = refused(daemon)
    assert code == Exit.CONFIG
    assert line.startswith(f"hookd: hook.spool: {daemon.spool} belongs to user 65534")


def test_folder_that_others_write_to(daemon: Daemon) -> None:
    """As above, for a folder of our own that is open to everybody."""
    daemon.spool.mkdir()
    daemon.spool.chmod(0o777)
    code, line = refused(daemon)
    assert code == Exit.CONFIG
    assert line.startswith(f"hookd: hook.spool: others can write to {daemon.spool}")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"store__kind": "tape"}, "store.kind"),
        ({"zdb__index": "/nowhere/at/all"}, "zdb.index"),
        ({"drain__timout_s": 5}, "drain.timout_s"),
        ({"dispatch__workers": "many"}, "dispatch.workers"),
    ],
)
def test_bad_configuration(daemon: Daemon, changes: dict[str, object], named: str) -> None:
    """One line that begins with the key."""
    daemon.configure(**changes)
    code, line = refused(daemon)
    assert code == Exit.CONFIG
    assert line.startswith(f"hookd: {named}: ")


def test_store_that_is_not_mounted(daemon: Daemon, zdb: FakeZdb) -> None:
    """What lies below the mount point is a folder too: nothing may be stored there by mistake."""
    fill(daemon, zdb)
    away = daemon.store.rename(daemon.folder / "mounted elsewhere")
    daemon.store.mkdir()
    code, line = refused(daemon)
    assert code == Exit.UNAVAILABLE
    assert line.startswith("hookd: store.directory: this is not the store that ")
    assert list(daemon.store.iterdir()) == [], "it was made another store"
    shutil.rmtree(daemon.store)
    away.rename(daemon.store)
    daemon.start()
    assert daemon.stop() == Exit.OK


@pytest.mark.parametrize("new", [False, True])
def test_store_that_must_exist(daemon: Daemon, zdb: FakeZdb, new: bool) -> None:
    """On a `new` machine, and on the old one: not mounted, hookd runs and waits, and so does a zdb
    that needs the store; mounted, all goes on by itself.
    """
    fill(daemon, zdb)
    daemon.configure(store__directory__must_exist=True)
    truth = zdb.truth["default"]
    away = daemon.store.rename(daemon.folder / "mounted elsewhere")
    daemon.store.mkdir()
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    if new:
        shutil.rmtree(daemon.journal.parent)
    daemon.start()
    codes: list[int] = []
    starting = threading.Thread(target=lambda: codes.append(zdb.start()))
    starting.start()
    stats = daemon.until(lambda s: s["restore"]["waiting"])
    assert "is it mounted?" in stats["restore"]["waiting"]
    assert list(daemon.store.iterdir()) == []
    assert not codes
    daemon.store.rmdir()
    away.rename(daemon.store)
    starting.join(30)
    assert codes == [0]
    for key, value in truth.items():
        assert zdb.get("default", key) == value
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    daemon.expect("the store is waited for", "zdb waits", "restoring", "restored", "store is down")
    shutil.rmtree(daemon.store)
    daemon.configure(store__directory__must_exist=False)
    assert refused(daemon)[0] == Exit.UNAVAILABLE, "which store it was is known"


# -- the journal -----------------------------------------------------------------------------------


def fill(daemon: Daemon, zdb: FakeZdb) -> None:
    """One whole life of a zdb, all of it stored."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 60)
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()


def identities(daemon: Daemon) -> dict[str, tuple[int, int]]:
    """Inode and time of every stored file: both change when it is uploaded again."""
    return {
        key: ((daemon.store / key).stat().st_ino, (daemon.store / key).stat().st_mtime_ns)
        for key in daemon.stored()
    }


def test_damaged_journal(daemon: Daemon, zdb: FakeZdb) -> None:
    """It is moved aside and rebuilt from what is in the store: nothing is uploaded again."""
    fill(daemon, zdb)
    before = identities(daemon)
    known = daemon.rows("SELECT key, digest FROM ledger ORDER BY key")
    with daemon.journal.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(4096))
    daemon.expect("the journal is damaged, rebuilding it", "notice")
    daemon.start()
    stats = daemon.until(lambda s: s["totals"]["settled_files"] == len(before))
    assert stats["totals"]["already_there"] == len(before)
    [aside] = stats["journal"]["damaged_copies"]
    assert Path(aside).exists()
    assert daemon.ask("health").startswith("degraded")
    assert daemon.stop() == Exit.OK
    assert identities(daemon) == before
    assert daemon.rows("SELECT key, digest FROM ledger ORDER BY key") == known


@pytest.mark.parametrize("left", ["nothing", "empty", "log", "empty and log"])
def test_lost_journal(daemon: Daemon, zdb: FakeZdb, left: str) -> None:
    """Without its rows nobody knows what the snapshots are: they are kept, and status says so.

    SQLite would remove the log of a journal that is empty; it is moved aside instead.
    """
    daemon.expect("paused", "notice", "zdb ended without its closing hooks")
    daemon.start()
    daemon.ask("pause")
    assert zdb.start() == 0
    zdb.churn("default", 60)
    zdb.finish_hooks()
    daemon.kill()
    zdb.kill()
    staging = daemon.journal.parent / "staging"
    snapshots = sorted(path.read_bytes() for path in staging.glob("*/i*"))
    assert snapshots
    daemon.journal.unlink()
    if "empty" in left:
        daemon.journal.touch()
    log = daemon.journal.with_name("journal.db-wal")
    if "log" in left:
        daemon.expect("the journal is gone, its log is not: rebuilding")
        assert log.stat().st_size > 0
    else:
        log.unlink()
    daemon.start()
    stats = daemon.until_stored()
    kept = sorted(path.read_bytes() for path in staging.glob("orphaned/*/i*"))
    assert kept == snapshots
    [notice] = [text for text in stats["notices"] if "orphaned" in text]
    assert notice.startswith(f"{len(list(staging.glob('orphaned/*/*')))} snapshots that no journal")
    copies = stats["journal"]["damaged_copies"]
    assert len(copies) == ("log" in left)
    assert all(Path(copy).exists() for copy in copies)
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()
    daemon.start()
    assert notice in daemon.stats()["notices"]


@pytest.mark.parametrize("torn", ["grown", "cut"])
def test_torn_wal(daemon: Daemon, zdb: FakeZdb, torn: str) -> None:
    """The machine died while the journal was written: what was acknowledged before is there.

    `cut` loses the newest transaction, as if it had never been synced; the file that it was about
    is on disk, and a scan finds it.
    """
    daemon.expect("zdb ended without its closing hooks")
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 60)
    zdb.finish_hooks()
    daemon.kill()
    zdb.kill()
    wal = daemon.journal.with_name(daemon.journal.name + "-wal")
    with wal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        assert size > 4096
        if torn == "grown":
            file.write(os.urandom(3000))
        else:
            file.truncate(size - 100)
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert not daemon.logged("the journal is damaged, rebuilding it")
    assert daemon.stored() == daemon.local()
    assert answers(daemon.store / "index", daemon.store / "data") == zdb.truth


# -- a zdb of another user ---------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="hookd-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing users needs root")
@pytest.mark.parametrize("found", [None, 0o711, 0o700])
def test_another_user(shim: Path, open_folder: Path, found: int | None) -> None:
    """Its shim gets through to a folder that hookd makes; where one keeps it out, a line says so."""
    daemon = Daemon(open_folder, shim, settings={"hook.allow_users": ["nobody"]})
    daemon.expect("notice", "zdb ended without its closing hooks")
    run = Path(str(daemon.setting("hook.socket"))).parent
    if found is not None:
        run.mkdir(mode=found)
    public = Path(shutil.copy(shim, open_folder))
    try:
        daemon.start()
        reaches = found != 0o700
        notices = daemon.stats()["notices"]
        *socket, spool = notices
        assert len(socket) == (not reaches)
        assert all(f"`chmod o+x {run}` lets it through" in text for text in socket)
        assert "shims of nobody cannot spool" in spool
        called = subprocess.run(
            [public, "namespace-created", "tcp://127.0.0.1:1", "ns"],
            env={**os.environ, **daemon.environment},
            user="nobody",
            cwd="/",
        )
        assert called.returncode == (0 if reaches else 111)
    finally:
        daemon.close()


# -- a zdb whose files are lost ----------------------------------------------------------------------


def lose_all(daemon: Daemon) -> None:
    """A new machine, or an empty disk."""
    shutil.rmtree(daemon.index / "default")
    shutil.rmtree(daemon.data / "default")


def lose_all_and_journal(daemon: Daemon) -> None:
    """The same, with nothing left that remembers the store."""
    lose_all(daemon)
    shutil.rmtree(daemon.journal.parent)


def lose_one_index(daemon: Daemon) -> None:
    """zdb would stop loading there, and silently serve half."""
    (daemon.index / "default" / "i1").unlink()


def lose_active_data(daemon: Daemon) -> None:
    """zdb would make it anew, blank, and answer with other records' bytes."""
    newest_data(daemon.data / "default").unlink()


def newest_data(folder: Path) -> Path:
    """The active data file."""
    return max(folder.glob("d*"), key=lambda path: int(path.name[1:]))


LOSSES = [lose_all, lose_all_and_journal, lose_one_index, lose_active_data]


@pytest.mark.parametrize("lose", LOSSES)
def test_zdb_with_files_missing(
    daemon: Daemon, zdb: FakeZdb, lose: Callable[[Daemon], None]
) -> None:
    """They come back before zdb loads anything; every key answers, and storing goes on."""
    fill(daemon, zdb)
    lose(daemon)
    daemon.expect("restoring", "restored")
    daemon.start()
    assert zdb.start() == 0
    for key, value in zdb.truth["default"].items():
        assert zdb.get("default", key) == value
    assert not daemon.stats()["held"]
    zdb.set("default", b"after", b"all is well")
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    assert answers(daemon.store / "index", daemon.store / "data") == zdb.truth


@pytest.mark.parametrize("lose", LOSSES)
def test_what_the_store_cannot_make_whole(
    daemon: Daemon, zdb: FakeZdb, lose: Callable[[Daemon], None]
) -> None:
    """ready says 1 while something is missing that nobody has, and nothing of that state is stored."""
    fill(daemon, zdb)
    for path in (daemon.store / "index/default/i1", newest_data(daemon.store / "data/default")):
        path.rename(daemon.folder / path.name)
    before = daemon.stored()
    lose(daemon)
    daemon.expect("restoring", "held", "zdb ended without its closing hooks", "alarm")
    daemon.start()
    assert zdb.start() == 1
    assert any(call.argv[:3:2] == ("namespace-closing", "default") for call in zdb.finish_hooks())
    assert list(daemon.until_stored()["held"]) == ["default"]
    assert "namespace default takes no stores" in daemon.ask("health")
    daemon.stop()
    assert daemon.stored() == before


# -- crowds ----------------------------------------------------------------------------------------


def test_200_shims_at_once(daemon: Daemon) -> None:
    """Each gets its answer, each event is kept, each file is stored."""
    count = 200
    folder = daemon.data / "crowd"
    folder.mkdir()
    for number in range(count + 1):
        (folder / f"d{number}").write_bytes(b"%040d" % number)
    daemon.expect("zdb ended without its closing hooks")
    daemon.start()
    shims = [
        daemon.start_hook(
            *("jump-data", ZDB, str(folder / f"d{number}"), str(folder / f"d{number + 1}"))
        )
        for number in range(count)
    ]
    assert {shim.wait(WITHIN_S) for shim in shims} == {0}
    for shim in shims:
        shim.communicate()
    daemon.until_stored()
    assert daemon.stop() == Exit.OK
    assert daemon.rows("SELECT origin, count(*) FROM events GROUP BY origin") == [("socket", count)]
    assert daemon.stored() == daemon.local()


@pytest.fixture
def in_memory(shim: Path) -> Iterator[Daemon]:
    """A daemon in a folder of RAM where there is one: for very many files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        made = Daemon(Path(folder), shim)
        yield made
        made.close()


def test_10_000_dirty_index_files(in_memory: Daemon) -> None:
    """One jump-index may name very many: all of them are kept in one event, in one commit."""
    daemon, count = in_memory, 10_000
    daemon.expect("paused")
    daemon.start()
    daemon.ask("pause")
    folder = daemon.index / "old"
    folder.mkdir()
    for number in range(count):
        (folder / f"i{number}").write_bytes(header("index", number, 7) + b"%064d" % number)
    dirty = " ".join(map(str, range(count)))
    paths = (str(folder / f"i{count - 1}"), str(folder / f"i{count}"))
    called = daemon.hook("jump-index", ZDB, *paths, dirty)
    assert called.code == 0, called.text
    assert daemon.stats()["queue"]["files"] == count
    daemon.kill()
    kept = "SELECT argv, count(*) FROM jobs JOIN events ON event = seq GROUP BY seq"
    [(argv, files)] = daemon.rows(kept)
    assert json.loads(argv) == ["jump-index", ZDB, *paths, dirty]
    assert files == count
