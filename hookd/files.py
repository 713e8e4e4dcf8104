"""The files of a zdb: paths in, typed keys out, and back.

A `FileKey` names one file independently of where the roots lie; its text form
(`index/NS/i3`, `data/NS/d3`, `index/NS/zdb-namespace`) is the journal's key, the directory
store's path and what an admin types. This module owns the invariant that no path leaves the
configured roots: whoever holds a `FileKey` holds a checked one.
"""

from __future__ import annotations

import enum
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import PathRefused

NAMESPACE_FILE = "zdb-namespace"
"""The descriptor beside the index files (0-db libzdb/namespace.c): settings and the password."""

RESOLVED_FOR_S = 1.0
"""How long the meaning of a folder's path is remembered, in seconds."""

_NUMBERED = re.compile(r"[id](0|[1-9][0-9]{0,9})", re.ASCII)


class Kind(enum.StrEnum):
    """What a zdb file is."""

    INDEX = "index"
    """iN: entries, rewritten in place after it is sealed."""
    DATA = "data"
    """dN: values, append-only; never written again once d(N+1) or i(N+1) exists."""
    NAMESPACE = "namespace"
    """zdb-namespace: rewritten whole when a setting changes."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """One zdb file: its kind, its namespace, its number (0 for the descriptor)."""

    kind: Kind
    namespace: str
    number: int = 0

    def __post_init__(self) -> None:
        name = self.namespace
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise PathRefused(name, "no namespace name")
        if not is_text(name):
            raise PathRefused(name, "a namespace name must be UTF-8")

    @property
    def name(self) -> str:
        """The file's own name: `i3`, `d3` or `zdb-namespace`."""
        if self.kind is Kind.DATA:
            return f"d{self.number}"
        return f"i{self.number}" if self.kind is Kind.INDEX else NAMESPACE_FILE

    def __hash__(self) -> int:
        # an enum's own hash is a Python call, and keys are looked up at every step
        return hash((self.namespace, self.number))

    @property
    def root(self) -> str:
        """`data` or `index`: which root it lies under."""
        return "data" if self.kind is Kind.DATA else "index"

    def __str__(self) -> str:
        return f"{self.root}/{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> FileKey:
        """The inverse of `str`. Raises PathRefused."""
        parts = text.split("/")
        if len(parts) != 3 or parts[0] not in ("index", "data"):
            raise PathRefused(text, "expected index/NAMESPACE/iN or data/NAMESPACE/dN")
        return cls.named(parts[0], parts[1], parts[2], shown=text)

    @classmethod
    def named(cls, root: str, namespace: str, name: str, *, shown: str) -> FileKey:
        """The file `name` of `namespace` under `root`. Raises PathRefused, showing `shown`."""
        if root == "index" and name == NAMESPACE_FILE:
            return cls(Kind.NAMESPACE, namespace)
        if not _NUMBERED.fullmatch(name) or name[0] != root[0]:
            raise PathRefused(shown, f"{name!r} is not named like a zdb {root} file")
        return cls(Kind.INDEX if root == "index" else Kind.DATA, namespace, int(name[1:]))


def is_text(name: str) -> bool:
    """Whether a name of the file system is UTF-8.

    zdb takes any bytes but `/` (namespace_valid_name); zstor's protocol, manifest and journal do not.
    """
    return name.isprintable() or not any("\ud800" <= char <= "\udfff" for char in name)


def index_key(namespace: str, number: int) -> FileKey:
    """iN of a namespace."""
    return FileKey(Kind.INDEX, namespace, number)


def data_key(namespace: str, number: int) -> FileKey:
    """dN of a namespace."""
    return FileKey(Kind.DATA, namespace, number)


def namespace_key(namespace: str) -> FileKey:
    """The descriptor of a namespace."""
    return FileKey(Kind.NAMESPACE, namespace)


