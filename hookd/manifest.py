"""The manifest: what the store holds of this zdb, and whose it is. Pure: bytes ⇄ `Manifest`.

One JSON object under a fixed key of the store (`Store.put_record`), written after the files it names:

    {"hookd": 1, "lineage": "…", "writer": "…", "sequence": 7, "written_at": 1790000000.0,
     "namespaces": {"NS": {"i0": [SIZE, "DIGEST", STORED_AT, SEALED], "d0": […], "zdb-namespace": […]}},
     "deleted": ["NS"],
     "stale": {"NS": {"i7": "DIGEST"}},
     "given_up": {"NS": {"i0": [SIZE, "DIGEST", STORED_AT, SEALED], …}},
     "holes": {"NS": ["d3"]},
     "sum": "BLAKE2b-128 of all that, without this field"}

The store may be ahead of it: a file is stored first and named later, and an index that zdb rewrites is
stored again. It is never behind: what is named here is in the store in this version or a newer one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from hookd.digest import digest_of
from hookd.errors import HookdError, PathRefused
from hookd.files import FileKey, Kind
from hookd.journal.records import LedgerEntry

NAME = "manifest"
"""Its key in the store."""

COPY = "manifest-copy"
"""And of its copy, written before it where it says of some files that they are nobody's: without it a
store whose manifest is damaged would give the files of two histories for those of one."""

VERSION = 3
"""With holes; 2 with files that were given up; 1 with neither: an older hookd follows what it knows."""


class ManifestBad(HookdError):
    """These bytes are no manifest, or a damaged one."""


class ManifestNewer(HookdError):
    """It was written by a hookd that this one cannot follow."""


@dataclass(frozen=True, slots=True)
class Named:
    """One file as the manifest names it."""

    size_bytes: int
    digest: bytes
    stored_at: float
    """Unix seconds."""
    sealed: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one frontend says of the store."""

    lineage: str
    """32 hex digits: made with the first manifest of a history of files, kept by every later frontend."""
    writer: str
    """32 hex digits: made by each frontend when it takes the store over."""
    sequence: int
    """One more with each manifest of a lineage."""
    written_at: float
    """Unix seconds, for people."""
    files: Mapping[FileKey, Named] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    """Namespaces that zdb deleted: what the store still has under their names is nobody's."""
    stale: Mapping[FileKey, bytes] = field(default_factory=dict)
    """Files of deleted namespaces that the store still has, with the digest that they have there: where
    a name is used again, they are none of the new one's."""
    given_up: Mapping[FileKey, Named] = field(default_factory=dict)
    """Files of namespaces of which an administrator chose what was on the frontend's disk, before any
    index of that is stored: the only whole that the store has of them. They come back only if somebody
    says so. A size of 0 is not known."""
    holes: frozenset[FileKey] = frozenset()
    """Data files that the writer had not either, or not whole (`hookd skip`): a restore does without."""

    def has_all(self, key: FileKey, there: bytes | None) -> bool:
        """Whether the store has all that the writer had of a data file: it was given up, or is sealed and
        the same. `there`: the digest in the store, if it has one.
        """
        named = self.files.get(key)
        same = named is not None and named.sealed and named.digest == there
        return same or key in self.holes

    def sizes(self, namespace: str) -> dict[FileKey, int]:
        """Bytes of each file of a namespace that is named."""
        return {k: n.size_bytes for k, n in self.files.items() if k.namespace == namespace}

    def taking_back(self, name: str, given: Mapping[FileKey, Named]) -> Manifest:
        """As if `given`, all of the namespace, had not been given up."""
        files = {key: named for key, named in self.files.items() if key.namespace != name}
        return replace(
            self,
            files=files | dict(given),
            deleted=tuple(each for each in self.deleted if each != name),
            stale={key: digest for key, digest in self.stale.items() if key.namespace != name},
            given_up={k: named for k, named in self.given_up.items() if k.namespace != name},
        )

    @property
    def namespaces(self) -> list[str]:
        """Their names, sorted."""
        return sorted({key.namespace for key in self.files})

    def numbers(self, namespace: str, kind: Kind) -> list[int]:
        """The numbers of a namespace's index or data files, ascending."""
        return sorted(k.number for k in self.files if k.namespace == namespace and k.kind is kind)


def build(
    entries: Iterable[LedgerEntry],
    *,
    lineage: str,
    writer: str,
    sequence: int,
    deleted: Iterable[str] = (),
    stale: Mapping[FileKey, bytes] | None = None,
    given_up: Iterable[LedgerEntry] = (),
    holes: Iterable[FileKey] = (),
) -> Manifest:
    """The manifest of what the ledger says is stored."""
    files = named(entries)
    given = named(given_up)
    gone = tuple(sorted(set(deleted) - {key.namespace for key in (*files, *given)}))
    left = {key: digest for key, digest in (stale or {}).items() if key not in given}
    return Manifest(
        lineage, writer, sequence, time.time(), files, gone, left, given, frozenset(holes)
    )


