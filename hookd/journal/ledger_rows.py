"""The statements of the ledger: what is proven remote, and what is of namespaces that were deleted.

No transaction is opened or committed here; the journal does that around a batch. `settle`, which writes
a row together with its job, is in `tables`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from hookd.files import FileKey, Kind, data_key
from hookd.journal.records import LedgerEntry
from hookd.journal.tables import set_meta

_DELETED = "deleted/"
"""Prefix of the meta keys that name the namespaces which were deleted, each with when."""

_GIVEN_UP = "given-up/"
"""The same for those that an administrator gave up for what is here: [when, whether that was nothing]."""

_HOLES = "holes/"
"""The same for those with data files that were given up: their numbers."""

_SPARED = "spared/"
"""The same of files that the ledger has, and somebody does without: the store has lost them."""


def find_ledger(db: sqlite3.Connection, key: FileKey) -> LedgerEntry | None:
    """What is proven remote for `key`, unless its namespace was deleted since."""
    row = db.execute(
        "SELECT key, size_bytes, digest, stored_at, sealed, job, begun FROM ledger"
        " WHERE key = ? AND retired_at IS NULL",
        (str(key),),
    ).fetchone()
    return None if row is None else _entry(row)


def was_retired(db: sqlite3.Connection, key: FileKey) -> bool:
    """Whether what the store may have under the key is of a namespace that was deleted.

    Also of a file that the ledger never had: it may have been stored just before we died.
    """
    rows = db.execute("SELECT retired_at FROM ledger WHERE key = ?", (str(key),)).fetchall()
    if rows:
        return rows[0][0] is not None
    deleted = db.execute("SELECT 1 FROM meta WHERE key = ?", (_DELETED + key.namespace,))
    return deleted.fetchone() is not None


def ledger(db: sqlite3.Connection) -> list[LedgerEntry]:
    """Everything that is proven remote, retired namespaces left out."""
    rows = db.execute(
        "SELECT key, size_bytes, digest, stored_at, sealed, job, begun FROM ledger"
        " WHERE retired_at IS NULL"
    )
    return [_entry(row) for row in rows]


def ledger_page(
    db: sqlite3.Connection, after: str, limit: int, prefix: str = ""
) -> list[LedgerEntry]:
    """At most `limit` entries whose key comes after `after` and begins with `prefix`, in the order of
    their keys as text, retired namespaces left out.
    """
    # a prefix ends with "/", and "0" is the character after it; all keys come before "z"
    end = f"{prefix[:-1]}0" if prefix else "z"
    rows = db.execute(
        "SELECT key, size_bytes, digest, stored_at, sealed, job, begun FROM ledger"
        " WHERE key > ? AND key < ? AND retired_at IS NULL ORDER BY key LIMIT ?",
        (max(after, prefix), end, limit),
    )
    return [_entry(row) for row in rows]


def note_found(db: sqlite3.Connection, entries: Sequence[LedgerEntry]) -> None:
    """The store has these files, and nobody here knew; what is known, also of a deleted namespace,
    stays as it is.
    """
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, 0, NULL, 0) ON CONFLICT (key) DO NOTHING",
        [
            (str(each.key), each.size_bytes, each.digest, each.stored_at, int(each.sealed))
            for each in entries
        ],
    )


def ledger_totals(db: sqlite3.Connection) -> tuple[int, int]:
    """(files, bytes) that are proven remote, retired namespaces left out."""
    files, size = db.execute(
        "SELECT count(*), coalesce(sum(size_bytes), 0) FROM ledger WHERE retired_at IS NULL"
    ).fetchone()
    return files, size


def retire(db: sqlite3.Connection, namespace: str, now: float) -> None:
    """The namespace was deleted: its files stay remote, but another one may take the name."""
    set_meta(db, _GIVEN_UP + namespace, None)
    set_meta(db, _HOLES + namespace, None)
    set_meta(db, _SPARED + namespace, None)
    _retire(db, namespace, now)


def give_up(
    db: sqlite3.Connection,
    namespace: str,
    there: Sequence[LedgerEntry],
    now: float,
    *,
    blank: bool,
) -> None:
    """As `retire`, but `there`, what the store has, stays the whole that can be had back until an index
    of what is here is stored in its place. `blank`: nothing is here.
    """
    before = _given_up_at(db).get(namespace)
    set_meta(db, _SPARED + namespace, None)
    _retire(db, namespace, now)
    at = math.nextafter(now, math.inf)  # not what the ledger had beside that
    if any(each.key.kind is Kind.INDEX for each in there):
        set_meta(db, _GIVEN_UP + namespace, [at, blank])
        _put_aside(db, there, at)
    elif before is not None:  # twice, and nothing whole was stored in between
        set_meta(db, _GIVEN_UP + namespace, [before, blank])


def _put_aside(db: sqlite3.Connection, entries: Sequence[LedgerEntry], at: float) -> None:
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, 0, ?, 0)"
        " ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes,"
        " digest = excluded.digest, stored_at = excluded.stored_at, sealed = excluded.sealed,"
        " retired_at = excluded.retired_at WHERE retired_at IS NOT NULL",
        [(str(e.key), e.size_bytes, e.digest, e.stored_at, int(e.sealed), at) for e in entries],
    )


def _given_up_at(db: sqlite3.Connection) -> dict[str, float]:
    """Namespace → when."""
    rows = db.execute(
        "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(_GIVEN_UP), _GIVEN_UP)
    )
    return {key[len(_GIVEN_UP) :]: float(json.loads(value)[0]) for key, value in rows}


def _has_index(db: sqlite3.Connection, namespace: str) -> bool:
    prefix = f"index/{namespace}/i"
    row = db.execute(
        "SELECT 1 FROM ledger WHERE retired_at IS NULL AND substr(key, 1, ?) = ? LIMIT 1",
        (len(prefix), prefix),
    ).fetchone()
    return row is not None


def given_up(db: sqlite3.Connection) -> list[LedgerEntry]:
    """What was given up and can still be had back."""
    found: list[LedgerEntry] = []
    for namespace, at in _given_up_at(db).items():
        if _has_index(db, namespace):
            continue
        rows = db.execute(
            "SELECT key, size_bytes, digest, stored_at, sealed, job, begun FROM ledger"
            " WHERE retired_at = ?",
            (at,),
        )
        found += [each for each in map(_entry, rows) if each.key.namespace == namespace]
    return found


def begun_blank(db: sqlite3.Connection) -> set[str]:
    """Namespaces that were given up for nothing: somebody chose to begin anew."""
    rows = db.execute(
        "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(_GIVEN_UP), _GIVEN_UP)
    )
    return {key[len(_GIVEN_UP) :] for key, value in rows if json.loads(value)[1]}


def adopt_given_up(db: sqlite3.Connection, entries: Sequence[LedgerEntry], now: float) -> None:
    """Another frontend gave these up; of namespaces that have something whole, or were given up here,
    nothing is taken over.
    """
    known = _given_up_at(db)
    for namespace in sorted({each.key.namespace for each in entries}):
        if namespace not in known and not _has_index(db, namespace):
            set_meta(db, _GIVEN_UP + namespace, [now, False])
            _put_aside(db, [each for each in entries if each.key.namespace == namespace], now)


def note_holes(db: sqlite3.Connection, keys: Collection[FileKey], *, spared: bool = False) -> None:
    """These data files were given up, and entries that are stored may point into them. `spared`: the
    ledger has them, and goes on to.
    """
    prefix = _SPARED if spared else _HOLES
    known = _holes(db, prefix)
    for key in keys:
        known.setdefault(key.namespace, set()).add(key.number)
    for namespace in {key.namespace for key in keys}:
        set_meta(db, prefix + namespace, sorted(known[namespace]))


def holes(db: sqlite3.Connection) -> list[FileKey]:
    """Data files that were given up and were not stored whole since, and those that are spared."""
    given_up, spared = (
        {
            data_key(name, number)
            for name, numbers in _holes(db, prefix).items()
            for number in numbers
        }
        for prefix in (_HOLES, _SPARED)
    )
    whole = {key for key in given_up if (found := find_ledger(db, key)) and found.sealed}
    return sorted(given_up - whole | spared, key=str)


def _holes(db: sqlite3.Connection, prefix: str) -> dict[str, set[int]]:
    rows = db.execute(
        "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)
    )
    return {key[len(prefix) :]: set(json.loads(value)) for key, value in rows}


def _retire(db: sqlite3.Connection, namespace: str, now: float) -> None:
    set_meta(db, _DELETED + namespace, now)
    db.execute(
        "UPDATE ledger SET retired_at = ? WHERE retired_at IS NULL"
        " AND (substr(key, 1, ?) = ? OR substr(key, 1, ?) = ?)",
        (
            now,
            len(f"data/{namespace}/"),
            f"data/{namespace}/",
            len(f"index/{namespace}/"),
            f"index/{namespace}/",
        ),
    )


def retire_file(db: sqlite3.Connection, key: FileKey, now: float) -> None:
    """As `retire`, for one file."""
    db.execute(
        "UPDATE ledger SET retired_at = ? WHERE retired_at IS NULL AND key = ?", (now, str(key))
    )


def forget(db: sqlite3.Connection, keys: Sequence[FileKey]) -> None:
    """The store has lost these: nothing is known of them any more."""
    db.executemany(
        "DELETE FROM ledger WHERE retired_at IS NULL AND key = ?", [(str(key),) for key in keys]
    )


def deleted_namespaces(db: sqlite3.Connection) -> list[str]:
    """Names under which the store still has files of a deleted namespace, and none of another."""
    names = "substr(key, instr(key, '/') + 1)"
    rows = db.execute(
        f"SELECT substr({names}, 1, instr({names}, '/') - 1) AS name FROM ledger"
        " GROUP BY name HAVING count(*) = count(retired_at) ORDER BY name"
    )
    given = {each.key.namespace for each in given_up(db)}
    return [name for (name,) in rows if name not in given]


def retired(db: sqlite3.Connection) -> dict[FileKey, bytes]:
    """Files of deleted namespaces, and of those given up, that the store still has, and their digests."""
    rows = db.execute("SELECT key, digest FROM ledger WHERE retired_at IS NOT NULL")
    return {FileKey.parse(key): digest for key, digest in rows}


def adopt_retired(db: sqlite3.Connection, stale: Mapping[FileKey, bytes], now: float) -> None:
    """The store has these files of deleted namespaces; what is known stays as it is."""
    db.executemany(
        "INSERT INTO ledger VALUES (?, 0, ?, ?, 0, 0, ?, 0) ON CONFLICT (key) DO NOTHING",
        [(str(key), digest, now, now) for key, digest in stale.items()],
    )


def disown(db: sqlite3.Connection, found: Mapping[FileKey, bytes], now: float) -> None:
    """The store has these files, and they are nobody's; what is ours stays."""
    db.executemany(
        "INSERT INTO ledger VALUES (?, 0, ?, ?, 0, 0, ?, 0)"
        " ON CONFLICT (key) DO UPDATE SET digest = excluded.digest WHERE retired_at IS NOT NULL",
        [(str(key), digest, now, now) for key, digest in found.items()],
    )


