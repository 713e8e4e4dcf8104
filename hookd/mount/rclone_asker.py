"""An rclone to ask things before anything is mounted: its version, a password obscured, a listing.

One process for all of it (`rclone rcd`): a process per question costs 0.1 s each. It dies with hookd.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import Process

from hookd.rclone import program
from hookd.rclone.control import HungUp, RemoteControl

START_WITHIN_S = 30.0
ANSWER_WITHIN_S = 10.0
LOOK_EVERY_S = 0.01


class Asker:
    """One that runs; leaving it as a context ends it."""

    def __init__(self, process: Process, control: RemoteControl, socket: Path) -> None:
        self._process = process
        self._control = control
        self._socket = socket
        self.version = ""
        """As `rclone version` begins."""

    @classmethod
    async def start(
        cls, path: str, flags: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> Asker:
        """The rclone at `path`, its socket in `folder`. Raises HungUp if it does not come up."""
        socket = folder / "ask.sock"
        socket.unlink(missing_ok=True)  # left by a kill -9; rclone would not start over it
        user, password = program.login()
        command = [path, "rcd", f"--rc-addr=unix://{socket}", *flags]
        process = await anyio.open_process(
            program.tied(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment, **program.login_variables(user, password)},
            # A session of its own: Ctrl-C is for hookd, which decides what it means.
            start_new_session=True,
        )
        asker = cls(process, RemoteControl(socket, user, password), socket)
        try:
            await asker._until_it_answers()
        except BaseException:
            asker.end()
            raise
        return asker

    async def _until_it_answers(self) -> None:
        with anyio.move_on_after(START_WITHIN_S):
            while self._process.returncode is None:
                try:
                    self.version = f"rclone {(await self._control.call('core/version'))['version']}"
                    return
                except HungUp:
                    await anyio.sleep(LOOK_EVERY_S)
        raise HungUp("it does not answer on its remote control")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    async def obscure(self, text: str) -> str:
        """A password as rclone.conf has it. Raises Refused, HungUp, TimeoutError."""
        with anyio.fail_after(ANSWER_WITHIN_S):
            return str((await self._control.call("core/obscure", clear=text))["obscured"])

    async def list_folders(self, target: str) -> None:
        """Look at `remote:path` as the configuration file has it now. Raises Refused, HungUp."""
        await self._control.call("fscache/clear")
        await self._control.call(
            "operations/list",
            fs=target,
            remote="",
            opt={"dirsOnly": True, "noModTime": True, "noMimeType": True},
        )

    def end(self) -> None:
        """Kill it; nothing that it does is worth waiting for."""
        if self._process.returncode is None:
            self._process.kill()
        self._socket.unlink(missing_ok=True)
