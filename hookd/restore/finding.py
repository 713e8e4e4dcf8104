"""What a survey decided, and the findings that stay: `Holds`, durable, shared with policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from hookd.errors import JournalError
from hookd.journal import Journal
from hookd.log import get
from hookd.restore.table import Decision, Here, There

log = get("survey")

APART = (Here.OLDER, Here.FOREIGN)
"""What is here and what is there are not the same history."""

WITH_FILES = (Here.COMPLETE, Here.GAP, Here.NO_ACTIVE_DATA, Here.NO_DESCRIPTOR)
"""Where the data files here can be compared with those that the manifest names."""


class Waits(Exception):
    """Something must come from the store, and cannot now."""


@dataclass(slots=True)
class Finding:
    """What was decided for one namespace."""

    decision: Decision
    here: Here
    there: There
    reason: str = ""
    """Why it is refused."""
    brought: str = ""
    """What a restore brought."""


def to_decide(name: str) -> str:
    """What somebody can do about a namespace that is refused."""
    return f"`hookd restore {name} --take local|remote` decides"


def not_whole(name: str, *, nothing: bool, spared: bool = False) -> str:
    """The same where the store lacks what would make a whole, or has something else. `nothing` is here;
    `spared`: all but the values of one closed data file can be had.
    """
    local = "begins anew, blank" if nothing else "serves what is here"
    remote = f" `hookd restore {name} --take remote` does without its values," if spared else ""
    return (
        f"bring the right file back into the store and start zdb again, or{remote}"
        f" `hookd restore {name} --take local` {local}, and gives up what is stored;"
        f" `hookd restore {name} --to DIR` brings what is there, as it is"
    )


@dataclass(slots=True)
class Holds:
    """Namespace → why it takes no stores."""

    journal: Journal
    held: dict[str, str]
    """The shared finding."""
    changed: Callable[[], Awaitable[None]]
    """Told when `held` was replaced."""

    async def keep(self, held: Mapping[str, str]) -> None:
        """Replace the finding, here and in the journal."""
        self.held.clear()
        self.held.update(held)
        try:
            await self.journal.set_meta("held", dict(held) or None)
        except JournalError as error:  # zdb must not wait for a disk that is full
            log.error("finding not kept", error=str(error))
        await self.changed()
        for namespace, reason in held.items():
            log.error("held", namespace=namespace, reason=reason)

    async def add(self, held: Mapping[str, str]) -> None:
        """Hold these too."""
        await self.keep({**self.held, **held})
