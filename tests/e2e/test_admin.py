"""Asking and telling a running daemon: by socket, by command, over HTTP; and when it is away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import REPOSITORY, WITHIN_S, ZDB, Daemon

pytest_plugins = ["tests.shim_build"]

CONTENT = b"x" * 4096


def hookd(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of `hookd`, with the daemon's configuration."""
    command, *rest = words
    return subprocess.run(
        [sys.executable, "-m", "hookd", command, "--config", str(daemon.config), *rest],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        cwd=REPOSITORY,
        check=False,
    )


def announce(daemon: Daemon, *numbers: int) -> None:
    """Sealed data files of `default`, and zdb's word for each."""
    folder = daemon.data / "default"
    folder.mkdir(exist_ok=True)
    for number in numbers:
        paths = [folder / f"d{n}" for n in (number, number + 1)]
        for path in paths:
            path.write_bytes(CONTENT + path.name.encode())
        assert daemon.hook("jump-data", ZDB, *map(str, paths)).code == 0


def lose_store(daemon: Daemon) -> None:
    """Like a mount that is gone."""
    daemon.expect("store is down", "store is back")
    daemon.store.rename(daemon.folder / "elsewhere")


def find_store(daemon: Daemon) -> None:
    """It is mounted again."""
    (daemon.folder / "elsewhere").rename(daemon.store)


def quarantine(daemon: Daemon) -> None:
    """A data file that was announced and is not there."""
    daemon.expect("quarantined", "will retry", "zdb ended without its closing hooks")
    folder = daemon.data / "default"
    folder.mkdir(exist_ok=True)
    gone = [str(folder / "d7"), str(folder / "d8")]
    assert daemon.hook("jump-data", ZDB, *gone).code == 0
    daemon.until(lambda s: s["queue"]["states"]["quarantined"]["files"] == 1)


# -- asking ----------------------------------------------------------------------------------------


