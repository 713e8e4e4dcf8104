"""sd_notify: one datagram a message, and nothing at all without a manager."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.notify import MAX_STATUS_BYTES, Notify
from tests.conftest import Logs
from tests.fakes.manager import Manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = request.param == "abstract"
    made = Manager(f"@hookd-test-{os.getpid()}" if abstract else f"{tmp_path}/notify")
    yield made
    made.close()


def test_messages(manager: Manager, logs: Logs) -> None:
    """Each in the words of sd_notify(3), to a path and to an abstract name."""
    notify = Notify(manager.address)
    assert notify.active
    notify.ready("nothing to store")
    notify.status("3 files\nto store")
    notify.watchdog()
    notify.extend(1.5)
    notify.stopping("draining")
    assert manager.heard() == [
        "READY=1\nSTATUS=nothing to store",
        "STATUS=3 files to store",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_a_status_is_one_short_line(manager: Manager, logs: Logs) -> None:
    """Whatever it holds: another line would be another message."""
    notify = Notify(manager.address)
    notify.status("a\nREADY=1\x85" + "ü" * 2000 + "\udcff")
    [message] = manager.heard()
    assert message.startswith("STATUS=a READY=1 ü")
    assert "\n" not in message
    assert len(message.encode()) <= MAX_STATUS_BYTES + len("STATUS=")


def test_without_a_manager(logs: Logs) -> None:
    """Nothing is done, nothing fails."""
    notify = Notify.from_environment({})
    assert not notify.active
    assert notify.watchdog_s is None
    for call in (notify.ready, notify.status, notify.stopping):
        call("text")
    notify.watchdog()
    notify.extend(1)


def test_a_manager_that_went_away(tmp_path: Path, logs: Logs) -> None:
    """No error of it becomes ours."""
    manager = Manager(f"{tmp_path}/notify")
    notify = Notify(manager.address)
    manager.close()
    notify.ready("")
    (tmp_path / "notify").unlink()
    notify.ready("")
    assert len(logs.of("service manager not told")) == 2


def test_a_manager_that_does_not_read(tmp_path: Path, logs: Logs) -> None:
    """A full queue is not waited for."""
    manager = Manager(f"{tmp_path}/notify")
    notify = Notify(manager.address)
    for _ in range(5000):
        notify.watchdog()
    assert logs.of("service manager not told")
    manager.close()


@pytest.mark.parametrize("address", ["vsock:2:1", "relative", "/" + "x" * 107])
def test_an_address_that_is_none(address: str, logs: Logs) -> None:
    """Told once, and then as without one."""
    logs.expect("NOTIFY_SOCKET is no unix socket")
    assert not Notify(address).active


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [
        ("30000000", None, 30.0),
        ("30000000", "ours", 30.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_watchdog_is_ours(usec: str, pid: str | None, watchdog_s: float | None) -> None:
    """Only if it is a time, and meant for this process; the variables are taken out."""
    environ = {"WATCHDOG_USEC": usec, "NOTIFY_SOCKET": "/run/x", "HOME": "/"}
    if pid is not None:
        environ["WATCHDOG_PID"] = str(os.getpid()) if pid == "ours" else pid
    notify = Notify.from_environment(environ)
    assert notify.watchdog_s == watchdog_s
    assert environ == {"HOME": "/"}
