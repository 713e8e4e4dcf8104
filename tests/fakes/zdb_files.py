"""How zdb's files are laid out (0-db v2.0.7, version 4 indexes, version 3 data), and their reader.

`answers` is what the tests ask of a restored store: every key's value, or the first that is wrong.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

INDEX_HEADER = struct.Struct("<4sIQQIB")
DATA_HEADER = struct.Struct("<4sIQQI")
INDEX_ITEM = struct.Struct("<BIIIBIIIII")
"""idlen, offset, length, previous, flags, dataid, timestamp, crc, parentid, parentoff; the id."""
DATA_ITEM = struct.Struct("<BIIIBI")
"""idlen, length, previous, crc, flags, timestamp; the id, the value."""

DELETED = 1
USER = 0
"""A mode in an index header: an update flags the entry where it lies, and appends another to the active
index. A new key's says 0 for its data file, whichever that is."""
SEQUENTIAL = 1
"""The mode in an index header: an update rewrites the entry where it lies."""


class Unreadable(Exception):
    """zdb would answer `Internal Error`, or other bytes than were written."""


@dataclass(slots=True)
class Place:
    """Where the entry of a key lies, and what it points to."""

    index: int
    position: int
    data: int
    offset: int
    length: int


def answers(index: Path, data: Path, *, only: str | None = None) -> dict[str, dict[bytes, bytes]]:
    """What a zdb started on these roots would say for every key of every namespace, or `only` one.

    Raises Unreadable for the first key whose entry points at nothing, or at other bytes.
    """
    found: dict[str, dict[bytes, bytes]] = {}
    for folder in sorted(path for path in index.iterdir() if path.is_dir()):
        if only not in (None, folder.name):
            continue
        keys = load_keys(folder)
        found[folder.name] = {
            key: value_at(data / folder.name / f"d{place.data}", key, place.offset, place.length)
            for key, place in keys.items()
        }
    return found


def load_keys(folder: Path) -> dict[bytes, Place]:
    """The entries of i0, i1, … up to the first number that is not there, as zdb loads them."""
    keys: dict[bytes, Place] = {}
    number = 0
    while (path := folder / f"i{number}").exists():
        raw = path.read_bytes()
        position = INDEX_HEADER.size
        user = is_user(raw)
        while position + INDEX_ITEM.size <= len(raw):
            idlen, offset, length, _, flags, dataid, *_ = INDEX_ITEM.unpack_from(raw, position)
            key = raw[position + INDEX_ITEM.size :][:idlen]
            if not flags & DELETED:
                keys[key] = Place(number, position, number if user else dataid, offset, length)
            elif user:
                keys.pop(key, None)
            position += INDEX_ITEM.size + idlen
        number += 1
    return keys


def value_at(path: Path, key: bytes, offset: int, length: int) -> bytes:
    """One value. Raises Unreadable."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"{key!r}: {path} is not there") from None
    if offset + DATA_ITEM.size > len(raw):
        raise Unreadable(f"{key!r}: {path} ends at {len(raw)}, before {offset}")
    idlen, size, _, crc, _, _ = DATA_ITEM.unpack_from(raw, offset)
    begin = offset + DATA_ITEM.size
    value = raw[begin + idlen : begin + idlen + size]
    if raw[begin : begin + idlen] != key or size != length or zlib.crc32(value) != crc:
        raise Unreadable(f"{key!r}: other bytes at {offset} of {path}")
    return value


def is_user(index: bytes) -> bool:
    """Whether an index file is of a namespace in user mode."""
    return len(index) >= INDEX_HEADER.size and index[INDEX_HEADER.size - 1] == USER


def header(kind: str, number: int, now: int, mode: int = SEQUENTIAL) -> bytes:
    """The first bytes of iN or dN; for "index" and "data"."""
    if kind == "index":
        return INDEX_HEADER.pack(b"IDX0", 4, now, now, number, mode)
    return DATA_HEADER.pack(b"DAT0", 3, now, now, number)


def data_entry(key: bytes, value: bytes, now: int) -> bytes:
    """One value with its head."""
    return DATA_ITEM.pack(len(key), len(value), 0, zlib.crc32(value), 0, now) + key + value


def index_entry(place: Place, key: bytes, value: bytes, now: int, flags: int) -> bytes:
    """One entry; `place` says where its value lies."""
    numbers = (place.offset, place.length, 0, flags, place.data, now, zlib.crc32(value), 0, 0)
    return INDEX_ITEM.pack(len(key), *numbers) + key


def descriptor(name: str, password: str = "") -> bytes:
    """What zdb-namespace holds for a public namespace."""
    texts = name.encode() + password.encode()
    return struct.pack("<IBBQB", 1, len(name), len(password), 0, 1) + texts
