"""What speaks against a restore, while it goes on: it ends it, or is only said.

In: what is altered, lacking or too short; out: Refused, or what is to be told at the end. The invariant:
what zdb is to serve is what its writer had, no less; to look at (`as_it_is`), all that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from hookd.files import FileKey, Kind
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore.fit import Refused
from hookd.restore.proof import Altered
from hookd.restore.remote import There

log = get("restore")


class Doubts:
    """Of one restore."""

    def __init__(
        self, *, as_it_is: bool, spares: bool = False, known: Collection[FileKey] = ()
    ) -> None:
        """`as_it_is`: nothing is refused; `spares`: somebody decided to do without the values of closed
        data files that are not there, or not as they were stored; of those `known` somebody did before.
        """
        self._as_it_is = as_it_is
        self._spares = spares
        self._known = known
        self.active = 0
        """The number of the data file that zdb goes on with: that one has to be whole in any case. zdb
        appends to it, and lost entries would get values that are not theirs."""
        self.first = ""
        """The first that was not refused."""
        self._holes: set[FileKey] = set()
        self.spared: set[FileKey] = set()
        """Data files that are not as they were stored, and are done without."""

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

    def altered(self, key: FileKey, why: str) -> None:
        """Raises Altered, unless it is brought as it is, or done without."""
        self._spare(key, Altered(why))

    def _spare(self, key: FileKey, refusal: Refused) -> None:
        refusal.spared = key.kind is Kind.DATA and key.number < self.active
        if self._as_it_is:
            self.first = self.first or str(refusal)
        elif refusal.spared and (self._spares or key in self._known):
            log.warning("restored without it, as was chosen", file=str(key), reason=str(refusal))
            self.spared.add(key)
        else:
            raise refusal

    def lacks(
        self, there: There, manifest: Manifest | None, key: FileKey, why: str, here: int
    ) -> None:
        """Raises Refused, unless the store has all of a data file that its writer had (what has `here`
        bytes here is no longer there), or it is done without.
        """
        found = there.files.get(key)
        size, digest = (0, None) if found is None else (found.size_bytes, found.digest)
        no_longer = not here or (size is not None and size <= here)
        had = manifest is not None and manifest.has_all(key, digest)
        if had and no_longer and key.number < self.active:
            log.warning("some values were lost before it was stored", file=str(key), reason=why)
            self._holes.add(key)
        else:
            self._spare(key, Refused(why))
