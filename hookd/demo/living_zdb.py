"""A real zdb process for the demo: started, asked, stopped. Loopback only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hookd.demo.resp import Client
from hookd.demo.stage import WITHIN_S, DemoFailed

DATASIZE = 524288
"""The least that zdb takes for `--datasize`, in bytes: a data file is full after eight values."""


class LivingZdb:
    """One `zdb` over the roots `index` and `data`."""

    def __init__(
        self,
        folder: Path,
        *,
        hook: Path | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Starts it and waits until it answers; `hook` is what it calls, with `environment`."""
        command = ["zdb", "--index", str(folder / "index"), "--data", str(folder / "data")]
        self.port = _free_port()
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--datasize", str(DATASIZE), *options]
        if hook is not None:
            command += ["--hook", str(hook)]
        self._log = folder / "zdb.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(os.environ if environment is None else environment),
                cwd=folder,
            )
        self.client = self._connect()

    def send_signal(self, number: int) -> None:
        """To the process."""
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; returns the exit code (0-db zdbd/zdbd.c: 128 + signal)."""
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"zdb has not stopped after {WITHIN_S:.0f} s") from None

    def close(self) -> None:
        """Make sure that it is gone: kill -9."""
        self.client.close()
        self.kill()

    def kill(self) -> None:
        """kill -9; whoever waits for an answer gets an OSError."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _connect(self) -> Client:
        """It listens before `ready` and answers after it, so the first answer means: it serves."""
        began = time.monotonic()
        while time.monotonic() - began < WITHIN_S:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                client = Client(self.port, within_s=WITHIN_S)
                try:
                    client.ask("PING")
                    return client
                except OSError:
                    client.close()
            time.sleep(0.01)
        self.kill()
        last = self._log.read_text(errors="replace").splitlines()[-1:]
        raise DemoFailed(f"zdb does not serve: {''.join(last)}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
