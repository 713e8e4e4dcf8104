"""`hookd namespaces` on a real zdb, and a real zdbfs mounted on what it made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, WITHIN_S, Daemon
from tests.real.grid import _free_ports

ABSENT = [name for name in ("zdb", "zdbfs") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(ABSENT), reason=f"not on PATH: {', '.join(ABSENT)}"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
]
pytest_plugins = ["tests.shim_build"]

ADMIN = "the admin's password"
NAMES = ("zdbfs-meta", "zdbfs-data", "zdbfs-temp")


class Host:
    """A daemon and a zdb with an admin password."""

    def __init__(self, daemon: Daemon, shim: Path) -> None:
        self.daemon = daemon
        self.port = _free_ports(1)[0]
        self._shim = shim
        (daemon.folder / "admin").write_text(f"{ADMIN}\n")
        self.zdb: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start zdb; it is not waited for."""
        folder = self.daemon.folder
        (folder / "index").mkdir(exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        command = ["zdb", "--listen", "127.0.0.1", "--port", str(self.port), "--admin", ADMIN]
        command += ["--index", str(folder / "index"), "--data", str(folder / "data")]
        command += ["--hook", str(self._shim)]
        patience = {"HOOKD_TIMEOUT_S": PATIENCE_S}
        with (folder / "zdb.log").open("ab") as log:
            self.zdb = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.daemon.environment, **patience},
            )

    def stop(self) -> None:
        """SIGTERM to zdb."""
        assert self.zdb is not None
        self.zdb.send_signal(signal.SIGTERM)
        self.zdb.wait(WITHIN_S)

    def namespaces(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the verb; zdb's address comes from its hooks."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "hookd",
                "namespaces",
                "--config",
                str(self.daemon.config),
                *arguments,
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOOKD_ZDB__ADMIN_PASSWORD_FILE": str(self.daemon.folder / "admin"),
            },
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            cwd=Path(__file__).parents[2],
        )

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """zdbfs on it, unmounted at the end."""
        where = self.daemon.folder / "mnt"
        where.mkdir(exist_ok=True)
        command = ["zdbfs", str(where), "-o", "host=127.0.0.1", "-o", f"port={self.port}"]
        with (self.daemon.folder / "zdbfs.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            ends = time.monotonic() + WITHIN_S
            while not where.is_mount():
                assert process.poll() is None, (self.daemon.folder / "zdbfs.log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.02)
            yield where
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(WITHIN_S)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                subprocess.run(["umount", "-l", str(where)], check=False, capture_output=True)


@pytest.fixture
def host(shim: Path, tmp_path: Path) -> Iterator[Host]:
    daemon = Daemon(tmp_path, shim)
    made = Host(daemon, shim)
    yield made
    if made.zdb is not None and made.zdb.poll() is None:
        made.zdb.kill()
        made.zdb.wait()
    daemon.close()


def test_zdbfs_mounts_on_it(host: Host) -> None:
    """From nothing to files in a mount; a second run changes nothing; the whole is stored."""
    daemon = host.daemon
    daemon.start()
    host.start()
    made = host.namespaces()
    assert (made.returncode, made.stdout) == (0, "".join(f"{name}: made\n" for name in NAMES))
    content = os.urandom(300_000)
    with host.mounted() as mount:
        (mount / "file").write_bytes(content)
    again = host.namespaces()
    assert again.stdout == "".join(f"{name}: as it was\n" for name in NAMES)
    with host.mounted() as mount:
        assert (mount / "file").read_bytes() == content
    host.stop()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == {k: v for k, v in daemon.local().items() if "zdbfs-temp" not in k}


def test_waits_for_zdb(host: Host) -> None:
    """Started first, it waits; zdb is there a moment later."""
    host.daemon.start()
    early = host.namespaces("--wait", "0.2")
    assert early.returncode == Exit.UNAVAILABLE
    assert early.stderr.splitlines()[-1].startswith("hookd: zdb has called no hook yet")
    host.start()
    assert host.namespaces().returncode == 0


def test_lost_namespace(host: Host) -> None:
    """One namespace and the journal are gone: it is brought back before zdb serves, not made blank."""
    daemon = host.daemon
    # without its journal nothing is stored before zdb's namespaces-init is answered
    daemon.expect("held", "restoring", "restored", "will retry")
    daemon.start()
    host.start()
    assert host.namespaces().returncode == 0
    content = os.urandom(100_000)
    with host.mounted() as mount:
        (mount / "file").write_bytes(content)
    host.stop()
    assert daemon.stop() == Exit.OK
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root / "zdbfs-data")
    shutil.rmtree(daemon.journal.parent)
    daemon.start()
    host.start()
    again = host.namespaces()
    assert again.stdout.splitlines()[:2] == ["zdbfs-meta: as it was", "zdbfs-data: as it was"]
    with host.mounted() as mount:
        assert (mount / "file").read_bytes() == content
    host.stop()
    assert daemon.stop() == Exit.OK


def test_files_copied_beside_a_running_zdb(host: Host) -> None:
    """Half a restore lies there and zdb does not know: NSNEW would serve it. Refused, one line."""
    daemon = host.daemon
    daemon.start()
    host.start()
    (daemon.data / "zdbfs-data").mkdir()
    (daemon.data / "zdbfs-data" / "d0").write_bytes(b"half")
    daemon.until(lambda stats: stats["zdb"]["started"])
    refused = host.namespaces("--wait", "5")
    assert refused.returncode == Exit.FAILED
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("hookd: zdbfs-data is not made blank: data/zdbfs-data/d0 is on disk")
    host.stop()
    daemon.send_signal()
    daemon.send_signal()


def test_wrong_password(host: Host) -> None:
    """zdb's refusal is one line, without the password."""
    host.daemon.start()
    host.start()
    (host.daemon.folder / "admin").write_text("wrong")
    refused = host.namespaces()
    assert refused.returncode == Exit.NOPERM
    assert refused.stderr == (
        "hookd: zdb.admin_password: zdb refuses it; it is what zdb was given as --admin\n"
    )