def test_what_a_stored_file_changes(daemon: Daemon) -> None:
    """Counts, ledger and metrics say so at once, and the screen in one sentence."""
    daemon.start()
    assert hookd(daemon, "status").stdout.startswith("Ready; zdb has not asked for anything yet.\n")
    announce(daemon, 0)
    found = daemon.until_stored()
    assert found["totals"]["settled_files"] == 1
    assert found["totals"]["events"]["by_hook"] == {"jump-data": 1}
    assert found["store"]["state"] == "up"
    daemon.until(lambda s: s["ledger"] == {"files": 1, "bytes": len(CONTENT) + 2})
    assert 'hookd_events_total{hook="jump-data"} 1.0' in daemon.ask("metrics").splitlines()
    done = hookd(daemon, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Everything is stored.\n")
    assert hookd(daemon, "queue").stdout == "the queue is empty\n"
    daemon.expect("zdb ended without its closing hooks")
    assert daemon.stop() == Exit.OK


def test_while_the_store_is_away(daemon: Daemon) -> None:
    """What waits, since when, and why; the store's return is seen."""
    daemon.start()
    announce(daemon, 0)
    daemon.until_stored()
    lose_store(daemon)
    announce(daemon, 1, 2, 3)
    found = daemon.until(lambda s: s["store"]["state"] == "down")
    assert found["store"]["last_error"]
    assert found["errors"]["unreachable"]["count"] >= 1
    assert found["queue"]["files"] == 3
    done = hookd(daemon, "status")
    assert done.returncode == 0
    assert ": 3 files (12 KiB) wait, nothing is lost.\n" in done.stdout
    rows = json.loads(hookd(daemon, "queue", "--json").stdout)["rows"]
    assert [row["file"] for row in rows] == [f"data/default/d{n}" for n in (1, 2, 3)]
    assert "unreachable" in hookd(daemon, "queue", "--limit", "1").stdout
    find_store(daemon)
    assert daemon.until_stored()["store"]["state"] == "up"
    daemon.expect("zdb ended without its closing hooks")
    assert daemon.stop() == Exit.OK


@pytest.mark.skipif(shutil.which("nc") is None, reason="needs nc with -U")
def test_with_nc(daemon: Daemon) -> None:
    """As the manual says; nc ends when the daemon hangs up."""
    daemon.start()
    path = daemon.folder / "run" / "stats.sock"
    done = subprocess.run(
        ["nc", "-U", str(path)], input="health\n", capture_output=True, text=True, timeout=5
    )
    assert done.stdout == "ok\n"


def test_metrics_over_http(daemon: Daemon) -> None:
    """With the port configured; it is free again after the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    daemon.configure(stats__prometheus_port=port)
    daemon.start()
    ends = time.monotonic() + WITHIN_S
    while not daemon.logged("metrics"):
        assert time.monotonic() < ends
        time.sleep(0.01)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'hookd_health{status="ok"} 1.0' in text
    assert daemon.stop() == Exit.OK
    socket.create_server(("127.0.0.1", port)).close()


def test_a_metrics_port_in_use(daemon: Daemon) -> None:
    """The daemon runs; it says so in its log and on its screen."""
    daemon.expect("notice")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        daemon.configure(stats__prometheus_port=port)
        daemon.start()
        [notice] = daemon.until(lambda s: s["notices"])["notices"]
    assert notice.startswith(f"stats.prometheus_port: no metrics on 127.0.0.1:{port}")
    assert f"! {notice}" in hookd(daemon, "status").stdout.splitlines()


def something_in_the_way(daemon: Daemon) -> Path:
    """A file of somebody else where the stats socket belongs."""
    path = daemon.folder / "run" / "stats.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    return path


def test_a_socket_that_is_none(daemon: Daemon) -> None:
    """One line that names the key, and 78."""
    path = something_in_the_way(daemon)
    daemon.start(wait=False)
    assert daemon.wait() == Exit.CONFIG
    assert daemon.announced() == [f"stats.socket: {path} exists and is no socket; remove it"]


def test_what_is_no_socket_stays(daemon: Daemon) -> None:
    """hookd removes no file that it did not make."""
    path = something_in_the_way(daemon)
    daemon.start(wait=False)
    daemon.wait()
    assert path.exists()


# -- telling ---------------------------------------------------------------------------------------


def test_retry(daemon: Daemon) -> None:
    """The file has come back: what was given up on is stored."""
    daemon.start()
    quarantine(daemon)
    done = hookd(daemon, "health")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "degraded")
    assert "1 file needs a decision." in hookd(daemon, "status").stdout
    (daemon.data / "default" / "d7").write_bytes(CONTENT)
    done = hookd(daemon, "retry", "data/default/d7")
    assert (done.returncode, done.stdout) == (0, "1 file will be tried at once\n")
    daemon.until_stored()
    assert daemon.stored() == {"data/default/d7": CONTENT}
    assert hookd(daemon, "retry", "all").stdout == "nothing has failed\n"


def test_skip(daemon: Daemon) -> None:
    """The journal and the log say who decided; it is over after a restart too."""
    daemon.expect("skipped", "withdrawn")
    daemon.start()
    quarantine(daemon)
    done = hookd(daemon, "skip", "data/default/d7")
    assert (done.returncode, done.stdout) == (
        0,
        "data/default/d7 is given up: it will not be stored\n",
    )
    assert [line["uid"] for line in daemon.logged("skipped")] == [os.getuid()]
    again = hookd(daemon, "skip", "data/default/d7")
    assert (again.returncode, again.stderr) == (1, "hookd: data/default/d7 is not in the queue\n")
    assert daemon.stop() == Exit.OK
    assert daemon.rows("SELECT state, error FROM jobs") == [
        ("withdrawn", f"skipped by uid {os.getuid()}")
    ]
    daemon.start()
    assert daemon.stats()["queue"]["files"] == 0


def test_pause_and_resume(daemon: Daemon) -> None:
    """Events are taken, nothing is stored; then it is."""
    daemon.expect("paused", "zdb ended without its closing hooks")
    daemon.start()
    assert hookd(daemon, "pause").stdout.startswith("storing is paused")
    announce(daemon, 0)
    time.sleep(0.3)
    assert daemon.stats()["queue"]["states"]["pending"]["files"] == 1
    assert daemon.stored() == {}
    assert hookd(daemon, "status").stdout.startswith("Storing is paused: 1 file (4 KiB) waits.\n")
    assert hookd(daemon, "resume").stdout == "storing goes on\n"
    daemon.until_stored()
    assert daemon.stop() == Exit.OK


def test_a_drain_ends_a_pause(daemon: Daemon) -> None:
    """Whoever paused and forgot it loses nothing."""
    daemon.expect("paused", "the drain ends the pause", "zdb ended without its closing hooks")
    daemon.start()
    assert daemon.ask("pause").startswith("storing is paused")
    announce(daemon, 0)
    assert daemon.stop() == Exit.OK
    assert set(daemon.stored()) == {"data/default/d0", "data/default/d1"}


# -- away ------------------------------------------------------------------------------------------


def test_after_a_kill(daemon: Daemon) -> None:
    """The journal is read all the same; the next daemon does not mind."""
    daemon.start()
    announce(daemon, 0)
    daemon.until_stored()
    lose_store(daemon)
    announce(daemon, 1, 2)
    daemon.until(lambda s: s["store"]["state"] == "down")
    daemon.kill()
    done = hookd(daemon, "status")
    assert done.returncode == Exit.UNAVAILABLE
    away, owed = done.stdout.splitlines()
    assert away.startswith("The daemon is not running (")
    assert owed.endswith(" holds 2 files (8 KiB) to be stored after the next start.")
    find_store(daemon)
    daemon.start()
    daemon.until_stored()
    daemon.expect("zdb ended without its closing hooks")
    assert daemon.stop() == Exit.OK
    assert "owes nothing" in hookd(daemon, "status").stdout


def test_a_daemon_that_stands_still(daemon: Daemon, tmp_path: Path) -> None:
    """It holds its lock and its socket, but does not answer: that is not "away"."""
    daemon.start()
    daemon.send_signal(signal.SIGSTOP)
    path = tmp_path / "run" / "stats.sock"
    code = (
        "import sys; from pathlib import Path; from hookd.admin.client import ask\n"
        "try: ask(Path(sys.argv[1]), 'stats', within_s=0.2)\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert done.stdout == "the daemon runs, but does not answer within 0.2 s\n"
    daemon.send_signal(signal.SIGCONT)
    assert daemon.ask("health") == "ok\n"
