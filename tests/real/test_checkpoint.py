"""Checkpoints with a real zdb and a real zdbfs: what was written before the printed moment survives.

The machine is lost (everything killed, its disk gone but for the store's folder), and another zdb is
started on a copy of the store.
"""

from __future__ import annotations

import itertools
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

from hookd.demo.living_zdb import LivingZdb
from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, Daemon
from tests.real.mount import mounted, needs_zdbfs
from tests.real.world import copy_store

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
]
pytest_plugins = ["tests.shim_build"]

PASSWORD = "correct horse"


@pytest.fixture
def daemon(shim: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a directory store, not started."""
    (tmp_path / "first").mkdir()
    made = Daemon(tmp_path / "first", shim)
    yield made
    made.close()


@pytest.fixture
def zdb(daemon: Daemon, shim: Path) -> Iterator[LivingZdb]:
    """A zdb whose hooks go to the daemon."""
    daemon.start()
    finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    made = LivingZdb(daemon.folder, hook=shim, environment=finds)
    yield made
    made.close()


def checkpoint(daemon: Daemon, *options: str) -> tuple[int, str, str]:
    """`hookd checkpoint`: exit code, what it printed, what it said meanwhile."""
    command = [sys.executable, "-m", "hookd", "checkpoint", "--config", str(daemon.config)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@needs_zdbfs
def test_all_that_was_written_before_the_moment_is_there_after_the_loss(
    daemon: Daemon, shim: Path, tmp_path: Path
) -> None:
    """Files written through the mount, no sync, no stop: only a checkpoint, then everything dies."""
    daemon.configure(checkpoint__mount=str(daemon.folder / "mnt"))
    daemon.start()
    finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    dice = random.Random(11)
    contents = {f"file-{n}": dice.randbytes(dice.randrange(1, 400_000)) for n in range(12)}
    zdb = LivingZdb(daemon.folder, hook=shim, environment=finds)
    try:
        with mounted(zdb, daemon.folder) as mount:
            for name, content in contents.items():
                (mount.path / name).write_bytes(content)
            written_at = time.time()
            code, printed, said = checkpoint(daemon)
            assert (code, printed[:11]) == (Exit.OK, "safe until "), said
            assert daemon.stats()["checkpoint"]["safe_until"] >= written_at
            (mount.path / "later").write_bytes(b"x" * 1000)
            daemon.kill()
            zdb.close()
    finally:
        zdb.close()
    restored = tmp_path / "restored"
    restored.mkdir()
    copy_store(daemon, restored)
    again = LivingZdb(restored)
    try:
        with mounted(again, restored) as mount:
            found = {name: (mount.path / name).read_bytes() for name in contents}
    finally:
        again.close()
    assert found == contents


@needs_zdbfs
def test_writes_that_go_on_meanwhile(daemon: Daemon, shim: Path, tmp_path: Path) -> None:
    """Three checkpoints under a writer; after each the store alone has every file closed before it."""
    daemon.configure(checkpoint__mount=str(daemon.folder / "mnt"))
    daemon.start()
    finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    written: list[tuple[float, str, bytes]] = []
    stop = threading.Event()

    def write(folder: Path) -> None:
        dice = random.Random(5)
        for number in itertools.count():
            if stop.is_set():
                return
            content = dice.randbytes(dice.randrange(1, 60_000))
            (folder / f"file-{number}").write_bytes(content)
            written.append((time.time(), f"file-{number}", content))
            time.sleep(0.01)

    promised: list[tuple[float, Path]] = []
    zdb = LivingZdb(daemon.folder, hook=shim, environment=finds)
    try:
        with mounted(zdb, daemon.folder) as mount:
            writer = threading.Thread(target=write, args=(mount.path,))
            writer.start()
            try:
                for number in range(3):
                    time.sleep(0.5)
                    code, _, said = checkpoint(daemon)
                    assert code == Exit.OK, said
                    copied = tmp_path / f"restored{number}"
                    copied.mkdir()
                    copy_store(daemon, copied)
                    promised.append((daemon.stats()["checkpoint"]["safe_until"], copied))
            finally:
                stop.set()
                writer.join()
    finally:
        zdb.close()
        daemon.kill()
    for until, copied in promised:
        wanted = {name: content for at, name, content in written if at < until}
        assert wanted
        again = LivingZdb(copied)
        try:
            with mounted(again, copied) as mount:
                for name, content in wanted.items():
                    assert (mount.path / name).read_bytes() == content
        finally:
            again.close()


@needs_zdbfs
def test_a_mount_that_hangs_costs_the_promise_and_nothing_else(daemon: Daemon, shim: Path) -> None:
    """Bounded by --timeout, a line that names it, and the daemon answers as ever."""
    daemon.configure(checkpoint__mount=str(daemon.folder / "mnt"))
    daemon.expect("checkpoint failed")
    daemon.start()
    finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    zdb = LivingZdb(daemon.folder, hook=shim, environment=finds)
    try:
        with mounted(zdb, daemon.folder) as mount:
            mount.suspend()
            began = time.monotonic()
            code, _, said = checkpoint(daemon, "--timeout", "2")
            assert code == Exit.TEMPFAIL and "zdbfs writes out its cache" in said
            assert time.monotonic() - began < 20
            code, _, said = checkpoint(daemon, "--timeout", "20")
            assert code == Exit.TEMPFAIL and f"{mount.path}: zdbfs has not answered" in said
            assert daemon.stats()["health"]["status"] == "ok"
    finally:
        zdb.close()


def test_an_idle_namespace_gets_no_new_files(daemon: Daemon, zdb: LivingZdb) -> None:
    """The second checkpoint closes nothing; one write, and only that namespace is closed."""
    for name in ("one", "two"):
        zdb.client.ask("NSNEW", name)
    zdb.client.ask("SELECT", "one")
    zdb.client.ask("SET", "key", "value")
    assert checkpoint(daemon)[0] == Exit.OK
    before = sorted(daemon.local())
    assert "data/one/d1" in before and "data/two/d1" not in before
    assert checkpoint(daemon)[0] == Exit.OK
    assert sorted(daemon.local()) == before
    zdb.client.ask("DEL", "key")
    assert daemon.stats()["recovery"]["files"] == 1
    assert checkpoint(daemon)[0] == Exit.OK
    assert sorted(set(daemon.local()) - set(before)) == ["data/one/d2", "index/one/i2"]
    stored, local = daemon.stored(), daemon.local()
    assert stored["index/one/i0"] == local["index/one/i0"]  # rewritten by the DEL
    assert daemon.stats()["recovery"]["age_s"] == 0


def test_a_namespace_with_a_password_and_a_zdb_with_an_admin(daemon: Daemon, shim: Path) -> None:
    """Both passwords are proven, neither is in the log; without the admin's it says what to set."""
    daemon.start()
    finds = {**os.environ, **daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    zdb = LivingZdb(daemon.folder, hook=shim, environment=finds, options=("--admin", "root secret"))
    try:
        zdb.client.ask("AUTH", "root secret")
        zdb.client.ask("NSNEW", "private")
        zdb.client.ask("NSSET", "private", "password", PASSWORD)
        zdb.client.ask("NSSET", "private", "public", "0")
        zdb.client.ask("SELECT", "private", PASSWORD)
        zdb.client.ask("SET", "key", "value")
        daemon.until_stored()
        daemon.expect("checkpoint failed")
        code, _, said = checkpoint(daemon)
        assert code == Exit.FAILED and "zdb.admin_password" in said
        daemon.kill()
        daemon.configure(zdb__admin_password="root secret")
        daemon.configure(zdb__address=f"tcp://127.0.0.1:{zdb.port}")
        daemon.start()
        assert checkpoint(daemon)[0] == Exit.OK
        log = daemon.log.read_text()
        assert PASSWORD not in log and "root secret" not in log
    finally:
        zdb.close()


def test_zdb_was_killed(daemon: Daemon, zdb: LivingZdb, tmp_path: Path) -> None:
    """Its active files are taken as they lie there, and that is a checkpoint as well."""
    zdb.client.ask("SET", "key", "value")
    zdb.close()
    code, printed, said = checkpoint(daemon)
    assert (code, printed[:11]) == (Exit.OK, "safe until "), said
    restored = tmp_path / "restored"
    restored.mkdir()
    copy_store(daemon, restored)
    again = LivingZdb(restored)
    try:
        assert again.client.ask("GET", "key") == b"value"
    finally:
        again.close()


def test_a_zdb_that_does_not_answer(daemon: Daemon, zdb: LivingZdb) -> None:
    """Exit 69, its address named."""
    zdb.client.ask("SET", "key", "value")
    daemon.expect("checkpoint failed")
    zdb.send_signal(signal.SIGSTOP)
    try:
        code, _, said = checkpoint(daemon, "--timeout", "3")
    finally:
        zdb.send_signal(signal.SIGCONT)
    assert code == Exit.TEMPFAIL and "zdb closes the files of default" in said
