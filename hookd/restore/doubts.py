"""What speaks against a restore, while it goes on: it ends it, or is only said.

In: what is altered, lacking or too short; out: Refused, or what is to be told at the end. The invariant:
what zdb is to serve is what its writer had, no less; to look at (`as_it_is`), all that there is.
"""

from __future__ import annotations

from collections.abc import Callable

from hookd.files import FileKey
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore.fit import Refused
from hookd.restore.proof import Altered
from hookd.restore.remote import There

log = get("restore")


class Doubts:
    """Of one restore."""

    def __init__(self, *, as_it_is: bool) -> None:
        """`as_it_is`: nothing is refused."""
        self._as_it_is = as_it_is
        self.first = ""
        """The first that was not refused."""
        self._holes: set[FileKey] = set()

    @property
    def holes(self) -> tuple[FileKey, ...]:
        """Data files that come not, or not whole, and that their writer had no better."""
        return tuple(sorted(self._holes, key=lambda key: key.number))

    def refuse(self, why: str) -> None:
        """Raises Refused, unless what is there is brought as it is."""
        if not self._as_it_is:
            raise Refused(why)
        self.first = self.first or why

    def sound(self, look: Callable[..., None], *arguments: object) -> None:
        """Raises Altered, unless what is there is brought as it is."""
        try:
            look(*arguments)
        except Altered as error:
            if not self._as_it_is:
                raise
            self.first = self.first or str(error)

    def lacks(
        self, there: There, manifest: Manifest | None, active: int, key: FileKey, why: str
    ) -> None:
        """Raises Refused, unless the store has all of a data file that its writer had.

        The active one has to be whole in any case: zdb appends to it, and lost entries would get values
        that are not theirs.
        """
        found = there.files.get(key)
        digest = None if found is None else found.digest
        if key.number < active and manifest is not None and manifest.has_all(key, digest):
            log.warning("some values were lost before it was stored", file=str(key), reason=why)
            self._holes.add(key)
        else:
            self.refuse(why)
