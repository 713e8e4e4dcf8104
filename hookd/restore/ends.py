"""How much of a data file the index files here point into. Reads files; blocking.

Asked for a file that zdb asks back: it never asks again for one that is there and too short, and an entry
of any index file may point into it. What was read of a file is kept for as long as that is the same.
"""

from __future__ import annotations

import os

from hookd.entries import NotAnIndex, reach_of_file
from hookd.files import FileKey, Kind, Roots, index_key

_Identity = tuple[int, int, int, int]
"""Size, mtime, ctime, inode: of a file that nobody touched it stays."""


class Ends:
    """Remembers what it read. Used by one thread at a time for one namespace; two only read twice."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._read: dict[FileKey, tuple[_Identity, dict[int, int]]] = {}

    def of(self, key: FileKey) -> int:
        """Bytes of the data file `key` that entries here need, 0 if none points into it.

        An index file that cannot be read tells nothing: the audit names it.
        """
        ends = [
            self._in(index_key(key.namespace, number)).get(key.number, 0)
            for number in self._roots.numbers(Kind.INDEX, key.namespace)
        ]
        return max(ends, default=0)

    def _in(self, key: FileKey) -> dict[int, int]:
        path = self._roots.path(key)
        try:
            found = os.lstat(path)
            identity = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            known = self._read.get(key)
            if known is None or known[0] != identity:
                known = self._read[key] = (identity, reach_of_file(path).ends)
        except (NotAnIndex, OSError):
            return {}
        return known[1]
