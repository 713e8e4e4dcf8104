"""Stopping: every write is on the remote, or is named and comes first at the next start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mount.rig import REPOSITORY, HookdMount, Server, contents


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_closed_files_are_on_the_remote(
    mount: HookdMount, server: Server, number: signal.Signals
) -> None:
    """20 files closed a moment ago, a write-back time of an hour: all arrive, exit 0, nothing mounted."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(20, size=256 * 1024)
    assert mount.stop(number) == 0
    assert server.files() == made
    assert not mount.mounted()
    assert mount.rclone_pid() is None
    assert not mount.stats_socket.exists()
    assert not list(mount.runtime.glob("mount-*/rclone.conf"))


@pytest.mark.real
def test_the_folder_that_was_made_is_removed(mount: HookdMount) -> None:
    """And one that was there stays."""
    mount.start()
    assert mount.stop() == 0
    assert not mount.local.exists()
    mount.local.mkdir()
    mount.start()
    assert mount.stop() == 0
    assert mount.local.is_dir()


@pytest.mark.real
def test_budget_spent(mount: HookdMount, server: Server) -> None:
    """The remote is away: 75, each file named, the cache named; the next start uploads them first."""
    mount.settings |= {"drain_timeout_s": 1.5, "write_back_s": 3600}
    mount.start()
    made = mount.write(5)
    server.stop()
    began = time.monotonic()
    assert mount.stop() == 75
    assert time.monotonic() - began < 12
    text = "\n".join(mount.lines())
    assert all(f"left: '{name}'" in text for name in made)
    assert str(mount.cache) in text
    assert not mount.mounted()
    server.start()
    mount.start()
    assert server.files() == made  # at the moment it says ready
    assert "resumed: 5 of 5" in mount.log.read_text()
    assert mount.stop() == 0


def test_a_second_signal_stops_now(mount: HookdMount, server: Server) -> None:
    """75 with the names; nothing is lost."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(3)
    server.stop()
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    mount.wait_for_line("draining: ")
    assert mount.stop() == 75
    assert "left: 'f2'" in mount.log.read_text()
    assert not mount.mounted()
    server.start()
    mount.start()
    assert server.files() == made
    assert mount.stop() == 0


@pytest.mark.real
def test_remote_comes_back_during_the_drain(mount: HookdMount, server: Server) -> None:
    """The drain waits for it, and says why it waits."""
    mount.start()
    made = mount.write(5)
    server.stop()
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    mount.wait_for_line("draining: ")
    time.sleep(1.0)
    server.start()
    assert mount.wait() == 0
    assert server.files() == made


def test_a_file_open_for_writing_is_waited_for(mount: HookdMount, server: Server) -> None:
    """It is named while it is open, and goes up when it is closed."""
    mount.start()
    with (mount.point / "growing").open("wb", buffering=0) as file:
        file.write(b"first ")
        assert mount.process is not None
        mount.process.send_signal(signal.SIGTERM)
        mount.wait_for_line("'growing'")
        assert "open for writing" in mount.log.read_text()
        file.write(b"second")
    assert mount.wait() == 0
    assert server.files() == {"growing": b"first second"}


@pytest.mark.real
def test_a_file_that_stays_open_is_named(mount: HookdMount, server: Server) -> None:
    """With a budget: 75, the name and why; no dead endpoint; its bytes go up at the next start."""
    mount.settings["drain_timeout_s"] = 1.0
    mount.start()
    file = (mount.point / "open").open("wb", buffering=0)
    file.write(b"so far")
    assert mount.stop() == 75
    assert "left: 'open' (6 B, open for writing)" in mount.log.read_text()
    assert not mount.mounted()
    try:
        file.close()
    except OSError:
        pass  # its mount is gone
    mount.start()
    assert server.files() == {"open": b"so far"}
    assert mount.stop() == 0


@pytest.mark.real
def test_a_reader_does_not_hold_up_the_end(mount: HookdMount, server: Server) -> None:
    """Somebody has a file open for reading, and stands in the folder: exit 0, no dead endpoint."""
    mount.start()
    made = mount.write(3)
    reader = os.open(mount.point / "f0", os.O_RDONLY)
    try:
        assert os.read(reader, 10) == made["f0"][:10]
        assert mount.stop() == 0
        assert not mount.mounted()
    finally:
        with contextlib.suppress(OSError):  # its mounter is gone
            os.close(reader)
    assert server.files() == made


@pytest.mark.real
def test_rclone_killed_during_the_drain(mount: HookdMount, server: Server) -> None:
    """Another one finishes, where nobody sees it."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(20)
    server.freeze(True)
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    mount.wait_for_line("draining: ")
    mount.kill_rclone()
    server.freeze(False)
    assert mount.wait() == 0
    assert server.files() == made
    assert not mount.mounted()


@pytest.mark.real
def test_names_of_every_kind(mount: HookdMount, tmp_path: Path) -> None:
    """Spaces, a line end, UTF-8, a dash first: left behind they are told on one line each, then arrive.

    On a folder as the remote: WebDAV's XML has no line ends in names.
    """
    names = ["with space", "line\nend", "ümläut ☃", "-dash", "star*", "quote'\"", "$HOME"]
    target = tmp_path / "disk"
    target.mkdir()
    mount.variables = {
        "REMOTE_PATH": f"disk:{target}",
        "LOCAL_PATH": str(mount.local),
        "RCLONE_CONFIG_DISK_TYPE": "local",
    }
    mount.settings |= {"drain_timeout_s": 0, "write_back_s": 3600}
    mount.start()
    (mount.point / "a folder").mkdir()
    made = {}
    for name in names:
        made[f"a folder/{name}"] = made[name] = name.encode()
        (mount.point / name).write_bytes(name.encode())
        (mount.point / "a folder" / name).write_bytes(name.encode())
    assert mount.stop() == 75
    told = [line for line in mount.lines() if "left: " in line]
    assert sorted(line.partition("left: ")[2].rpartition(" (")[0] for line in told) == sorted(
        repr(name).replace("\\\\", "\\") for name in made
    )
    mount.start()
    assert contents(target) == made
    assert mount.settings.pop("drain_timeout_s") == 0
    assert mount.stop() == 0


@pytest.mark.real
def test_a_name_that_the_remote_cannot_take(mount: HookdMount, server: Server) -> None:
    """rclone cannot confirm a line end by WebDAV: it is named, nothing else waits for it at the start."""
    mount.settings["drain_timeout_s"] = 4
    mount.start()
    (mount.point / "line\nend").write_bytes(b"x")
    (mount.point / "other").write_bytes(b"y")
    assert mount.stop() == 75
    assert "left: 'line\\nend' (1 B, its upload fails: " in mount.log.read_text()
    assert server.files()["other"] == b"y"
    mount.start()
    assert mount.stop() == 75


EARLY = """if True:
    import os, signal, sys
    sys.path.insert(0, os.getcwd())
    from hookd import config
    load = config.load_mount
    def signalled(*arguments):  # among the first things that the command does
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*arguments)
    config.load_mount = signalled
    from hookd.cli import main
    sys.exit(main(["mount"]))
"""


@pytest.mark.real
def test_a_signal_in_the_first_moments_as_process_1(mount: HookdMount) -> None:
    """SIGTERM before there is a handler, to a PID 1: the kernel drops it, unless it is blocked."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", EARLY],
        env=mount.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hookd mount is ready" not in done.stderr
    assert not mount.mounted()
