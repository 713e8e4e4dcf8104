"""`hookd restore`: brings files back without zdb, or says whose files are the right ones."""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from hookd.admin.bar import Bar
from hookd.admin.client import DaemonAway, Places, ask
from hookd.errors import Exit, UserError

if TYPE_CHECKING:
    from hookd.restore.offline import Result
    from hookd.restore.progress import Progress


def main(arguments: argparse.Namespace, places: Places) -> int:
    """Raises UserError."""
    names = [name for name in (arguments.name, arguments.namespace) if name]
    if arguments.take:
        return _take(arguments, places, names[0] if names else "*")
    if arguments.to is None and _runs(places):
        raise UserError(
            "hookd runs: it restores by itself when zdb starts, and what zdb misses when it asks;"
            " stop hookd to restore by hand, or give --to DIR"
        )
    return _restore(arguments, names)


def _runs(places: Places) -> bool:
    try:
        ask(places.socket, "health")
    except DaemonAway:
        return False
    return True


def _take(arguments: argparse.Namespace, places: Places, name: str) -> int:
    """Through the daemon; without one the choice is kept for its next start."""
    try:
        print(ask(places.socket, f"take {name} {arguments.take}"))
        return Exit.OK
    except DaemonAway:
        pass
    from hookd import config
    from hookd.journal import connect, tables
    from hookd.restore.choices import chosen
    from hookd.sockets import lock_file

    loaded = config.load(arguments.config, os.environ)
    lock = lock_file(
        loaded.journal.path.with_name(loaded.journal.path.name + ".lock"), "journal.path"
    )
    try:
        db = connect(loaded.journal.path)
        found = tables.get_meta(db).get("takes")
        takes = found if isinstance(found, dict) else {}
        tables.set_meta(db, "takes", chosen(takes, name, arguments.take))
        db.close()
    finally:
        os.close(lock)
    print("kept: it is done at zdb's next start")
    return Exit.OK


def _restore(arguments: argparse.Namespace, names: list[str]) -> int:
    from hookd import config, log
    from hookd.restore.offline import in_place, to_folder

    loaded = config.load(arguments.config, os.environ)
    log.configure("error", "console")
    with Bar() as bar:
        say = partial(show, bar)
        if arguments.to is not None:
            result = to_folder(loaded, arguments.to.absolute(), names, say)
        else:
            if names:
                raise UserError("--namespace goes with --to: in place zdb needs all of them")
            result = in_place(loaded, full=arguments.full, show=say)
    _print(result, as_json=arguments.json)
    if result.restored and arguments.to is None and not (arguments.full or arguments.json):
        print("other data files come when zdb asks for them; --full brings all")
    return Exit.FAILED if result.refused else Exit.OK


def _print(result: Result, *, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                {
                    "restored": result.restored,
                    "complete": result.complete,
                    "refused": result.refused,
                }
            )
        )
        return
    for name, what in result.restored.items():
        print(f"{name}: restored ({what})")
    for name in result.complete:
        print(f"{name}: complete")
    for name, why in result.refused.items():
        print(f"{name}: not restored: {why}", file=sys.stderr)
    if not (result.restored or result.complete or result.refused):
        print("the store has no files of this zdb")


def show(bar: Bar, progress: Progress) -> None:
    """The newest of a restore."""
    total = progress.files_total or None
    bar.show(progress.namespace, progress.files_done, total, progress.note())