def adopt(
    db: sqlite3.Connection,
    entries: Sequence[LedgerEntry],
    seen: Mapping[FileKey, bytes] | None = None,
) -> None:
    """The store has these files, whoever stored them. `seen`: the digests that the ledger had when the
    store was looked at; entries that are others by now stay.
    """
    if seen is not None:
        now = dict(db.execute("SELECT key, digest FROM ledger WHERE retired_at IS NULL"))
        entries = [e for e in entries if now.get(str(e.key)) in (None, seen.get(e.key))]
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, 0, NULL, 0)"
        " ON CONFLICT (key) DO UPDATE SET size_bytes = excluded.size_bytes,"
        " digest = excluded.digest, stored_at = excluded.stored_at, sealed = excluded.sealed,"
        " job = max(ledger.job, 0), retired_at = NULL",
        [
            (str(each.key), each.size_bytes, each.digest, each.stored_at, int(each.sealed))
            for each in entries
        ],
    )


def _entry(row: tuple[str, int, bytes, float, int, int, int]) -> LedgerEntry:
    return LedgerEntry(
        key=FileKey.parse(row[0]),
        size_bytes=row[1],
        digest=row[2],
        stored_at=row[3],
        sealed=bool(row[4]),
        job=row[5],
        begun=row[6],
    )
