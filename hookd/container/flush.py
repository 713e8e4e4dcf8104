"""Stage stop, zdbfs's own word: its log lines → what it could not write to zdb.

zdbfs 0.1.11 ends with 0 whatever became of its last flush (cache.c, `zdbfs_cache_clean`): an inode that
zdb refuses is passed over, and a block that it refuses ends the flush. A file that cannot be written when
it is closed is not tried again either (`zdbfs_cache_release`). Only its log says so. What else it holds
while it runs it tries again every ten seconds, and in the last flush: then the same words mean nothing.

Pure. Weaknesses: a block that it cannot fetch back from zdbfs-temp it passes over without a word; a file
whose closing failed may have been written whole by somebody later, and counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable

_MOUNTED = b"[+] fuse: ready"
_BEGINS = b"[+] cache: forcing cache flush"
_IN_FLUSH = (
    b"[-] cache: could not write inode in the backend",
    b"[-] cache flush: blockid mismatch",
)
_ALWAYS = (b"[-] cache release: could not write to backend",)


class Flush:
    """Of the zdbfs that runs, or ended last."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is told of one that ended in the midst of the container's life, once another one runs."""
        self._say = say
        self._flushing = False
        self._times = 0
        self._first = ""

    def hear(self, lines: bytes) -> None:
        """Whole lines as `loglines.Lines` gives them, each behind the name of its service."""
        for line in lines.splitlines():
            self._hear(line.partition(b": ")[2])

    def _hear(self, said: bytes) -> None:
        if said.startswith(_MOUNTED):
            if line := self.unwritten:
                self._say(line)
            self._flushing, self._times, self._first = False, 0, ""
        elif said.startswith(_BEGINS):
            self._flushing = True
        elif said.startswith(_ALWAYS) or (self._flushing and said.startswith(_IN_FLUSH)):
            self._times += 1
            self._first = self._first or said.removeprefix(b"[-] ").decode("utf-8", "replace")

    @property
    def unwritten(self) -> str:
        """A line about what it could not write; empty if it wrote all, as far as it says."""
        if not self._times:
            return ""
        times = f" {self._times} times" if self._times > 1 else ""
        return (
            f"zdbfs could not write all it held to zdb (it said{times}: {self._first}): files that were"
            " written or changed before may be missing or incomplete"
        )
