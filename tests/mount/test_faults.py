"""A remote that is there and misbehaves: busy, full, half of things, slow, TLS, clocks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.between import Between, Refusal, between, certificate
from tests.mount.rig import HookdMount, Server, missing, remote_variables

pytestmark = pytest.mark.real

BUSY = Refusal(status=429, headers={"Retry-After": "1"})
FULL = Refusal(status=507)
SKEWED = Refusal(
    status=403,
    headers={"Content-Type": "application/xml"},
    content=b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code>'
    b"<Message>The difference between the request time and the current time is too large.</Message>"
    b"</Error>",
)


class Behind(Server):
    """A server that is reached by way of another one."""

    def __init__(self, server: Server, passing: Between) -> None:
        self.__dict__ = server.__dict__  # the same one
        self._passing = passing

    @property
    def url(self) -> str:
        return self._passing.url


@pytest.fixture
def passing(server: Server) -> Iterator[Between]:
    """Stands before the server."""
    with between(server.port) as made:
        yield made


@pytest.fixture
def mount(server: Server, passing: Between, tmp_path: Path) -> Iterator[HookdMount]:
    """A mount of what stands before the server, not started."""
    made = HookdMount(tmp_path, Behind(server, passing))
    yield made
    made.close()


# -- patience, room ------------------------------------------------------------------------------


def test_busy_at_the_start(mount: HookdMount, passing: Between) -> None:
    """429: tried again while the budget lasts, then 69 with the remote's words; ready once it answers."""
    passing.refuse["*"] = BUSY
    code, line = mount.refused()
    assert code == 69
    assert "429" in line
    assert not mount.local.exists()
    assert passing.refused > 1
    mount.settings["remote_wait_s"] = 30
    mount.start(wait=False)
    mount.wait_for_line("trying again", after=mount.log.stat().st_size)
    passing.refuse.clear()
    mount.wait_for_line("hookd mount is ready")
    assert mount.stop() == 0


def test_busy_during_writes(mount: HookdMount, server: Server, passing: Between) -> None:
    """429 on uploads: no write fails, all arrive when the remote takes them again."""
    mount.start()
    passing.refuse["PUT"] = BUSY
    made = mount.write(5)
    mount.until(lambda: passing.refused >= 3)
    assert all((mount.point / name).read_bytes() == content for name, content in made.items())
    passing.refuse.clear()
    assert mount.stop() == 0
    assert server.files() == made


def test_full_remote(mount: HookdMount, server: Server, passing: Between) -> None:
    """507: degraded, with the words; named at the stop, 75; with room the next start uploads."""
    mount.start()
    passing.refuse["PUT"] = FULL
    made = mount.write(3)
    mount.until_stats(lambda s: s["uploads"]["most_tries"] >= 2, within_s=30)
    health = mount.ask("health")
    assert health.startswith("degraded\n")
    assert "507" in health
    assert "507" in mount.run("status").stdout
    mount.settings["drain_timeout_s"] = 1
    assert mount.process is not None
    mount.process.send_signal(15)
    mount.wait_for_line("failing, e.g. ")
    assert mount.stop() == 75  # the second signal
    told = [line for line in mount.lines() if "left: " in line]
    assert len(told) == 3
    assert all("its upload fails" in line and "507" in line for line in told)
    passing.refuse.clear()
    mount.start()
    assert server.files() == made
    assert mount.stop() == 0


def test_full_at_the_start(mount: HookdMount, server: Server, passing: Between) -> None:
    """A remote that lists and takes no file is not ready: 69 and why, nothing stays mounted."""
    passing.refuse["PUT"] = FULL
    code, line = mount.refused(within_s=60)
    assert code == 69
    assert "507" in line
    assert not mount.mounted()
    assert server.files() == {}


# -- half of things ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut_puts", "hang_up_puts"])
def test_truncated_uploads(mount: HookdMount, server: Server, passing: Between, fault: str) -> None:
    """Half a file on the remote, told as well done or not, is not uploaded: tried until it is whole."""
    mount.start()
    setattr(passing, fault, True)
    made = mount.write(3, size=100_000)
    mount.until_stats(lambda s: s["uploads"]["most_tries"] >= 1, within_s=30)
    assert mount.stats()["dirty"]["files"] == 3
    setattr(passing, fault, False)
    assert mount.stop() == 0
    assert server.files() == made


def test_truncated_downloads(mount: HookdMount, server: Server, passing: Between) -> None:
    """Half of what is asked for, each time: a reader gets an error, never half as a whole."""
    content = os.urandom(500_000)
    (server.folder / "there").write_bytes(content)
    mount.start()
    passing.halve_gets = True
    assert _cat(mount.point / "there").returncode != 0
    passing.halve_gets = False
    assert _cat(mount.point / "there").stdout == content
    assert mount.stop() == 0


def _cat(path: Path) -> subprocess.CompletedProcess[bytes]:
    """In another process: what hangs in a mount cannot be interrupted from here."""
    return subprocess.run(["cat", path], capture_output=True, timeout=60, check=False)


