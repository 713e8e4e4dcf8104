"""The part of zdb's network protocol that `hookd namespaces` speaks, in a thread.

Answers and their texts are those of 0-db v2.0.7 (zdbd/commands_namespace.c, commands_auth.c).
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(slots=True)
class Space:
    """One namespace."""

    mode: str = "userkey"
    public: bool = True
    password: str | None = None
    entries: int = 0


class FakeZdbServer:
    """Listens on 127.0.0.1 once started; `with` ends it."""

    def __init__(self, *, admin: str | None = None, fixed_mode: bool = False) -> None:
        """`admin` is --admin; `fixed_mode`: it was started with --mode user."""
        self.spaces = {"default": Space()}
        self.commands: list[tuple[str, ...]] = []
        """What it was asked, PING left out."""
        self.mute = False
        """Whether it takes connections and answers nothing, as during a hook."""
        self.dies_before: str | None = None
        """The command that it hangs up at instead of answering, once."""
        self._admin = admin
        self._fixed_mode = fixed_mode
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.id = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeZdbServer:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    @property
    def changes(self) -> list[tuple[str, ...]]:
        """The commands that change something."""
        return [words for words in self.commands if words[0] in ("NSNEW", "NSSET")]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        admin = self._admin is None
        challenge = ""
        try:
            with connection.makefile("rb") as lines:
                while words := _command(lines):
                    if self.mute:
                        continue
                    if words[0] == self.dies_before:
                        self.dies_before = None
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    if words == ("AUTH", "SECURE", "CHALLENGE"):
                        challenge = secrets.token_hex(8)
                        connection.sendall(b"+%b\r\n" % challenge.encode())
                        continue
                    if words[0] == "AUTH":
                        admin = admin or _proves(words, challenge, self._admin)
                    connection.sendall(self._answer(words, admin, challenge))
        except OSError:
            return

    def _answer(self, words: tuple[str, ...], admin: bool, challenge: str = "") -> bytes:
        if words[0] == "PING":
            return b"+PONG\r\n"
        self.commands.append(words)
        if words[0] == "AUTH":
            if self._admin is None:
                return b"-Authentication disabled\r\n"
            return b"+OK\r\n" if admin else b"-Access denied\r\n"
        if words[0] in ("NSNEW", "NSSET") and not admin:
            return b"-Permission denied\r\n"
        if words[0] == "NSNEW":
            if words[1] in self.spaces:
                return b"-This namespace is not available\r\n"
            self.spaces[words[1]] = Space()
            return b"+OK\r\n"
        if words[0] not in ("NSSET", "NSINFO", "SELECT"):
            return b"-Command not supported\r\n"
        space = self.spaces.get(words[1])
        if space is None:
            return b"-Namespace not found\r\n"
        if words[0] == "NSINFO":
            return _bulk(words[1], space)
        if words[0] == "NSSET":
            return self._set(space, words[2], words[3])
        opened = space.password is None or _proves(words, challenge, space.password)
        return b"+OK\r\n" if opened else b"-Access denied\r\n"

    def _set(self, space: Space, key: str, value: str) -> bytes:
        if key == "mode":
            if self._fixed_mode:
                return b"-This server instance is configured to use a single runtime mode\r\n"
            if space.entries:
                return b"-Cannot change mode of used namespace\r\n"
            space.mode = {"seq": "sequential", "user": "userkey"}[value]
        elif key == "password":
            space.password = value
        else:
            space.public = value == "1"
        return b"+OK\r\n"


def _proves(words: tuple[str, ...], challenge: str, password: str | None) -> bool:
    """Whether the last word is the password, told as `SECURE` wants it."""
    proof = hashlib.sha1(f"{challenge}:{password}".encode()).hexdigest()
    return words[-2] == "SECURE" and words[-1] == proof


def _command(lines: BinaryIO) -> tuple[str, ...]:
    """The words of one command, nothing at the end."""
    head = lines.readline()
    if not head.startswith(b"*"):
        return ()
    words = []
    for _ in range(int(head[1:])):
        size = int(lines.readline()[1:])
        words.append(lines.read(size + 2)[:-2].decode())
    return tuple(words)


def _bulk(name: str, space: Space) -> bytes:
    text = (
        f"# namespace\nname: {name}\nentries: {space.entries}\n"
        f"public: {'yes' if space.public else 'no'}\n"
        f"password: {'yes' if space.password else 'no'}\nmode: {space.mode}\n"
    ).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)
