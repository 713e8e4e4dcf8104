"""A zdb that is slow, obedient and deterministic: its files, its hooks, and its order of both.

What it keeps of the real one (0-db v2.0.7, libzdb): the files' layout, entries of old index files
rewritten in place, a dirty map that only an exit 0 of jump-index resets, a hook's death by a signal
read as 0, the locks, the listener, and which hooks are waited for. What it leaves out: most of the
network protocol (call `set`, `get`, `delete`), keys that it gives out, preallocation.

`kill` is kill -9. `rotate(until=…)` stops in the middle of a rotation, as a kill there would.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fakes.zdb_files import (
    DELETED,
    SEQUENTIAL,
    USER,
    Place,
    data_entry,
    descriptor,
    header,
    index_entry,
    is_user,
    load_keys,
    value_at,
)
from tests.fakes.zdb_protocol import Protocol

HOOK_LIMIT_S = 180.0

ROTATION = ("index-created", "index-jumped", "data-created", "data-jumped")
"""What happens in a rotation, in its order."""


@dataclass(slots=True)
class Call:
    """One hook call."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    code: int | None = None
    """As zdb reads it (death by a signal is 0), None while the hook runs."""
    seconds: float | None = None
    """How long zdb waited; None where it did not."""


@dataclass(slots=True)
class _Namespace:
    active: int = 0
    user: bool = False
    dirty: set[int] = field(default_factory=set)
    keys: dict[bytes, Place] = field(default_factory=dict)


