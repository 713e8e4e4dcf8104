"""What a mount tells: service manager, ready file, metrics, status."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.fakes.between import Refusal, between
from tests.mount.rig import HookdMount, Server

pytestmark = pytest.mark.real


def test_service_manager(mount: HookdMount, server: Server, tmp_path: Path) -> None:
    """sd_notify: what it waits for, ready, the watchdog, stopping and how it goes on."""
    said: list[str] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))

    def listen() -> None:
        while (message := listener.recv(65536).decode()) != "end":
            said.extend(message.splitlines())

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        mount.variables |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        mount.settings |= {"write_back_s": 3600, "remote_wait_s": 30}
        server.stop()
        mount.start(wait=False)
        mount.until(lambda: any("trying again" in each for each in said))
        assert "READY=1" not in said
        server.start()
        mount.until(lambda: "READY=1" in said)
        assert any(each.startswith("STATUS=rshare:/ is mounted at ") for each in said)
        mount.until(lambda: said.count("WATCHDOG=1") >= 3)
        mount.write(2)
        assert mount.stop() == 0
        mount.until(lambda: "STOPPING=1" in said)
        assert any(each.startswith("EXTEND_TIMEOUT_USEC=") for each in said)
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"end", str(tmp_path / "notify"))
        thread.join()
        listener.close()


def test_ready_file_goes_before_the_mount(mount: HookdMount, tmp_path: Path) -> None:
    """Whoever sees that nothing is mounted sees no ready file any more."""
    ready = tmp_path / "ready"
    mount.settings["ready_file"] = str(ready)
    mount.start()
    assert ready.exists()
    assert mount.process is not None
    mount.process.send_signal(signal.SIGTERM)
    looks = 0
    while mount.mounted():
        looks += 1
    assert not ready.exists()
    assert looks > 0
    assert mount.wait() == 0


def test_ready_file_of_a_killed_run(mount: HookdMount, server: Server, tmp_path: Path) -> None:
    """It is gone before the next run has mounted anything, and stays away if that is refused."""
    ready = tmp_path / "ready"
    mount.settings["ready_file"] = str(ready)
    mount.start()
    mount.kill()
    assert ready.exists()
    server.stop()
    assert mount.refused()[0] == 69
    assert not ready.exists()
    server.start()
    mount.start()
    assert ready.exists()
    assert mount.stop() == 0


def test_metrics(mount: HookdMount, server: Server) -> None:
    """Queue, dirty bytes, the age of the oldest, what fails: each with its figure."""
    with between(server.port) as passing:
        mount.variables["RCLONE_CONFIG_RSHARE_URL"] = passing.url
        mount.start()
        passing.refuse["PUT"] = Refusal(status=507)
        mount.write(3, size=1000)
        mount.until_stats(lambda s: s["uploads"]["failing"] == 3, within_s=60)
        found = dict(
            line.rsplit(" ", 1) for line in mount.ask("metrics").splitlines() if line[0] != "#"
        )
        status = mount.run("status").stdout
        queue = mount.ask("queue")
        listed = mount.run("queue", "--limit", "2").stdout.splitlines()
        passing.refuse.clear()
        assert mount.stop() == 0
    assert float(found["hookd_mount_dirty_files"]) == 3
    assert float(found["hookd_mount_dirty_bytes"]) == 3000
    assert float(found["hookd_mount_queue_files"]) == 3
    assert float(found["hookd_mount_uploads_failing"]) == 3
    assert float(found["hookd_mount_oldest_dirty_age_seconds"]) > 0
    assert float(found["hookd_mount_remote_up"]) == 1
    assert float(found["hookd_mount_ready"]) == 1
    assert "3 files on the way to the remote" in status
    assert "3 failing: " in status
    assert "507" in status
    assert "'f0' (1000 B" in queue
    assert listed == [*queue.splitlines()[:2], "and 1 more"]
