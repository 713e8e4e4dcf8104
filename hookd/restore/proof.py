"""Is what the store has what was stored? Asked of every file before it is placed.

The store's own checksum only says that a file came whole: bytes that were altered there have one, too.
What our ledger says was proven has to be there byte by byte. What only a manifest names may have been
stored again since, by a frontend that died before its next manifest: zdb appends to a data file, so what
was named has to be its beginning; an index is rewritten in place, so its entries have to be those of the
values in the data files that are here or come with it.

Weakness: an index that differs from a manifest which is not ours is not compared with data files that
come later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from hookd.entries import NotAnIndex, pointers_into
from hookd.files import FileKey, Kind, data_key
from hookd.manifest import Manifest
from hookd.restore.belongs import has
from hookd.restore.compare import prefix_digest
from hookd.restore.fit import Refused
from hookd.restore.remote import There

OTHER = "has other content in the store than was stored"
"""In each such refusal."""

Proven = Mapping[FileKey, Collection[bytes]]
"""File → digests of what we have put there, or are about to."""


class Altered(Refused):
    """The store has other bytes than were stored. No choice mends that."""


Altering = Callable[[FileKey, str], None]
"""Told a file that is not what was stored, and why; may raise Altered."""


def as_proven(keys: Collection[FileKey], there: There, proven: Proven, altered: Altering) -> None:
    """Those of `keys` that the store has are what our ledger says; of the others `altered` is told."""
    for key in sorted(keys, key=str):
        digests, found = proven.get(key), there.files.get(key)
        if not digests or found is None or key in there.waiting or found.digest in digests:
            continue
        known = ", ".join(sorted(each.hex() for each in digests))
        altered(key, f"{key} {OTHER} ({found.digest.hex()}, not {known})")


def as_named(there: There, manifest: Manifest | None, altered: Altering) -> None:
    """A sealed data file never changes: other content than the manifest names is somebody else's, stored
    over it by mistake, and the entries here point into the other one. `altered` is told.
    """
    for key, found in sorted(there.files.items(), key=lambda item: str(item[0])):
        named = manifest.files.get(key) if manifest else None
        sealed = named is not None and named.sealed and key.kind is Kind.DATA
        if sealed and named is not None and named.digest != found.digest:
            altered(
                key,
                f"{key} is sealed, and in the store it has other content than the manifest names"
                f" ({found.digest.hex()}, not {named.digest.hex()})",
            )


def as_continued(
    fetched: Collection[FileKey],
    there: There,
    manifest: Manifest | None,
    where: Callable[[FileKey], Path],
) -> None:
    """What was fetched and is not what the manifest names is what zdb may have made of that since.
    `where` finds a file that is here or was fetched. Reads files; blocking. Raises Altered.
    """
    if manifest is None:
        return
    for key in sorted(fetched, key=str):
        named, found = manifest.files.get(key), there.files.get(key)
        if named is None or found is None or key in there.waiting or named.digest == found.digest:
            continue
        size = named.size_bytes  # 0: nobody knows
        if key.kind is Kind.DATA and size and prefix_digest(where(key), size) != named.digest:
            raise Altered(
                f"{key} {OTHER}: it does not begin with the {size} bytes that the manifest names"
                f" ({named.digest.hex()})"
            )
        if key.kind is Kind.INDEX:
            _points_to_values(key, {*fetched, *there.files}, where)


def _points_to_values(
    key: FileKey, keys: Collection[FileKey], where: Callable[[FileKey], Path]
) -> None:
    content = where(key).read_bytes()
    for number in sorted({each.number for each in keys if each.kind is Kind.DATA}):
        try:
            data = where(data_key(key.namespace, number)).open("rb")
        except FileNotFoundError:
            continue  # it comes when zdb asks for it
        with data:
            try:
                wrong = next((p for p in pointers_into(content, number) if not has(data, p)), None)
            except NotAnIndex as error:
                raise Altered(f"{key} {OTHER}: {error}") from error
        if wrong is not None:
            raise Altered(
                f"{key} {OTHER}: an entry names byte {wrong.offset} of d{number}, and another value is"
                " there"
            )