class FakeZdb:
    """One zdb over `folder/index` and `folder/data`; may be started again after its end."""

    def __init__(
        self,
        folder: Path,
        *,
        shim: Path,
        environment: Mapping[str, str],
        datasize: int = 4096,
        seed: int = 0,
        admin: str | None = None,
    ) -> None:
        """`environment` is what the shim finds its daemon by; a data file is full at `datasize`;
        `admin` is its --admin.
        """
        self.index = folder / "index"
        self.data = folder / "data"
        self.id = f"unix://{folder / 'zdb.sock'}"
        self._folder = folder
        self._shim = shim
        self._environment = dict(environment)
        self._datasize = datasize
        self._random = random.Random(seed)
        self._namespaces: dict[str, _Namespace] = {}
        self._made: dict[str, int] = {}
        self._held: list[int] = []
        self._listener: socket.socket | None = None
        self._admin = admin
        self._clock = 0
        self.gap_s = 0.0
        """From making a file to its first bytes, and between two pieces of a descriptor."""
        self.password: dict[str, str] = {}
        """Namespace → what its clients have to prove."""
        self.heard: list[bytes] = []
        """Every word that a client has sent since the start."""
        self.calls: list[Call] = []
        """Every hook call since this object was made."""
        self.truth: dict[str, dict[bytes, bytes]] = {}
        """Namespace → key → value: what a client of this zdb was promised."""

    # -- life ------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it holds its locks."""
        return bool(self._held)

    def start(self) -> int:
        """namespaces-init, load, ready; returns what ready said. Non-zero: it has stopped again."""
        assert not self.running
        for root in (self.index, self.data):
            root.mkdir(parents=True, exist_ok=True)
            handle = os.open(root / ".lockfile", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._held.append(handle)
        self.hook("namespaces-init", str(self.index), str(self.data))
        found = {path.parent.name for path in self.index.glob("*/zdb-namespace")}
        self._namespaces = {}
        for name in sorted(found | {"default"}):
            self._load(name)
        self._listen()
        code = self.hook("ready")
        if code:
            self._end()
        return code

    def stop(self) -> None:
        """SIGTERM: close (waited for), the closing hooks (not waited for), gone."""
        assert self.running
        self.hook("close")
        self._end()

    def kill(self) -> None:
        """kill -9: no hook is called; those that run outlive it."""
        self._namespaces = {}
        self._let_go()

    def finish_hooks(self) -> list[Call]:
        """Wait for the hooks that zdb does not wait for; returns all calls so far."""
        for call in self.calls:
            if call.code is None:
                call.code = max(0, call.process.wait(HOOK_LIMIT_S))
        return self.calls

    # -- what clients do -------------------------------------------------------------------------

    def create(self, name: str, *, user: bool = False) -> None:
        """NSNEW, in sequential mode unless told."""
        self._made[name] = self._made.get(name, 0) + 1
        self._load(name, user=user)
        self.start_hook("namespace-created", name)

    def remove(self, name: str) -> None:
        """NSDEL."""
        del self._namespaces[name]
        self.truth.pop(name, None)
        for root in (self.index, self.data):
            for path in (root / name).iterdir():
                path.unlink()
            (root / name).rmdir()
        self.start_hook("namespace-deleted", name)

    def set(self, name: str, key: bytes, value: bytes) -> None:
        """SET: a new key is appended to the active index, an old one is rewritten where it lies.

        In user mode the old one is flagged there first, then another is appended (libzdb/index_set.c).
        """
        space = self._namespaces[name]
        if self._path("data", name, space.active).stat().st_size + len(value) > self._datasize:
            self.rotate(name)
        active = space.active
        offset = self._append_data(name, active, key, value)
        old = space.keys.get(key)
        position = self._path("index", name, active).stat().st_size
        place = Place(active, position, active, offset, len(value))
        if space.user:
            if old is not None:
                self._write_item(name, old, key, self.truth[name][key], flags=DELETED)
                space.dirty.add(old.index)
            on_disk = place if old is not None else replace(place, data=0)
            self._write_item(name, on_disk, key, value)
        elif old is not None:
            # the copy that keeps the history, then the old entry in its own file
            self._write_item(name, place, key, value, flags=DELETED)
            place = Place(old.index, old.position, active, offset, len(value))
            space.dirty.add(old.index)
            self._write_item(name, place, key, value)
        else:
            self._write_item(name, place, key, value)
        space.keys[key] = place
        self.truth.setdefault(name, {})[key] = value

    def delete(self, name: str, key: bytes) -> None:
        """DEL: the flag is set where the entry lies."""
        space = self._namespaces[name]
        place = space.keys.pop(key)
        self._write_item(name, place, key, self.truth[name].pop(key), flags=DELETED)
        space.dirty.add(place.index)

    def get(self, name: str, key: bytes) -> bytes:
        """GET; a data file that is not there is asked back once. Raises Unreadable."""
        space = self._namespaces[name]
        place = space.keys[key]
        path = self._path("data", name, place.data)
        if place.data != space.active and not path.exists():
            self.hook("missing-data", str(path))
        return value_at(path, key, place.offset, place.length)

    def churn(self, name: str, count: int) -> None:
        """`count` random sets of new and old keys, and now and then a delete."""
        for _ in range(count):
            keys = sorted(self._namespaces[name].keys)
            dice = self._random.random()
            if keys and dice < 0.05:
                self.delete(name, self._random.choice(keys))
                continue
            fresh = b"key-%06d" % self._random.randrange(1_000_000)
            key = self._random.choice(keys) if keys and dice < 0.4 else fresh
            self.set(name, key, self._random.randbytes(self._random.randrange(16, 600)))

    def rotate(self, name: str, *, until: str = ROTATION[-1]) -> None:
        """NSJUMP, or the data file is full. `until` names the last of ROTATION that is done."""
        last = ROTATION.index(until)
        space = self._namespaces[name]
        old, new = space.active, space.active + 1
        self._create("index", name, new)
        if last >= 1:
            paths = [str(self._path("index", name, number)) for number in (old, new)]
            if self.hook("jump-index", *paths, _numbers(space.dirty)) == 0:
                space.dirty.clear()
        if last >= 2:
            self._create("data", name, new)
            space.active = new
        if last >= 3:
            paths = [str(self._path("data", name, number)) for number in (old, new)]
            self.start_hook("jump-data", *paths)

    # -- hooks -----------------------------------------------------------------------------------

    def hook(self, name: str, *arguments: str) -> int:
        """Call a hook and wait for it; returns the exit code as zdb reads it."""
        began = time.monotonic()
        call = self.start_hook(name, *arguments)
        call.code = max(0, call.process.wait(HOOK_LIMIT_S))
        call.seconds = time.monotonic() - began
        return call.code

    def start_hook(self, name: str, *arguments: str) -> Call:
        """Call a hook and go on."""
        argv = (name, self.id, *arguments)
        environment = {**os.environ, **self._environment}
        command = [str(self._shim), *argv]
        call = Call(argv, subprocess.Popen(command, env=environment, cwd=self._folder))
        self.calls.append(call)
        return call

    # -- inside ----------------------------------------------------------------------------------

    def _end(self) -> None:
        for name, space in sorted(self._namespaces.items()):
            paths = [str(self._path(kind, name, space.active)) for kind in ("index", "data")]
            self.start_hook("namespace-closing", name, *paths, _numbers(space.dirty))
        self._namespaces = {}
        self._let_go()

    def _let_go(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for handle in self._held:
            os.close(handle)
        self._held = []

    def _listen(self) -> None:
        address = self._folder / "zdb.sock"
        address.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(address))
        listener.listen()
        self._listener = listener
        protocol = Protocol(listener, admin=self._admin, password=self._password, jump=self.rotate)
        self.heard = protocol.heard

    def _password(self, name: str) -> str | None:
        self._namespaces[name]
        return self.password.get(name)

    def _load(self, name: str, *, user: bool = False) -> None:
        """Read a namespace, or make it; whatever the active files lack is made blank."""
        first = self._path("index", name, 0)
        if first.exists():
            user = is_user(first.read_bytes())
        space = self._namespaces[name] = _Namespace(user=user)
        for root in (self.index, self.data):
            (root / name).mkdir(exist_ok=True)
        settings = self.index / name / "zdb-namespace"
        if not settings.exists():
            # one that is made again has another password, and so another descriptor
            password = "!" * (self._made.get(name, 1) - 1)
            whole = descriptor(name, password)
            head = len(whole) - len(name) - len(password)
            self._make(settings, whole[:head], name.encode(), password.encode())
        while self._path("index", name, space.active + 1).exists():
            space.active += 1
        for kind in ("index", "data"):
            if not self._path(kind, name, space.active).exists():
                self._create(kind, name, space.active)
        space.keys = load_keys(self.index / name)

    def _path(self, kind: str, name: str, number: int) -> Path:
        return (self.index if kind == "index" else self.data) / name / f"{kind[0]}{number}"

    def _create(self, kind: str, name: str, number: int) -> None:
        mode = USER if self._namespaces[name].user else SEQUENTIAL
        self._make(self._path(kind, name, number), header(kind, number, self._tick(), mode))

    def _make(self, path: Path, *pieces: bytes) -> None:
        """A new file: made, then written, as the real one does (namespace.c, index.c, data.c)."""
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                time.sleep(self.gap_s)
                file.write(piece)

    def _append_data(self, name: str, number: int, key: bytes, value: bytes) -> int:
        with self._path("data", name, number).open("ab") as file:
            offset = file.tell()
            file.write(data_entry(key, value, self._tick()))
        return offset

    def _write_item(
        self, name: str, place: Place, key: bytes, value: bytes, *, flags: int = 0
    ) -> None:
        with self._path("index", name, place.index).open("r+b") as file:
            file.seek(place.position)
            file.write(index_entry(place, key, value, self._tick(), flags))

    def _tick(self) -> int:
        """Seconds of a clock that is the same in every run."""
        self._clock += 1
        return self._clock


def _numbers(dirty: set[int]) -> str:
    return " ".join(map(str, sorted(dirty)))


def accept_forever(listener: socket.socket) -> None:
    """Who looks whether it lives is let in and sent away."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.close()
