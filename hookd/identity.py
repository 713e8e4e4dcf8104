"""Who this frontend is to the store: the name that it writes, and which manifests are its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

MAX_FORMER = 64
"""So many starts ago a manifest may have been written, and be known as ours."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What this frontend wrote last."""

    lineage: str
    writer: str
    sequence: int
    digest: str
    """Of the manifest's bytes, hex; empty before the first one."""
    coming: tuple[str, ...] = ()
    """Digests of those that were begun since: one that was given up may yet take effect."""
    named: bool = True
    """Whether the store has had our name; else `digest` is the manifest that was there before ours."""
    home: str = ""
    """Where the process that wrote it ran, see `home_of`."""
    former: tuple[str, ...] = ()
    """Names under which the processes before this one wrote, none but theirs in between."""

    def renamed(self, writer: str) -> Identity:
        """Under a new name: what was written under the old one stays known as ours."""
        return replace(self, writer=writer, former=(*self.former, self.writer)[-MAX_FORMER:])

    def wrote(self, *, lineage: str, writer: str, sequence: int) -> bool:
        """Whether a manifest is of this frontend: an older one, where it is not the last.

        A copy of this journal that goes on writes under a name made later, not known here.
        """
        if lineage != self.lineage:
            return False
        return writer == self.writer or (writer in self.former and sequence <= self.sequence)

    def goes_on(self, *, lineage: str, writer: str, sequence: int) -> bool:
        """Whether what waits here is newer than what such a manifest names: it is ours, and no later one
        than ours. One of our own from after this was written shows that this is an older copy of itself,
        set back: what waits in it was stored since, or is another history.
        """
        if not self.wrote(lineage=lineage, writer=writer, sequence=sequence):
            return False
        return sequence <= self.sequence + min(1, len(self.coming))

    @property
    def digests(self) -> set[str]:
        """Manifests that are ours."""
        return {each for each in (self.digest, *self.coming) if each}

    def as_meta(self) -> dict[str, object]:
        """As the journal keeps it; `identity_of` is the inverse."""
        return {
            "lineage": self.lineage,
            "writer": self.writer,
            "sequence": self.sequence,
            "digest": self.digest,
            "coming": " ".join(self.coming),
            "named": self.named,
            "home": self.home,
            "former": " ".join(self.former),
        }


def identity_of(meta: Mapping[str, object]) -> Identity | None:
    """What the journal says, None for a new one."""
    found = meta.get("identity")
    if not isinstance(found, dict):
        return None
    try:
        return Identity(
            str(found["lineage"]),
            str(found["writer"]),
            int(found["sequence"]),
            str(found["digest"]),
            tuple(str(found.get("coming", "")).split()),
            bool(found.get("named", True)),
            str(found.get("home", "")),
            tuple(str(found.get("former", "")).split()),
        )
    except (KeyError, TypeError, ValueError):
        return None


def home_of(journal: Path) -> str:
    """This boot of this machine, and this very file, whose lock only one process has: who wrote from here
    before has ended. A copy of the file, or of the machine, is another home. Blocking.
    """
    try:
        found = os.stat(journal)
        return f"{BOOT_ID.read_text('ascii').strip()}/{found.st_dev}/{found.st_ino}"
    except OSError:
        return ""
