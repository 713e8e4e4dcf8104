"""What of zdb's protocol the fake one speaks: PING, AUTH SECURE, SELECT, NSJUMP (0-db v2.0.7, zdbd/).

A thread for each connection; of the real one's habits it keeps that NSJUMP answers OK whatever the hook
said, and that a client is admin at once where there is no --admin.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Callable
from typing import IO


class Refusal(Exception):
    """What is answered with a minus."""


class Protocol:
    """Serves connections of `listener` until that is closed."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        admin: str | None,
        password: Callable[[str], str | None],
        jump: Callable[[str], None],
    ) -> None:
        """`password` of a namespace raises KeyError for one that is not there."""
        self._listener = listener
        self._admin = admin
        self._password = password
        self._jump = jump
        self.heard: list[bytes] = []
        """All that came, as it came."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        client = _Client(self._admin is None)
        with connection, connection.makefile("rb") as asked, contextlib.suppress(OSError):
            while words := _command(asked):
                self.heard.extend(words)
                try:
                    answer = b"+" + self._answer(client, [word.decode() for word in words])
                except Refusal as error:
                    answer = b"-" + str(error).encode()
                connection.sendall(answer + b"\r\n")

    def _answer(self, client: _Client, words: list[str]) -> bytes:
        match [words[0].upper(), *words[1:]]:
            case ["PING"]:
                return b"PONG"
            case ["AUTH", "SECURE", "CHALLENGE"]:
                client.challenge = secrets.token_hex(8)
                return client.challenge.encode()
            case ["AUTH", "SECURE", proof]:
                if self._admin is None:
                    raise Refusal("Authentication disabled")
                client.admin = client.admin or client.proves(proof, self._admin)
                if not client.admin:
                    raise Refusal("Access denied")
            case ["SELECT", name, *proof]:
                try:
                    password = self._password(name)
                except KeyError:
                    raise Refusal("Namespace not found") from None
                if password and not proof:
                    raise Refusal("Namespace protected and private")
                if password and not client.proves(proof[-1], password):
                    raise Refusal("Access denied")
                client.namespace = name
            case ["NSJUMP"]:
                if not client.admin:
                    raise Refusal("Permission denied")
                self._jump(client.namespace)
            case _:
                raise Refusal("Command not supported")
        return b"OK"


class _Client:
    def __init__(self, admin: bool) -> None:
        self.admin = admin
        self.namespace = "default"
        self.challenge = ""

    def proves(self, proof: str, password: str) -> bool:
        return proof == hashlib.sha1(f"{self.challenge}:{password}".encode()).hexdigest()


def _command(asked: IO[bytes]) -> list[bytes]:
    """The words of one command; none at the end."""
    head = asked.readline()
    if not head.startswith(b"*"):
        return []
    words = []
    for _ in range(int(head[1:])):
        length = int(asked.readline()[1:])
        words.append(asked.read(length + 2)[:-2])
    return words
