"""What the store holds, compared with what zdb had: by its own reading, hashing and counting.

Nothing of hookd's own judgement is used: not its ledger, not its checksums. From the journal come
only the events (what was announced), read from the file once the daemon has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hookd.demo.report import Events, Namespace, Report

DESCRIPTOR = "zdb-namespace"


def blake2b(path: Path) -> str:
    """Of the content of a file, in full length."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def local_files(folder: Path) -> dict[str, str]:
    """`index/NS/iN` → BLAKE2b of every file of a namespace under `folder`."""
    found = {}
    for root in ("index", "data"):
        for path in sorted((folder / root).glob("*/*")):
            found[str(path.relative_to(folder))] = blake2b(path)
    return found


def journal_events(journal: Path) -> list[tuple[list[str], str]]:
    """(argv, origin) of every event that the journal has."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT argv, origin FROM events ORDER BY seq").fetchall()
    return [(json.loads(argv), origin) for argv, origin in rows]


def announced_files(calls: Iterable[Sequence[str]]) -> set[str]:
    """The files that hook calls name, one by one or by their numbers.

    In any order: a namespace that was deleted counts as never made.
    """
    found: set[str] = set()
    deleted: set[str] = set()
    for name, _, *rest in calls:
        if name in ("jump-index", "jump-data"):
            found |= {_key(rest[0]), *_rewritten(rest[0], rest[2:])}
        elif name == "namespace-closing":
            found |= {_key(rest[1]), _key(rest[2]), *_rewritten(rest[1], rest[3:])}
        if name in ("namespace-created", "namespace-updated", "namespace-closing"):
            found.add(f"index/{rest[0]}/{DESCRIPTOR}")
        elif name == "namespace-deleted":
            deleted.add(rest[0])
    return {key for key in found if key.split("/")[1] not in deleted}


def _key(path: str) -> str:
    return "/".join(path.split("/")[-3:])


def _rewritten(index: str, numbers: Sequence[str]) -> list[str]:
    """The older index files of a list such as `"0 4"`, beside `index`."""
    folder = _key(index).rpartition("/")[0]
    return [f"{folder}/i{number}" for text in numbers for number in text.split()]


def compare(report: Report, wanted: Mapping[str, str], announced: set[str], store: Path) -> None:
    """Every file of `wanted` (key → BLAKE2b) is in the store as it was, and nothing else is there.

    Adds a row for each namespace, and a claim for each file and each difference.
    """
    stored = local_files(store)
    for key in sorted(wanted.keys() | stored.keys()):
        if key not in stored:
            report.claim(f"{key} is not in the store", False)
        elif key not in wanted:
            report.claim(f"{key} is in the store, but zdb has no such file", False)
        else:
            report.claim(f"{key} in the store is not what zdb has", stored[key] == wanted[key])
    silent = sorted(wanted.keys() - announced)
    report.claim(f"no hook announced {', '.join(silent)}", not silent)
    lost = sorted(announced - stored.keys())
    report.claim(f"announced, but not stored: {', '.join(lost)}", not lost)
    names = sorted({key.split("/")[1] for key in wanted.keys() | stored.keys()})
    for name in names:
        here = {key for key in stored if key.split("/")[1] == name}
        report.namespaces.append(
            Namespace(
                name=name,
                announced=sum(key.split("/")[1] == name for key in announced),
                stored=len(here),
                size_bytes=sum((store / key).stat().st_size for key in here),
                verified=sum(stored[key] == wanted.get(key) for key in here),
            )
        )


def count_events(calls: Sequence[tuple[Sequence[str], str]], duplicates: int) -> Events:
    """By the way they came."""
    origins = [origin for _, origin in calls]
    return Events(
        socket=origins.count("socket"), spool=origins.count("spool"), duplicates=duplicates
    )
