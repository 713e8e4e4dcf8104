"""What hookd sees of systemd: who hears its notices, and the hook socket that outlives it.

Run as a program (`python manager.py FD COMMAND...`) it becomes COMMAND with descriptor FD passed as
systemd passes a socket: as number 3, with LISTEN_PID of the very process.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


class Manager:
    """Hears what is sent to NOTIFY_SOCKET; `@name` is an abstract one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)

    def heard(self) -> list[str]:
        """Every message since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def hook_socket(path: Path) -> socket.socket:
    """What hookd.socket makes."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(4096)
    return server


def main(fd: str, *command: str) -> None:
    """Become `command`."""
    os.dup2(int(fd), 3)
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "hookd.socket"}
    os.execve(command[0], command, {**os.environ, **passed})


if __name__ == "__main__":
    main(*sys.argv[1:])