class Roots:
    """The two folders that a zdb writes to, resolved once."""

    def __init__(self, index: Path, data: Path) -> None:
        self.index = Path(os.path.realpath(index))
        self.data = Path(os.path.realpath(data))
        self._by_folder = {str(self.index): "index", str(self.data): "data"}
        self._folders: dict[str, tuple[float, str, str]] = {}

    def path(self, key: FileKey) -> Path:
        """Where the live file lies."""
        return Path(self.text(key))

    def text(self, key: FileKey) -> str:
        """`path` as text."""
        base = self.data if key.kind is Kind.DATA else self.index
        return f"{base}/{key.namespace}/{key.name}"

    def key(self, path: str, *, cwd: str = "/") -> FileKey:
        """The key of a path as zdb gave it (relative ones are relative to zdb's `cwd`).

        The folder is resolved through symlinks; for the last component see `length`. Raises
        PathRefused.
        """
        if "\0" in path:
            raise PathRefused(path, "it holds a NUL byte")
        folder, _, name = os.path.join(cwd, path).rpartition("/")
        root, namespace = self._resolve(folder, path)
        return FileKey.named(root, namespace, name, shown=path)

    def length(self, key: FileKey) -> int | None:
        """Bytes of the live file, None if it is not there.

        Raises PathRefused for a symbolic link: a data file that points elsewhere would let a store
        read what is not zdb's.
        """
        try:
            found = os.lstat(self.text(key))
        except OSError:
            return None
        if stat.S_ISLNK(found.st_mode):
            raise PathRefused(self.text(key), "it is a symbolic link")
        return found.st_size

    def _resolve(self, folder: str, shown: str) -> tuple[str, str]:
        """(root, namespace) of a folder; remembered for a moment, for it costs six system calls."""
        now = time.monotonic()
        known = self._folders.get(folder)
        if known is not None and now - known[0] < RESOLVED_FOR_S:
            return known[1], known[2]
        base, namespace = os.path.split(os.path.realpath(folder or "/"))
        root = self._by_folder.get(base)
        if root is None:
            raise PathRefused(shown, f"not directly under {self.index} or {self.data}")
        if len(self._folders) > 4096:
            self._folders.clear()
        self._folders[folder] = (now, root, namespace)
        return root, namespace

    def namespaces(self) -> list[str]:
        """Names of the namespaces on disk, under either root, sorted; without those of `nameless`."""
        return [name for name in self._folders_of_namespaces() if is_text(name)]

    def nameless(self) -> list[str]:
        """Namespaces with files whose names no `FileKey` can hold, sorted."""
        names = [name for name in self._folders_of_namespaces() if not is_text(name)]
        return [name for name in names if self._has_files(name)]

    def _folders_of_namespaces(self) -> list[str]:
        found: set[str] = set()
        for base in (self.index, self.data):
            try:
                with os.scandir(base) as entries:
                    found.update(e.name for e in entries if e.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                continue
        return sorted(n for n in found if not n.startswith(".") or self._is_hidden_namespace(n))

    def _is_hidden_namespace(self, name: str) -> bool:
        """zdb takes such names, but most hidden folders are other programs', perhaps for them alone."""
        try:
            return self._has_files(name)
        except PermissionError:
            return False

    def _has_files(self, namespace: str) -> bool:
        return (
            bool(self.numbers(Kind.INDEX, namespace) or self.numbers(Kind.DATA, namespace))
            or (self.index / namespace / NAMESPACE_FILE).exists()
        )

    def numbers(self, kind: Kind, namespace: str) -> list[int]:
        """The numbers of the index or data files of a namespace on disk, ascending."""
        base = self.data if kind is Kind.DATA else self.index
        letter = kind.value[0]
        try:
            names = os.listdir(base / namespace)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(
            int(name[1:]) for name in names if name[0] == letter and _NUMBERED.fullmatch(name)
        )

    def newest_data(self, namespace: str, at_least: int = 0) -> tuple[int, int]:
        """(number, length in bytes) of the newest data file on disk, or of dN for `at_least`.

        Called after an index was copied, it bounds what the copy can point into: zdb appends a
        value before it writes the entry.
        """
        number = max((at_least, *self.numbers(Kind.DATA, namespace)))
        try:
            return number, self.path(data_key(namespace, number)).stat().st_size
        except OSError:
            return number, 0
