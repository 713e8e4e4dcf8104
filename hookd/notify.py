"""What hookd tells the service manager that started it (sd_notify(3)): one datagram a message.

Without NOTIFY_SOCKET every method does nothing. A manager that does not listen is no reason for
anything: what cannot be sent is left out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from hookd.log import get

log = get("notify")

MAX_STATUS_BYTES = 1024
"""What is shown of a status; datagrams of any size would not arrive."""


class Notify:
    """The way to the service manager, or nothing."""

    def __init__(self, address: str | None = None, *, watchdog_s: float | None = None) -> None:
        """`address` is a path, or a name after `@` for an abstract socket; others are not used."""
        self._address: bytes | None = None
        self.watchdog_s = watchdog_s
        """`watchdog` is expected at least this often; None: not at all."""
        if not address:
            return
        if address[0] not in "/@" or len(os.fsencode(address)) > 107:
            log.warning("NOTIFY_SOCKET is no unix socket", value=address)
            return
        raw = os.fsencode(address)
        self._address = b"\0" + raw[1:] if raw[:1] == b"@" else raw

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notify:
        """What systemd set for this process, taken out: programs that we start are not the service."""
        address = environ.pop("NOTIFY_SOCKET", None)
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(address, watchdog_s=int(usec) / 1e6 if watched else None)

    @property
    def active(self) -> bool:
        """Whether anybody is told."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """The service is up; who waits for it goes on."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes at least so much longer."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self, status: str) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1", _status(status))

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        message = "\n".join(lines).encode("utf-8", "backslashreplace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.setblocking(False)
                manager.sendto(message, self._address)
        except OSError as error:  # it restarts, or its queue is full
            log.debug("service manager not told", error=str(error))


def _status(text: str) -> str:
    line = " ".join(text.split())
    return "STATUS=" + line.encode("utf-8", "replace")[:MAX_STATUS_BYTES].decode("utf-8", "ignore")
