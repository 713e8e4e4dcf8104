"""Starting: refused with the right code before anything is mounted, or up over whatever is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hookd.mount import endpoints
from tests.mount.rig import USER, HookdMount, Server, is_rclone, remote_variables


def test_wrong_password(mount: HookdMount) -> None:
    """77 at once, one line that does not show it, never mounted."""
    mount.variables["RCLONE_CONFIG_RSHARE_PASS"] = "not-this-one"
    began = time.monotonic()
    code, line = mount.refused()
    assert code == 77
    assert time.monotonic() - began < 10  # with much else at work
    assert "refuses the credentials" in line
    assert "not-this-one" not in mount.log.read_text()
    assert not mount.local.exists()


def test_nobody_listens(mount: HookdMount, server: Server) -> None:
    """69 after the budget."""
    server.stop()
    began = time.monotonic()
    code, line = mount.refused()
    assert code == 69
    assert "connection refused" in line
    assert time.monotonic() - began < 6
    assert not mount.local.exists()


@pytest.mark.real
def test_black_hole(mount: HookdMount, server: Server) -> None:
    """Takes the connection and says nothing: 69, within the timeout."""
    server.freeze(True)
    mount.settings["remote_wait_s"] = 0
    began = time.monotonic()
    assert mount.refused()[0] == 69
    assert time.monotonic() - began < 25
    server.freeze(False)


@pytest.mark.real
def test_wait_remote(mount: HookdMount, server: Server) -> None:
    """--wait-remote keeps trying; a signal meanwhile ends it with 0."""
    server.stop()
    mount.settings["remote_wait_s"] = 0
    mount.start("--wait-remote", wait=False)
    mount.wait_for_line("trying again")
    time.sleep(0.5)
    server.start()
    mount.wait_for_line("hookd mount is ready")
    assert mount.stop() == 0
    server.stop()
    mount.start("--wait-remote", wait=False)
    mount.wait_for_line("trying again", after=mount.log.read_text().index("unmounted"))
    assert mount.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value", "code", "text"),
    [
        ("REMOTE_PATH", "rshare:/no/such/folder", 78, "create it"),
        ("REMOTE_PATH", "no-colon", 78, "remote:path"),
        ("REMOTE_PATH", "other:/", 78, "RCLONE_CONFIG_OTHER_TYPE"),
        ("RCLONE_CONFIG_RSHARE_URL", "nonsense", 78, "URL"),
        ("RCLONE_CONFIG_RSHARE_TYPE", "webdaff", 78, "does not know"),
        ("RCLONE_CONFIG_RSHAR_USER", "x", 78, "RCLONE_CONFIG_RSHAR_USER"),
        ("RCLONE_CONFIG_RSHARE_URL", "http://no-such-host.invalid", 69, "no-such-host.invalid"),
        ("LOCAL_PATH", "relative", 78, "mount.local_path"),
        ("LOCAL_PATH", "", 78, "LOCAL_PATH"),
        ("LOCAL_PATH", "/proc/nothing", 78, "/proc/nothing"),
        ("HOOKD_MOUNT__WRITE_BACK_S", "0", 78, "mount.write_back_s"),
        ("HOOKD_MOUNT__RCLONE", "no-such-rclone", 78, "install rclone"),
        ("HOOKD_MOUNT__FLAGS", "--rc-no-auth", 78, "--rc-no-auth"),
        ("HOOKD_MOUNT__RCLONE", "true", 78, "is no rclone"),
    ],
)
def test_bad_settings(mount: HookdMount, variable: str, value: str, code: int, text: str) -> None:
    """One line that names the thing, the right code, nothing mounted."""
    mount.settings["remote_wait_s"] = 0
    mount.variables[variable] = value
    found, line = mount.refused()
    assert found == code, line
    assert text in line
    assert not mount.mounted()
    assert "Traceback" not in mount.log.read_text()


def test_old_rclone(mount: HookdMount, tmp_path: Path) -> None:
    """One older than the holes of its remote control is refused."""
    old = tmp_path / "old-rclone"
    old.write_text("#!/bin/sh\necho rclone v1.74.2\n")
    old.chmod(0o755)
    mount.settings["rclone"] = str(old)
    code, line = mount.refused()
    assert code == 78
    assert "1.74.2" in line
    assert "1.74.3" in line


@pytest.mark.real
def test_another_remote_does_not_get_the_files(
    mount: HookdMount, server: Server, tmp_path: Path
) -> None:
    """What was written for one remote never goes to another; the start says that it waits."""
    mount.settings |= {"write_back_s": 3600, "drain_timeout_s": 0}
    mount.start()
    mount.write(3)
    assert mount.stop() == 75
    other = Server(tmp_path / "other")
    other.start()
    try:
        mount.variables |= remote_variables(other)
        mount.start()
        assert mount.stop() == 0
        assert other.files() == {}
        assert "3 files written for another remote" in mount.log.read_text()
    finally:
        other.stop()


def test_a_variable_of_the_type_does_not_win(mount: HookdMount, server: Server) -> None:
    """RCLONE_WEBDAV_URL for other uses of rclone: the remote's own URL is where the files go."""
    mount.variables |= {"RCLONE_WEBDAV_URL": "http://127.0.0.1:9", "RCLONE_WEBDAV_PASS": "other"}
    mount.start()
    made = mount.write(1)
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_not_empty(mount: HookdMount) -> None:
    """Files that would be hidden refuse the start, unless it is allowed."""
    mount.local.mkdir()
    (mount.local / "here").write_text("kept")
    code, line = mount.refused()
    assert code == 78
    assert "'here'" in line
    mount.settings["allow_non_empty"] = True
    mount.start()
    assert mount.stop() == 0
    assert (mount.local / "here").read_text() == "kept"


