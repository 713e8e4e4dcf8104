"""Asks and tells zinit over its socket: one line, one JSON answer (zinit src/app/api.rs, 0.2.10-14)."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookd.container.layout import ZINIT_SOCKET
from hookd.errors import HookdError

ANSWER_WITHIN_S = 5.0
LOST = "Lost"
"""State of a service that ran when zinit died, and is nowhere now. zinit itself has none like it."""

_SIGNALED = re.compile(r"Error\(Signaled\(Pid\(-?\d+\), (\w+),")
_ENDED = re.compile(r"Error\(Exited\(Pid\(-?\d+\), (-?\d+)\)\)")


class ZinitError(HookdError):
    """zinit does not answer, or says no."""


class ZinitSilent(ZinitError):
    """zinit does not answer. Whether it does what it was told nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Of one service."""

    pid: int
    """0 while no process of it runs."""
    state: str
    """`Running`, `Spawned`, `Blocked`, `Success`, `Error(Exited(Pid(7), 1))`, ..."""
    wanted: bool | None = None
    """Whether zinit starts it again once it ends; None where zinit has not said."""

    @property
    def exit_code(self) -> int | None:
        """Of the last process, once it ended; None while one runs, or if a signal ended it."""
        if self.state == "Success":
            return 0
        found = _ENDED.fullmatch(self.state)
        return int(found[1]) if found else None

    @property
    def signal(self) -> str | None:
        """What ended the last process (`SIGKILL`); None while one runs, or if it ended by itself."""
        found = _SIGNALED.match(self.state)
        return found[1] if found else None


class Zinit:
    """The zinit that listens at `path`. Every method blocks, and raises ZinitError."""

    def __init__(self, path: Path = ZINIT_SOCKET) -> None:
        self._path = path

    def answers(self) -> bool:
        """Whether it does, which is after it knows of all services. Raises nothing."""
        try:
            self._ask("list")
        except ZinitError:
            return False
        return True

    def status(self, service: str) -> Status:
        """How the service is now."""
        body = self._ask(f"status {service}")
        wanted = body.get("target") == "Up"
        return Status(pid=int(body["pid"]), state=str(body["state"]), wanted=wanted)

    def start(self, service: str) -> None:
        """Start it, and again whenever it ends."""
        self._ask(f"start {service}")

    def stop(self, service: str) -> None:
        """Send its stop signal, and do not start it again. Returns at once."""
        self._ask(f"stop {service}")

    def kill(self, service: str, signal: str) -> None:
        """Send a signal (`SIGKILL`) to its process group."""
        self._ask(f"kill {service} {signal}")

    def _ask(self, line: str) -> Any:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(ANSWER_WITHIN_S)
                client.connect(str(self._path))
                client.sendall(line.encode() + b"\n")
                text = b"".join(iter(lambda: client.recv(1 << 16), b""))
            answer = json.loads(text)
        except (OSError, ValueError) as error:
            raise ZinitSilent(f"zinit: {line}: {error}") from None
        if answer.get("state") != "ok":
            raise ZinitError(f"zinit: {line}: {answer.get('body')}")
        return answer["body"]