def test_slow(mount: HookdMount, server: Server, passing: Between) -> None:
    """Each answer takes half a second: it comes up, writers do not feel it, the drain waits for all."""
    passing.all_slow_s = 0.5
    mount.settings |= {"remote_wait_s": 20, "probe_timeout_s": 5}
    mount.start()
    began = time.monotonic()
    for name in ("a", "b", "c"):
        (mount.point / name).write_bytes(b"x" * 1000)
    wrote_s = time.monotonic() - began
    assert mount.stop(within_s=60) == 0
    assert sorted(server.files()) == ["a", "b", "c"]
    # An upload is several answers, so three of them in turn would take more than this.
    assert wrote_s < 3 * 3 * 0.5


# -- TLS and clocks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "trusted", "code", "text"),
    [
        ({}, False, 78, "signed by nobody this machine trusts"),
        ({"name": "DNS:other.example"}, True, 78, "for another name"),
        ({"from_to": ("200101000000Z", "210101000000Z")}, True, 69, "compare the clocks"),
        ({"from_to": ("480101000000Z", "490101000000Z")}, True, 69, "compare the clocks"),
        ({}, True, 0, "is ready"),
    ],
    ids=["unknown", "another name", "expired", "not yet valid", "trusted"],
)
def test_certificates(
    tmp_path: Path, made: dict[str, str], trusted: bool, code: int, text: str
) -> None:
    """One line with the cure, nothing mounted; and the cure works."""
    if why := missing():
        pytest.skip(why)
    own = certificate(tmp_path / "tls", **made)  # type: ignore[arg-type]  # of a parametrised test
    served = Server(tmp_path / "remote", certificate=own)
    served.start()
    mount = HookdMount(tmp_path, served)
    if trusted:
        mount.variables["RCLONE_CA_CERT"] = str(own.certificate)
    try:
        if code:
            assert mount.refused()[0] == code
            assert not mount.mounted()
        else:
            mount.start()
            files = mount.write(2)
            assert mount.stop() == 0
            assert served.files() == files
        assert text in mount.log.read_text()
    finally:
        mount.close()
        served.stop()


def test_https_where_http_is_spoken(mount: HookdMount, server: Server) -> None:
    """78: the remote speaks no TLS."""
    mount.variables["RCLONE_CONFIG_RSHARE_URL"] = f"https://127.0.0.1:{server.port}"
    code, line = mount.refused()
    assert code == 78
    assert "write http://" in line


def test_http_where_https_is_spoken(tmp_path: Path) -> None:
    """It ends the connection and says nothing: 69, and what it may be."""
    if why := missing():
        pytest.skip(why)
    served = Server(tmp_path / "remote", certificate=certificate(tmp_path / "tls"))
    served.start()
    mount = HookdMount(tmp_path, served)
    mount.variables["RCLONE_CONFIG_RSHARE_URL"] = served.url.replace("https", "http")
    try:
        code, line = mount.refused()
        assert code == 69
        assert "write https://" in line
        assert not mount.mounted()
    finally:
        mount.close()
        served.stop()


@contextlib.contextmanager
def mount_of_s3(tmp_path: Path) -> Iterator[tuple[HookdMount, Between, Server]]:
    """A mount of a bucket, not started, what is between it and the server, and the server."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path / "s3"
    (folder / "bucket").mkdir(parents=True)
    served = Server(folder, kind="s3", password="key-of-s3-1234")
    served.start()
    with between(served.port) as passing:
        mount = HookdMount(tmp_path, Behind(served, passing))
        assert remote_variables(mount.server)["RCLONE_CONFIG_RSHARE_ENDPOINT"] == passing.url
        try:
            yield mount, passing, served
        finally:
            mount.close()
            served.stop()


def test_clock_of_s3(tmp_path: Path) -> None:
    """A refusal that no credentials cure: 69, and compare the clocks, at the start and while it runs."""
    with mount_of_s3(tmp_path) as (mount, passing, _):
        passing.refuse["*"] = SKEWED
        code, line = mount.refused()
        assert code == 69
        assert "compare the clocks" in line
        passing.refuse.clear()
        mount.start()
        passing.refuse["*"] = SKEWED
        mount.until_stats(lambda s: "clocks" in (s["remote"]["error"] or ""))
        assert not mount.stats()["remote"]["refused"]
        passing.refuse.clear()
        assert mount.stop() == 0


def test_busy_s3(tmp_path: Path) -> None:
    """503 SlowDown on uploads: all arrive when it takes them again."""
    with mount_of_s3(tmp_path) as (mount, passing, served):
        mount.start()
        passing.refuse["PUT"] = Refusal(
            status=503,
            headers={"Content-Type": "application/xml"},
            content=b"<Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>",
        )
        made = mount.write(3)
        mount.until(lambda: passing.refused >= 1)
        passing.refuse.clear()
        assert mount.stop(within_s=60) == 0
        assert served.files() == {f"bucket/{name}": content for name, content in made.items()}