def named(entries: Iterable[LedgerEntry]) -> dict[FileKey, Named]:
    """These entries as a manifest has them."""
    return {
        entry.key: Named(entry.size_bytes, entry.digest, entry.stored_at, entry.sealed)
        for entry in entries
    }


def entries_of(files: Mapping[FileKey, Named]) -> list[LedgerEntry]:
    """The inverse."""
    return [
        LedgerEntry(
            key=key,
            size_bytes=each.size_bytes,
            digest=each.digest,
            stored_at=each.stored_at,
            sealed=each.sealed,
        )
        for key, each in files.items()
    ]


_Rows = dict[str, dict[str, tuple[int, str, float, bool]]]


class _Wire(msgspec.Struct, forbid_unknown_fields=False):
    """As it is written, field by field in this order."""

    hookd: int
    lineage: str
    writer: str
    sequence: int
    written_at: float
    namespaces: _Rows
    deleted: list[str] = []
    stale: dict[str, dict[str, str]] = {}
    given_up: _Rows | msgspec.UnsetType = msgspec.UNSET
    holes: dict[str, list[str]] | msgspec.UnsetType = msgspec.UNSET
    sum: str = ""


class _Version(msgspec.Struct):
    hookd: int


def encode(manifest: Manifest) -> bytes:
    """Its bytes; `decode` is the inverse."""
    wire = _Wire(
        3 if manifest.holes else 2 if manifest.given_up else 1,
        manifest.lineage,
        manifest.writer,
        manifest.sequence,
        manifest.written_at,
        _rows(manifest.files),
        list(manifest.deleted),
    )
    if manifest.given_up:
        wire.given_up = _rows(manifest.given_up)
    if manifest.holes:
        wire.holes = {}
        for key in sorted(manifest.holes, key=lambda key: (key.namespace, key.number)):
            wire.holes.setdefault(key.namespace, []).append(key.name)
    for key, digest in manifest.stale.items():
        wire.stale.setdefault(key.namespace, {})[key.name] = digest.hex()
    wire.sum = _sum(wire)
    return msgspec.json.encode(wire) + b"\n"


def decode(content: bytes) -> Manifest:
    """Raises ManifestBad, ManifestNewer."""
    try:
        version = msgspec.json.decode(content, type=_Version).hookd
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestBad(f"the manifest in the store is damaged: {error}") from error
    if version > VERSION:
        raise ManifestNewer(
            f"the manifest in the store has version {version}, this hookd knows up to {VERSION}:"
            " it was written by a newer hookd; use that one"
        )
    try:
        wire = msgspec.json.decode(content, type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestBad(f"the manifest in the store is damaged: {error}") from error
    said, wire.sum = wire.sum, ""
    if said != _sum(wire):
        raise ManifestBad("the manifest in the store is damaged: its checksum is wrong")
    stale: dict[FileKey, bytes] = {}
    try:
        files = _files(wire.namespaces)
        given_up = {} if isinstance(wire.given_up, msgspec.UnsetType) else _files(wire.given_up)
        lacking = {} if isinstance(wire.holes, msgspec.UnsetType) else wire.holes
        holes = frozenset(_key(name, hole) for name, them in lacking.items() for hole in them)
        for namespace, digests in wire.stale.items():
            for name, digest in digests.items():
                stale[_key(namespace, name)] = bytes.fromhex(digest)
    except (PathRefused, ValueError) as error:
        raise ManifestBad(f"the manifest in the store is damaged: {error}") from error
    return Manifest(
        wire.lineage,
        wire.writer,
        wire.sequence,
        wire.written_at,
        files,
        tuple(wire.deleted),
        stale,
        given_up,
        holes,
    )


def _rows(files: Mapping[FileKey, Named]) -> _Rows:
    rows: _Rows = {}
    for key, each in files.items():
        row = (each.size_bytes, each.digest.hex(), each.stored_at, each.sealed)
        rows.setdefault(key.namespace, {})[key.name] = row
    return rows


def _files(rows: _Rows) -> dict[FileKey, Named]:
    """Raises PathRefused, ValueError."""
    return {
        _key(namespace, name): Named(size, bytes.fromhex(digest), stored_at, sealed)
        for namespace, files in rows.items()
        for name, (size, digest, stored_at, sealed) in files.items()
    }


def _key(namespace: str, name: str) -> FileKey:
    """Raises PathRefused."""
    return FileKey.named("data" if name.startswith("d") else "index", namespace, name, shown=name)


def _sum(wire: _Wire) -> str:
    return digest_of(msgspec.json.encode(wire)).hex()
