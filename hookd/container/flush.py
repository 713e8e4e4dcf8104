"""Stage stop, zdbfs's own word: its log lines → what it could not write to zdb.

zdbfs 0.1.11 ends with 0 whatever became of its last flush (cache.c, `zdbfs_cache_clean`): an inode
that zdb refuses is passed over, and a block that it refuses ends the flush. Only its log says so. What it
holds while it runs it tries again every ten seconds, and in the last flush: then the same words mean
nothing.

The inode of a file that zdb refuses when the file is closed (`zdbfs_cache_release`) is not tried again,
but whoever wrote it mostly was told (EIO), or wrote it again: that is worth a line, and no exit code.

Pure. Weakness: a block that it cannot fetch back from zdbfs-temp it passes over without a word.
"""

from __future__ import annotations

from collections.abc import Callable

_MOUNTED = b"[+] fuse: ready"
_BEGINS = b"[+] cache: forcing cache flush"
_IN_FLUSH = (
    b"[-] cache: could not write inode in the backend",
    b"[-] cache flush: blockid mismatch",
)
_CLOSED = b"[-] cache release: could not write to backend"


class Flush:
    """Of the zdbfs that runs, or ended last."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is told what no stop has to wait for: files that could not be closed well, once it ends;
        and of a flush in the midst of the container's life, once another zdbfs runs.
        """
        self._say = say
        self._flushing = False
        self._times = 0
        self._first = ""
        self._closed = 0

    def hear(self, lines: bytes) -> None:
        """Whole lines as `loglines.Lines` gives them, each behind the name of its service."""
        for line in lines.splitlines():
            self._hear(line.partition(b": ")[2])

    def _hear(self, said: bytes) -> None:
        if said.startswith(_MOUNTED):
            self._tell_closed()
            if line := self.unwritten:
                self._say(line)
            self._flushing, self._times, self._first = False, 0, ""
        elif said.startswith(_BEGINS):
            self._flushing = True
            self._tell_closed()
        elif said.startswith(_CLOSED):
            self._closed += 1
        elif self._flushing and said.startswith(_IN_FLUSH):
            self._times += 1
            self._first = self._first or said.removeprefix(b"[-] ").decode("utf-8", "replace")

    def _tell_closed(self) -> None:
        if self._closed:
            times = "once" if self._closed == 1 else f"{self._closed} times"
            self._say(
                f"zdb refused a file that was closed, {times} since zdbfs runs: what was written to it"
                " last may be missing if it was not written again"
            )
        self._closed = 0

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
