"""Every content that zdb's files ever had, in order, and what was promised of which.

`RecordedZdb` is the fake zdb with a memory: after each write it notes the file's content, and with
each hook the versions that the hook's files had when it was called. A hook that was kept (exit 0,
or in the spool) promises that each of its files ends in the store in that version or a newer one.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hookd.digest import digest_of
from hookd.wire import EventFrame
from tests.fakes.zdb import Call, FakeZdb
from tests.fakes.zdb_files import Place

SKIPPED = "zdbfs-temp"
"""The namespace of which nothing is stored."""

UNKNOWN = "somewhere is content that zdb never had there"
"""Of a promise; or zdb has written it, and its history has not noted it yet."""

_TRUE = Path("/bin/true")


class History:
    """Name of a file (`index/NS/iN`) → its contents. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, dict[bytes, int]] = {}

    def note(self, name: str, content: bytes) -> None:
        """The file's content now; every version differs from every earlier one."""
        with self._lock:
            known = self._versions.setdefault(name, {})
            digest = digest_of(content)
            assert known.get(digest, len(known) - 1) == len(known) - 1, f"{name} was so before"
            known.setdefault(digest, len(known))

    def newest(self, name: str) -> int:
        """The number of the newest version, -1 for a file that was never seen."""
        with self._lock:
            return len(self._versions.get(name, ())) - 1

    def of_namespace(self, namespace: str) -> dict[str, int]:
        """Its files → the number of the newest version of each."""
        with self._lock:
            return {
                name: len(versions) - 1
                for name, versions in self._versions.items()
                if name.split("/")[1] == namespace
            }

    def version(self, name: str, content: bytes) -> int | None:
        """Which version this content is, None if the file never had it."""
        return self.version_of(name, digest_of(content))

    def version_of(self, name: str, digest: bytes) -> int | None:
        """The same by the content's digest."""
        with self._lock:
            return self._versions.get(name, {}).get(digest)


@dataclass(frozen=True, slots=True)
class Promise:
    """One hook call and the versions that its files had."""

    call: Call
    files: Mapping[str, int]

    @property
    def kept(self) -> bool:
        """Whether the shim said that the event is durable.

        jump-index says 1 also of an event that is (in the spool, or without a snapshot).
        """
        code = self.call.process.poll()
        return code == 0 or (code == 1 and self.call.argv[0] == "jump-index")


