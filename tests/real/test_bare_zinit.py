"""The zinit files for a host, on a real zinit: the file system comes, zdb may die, a stop stores all.

The paths are those of the files with another root; the store is a folder, so zstor's file is left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.container.mounts import is_fuse, top
from hookd.container.zinit import Zinit, ZinitError

PROGRAMS = ("zinit", "zdb", "zdbfs")
ABSENT = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(ABSENT), reason=f"not on PATH: {', '.join(ABSENT)}"),
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be opened"),
]
pytest_plugins = ["tests.shim_build"]

FILES = Path(__file__).parents[2] / "rootfs/usr/share/hookd/zinit"
WITHIN_S = 90.0


class Host:
    """A zinit with these services, and what it prints."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.folder = folder
        self.mount = folder / "mnt" / "zdbfs"
        self.zinit = Zinit(folder / "zinit.sock")
        programs = folder / "bin"
        programs.mkdir()
        (programs / "hookd-shim").symlink_to(shim)
        (programs / "hookd").write_text(f'#!/bin/sh\nexec {sys.executable} -m hookd "$@"\n')
        (programs / "hookd").chmod(0o755)
        (folder / "etc" / "hookd").mkdir(parents=True)
        (folder / "etc" / "hookd" / "hookd.toml").write_text(
            f'[store]\nkind = "directory"\n[store.directory]\npath = "{folder}/store"\n'
            "[zdb]\nkeep_free_bytes = 1\n"
        )
        (folder / "services").mkdir()
        for path in FILES.iterdir():
            if path.stem != "zstor":
                text = path.read_text().replace(
                    "zinit kill", f"zinit --socket {folder}/zinit.sock kill"
                )
                text = text.replace("after: [zstor]\n", "")
                for root in ("/var/lib/", "/run/", "/etc/hookd/", "/mnt/"):
                    text = text.replace(root, f"{folder}{root}")
                (folder / "services" / path.name).write_text(text)
        self._environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Not without --container: zinit is the machine's init then, and powers it off at the end.
        command = ["zinit", "--socket", f"{self.folder}/zinit.sock", "init", "--container"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", f"{self.folder}/services"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        self.until(self.is_mounted, "mounted")

    def stop(self) -> None:
        """SIGTERM, as the host's own end is; until nothing of it is left."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(WITHIN_S)

    def is_mounted(self) -> bool:
        """And alive: what a killed zdbfs left is a mount too, and so is the guard below."""
        try:
            return is_fuse(top(self.mount)) and os.listdir(self.mount) is not None
        except OSError:
            return False

    def pid(self, service: str) -> int:
        try:
            return self.zinit.status(service).pid
        except ZinitError:
            return 0

    def until(self, happens: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + WITHIN_S
        while not happens():
            assert time.monotonic() < ends, f"{what}\n{self.log()[-4000:]}"
            time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            for service in ("zdbfs", "zdb", "hookd"):
                if pid := self.pid(service):
                    os.kill(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        for _ in range(2):
            subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)


@pytest.fixture
def host(tmp_path: Path, shim: Path) -> Iterator[Host]:
    made = Host(tmp_path, shim)
    yield made
    made.close()


def test_a_life(host: Host) -> None:
    """Written to, zdb killed, written to all the while, stopped: the store has all that zdb has;
    nothing lies in the folder below the mount.
    """
    host.start()
    content = {"before": os.urandom(3 << 20)}
    (host.mount / "before").write_bytes(content["before"])
    os.sync()
    assert subprocess.run(["stat", str(host.mount)], check=False).returncode == 0
    time.sleep(12)  # zdbfs writes out what has been idle for ten seconds
    old = host.pid("zdb"), host.pid("zdbfs")
    os.kill(old[0], signal.SIGKILL)
    host.until(lambda: host.pid("zdbfs") != old[1], "zdbfs ended")
    refused = 0
    while "between" not in content:
        try:
            (host.mount / "between").write_bytes(b"taken")
            content["between"] = b"taken"
        except OSError:
            refused += 1
            time.sleep(0.01)
    assert refused
    host.until(
        lambda: host.pid("zdb") not in (0, old[0]) and host.pid("zdbfs") not in (0, old[1]),
        "zdb and zdbfs started again",
    )
    host.until(host.is_mounted, "mounted again")
    content["after"] = os.urandom(3 << 20)
    (host.mount / "after").write_bytes(content["after"])
    found = {path.name: sha256(path.read_bytes()) for path in host.mount.iterdir()}
    assert found == {name: sha256(value) for name, value in content.items()}
    host.stop()
    assert "drained: nothing is left" in host.log()
    assert f" {host.mount} " not in Path("/proc/mounts").read_text()
    assert list(host.mount.iterdir()) == []
    kept = files(host.folder / "var/lib/zdb")
    assert len(kept) >= 6
    assert files(host.folder / "store") == kept


def files(folder: Path) -> dict[str, bytes]:
    """What zdb keeps of zdbfs's namespaces, as far as it is to be stored."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for space in ("zdbfs-meta", "zdbfs-data")
        for path in folder.glob(f"*/{space}/*")
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
