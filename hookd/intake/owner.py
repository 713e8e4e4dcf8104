"""Stage intake, before it begins: whose spool is this?

In: the spool's folder, the journal; out: a mark in the spool that names the journal, or a refusal. While
a daemon runs its spool is locked; while none does, the mark keeps a daemon with another journal from
taking what shims left for the first one. It would keep that where nobody looks for it, and follow what
names nothing but a namespace.

A journal that was lost and begun anew takes the spool over: it is the one at the marked place, or nothing
is there any more. One that was moved is known by its id.

Weakness: two daemons with new journals at the same path, in containers that share a spool, are not told
apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import Exit, UserError
from hookd.log import get

log = get("spool")

OWNER = "owner"
"""The mark's name in the spool."""

UNFINISHED = ".owner"
"""A mark that is being written."""

_MAX_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Owner:
    """A journal, as a mark names it."""

    journal: Path
    id: str
    """Random, made with the journal and kept in it."""


def claim(spool: Path, owner: Owner, *, is_new: bool) -> bool:
    """Mark the spool as this journal's; `is_new`: it has just been made, or never had an id. Blocking.

    Returns whether it is marked. A mark that cannot be written is said and done without: the next start
    marks it; a new journal must still count as new then. Raises UserError for the spool of another
    journal, and changes nothing then.
    """
    found = read(spool)
    if found == owner:
        return True
    if found is not None and found.id != owner.id:
        in_its_place = _is_same(found.journal, owner.journal)
        if not is_new or (not in_its_place and _may_exist(found.journal)):
            which = (
                f"another journal that was {found.journal} once"
                if in_its_place
                else f"the journal {found.journal}, which is not the one of this hookd ({owner.journal})"
            )
            raise UserError(
                f"hook.spool: {spool} has the events for {which}: give this one a spool of its own; if"
                f" that journal is given up for good, remove {spool / OWNER}",
                code=Exit.UNAVAILABLE,
            )
        # in its own place its loss is known already
        say = log.info if in_its_place else log.warning
        say("takes over the spool of a journal that is gone", journal=str(found.journal))
    try:
        _write(spool, owner)
    except OSError as error:
        log.warning("the spool cannot be marked", folder=str(spool), error=str(error))
        with contextlib.suppress(OSError):
            os.unlink(spool / OWNER)  # it names a journal that is gone
            _sync(spool)
        return False
    return True


def read(spool: Path) -> Owner | None:
    """Whose mark lies there; None without one that this hookd (or root) has made."""
    try:
        handle = os.open(spool / OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            return None
        try:
            values = json.loads(file.read(_MAX_BYTES))
            return Owner(Path(values["journal"]), str(values["id"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether both name one place, perhaps through symbolic links."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _may_exist(path: Path) -> bool:
    """Whether a journal is there, or may be: what cannot be looked at is not gone."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _write(spool: Path, owner: Owner) -> None:
    """Whole or not at all."""
    content = json.dumps({"journal": str(owner.journal), "id": owner.id}) + "\n"
    temporary = spool / UNFINISHED
    handle = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    os.rename(temporary, spool / OWNER)
    _sync(spool)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
