"""What an index file of zdb points to: read from its entries, never guessed.

In: the bytes of an iN; out: for each data file how many bytes it must at least have for every entry to
be readable. Layout: 0-db libzdb/index.h (header 29 bytes, version 4; item 34 bytes and the id) and
data.h (item header 18 bytes), packed, little-endian.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hookd.errors import HookdError
from hookd.files import NAMESPACE_FILE

HEADER_BYTES = 29
"""An index file of this length has no entries."""

DATA_HEADER_BYTES = 28
"""A data file of this length holds no value."""

_MAGIC = b"IDX0"
_NUMBER = struct.Struct("<I")
_NUMBER_AT = 24
_MODE_AT = 28
_USER_MODE = 0
_DELETED = 1
_ITEM = struct.Struct("<BIIIBIIIII")
"""idlength, offset, length, previous, flags, dataid, timestamp, crc, parentid, parentoff."""

VALUE_HEAD = struct.Struct("<BIIIBI")
"""Before each value: idlength, datalength, previous, crc, flags, timestamp; the id comes after it."""

_VALUE_HEADER_BYTES = VALUE_HEAD.size


_DESCRIPTOR = struct.Struct("<IBBQB")
"""Head of zdb-namespace: version, length of the name, of the password, maxsize, flags; then both."""

_DESCRIPTOR_VERSION = 1

DESCRIPTOR_HEAD_BYTES = _DESCRIPTOR.size


class NotAnIndex(HookdError):
    """These bytes are no index file of a zdb."""


@dataclass(slots=True)
class Reach:
    """What entries point to."""

    ends: dict[int, int] = field(default_factory=dict)
    """Data file number → bytes that it must at least have. Ids are not counted (zdb stores them in
    another length than the index does), so an end may be some bytes low; but a data file ends where a
    value ends, and the end of the value before lies lower still."""
    entries: int = 0
    newest: int = 0
    """The latest timestamp, Unix seconds; 0 without entries."""
    replaced: bool = False
    """Whether there are entries of a namespace in user mode that are flagged as deleted: an update flags
    the old entry where it lies and appends a new one to the active index, which nothing here points to.
    In sequential mode the old entry itself is rewritten (0-db libzdb/index_set.c)."""
    damaged_at: int | None = None
    """Where in one file the first entry begins that zdb cannot have written: without an id, or with a
    value that lies in the header of its data file. A machine that crashes leaves zeros where its file
    system had not written yet. The counts here go on after it."""
    sound: int = 0
    """How many entries come before that."""

    def add(self, other: Reach) -> None:
        """Both together."""
        for number, end in other.ends.items():
            self.ends[number] = max(end, self.ends.get(number, 0))
        self.entries += other.entries
        self.sound += other.sound
        self.replaced |= other.replaced
        self.newest = max(self.newest, other.newest)

    @property
    def last(self) -> tuple[int, int] | None:
        """(number, bytes) of the newest data file pointed to, None without entries."""
        return max(self.ends.items(), default=None)


def least_bytes(name: str, begin: bytes) -> int:
    """How long a file of zdb that begins so is at least, once zdb has made it.

    zdb makes a file, then writes its header; a descriptor in three pieces (0-db libzdb/namespace.c: head,
    name, password). Something else than a descriptor of version 1 is only known not to be empty.
    """
    if name == NAMESPACE_FILE and len(begin) >= _DESCRIPTOR.size:
        version, name_bytes, password_bytes, *_ = _DESCRIPTOR.unpack_from(begin)
        if version == _DESCRIPTOR_VERSION:
            return _DESCRIPTOR.size + int(name_bytes) + int(password_bytes)
    return 1


def has_password(descriptor: bytes) -> bool:
    """Whether a descriptor (zdb-namespace) sets one."""
    if len(descriptor) < _DESCRIPTOR.size:
        return False
    version, _, password_bytes, *_ = _DESCRIPTOR.unpack_from(descriptor)
    return bool(version == _DESCRIPTOR_VERSION and password_bytes > 0)


def reach_of(content: bytes) -> Reach:
    """What the entries of an index file point to. Raises NotAnIndex.

    An entry that is cut off at the end (copied while it was written) counts for nothing. In user mode
    iN points into dN, whatever its entries say: a new one says 0, and zdb itself takes the file's number
    (0-db zdbd/commands_set.c, libzdb/index_loader.c).
    """
    own = _own_data(content)
    found = Reach()
    ends = found.ends
    flags_seen = 0
    position, last = HEADER_BYTES, len(content) - _ITEM.size
    unpack = _ITEM.unpack_from
    while position <= last:
        idlength, offset, length, _, flags, dataid, timestamp, *_ = unpack(content, position)
        position += _ITEM.size + idlength
        if position > len(content):
            break
        if found.damaged_at is None and (not idlength or offset < DATA_HEADER_BYTES):
            found.damaged_at = position - _ITEM.size - idlength
            found.sound = found.entries
        if own is not None:
            dataid = own
        end = offset + _VALUE_HEADER_BYTES + length
        if end > ends.get(dataid, 0):
            ends[dataid] = end
        if timestamp > found.newest:
            found.newest = timestamp
        found.entries += 1
        flags_seen |= flags
    found.replaced = content[_MODE_AT] == _USER_MODE and bool(flags_seen & _DELETED)
    if found.damaged_at is None:
        found.sound = found.entries
    return found


def _own_data(content: bytes) -> int | None:
    """The number of the only data file that a namespace in user mode points into from here, None in
    sequential mode. Raises NotAnIndex.
    """
    if len(content) < HEADER_BYTES or content[:4] != _MAGIC:
        raise NotAnIndex(f"{len(content)} bytes without an index header")
    if content[_MODE_AT] != _USER_MODE:
        return None
    number: int = _NUMBER.unpack_from(content, _NUMBER_AT)[0]
    return number


class Age(enum.Enum):
    """One version of an index file, beside another."""

    NEWER = "newer"
    """It is the same, or what zdb may have made of the other."""
    OLDER = "older"
    """The other is what zdb may have made of it."""
    APART = "apart"
    """Neither: two histories."""


def age_of(content: bytes, other: bytes) -> Age:
    """How old `content` is beside `other`. Raises NotAnIndex.

    Entries are appended; one that is rewritten in place keeps its id and then points further on (another
    data file, a later offset), or is flagged as deleted (0-db libzdb/index_set.c, index_delete).
    """
    _own_data(content), _own_data(other)
    if content[_NUMBER_AT:HEADER_BYTES] != other[_NUMBER_AT:HEADER_BYTES]:
        return Age.APART
    ours, theirs = list(_walk(content)), list(_walk(other))
    newer, older = len(ours) > len(theirs), len(ours) < len(theirs)
    for mine, its in zip(ours, theirs, strict=False):
        if mine == its:
            continue
        if mine.id != its.id or (mine.place == its.place and mine.value != its.value):
            return Age.APART
        newer |= _is_older(its, mine)
        older |= _is_older(mine, its)
    if newer and older:
        return Age.APART
    return Age.OLDER if older else Age.NEWER


class _Entry(NamedTuple):
    """One entry of an index file."""

    at: int
    """Where it begins."""
    id: bytes
    place: tuple[int, int]
    """Data file and offset."""
    flags: int
    value: tuple[int, int]
    """Length and checksum."""


def _walk(content: bytes) -> Iterator[_Entry]:
    """Every whole entry."""
    position = HEADER_BYTES
    while position + _ITEM.size <= len(content):
        idlength, offset, length, _, flags, dataid, _, crc, *_ = _ITEM.unpack_from(
            content, position
        )
        at, start = position, position + _ITEM.size
        position = start + idlength
        if position > len(content):
            return
        yield _Entry(at, content[start:position], (dataid, offset), flags, (length, crc))


def _is_older(one: _Entry, other: _Entry) -> bool:
    """Of two versions of an entry: zdb appends values, so one that it rewrites points further on, and
    what it flagged as deleted stays so. Timestamps tell nothing: a SET may bring its own.
    """
    if one.place != other.place:
        return one.place < other.place
    return bool(other.flags & ~one.flags & _DELETED)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where one entry says that its value lies."""

    id: bytes
    offset: int
    length: int
    crc: int


def pointers_into(content: bytes, number: int) -> Iterator[Pointer]:
    """What the entries of an index file that are not deleted say of data file `number`. In user mode iN
    points into dN, as for `reach_of`. Raises NotAnIndex.
    """
    own = _own_data(content)
    for entry in _walk(content):
        data, offset = entry.place
        if (data if own is None else own) == number and not entry.flags & _DELETED:
            yield Pointer(entry.id, offset, *entry.value)


def older_at(content: bytes, other: bytes) -> int | None:
    """Where an entry of the index file `content` begins that is older than it is in `other`, a file of
    that name; None if none is, or the two are of different namespaces. Neither is damaged.
    """
    for mine, its in zip(_walk(content), _walk(other), strict=False):
        if mine.id != its.id:
            return None
        if _is_older(mine, its):
            return mine.at
    return None


def reach_of_file(path: Path) -> Reach:
    """The same of a file. Blocking; raises NotAnIndex, OSError."""
    return reach_of(path.read_bytes())


def is_sequential(path: Path) -> bool:
    """Whether the keys of an index file are numbers that zdb gives out; of an unreadable one, too."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError:
        return True
    return len(head) < HEADER_BYTES or head[_MODE_AT] != _USER_MODE