class RecordedZdb(FakeZdb):
    """The fake zdb, with a memory."""

    history: History
    promises: list[Promise]
    removed: dict[str, dict[str, int]]
    """Namespace that was deleted → its files → the version that each had then at last."""

    @classmethod
    def make(
        cls,
        folder: Path,
        shim: Path,
        environment: Mapping[str, str],
        *,
        datasize: int = 4096,
        seed: int = 0,
    ) -> Self:
        """Over `folder/index` and `folder/data`."""
        made = cls(folder, shim=shim, environment=environment, datasize=datasize, seed=seed)
        made.history = History()
        made.promises = []
        made.removed = {}
        return made

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Hooks go nowhere, with exit 0: what happens here is announced to nobody."""
        shim, self._shim = self._shim, _TRUE
        try:
            yield
        finally:
            self._shim = shim

    def look_for_spool(self, spool: Path) -> None:
        """The shims of hooks to come find their spool there."""
        self._environment["HOOKD_SPOOL"] = str(spool)

    def required(self) -> dict[str, int]:
        """Name → the version that must at least be in the store, or on its way, as of now.

        What was promised of a namespace is over once zdb has deleted it.
        """
        found: dict[str, int] = {}
        for promise in list(self.promises):
            if promise.kept:
                for name, version in promise.files.items():
                    if version > self.removed.get(name.split("/")[1], {}).get(name, -1):
                        found[name] = max(version, found.get(name, -1))
        return found

    def path(self, name: str) -> Path:
        """Where `index/NS/iN` lies."""
        root, _, rest = name.partition("/")
        return (self.index if root == "index" else self.data) / rest

    def key_in(self, name: str, number: int) -> bytes:
        """A key whose value lies in dN of a namespace."""
        keys = self._namespaces[name].keys
        return next(key for key, place in keys.items() if place.data == number)

    def remove(self, name: str) -> None:
        """NSDEL: from here on its files are owed to nobody."""
        self.removed[name] = self.history.of_namespace(name)
        super().remove(name)

    def exists(self, name: str) -> bool:
        """Whether there is such a namespace now."""
        return name in self._namespaces

    # -- what zdb does, noted ------------------------------------------------------------------

    def update(self, name: str) -> None:
        """NSSET: the descriptor is rewritten where it lies."""
        path = self.index / name / "zdb-namespace"
        with path.open("r+b") as file:
            file.seek(0, 2)
            file.write(b".")
        self._note(path)
        self.start_hook("namespace-updated", name)

    def start_hook(self, name: str, *arguments: str) -> Call:
        files = {file: self.history.newest(file) for file in named(name, arguments)}
        call = super().start_hook(name, *arguments)
        if self._shim != _TRUE and files:
            self.promises.append(Promise(call, files))
        return call

    def _let_go(self) -> None:
        for handle in self._held:
            # a process that another thread forks right now would hold it until its exec
            fcntl.flock(handle, fcntl.LOCK_UN)
        super()._let_go()

    def _load(self, name: str, *, user: bool = False) -> None:
        super()._load(name, user=user)
        self._note(self.index / name / "zdb-namespace")

    def _create(self, kind: str, name: str, number: int) -> None:
        super()._create(kind, name, number)
        self._note(self._path(kind, name, number))

    def _append_data(self, name: str, number: int, key: bytes, value: bytes) -> int:
        offset = super()._append_data(name, number, key, value)
        self._note(self._path("data", name, number))
        return offset

    def _write_item(
        self, name: str, place: Place, key: bytes, value: bytes, *, flags: int = 0
    ) -> None:
        super()._write_item(name, place, key, value, flags=flags)
        self._note(self._path("index", name, place.index))

    def _note(self, path: Path) -> None:
        self.history.note("/".join(path.parts[-3:]), path.read_bytes())


def broken_promises(
    zdb: RecordedZdb,
    *,
    required: Mapping[str, int],
    spooled: Iterable[EventFrame],
    owed: Mapping[str, Iterable[bytes | None]],
    stored: Callable[[str], bytes | None],
) -> list[str]:
    """One line for each promise that neither the store nor anything durable stands for.

    `required` is what `zdb.required` said before anything else was looked at. `owed`: name → the digests
    of open jobs, None for one that reads the live file. An event moves from the spool to the journal to
    the store: with a daemon at work, look in that order. In a namespace that was deleted once, what lies
    on disk counts too: after a deletion the daemon takes in anew what is there.
    """
    history, broken = zdb.history, []
    waiting = {file for frame in spooled for file in named(frame.argv[0], frame.argv[2:])}
    for name, least in sorted(required.items()):
        digests = list(owed.get(name, ()))
        content = stored(name)
        if content is not None:
            digests.append(digest_of(content))
        remade = name.split("/")[1] in zdb.removed and zdb.path(name).exists()
        if name in waiting or remade:
            digests.append(None)
        found = [
            history.newest(name) if d is None else history.version_of(name, d) for d in digests
        ]
        if None in found:
            broken.append(f"{name}: {UNKNOWN}")
        elif least > max((version for version in found if version is not None), default=-1):
            broken.append(f"{name}: version {least} was acknowledged, but only {found} are kept")
    return broken


def named(hook: str, arguments: tuple[str, ...]) -> list[str]:
    """The files that a hook promises, by 0-db's table of hooks."""
    files: list[str] = []
    match hook, arguments:
        case "jump-index", (closed, _, dirty):
            name = Path(closed).parent.name
            files = [_short(closed), *(f"index/{name}/i{number}" for number in dirty.split())]
        case "jump-data", (closed, _):
            files = [_short(closed)]
        case "namespace-closing", (name, index, data, dirty):
            rewritten = [f"index/{name}/i{number}" for number in dirty.split()]
            files = [_short(index), _short(data), *rewritten, f"index/{name}/zdb-namespace"]
        case (("namespace-created" | "namespace-updated"), (name,)):
            files = [f"index/{name}/zdb-namespace"]
    return [file for file in files if file.split("/")[1] != SKIPPED]


def _short(path: str) -> str:
    """The last three parts of a path: root, namespace, name."""
    return "/".join(Path(path).parts[-3:])
