"""What namespaces-init does with a namespace: one table, pure. docs/reference/restore.md prints it.

| here \\ in the store  | manifest | files only | proven empty | lost   | unreachable | blind |
|-----------------------|----------|------------|--------------|--------|-------------|-------|
| empty                 | restore  | restore    | serve        | refuse | wait        | wait  |
| complete              | serve    | serve      | serve        | serve  | serve       | serve |
| gap in the indexes    | restore  | restore    | refuse       | refuse | wait        | wait  |
| active data absent    | restore  | restore    | refuse       | refuse | wait        | wait  |
| descriptor absent     | restore  | restore    | serve        | refuse | wait        | wait  |
| older than the store  | refuse   | refuse     | serve        | refuse | wait        | wait  |
| of another lineage    | refuse   | refuse     | serve        | serve  | serve       | serve |
| interrupted restore   | restore  | restore    | refuse       | refuse | wait        | wait  |

*Restore* brings what is absent and never touches what is there. *Serve* with a store that cannot be read
means: zdb is served at once, and nothing is stored before the manifest was compared. *Another lineage* is
known only once it was read, *older* without it where the journal has what was stored. *Wait* blocks zdb,
says why every 10 s, and goes on by itself. *Refuse* answers `ready` with 1; `hookd restore NAMESPACE
--take local|remote` decides.

A journal that never had this store (a new one, or its disk was lost) cannot say that nothing is stored:
with a store that cannot be read, blank files are then *empty*, files without a descriptor lack it, and
each configured namespace is decided, on disk or not.
"""

from __future__ import annotations

import enum


class Here(enum.Enum):
    """What is on disk."""

    EMPTY = "empty"
    """No index files, or only those that zdb makes where it finds none and more may be stored."""
    COMPLETE = "complete"
    """zdb can load it, and nothing is known of more."""
    GAP = "gap in the indexes"
    NO_ACTIVE_DATA = "active data absent"
    NO_DESCRIPTOR = "descriptor absent"
    """zdb would make it anew: public, without a password."""
    OLDER = "older than the store"
    """A file is shorter here than in the store, or the newest ones are absent: a disk rolled back."""
    FOREIGN = "of another lineage"
    """Its files are another history than those in the store."""
    INTERRUPTED = "interrupted restore"


class There(enum.Enum):
    """What is in the store."""

    MANIFEST = "manifest"
    """A manifest names files of this namespace."""
    FILES = "files only"
    """No manifest does, but files are there (stored by hook.sh, or since the last manifest)."""
    EMPTY = "proven empty"
    LOST = "lost"
    """Proven empty, and the journal says that index files were stored: another store, or a wiped one."""
    UNREACHABLE = "unreachable"
    BLIND = "blind"
    """It answers, but says "not found" of everything (zstor)."""


class Decision(enum.Enum):
    """What comes of it."""

    SERVE = "serve"
    RESTORE = "restore"
    WAIT = "wait"
    REFUSE = "refuse"


_S, _R, _W, _N = Decision.SERVE, Decision.RESTORE, Decision.WAIT, Decision.REFUSE

_COLUMNS = (There.MANIFEST, There.FILES, There.EMPTY, There.LOST, There.UNREACHABLE, There.BLIND)

_ROWS = {
    Here.EMPTY: (_R, _R, _S, _N, _W, _W),
    Here.COMPLETE: (_S, _S, _S, _S, _S, _S),
    Here.GAP: (_R, _R, _N, _N, _W, _W),
    Here.NO_ACTIVE_DATA: (_R, _R, _N, _N, _W, _W),
    Here.NO_DESCRIPTOR: (_R, _R, _S, _N, _W, _W),
    Here.OLDER: (_N, _N, _S, _N, _W, _W),
    Here.FOREIGN: (_N, _N, _S, _S, _S, _S),
    Here.INTERRUPTED: (_R, _R, _N, _N, _W, _W),
}

TABLE: dict[tuple[Here, There], Decision] = {
    (here, there): decision
    for here, row in _ROWS.items()
    for there, decision in zip(_COLUMNS, row, strict=True)
}


def decide(here: Here, there: There) -> Decision:
    """One cell."""
    return TABLE[here, there]