def test_a_file_in_the_way(mount: HookdMount) -> None:
    """LOCAL_PATH is a file: one line."""
    mount.local.write_text("")
    code, line = mount.refused()
    assert code == 78
    assert "is no folder" in line


def test_after_both_were_killed(mount: HookdMount, server: Server) -> None:
    """kill -9 of both leaves a dead endpoint and files in the cache: the start mends both."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(20)
    mount.kill()
    mount.kill_rclone()
    time.sleep(0.1)
    assert mount.mounted()
    mount.start()
    assert server.files() == made
    assert mount.stop() == 0
    assert not mount.mounted()


def test_after_hookd_was_killed(mount: HookdMount, server: Server) -> None:
    """Its rclone lives on; the next start ends it and takes over, nothing stacked, nothing lost."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(20)
    mount.kill()
    before = mount.rclone_pid()
    assert before is not None
    assert (mount.point / "f0").read_bytes() == made["f0"]
    mount.start()
    assert mount.rclone_pid() != before
    assert mount.layers() == ["guard", "fuse"]
    assert server.files() == made
    assert mount.stop() == 0


def test_elsewhere_after_hookd_was_killed(mount: HookdMount, server: Server) -> None:
    """Its rclone is ended though the new mount is elsewhere: never two at one cache; nothing is left."""
    mount.settings |= {"write_back_s": 3600, "subdirectory": "data"}
    mount.start()
    made = mount.write(3)
    mount.kill()
    before, old = mount.rclone_pid(), mount.local
    assert before is not None
    mount.local = mount.folder / "elsewhere"
    mount.variables["LOCAL_PATH"] = str(mount.local)
    mount.start()
    assert not is_rclone(before)
    assert endpoints.mounts_at(old / "data") == []
    assert server.files() == made
    assert (mount.point / "f0").read_bytes() == made["f0"]
    assert mount.stop() == 0


