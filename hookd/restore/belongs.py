"""Whether a data file is the one that the index files here point into. Reads files; blocking.

Asked for a file that the store has of a namespace which was deleted, as far as the ledger knows: hooks
come out of order, so it may as well be of the namespace that was made anew under that name, stored before
its predecessor's deletion was heard of. An index entry has the key, the length and the CRC of its value,
and the head of the value has them too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from hookd.entries import VALUE_HEAD, NotAnIndex, Pointer, pointers_into
from hookd.files import FileKey, Kind, Roots, index_key


def belongs(roots: Roots, key: FileKey, path: Path) -> bool:
    """Whether there are entries for the data file `key`, and `path` has the value of each of them.

    Raises OSError.
    """
    found = False
    with path.open("rb") as data:
        for number in roots.numbers(Kind.INDEX, key.namespace):
            try:
                content = roots.path(index_key(key.namespace, number)).read_bytes()
                for pointer in pointers_into(content, key.number):
                    found = True
                    if not has(data, pointer):
                        return False
            except (NotAnIndex, FileNotFoundError):
                continue
    return found


def has(data: BinaryIO, pointer: Pointer) -> bool:
    """Whether the data file has the value that an entry names. Reads its head only; raises OSError."""
    data.seek(pointer.offset)
    head = data.read(VALUE_HEAD.size)
    if len(head) < VALUE_HEAD.size:
        return False
    id_bytes, length, _, crc, _, _ = VALUE_HEAD.unpack(head)
    if (length, crc) != (pointer.length, pointer.crc):
        return False
    # in sequential mode the two ids may be of another length
    own = data.read(id_bytes)
    if id_bytes == len(pointer.id) and own != pointer.id:
        return False
    ends: int = pointer.offset + VALUE_HEAD.size + id_bytes + length
    return ends <= os.fstat(data.fileno()).st_size
