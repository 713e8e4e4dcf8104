"""A zstor of our own: the real bytes and the real order, with faults that can be switched on.

Serial like the real one: a request is read when the ones before it are done. Keys are made as the
real one makes them (store: real path of the key's file; retrieve and check: the path cleaned as
text), files are opened as it opens them. Objects live in memory, or in a folder that survives
SIGKILL. As a process:

    python -m tests.fakes.zstor SOCKET [--state DIR] [--control FILE] [--root DIR] [--version V]

where FILE (default SOCKET.control) may hold `MODE [ARGUMENT]` and is read before each request.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import errno
import json
import os
import queue
import signal
import socket as sockets
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

from hookd.digest import digest_of
from tests.fakes.zstor_bytes import Request, decode_request, encode_reply, read_exactly

HEAD = "0.5.0-rc.1"
OLD = "0.4.0"

_IO = "error during accessing local storage for "
NOT_WRITABLE = _IO + "Metastore is not writable: permission denied"
ABSENT = _IO + "no metadata found for file: entity not found"
_BACKEND = "error during metadata: zdb metadata error while: ZDB BACKEND: ZDB at "
BROKEN_PIPE = _BACKEND + "127.0.0.1:19904 meta4, error operation NS caused by broken pipe"
_REFUSED = "error operation NS caused by Reconnecting failed: Connection refused (os error 111)"
DOWN_HEAD = f"{_BACKEND}127.0.0.1:19904 meta4, {_REFUSED}"
DOWN_OLD = f"{_BACKEND}127.0.0.1:19901 meta1, {_REFUSED}"


class Mode(enum.StrEnum):
    """How it behaves."""

    WELL = "well"
    DOWN = "down"
    """All backends are away."""
    NOT_WRITABLE = "not_writable"
    """HEAD with one metadata backend away: reads work."""
    BLIND = "blind"
    """HEAD that started without its backends: everything is absent, stores are refused."""
    HANG = "hang"
    """Does nothing until the mode changes, then what it was asked."""
    LATE = "late"
    """Does everything ARGUMENT seconds later."""
    LIES = "lies"
    """Says that it stored, or retrieved, and did not."""
    WRONG_CHECKSUM = "wrong_checksum"
    REFUSE = "refuse"
    """Every request with the text ARGUMENT."""
    CLOSE = "close"
    """Closes without a reply, like one that was killed in the middle."""
    CORRUPT = "corrupt"
    """Retrieves write other bytes."""


@dataclass(frozen=True)
class Stored:
    """One object."""

    content: bytes
    digest: bytes


class Refused(Exception):
    """The text to answer with."""


@dataclass
class FakeZstor:
    """The server; `with FakeZstor(path) as fake:` runs it in threads of this process."""

    socket: Path
    state: Path | None = None
    control: Path | None = None
    root: str | None = None
    version: str = HEAD
    world: str = "/"
    """Where its file system begins, like a chroot, for paths that are absolute in a recording."""
    objects: dict[str, Stored] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    _mode: Mode = Mode.WELL
    _argument: str = ""

    def __enter__(self) -> FakeZstor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def behave(self, mode: Mode, argument: object = "") -> None:
        """From the next request on (and for one that hangs now)."""
        self._mode, self._argument = mode, str(argument)

    def start(self) -> None:
        """Listen and answer."""
        self._load()
        self.socket.unlink(missing_ok=True)
        self._listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._listener.bind(str(self.socket))
        self._listener.listen(128)
        self._stopped = threading.Event()
        self._waiting: queue.Queue[sockets.socket | None] = queue.Queue()
        self._threads = [threading.Thread(target=run) for run in (self._accept, self._work)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop listening; whoever waits for an answer gets none. Idempotent."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.socket.unlink(missing_ok=True)
        self._listener.shutdown(sockets.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    # -- requests, one after the other ---------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                self._waiting.put(self._listener.accept()[0])
            except OSError:
                self._waiting.put(None)
                return

    def _work(self) -> None:
        while (connection := self._waiting.get()) is not None:
            with connection:
                connection.settimeout(5)
                # whoever asked hung up
                with contextlib.suppress(OSError, EOFError):
                    self._handle(connection)

    def _handle(self, connection: sockets.socket) -> None:
        (size,) = struct.unpack(">H", read_exactly(connection, 2))
        try:
            request = decode_request(read_exactly(connection, size))
        except ValueError:
            return  # the real one closes without a reply
        self.requests.append(request)
        self._wait()
        mode, argument = self._behaviour()
        if self._stopped.is_set() or mode is Mode.CLOSE:
            return
        try:
            if mode is Mode.REFUSE:
                raise Refused(argument)
            reply = encode_reply(self._do(request, mode))
        except Refused as refused:
            # a store that does not block is only queued; the real one would try it for ever
            reply = encode_reply(str(refused) if request.blocking else None)
        connection.sendall(struct.pack(">H", len(reply)) + reply)

    def _behaviour(self) -> tuple[Mode, str]:
        if self.control is not None:
            # absent, or written this very moment
            with contextlib.suppress(FileNotFoundError, ValueError):
                mode, _, argument = self.control.read_text().strip().partition(" ")
                self._mode, self._argument = Mode(mode), argument
        return self._mode, self._argument

    def _wait(self) -> None:
        mode, argument = self._behaviour()
        if mode is Mode.LATE:
            self._stopped.wait(float(argument))
        while self._behaviour()[0] is Mode.HANG and not self._stopped.wait(0.01):
            pass

    # -- what the real one does ----------------------------------------------------------------

    def _do(self, request: Request, mode: Mode) -> bytes | None:
        if request.verb == "store":
            self._store(request, mode)
            return None
        if mode is Mode.DOWN:
            head = BROKEN_PIPE if request.verb == "check" else DOWN_HEAD
            raise Refused(head if self.version == HEAD else DOWN_OLD)
        found = None if mode is Mode.BLIND else self.objects.get(os.path.normpath(request.path))
        if request.verb == "check":
            if found is None or mode is not Mode.WRONG_CHECKSUM:
                return found.digest if found else None
            return bytes(byte ^ 0xFF for byte in found.digest)
        if found is None:
            raise Refused(ABSENT)
        if mode is not Mode.LIES:
            self._write(request.path, b"corrupt" if mode is Mode.CORRUPT else found.content)
        return None

    def _store(self, request: Request, mode: Mode) -> None:
        if mode in (Mode.NOT_WRITABLE, Mode.BLIND, Mode.DOWN):
            raise Refused(DOWN_OLD if mode is Mode.DOWN and self.version == OLD else NOT_WRITABLE)
        path = self._kernel(request.path)
        try:
            os.stat(path)
            key = self._key(request, path)
            with open(path, "rb") as handle:
                content = handle.read()
        except OSError as error:
            raise _refused("Could not load file metadata", error) from error
        if self.root is not None and not Path(key).is_relative_to(self.root):
            what = f"attempting to store file which is not in the file tree rooted at {self.root}"
            raise Refused(f"{_IO}{what}: invalid data")
        if mode is not Mode.LIES:
            self._keep(key, Stored(content, digest_of(content)))

    def _key(self, request: Request, path: str) -> str:
        folder = path.rpartition("/")[0]
        if request.key_folder is not None:
            folder = self._kernel(request.key_folder)
        place = os.path.join(folder, os.path.basename(path))
        if os.path.exists(place):
            real = os.path.realpath(place)
        else:  # pipeline.rs canonicalize_path
            try:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT, 0o666))
            except OSError as error:
                raise _refused("could not create temp file", error) from error
            real = os.path.realpath(place)
            os.unlink(place)
        return real if self.world == "/" else real.removeprefix(self.world)

    def _write(self, path: str, content: bytes) -> None:
        place = self._kernel(path)
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
        except OSError as error:
            raise _refused("could not create recovered file parent dir", error) from error
        try:
            with open(place, "wb") as handle:
                handle.write(content)
        except OSError as error:
            raise _refused("could not create output file", error) from error

    def _kernel(self, path: str) -> str:
        return path if self.world == "/" else self.world + path

    # -- objects that survive ------------------------------------------------------------------

    def _keep(self, key: str, stored: Stored) -> None:
        self.objects[key] = stored
        if self.state is not None:
            head = json.dumps({"key": key, "digest": stored.digest.hex()})
            fresh = self.state / "fresh"
            fresh.write_bytes(head.encode() + b"\n" + stored.content)
            fresh.rename(self.state / f"{digest_of(key.encode()).hex()}.object")

    def _load(self) -> None:
        if self.state is None:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        for place in self.state.glob("*.object"):
            head, _, content = place.read_bytes().partition(b"\n")
            known = json.loads(head)
            self.objects[known["key"]] = Stored(content, bytes.fromhex(known["digest"]))


def _refused(what: str, error: OSError) -> Refused:
    """A Rust io::Error, as zstor prints it."""
    number = error.errno or errno.EIO
    return Refused(f"{_IO}{what}: {os.strerror(number)} (os error {number})")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--control", type=Path)
    parser.add_argument("--root")
    parser.add_argument("--version", choices=(HEAD, OLD), default=HEAD)
    options = parser.parse_args()
    control = options.control or Path(f"{options.socket}.control")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with FakeZstor(
        options.socket, options.state, control, root=options.root, version=options.version
    ):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