def test_an_rclone_that_is_not_known_is_at_the_cache(mount: HookdMount) -> None:
    """Its record is lost: the start is refused rather than to give the cache a second rclone."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    mount.write(1)
    mount.kill()
    (record,) = mount.cache.glob("*/rclone.pid")
    known = record.read_text()
    record.unlink()
    mount.local = mount.folder / "elsewhere"
    mount.variables["LOCAL_PATH"] = str(mount.local)
    code, line = mount.refused()
    record.write_text(known)  # for who ends it
    mount.local = mount.folder / "local"
    assert code == 78
    assert "an rclone that an earlier run left is at" in line


@pytest.mark.real
def test_two_on_one_folder(mount: HookdMount, tmp_path: Path) -> None:
    """The second is refused, and the first does not notice; with other runtime folders too."""
    mount.start()
    second = HookdMount(tmp_path / "second", mount.server)
    second.folder.mkdir()
    second.variables["LOCAL_PATH"] = str(mount.local)
    try:
        code, line = second.refused()
        assert code == 78
        assert "alive" in line
        assert mount.layers() == ["guard", "fuse"]
        second.settings["runtime"] = str(mount.runtime)
        code, line = second.refused()
        assert code == 78
        assert "another hookd" in line
    finally:
        second.close()
    mount.write(1)
    assert mount.stop() == 0


@pytest.mark.real
def test_two_at_the_same_moment(mount: HookdMount, tmp_path: Path) -> None:
    """Exactly one comes up."""
    second = HookdMount(tmp_path / "second", mount.server)
    second.folder.mkdir()
    second.variables["LOCAL_PATH"] = str(mount.local)
    mount.local.mkdir()
    try:
        mount.start(wait=False)
        second.start(wait=False)
        both = (mount, second)
        mount.until(
            lambda: [each for each in both if each.process and each.process.poll() is not None]
        )
        (loser,) = [each for each in both if each.process and each.process.poll() is not None]
        (winner,) = [each for each in both if each is not loser]
        assert loser.wait() == 78
        winner.wait_for_line("hookd mount is ready")
        assert mount.layers() == ["guard", "fuse"]
        assert winner.stop() == 0
    finally:
        second.close()


@pytest.mark.real
def test_subdirectory(mount: HookdMount, server: Server) -> None:
    """Mounted one folder below; that folder is removed at the end."""
    mount.settings["subdirectory"] = "data"
    mount.local.mkdir()
    mount.start()
    made = mount.write(2)
    assert mount.point == mount.local / "data"
    assert mount.stop() == 0
    assert server.files() == made
    assert os.listdir(mount.local) == []


@pytest.mark.real
def test_cleanup(mount: HookdMount) -> None:
    """Absent, mounted and orphaned, dead, unmounted: each time 0; no file is deleted."""
    assert mount.run("mount", "cleanup").returncode == 0
    mount.settings["write_back_s"] = 3600
    mount.start()
    made = mount.write(3)
    mount.kill()
    assert mount.run("mount", "cleanup").returncode == 0
    assert not mount.mounted()
    mount.start()
    mount.kill()
    mount.kill_rclone()
    done = mount.run("mount", "cleanup")
    assert done.returncode == 0
    assert "1 mounts taken away" in done.stdout
    assert mount.run("mount", "cleanup").returncode == 0
    mount.start()
    assert mount.server.files() == made
    assert mount.stop() == 0


@pytest.mark.real
def test_wait_and_ready_file(mount: HookdMount, tmp_path: Path) -> None:
    """`wait` and the file say ready with the mount, and not after its end."""
    ready = tmp_path / "shared" / "ready"
    mount.settings["ready_file"] = str(ready)
    assert mount.run("mount", "wait", "--timeout", "0.3").returncode == 69
    mount.start(wait=False)
    assert mount.run("mount", "wait", "--timeout", "20").returncode == 0
    assert mount.mounted()
    assert ready.read_text() == f"{mount.point}\n"
    server = mount.server
    mount.settings["write_back_s"] = 3600
    server.freeze(True)
    mount.write(1)
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    mount.wait_for_line("draining: ")
    server.freeze(False)
    assert mount.wait() == 0
    assert not ready.exists()


def test_status(mount: HookdMount) -> None:
    """`hookd status` and `hookd health` speak of the mount."""
    mount.start()
    done = mount.run("status")
    assert done.returncode == 0
    assert "Everything written is on the remote" in done.stdout
    assert "rshare:/ at " in done.stdout
    assert mount.run("health").stdout == "ok\n"
    assert 'hookd_mount_phase{phase="running"} 1.0' in mount.ask("metrics")
    assert "nothing waits" in mount.ask("queue")
    assert mount.run("queue").stdout == "nothing waits\n"
    assert json.loads(mount.run("queue", "--json").stdout)["files"] == 0
    assert "metrics" in mount.ask("help")
    assert mount.stop() == 0


@pytest.mark.real
def test_s3(tmp_path: Path, mount: HookdMount) -> None:
    """The same with S3: a wrong key is 77, a missing bucket 78, files arrive."""
    folder = tmp_path / "s3"
    (folder / "bucket").mkdir(parents=True)
    served = Server(folder, kind="s3", password="key-of-s3-1234")
    served.start()
    place = tmp_path / "of-s3"
    place.mkdir()
    made = HookdMount(place, served)
    try:
        made.start()
        files = made.write(5)
        assert made.stop() == 0
        assert served.files() == {f"bucket/{name}": content for name, content in files.items()}
        made.variables["RCLONE_CONFIG_RSHARE_SECRET_ACCESS_KEY"] = "wrong-key"
        assert made.refused()[0] == 77
        made.variables |= {**remote_variables(served), "REMOTE_PATH": "rshare:nobucket"}
        code, line = made.refused()
        assert code == 78, line
    finally:
        made.close()
        served.stop()


@pytest.mark.real
@pytest.mark.parametrize(
    ("path", "notice"),
    [
        ("/remote.php/webdav", "large files go up in one piece"),
        (f"/remote.php/dav/files/{USER}", "taken in its modern form"),
    ],
)
def test_old_nextcloud_url(tmp_path: Path, mount: HookdMount, path: str, notice: str) -> None:
    """/remote.php/webdav with a modern rclone: taken in whichever form the server has, and told.

    Read only: what serves here has not Nextcloud's checksums, which rclone asks of that vendor.
    """
    served = Server(tmp_path / "nextcloud", path=path)
    served.start()
    place = tmp_path / "own"  # short: sockets lie in it
    place.mkdir()
    made = HookdMount(place, served)
    made.variables |= {
        "RCLONE_CONFIG_RSHARE_URL": f"http://127.0.0.1:{served.port}/remote.php/webdav",
        "RCLONE_CONFIG_RSHARE_VENDOR": "nextcloud",
    }
    made.settings["read_only"] = True
    (served.folder / "there").write_bytes(b"read me")
    try:
        made.start()
        assert (made.point / "there").read_bytes() == b"read me"
        assert made.stop() == 0
        assert notice in made.log.read_text()
        assert "dav/files/USER" in made.log.read_text()  # the cure
    finally:
        made.close()
        served.stop()


@pytest.mark.real
def test_a_read_only_place(mount: HookdMount, server: Server) -> None:
    """A folder on a read-only disk is mounted over; one that is not there cannot be made: one line."""
    disk = mount.folder / "disk"
    (disk / "there").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    try:
        mount.variables["LOCAL_PATH"] = str(disk / "absent")
        code, line = mount.refused()
        assert code == 78
        assert "Read-only file system" in line
        mount.local = disk / "there"
        mount.variables["LOCAL_PATH"] = str(mount.local)
        mount.start()
        files = mount.write(2)
        assert mount.stop() == 0
        assert server.files() == files
    finally:
        mount.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.real
def test_read_only(mount: HookdMount, server: Server) -> None:
    """Nothing is written, not even the probe; reading works."""
    (server.folder / "there").write_bytes(b"read me")
    mount.settings["read_only"] = True
    mount.start()
    assert (mount.point / "there").read_bytes() == b"read me"
    with pytest.raises(OSError, match="Read-only"):
        (mount.point / "x").write_bytes(b"")
    assert mount.stop() == 0
    assert server.files() == {"there": b"read me"}


def test_wait_ends_by_a_signal(mount: HookdMount) -> None:
    """As PID 1 it has a handler of its own: the kernel drops a signal that has none there."""
    mount.start("wait", "--timeout", "60", wait=False)
    waits = mount.process
    assert waits is not None
    try:
        status = Path(f"/proc/{waits.pid}/status")

        def caught() -> bool:
            masks = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            return bool(int(masks["SigCgt"], 16) & 1 << (signal.SIGTERM - 1))

        mount.until(caught)
        waits.terminate()
        assert waits.wait(10) == 128 + signal.SIGTERM
    finally:
        waits.kill()
        waits.wait()
