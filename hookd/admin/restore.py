"""`hookd restore`: brings files back without zdb, or says whose files are the right ones."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from hookd.admin.bar import Bar
from hookd.admin.client import DaemonAway, Places, ask, follow
from hookd.errors import Exit, PathRefused, UserError
from hookd.files import index_key

if TYPE_CHECKING:
    from hookd.restore.progress import Progress


def main(arguments: argparse.Namespace, places: Places) -> int:
    """Raises UserError."""
    names = [name for name in (arguments.name, arguments.namespace) if name is not None]
    for name in names:
        check_name(name)
    if arguments.take:
        return _take(arguments, places, _one_choice(arguments, names))
    if arguments.to is None and _runs(places):
        return _ask(arguments, places, names)
    return _restore(arguments, names)


def _one_choice(arguments: argparse.Namespace, names: list[str]) -> str:
    """Of which namespace, or `*`. Raises UserError for words that a choice would not heed."""
    if len(set(names)) > 1:
        raise UserError("--take: give one namespace, or none for all of them", code=Exit.USAGE)
    if arguments.to is not None or arguments.full:
        other = "--full" if arguments.to is None else "--to"
        raise UserError(
            f"--take says whose files are right, {other} brings some: give one of the two",
            code=Exit.USAGE,
        )
    return names[0] if names else "*"


def check_name(name: str) -> None:
    """Raises UserError for what no namespace is called."""
    try:
        index_key(name, 0)
    except PathRefused:
        raise UserError(f"{name!r} is no namespace", code=Exit.USAGE) from None


def _ask(arguments: argparse.Namespace, places: Places, names: list[str]) -> int:
    """Through the daemon."""
    line = shlex.join(["restore", *(w for name in names for w in ("--namespace", name))])
    found: dict[str, Any] = {}
    with Bar() as bar:
        for text in follow(places.socket, f"{line} --full" if arguments.full else line):
            found = json.loads(text)
            if doing := found.get("doing"):
                bar.show(doing["namespace"], doing["done"], doing["of"] or None, doing["note"])
    if "code" not in found:
        raise DaemonAway(places.socket, "it went away without an answer; say this again")
    code = Exit(found.pop("code"))
    if "error" in found:
        raise UserError(found["error"], code=code)
    _print(found, arguments)
    return code


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
    from hookd import config, log
    from hookd.journal import tables
    from hookd.restore.choices import chosen
    from hookd.sockets import lock_file
    from hookd.startup import open_journal

    log.configure("error", "console")  # that a damaged journal is rebuilt is one line
    loaded = config.load(arguments.config, os.environ)
    lock = lock_file(
        loaded.journal.path.with_name(loaded.journal.path.name + ".lock"), "journal.path"
    )
    try:
        db, _ = open_journal(loaded.journal.path)
        found = tables.get_meta(db).get("takes")
        takes = found if isinstance(found, dict) else {}
        tables.set_meta(db, "takes", chosen(takes, name, arguments.take))
        db.close()
    finally:
        os.close(lock)
    print("kept: it is done at zdb's next start, with what the store has then")
    return Exit.OK


def _restore(arguments: argparse.Namespace, names: list[str]) -> int:
    from hookd import config, log
    from hookd.restore.offline import in_place, to_folder

    # into a folder also where no zdb ever was
    loaded = config.load(arguments.config, os.environ, zdb_here=arguments.to is None)
    log.configure("error", "console")
    with Bar() as bar:
        say = partial(show, bar)
        if arguments.to is not None:
            result = to_folder(loaded, arguments.to.absolute(), names, say)
        else:
            result = in_place(loaded, names or None, full=arguments.full, show=say)
    _print(result.as_dict(), arguments)
    return Exit.FAILED if result.refused else Exit.OK


def _print(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(result))
        return
    restored, complete, refused, left = (
        result[each] for each in ("restored", "complete", "refused", "left")
    )
    for name, what in restored.items():
        print(f"{name}: restored ({what})")
    named = arguments.name or arguments.namespace
    for name in complete:
        more = f"; `hookd restore {name} --take remote` puts what is stored in its place"
        print(f"{name}: complete{more if named else ''}")
    for name, why in left.items():
        print(f"{name}: left as it is: {why}")
    for name, why in refused.items():
        print(f"{name}: {'' if name in restored else 'not restored: '}{why}", file=sys.stderr)
    if not any(result.values()):
        print("the store has no files of this zdb")
    if arguments.to is None and not arguments.full and (restored or complete):
        print("other data files come when zdb asks for them; --full brings all")


def show(bar: Bar, progress: Progress) -> None:
    """The newest of a restore."""
    done, total = progress.share
    bar.show(progress.namespace, done, total or None, progress.note())
