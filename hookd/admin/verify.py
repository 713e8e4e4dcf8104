"""`hookd verify`: has the daemon audit, or does it itself where there is none; says what is wrong.

A bar on a terminal (stderr, so that stdout is the report alone); lines of whole text everywhere.
Ctrl-C gives the audit up and says how to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from hookd.admin.bar import Bar
from hookd.admin.client import DaemonAway, Places, ask
from hookd.admin.words import count, duration, number, one_line, size, verb
from hookd.errors import Exit, UserError
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.audit.run import Run

View = dict[str, Any]

LOOK_EVERY_S = 0.3
ENDED = ("done", "incomplete", "cancelled")
DOING = {
    "waiting": "waiting for its turn",
    "local": "local files",
    "store": "compared with the store",
    "deep": "retrieved and hashed",
}


def main(arguments: argparse.Namespace, places: Places) -> int:
    """Run it; returns the exit code. Raises UserError."""
    if arguments.after and not arguments.deep:
        raise UserError("--after goes on with a --deep verify", code=Exit.USAGE)
    try:
        view = _by_daemon(arguments, places)
    except DaemonAway as away:
        view = _alone(arguments, places, away)
    if arguments.json:
        print(json.dumps(view))
    else:
        print("\n".join(lines(view)))
    return exit_code(view)


def exit_code(view: View) -> int:
    """0: all is as it should be; 69: the store could not be asked; 1: anything else."""
    if view["unreachable"]:
        return Exit.UNAVAILABLE
    return Exit.FAILED if view["wrong"] or view["state"] != "done" else Exit.OK


def lines(view: View) -> list[str]:
    """The report for a person: a line for each finding, then the sum."""
    found = [one_line(f"{row['file']}: {row['detail']}") for row in view["findings"]]
    if (more := view["wrong"] - len(found)) > 0:
        found.append(f"and {number(more)} more")
    return [*found, *_sum(view)]


def _sum(view: View) -> list[str]:
    files = count(view["files_done"], "file")
    how = "retrieved and hashed" if view["deep"] else "compared with ledger and store"
    amount = f" ({size(view['bytes_done'])})" if view["bytes_done"] else ""
    text = f"{files}{amount} {how}"
    if view["state"] != "done":
        why = view["error"] or "it was given up"
        told = [one_line(f"Not finished: {why}; {text} by then.")]
        return told + ([_go_on(view)] if view["last"] else [])
    wrong = view["wrong"]
    text += f": {count(wrong, 'finding')}" if wrong else ": all is as it should be"
    if view["queued"]:
        takes = "are stored again" if not view["offline"] else "will be stored by the daemon"
        text += f"; {number(view['queued'])} of them {takes}"
    if view["noted"]:
        text += (
            f"; {count(view['noted'], 'file')} in the store {verb(view['noted'], 'was', 'were')}"
        )
        text += " not in the ledger"
    if view["owed"]:
        text += (
            f"; {count(view['owed'], 'file')} {verb(view['owed'], 'is', 'are')} on the way there"
        )
    return [f"{text}."]


def _go_on(view: View) -> str:
    words = ["hookd", "verify", "--deep", "--after", view["last"]]
    if view["namespace"]:
        words += ["--namespace", view["namespace"]]
    return f"Go on with: {shlex.join(words)}"


# -- through the daemon ----------------------------------------------------------------------------


def _by_daemon(arguments: argparse.Namespace, places: Places) -> View:
    words = ["audit"]
    if arguments.deep:
        words.append("--deep")
    if arguments.namespace:
        words += ["--namespace", arguments.namespace]
    if arguments.after:
        words += ["--after", arguments.after]
    run = json.loads(ask(places.socket, shlex.join(words)))["run"]
    view: View = {}
    with Bar() as bar:
        try:
            while True:
                try:
                    view = json.loads(ask(places.socket, f"audit-report {run}"))
                except DaemonAway as away:
                    hint = f"; {_go_on(view)}" if view.get("last") else ""
                    raise UserError(
                        f"{away}; it went away meanwhile{hint}", code=away.code
                    ) from None
                _show(bar, view)
                if view["state"] in ENDED:
                    return {**view, "offline": False}
                time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            bar.close()
            ask(places.socket, f"audit-cancel {run}")
            if view.get("last"):
                print(_go_on(view), file=sys.stderr)
            raise


# -- without one -----------------------------------------------------------------------------------


def _alone(arguments: argparse.Namespace, places: Places, away: DaemonAway) -> View:
    from hookd.admin.away import starting

    if (pid := starting(places.socket)) is not None:
        raise UserError(
            f"the daemon (pid {pid}) is starting or stopping; ask it again in a moment",
            code=Exit.UNAVAILABLE,
        )
    from hookd import config, log
    from hookd.audit.offline import verify
    from hookd.audit.run import Scope

    loaded = config.load(arguments.config, os.environ)
    log.configure("error", "console")
    scope = Scope(namespace=arguments.namespace, deep=arguments.deep, after=arguments.after or "")
    last: View = {}
    with Bar() as bar:

        def show(run: Run) -> None:
            nonlocal last
            last = view_of(run)
            _show(bar, last)

        try:
            return view_of(verify(loaded, scope, show))
        except KeyboardInterrupt:
            bar.close()
            if last.get("last"):
                print(_go_on(last), file=sys.stderr)
            raise


def view_of(run: Run) -> View:
    """As the daemon's `audit-report`."""
    progress = run.progress
    rows = [
        {
            "file": str(each.key),
            "problem": each.problem.value,
            "detail": scrub(each.detail),
            "alarm": each.alarm,
        }
        for each in progress.findings
    ]
    return {
        "run": None,
        "namespace": run.scope.namespace,
        "deep": run.scope.deep,
        **progress.view(),
        "findings": rows,
        "offline": True,
    }


def _show(bar: Bar, view: View) -> None:
    if view["state"] not in DOING:
        return
    asks = view["state"] in ("store", "deep")
    total = view["files"] if asks and view["files"] else None
    bar.show(
        DOING[view["state"]],
        view["files_done"] if asks else 0,
        total,
        note(view) if asks else "",
    )


def note(view: View) -> str:
    """`12 of 40 files, 1.2 GiB, 40 MiB/s, about 3 min to go, 2 findings`."""
    text = f"{number(view['files_done'])} of {count(view['files'], 'file')}"
    if view["state"] == "deep":
        text += (
            f", {size(view['bytes_done'])} of {size(view['bytes'])}, {size(view['rate_bytes_s'])}/s"
        )
    else:
        text += f", {number(round(view['files_per_s']))}/s"
    if view["eta_s"] is not None:
        text += f", about {duration(max(1.0, view['eta_s']))} to go"
    if view["wrong"]:
        text += f", {count(view['wrong'], 'finding')}"
    return text
