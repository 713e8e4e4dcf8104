"""The command line: which commands there are, and what each takes. Cheap to import."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hookd import __version__

STATES = ("pending", "blocked", "running", "quarantined")
"""Of the queue (`hookd.admin.view.STATES`, which costs more to import)."""

Run = Callable[[argparse.Namespace], int]


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """Command → what runs it. retry, skip, pause, resume and release are `tell`."""
    made = argparse.ArgumentParser(
        prog="hookd", description="Answers the hooks of a 0-db and stores what they announce."
    )
    made.add_argument("--version", action="version", version=f"hookd {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Any, text: str, *parents: argparse.ArgumentParser) -> Any:
        found = commands.add_parser(name, help=text, description=text, parents=parents)
        found.set_defaults(run=run)
        return found

    config, client, as_json = _config_options(), _client_options(), _json_options()
    add(
        "serve", runs["serve"], "Run the daemon until SIGTERM, then store all that is left.", config
    )
    add("status", runs["status"], "How the daemon is, and what waits.", config, client, as_json)
    queue = add(
        "queue", runs["queue"], "The files that are not stored yet.", config, client, as_json
    )
    queue.add_argument("--limit", type=int, default=50, metavar="N", help="at most N files (50)")
    queue.add_argument("--state", choices=STATES, help="only files in this state")
    add("health", runs["health"], "ok, degraded or failing; then the reasons.", config, client)
    retry = add(
        "retry", runs["tell"], "Store files again that have failed, at once.", config, client
    )
    retry.add_argument("target", metavar="all|FILE|ID", help="a file of the queue, or all failed")
    skip = add(
        "skip", runs["tell"], "Give up a quarantined file; the log says who did.", config, client
    )
    skip.add_argument("target", metavar="FILE|ID", help="a file of the queue, by name or number")
    add("pause", runs["tell"], "Start no further store; events are taken as ever.", config, client)
    add("resume", runs["tell"], "Store again after a pause.", config, client)
    text = "Let zdb use what zdb.keep_free_bytes keeps free; zdbfs is about to stop."
    add("release", runs["tell"], text, config, client)
    namespaces = add(
        "namespaces", runs["namespaces"], "Make the namespaces of zdbfs in zdb.", config
    )
    namespaces.add_argument(
        "--wait", type=float, metavar="SECONDS", help="for zdb, at most (namespaces.wait_s)"
    )
    text = "Store all that zdb holds now; prints the moment until which everything is safe."
    checkpoint = add("checkpoint", runs["checkpoint"], text, config, client, as_json)
    checkpoint.add_argument(
        "--timeout", type=_positive, default=300.0, metavar="SECONDS", help="at most (300)"
    )
    verify = add(
        "verify",
        runs["verify"],
        "Compare local files, ledger and store; exit 1 names what is wrong.",
        config,
        client,
        as_json,
    )
    verify.add_argument("--namespace", metavar="NAME", help="only this one")
    verify.add_argument(
        "--deep", action="store_true", help="retrieve every file to a private folder and hash it"
    )
    verify.add_argument(
        "--after", type=_file, metavar="FILE", help="with --deep: go on after this file"
    )
    restore = add("restore", runs["restore"], "Bring back what is stored.", config, client, as_json)
    restore.add_argument("name", nargs="?", metavar="NAMESPACE", help="as --namespace")
    restore.add_argument("--namespace", metavar="NAME", help="only this one")
    restore.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="into this folder, to look at; beside anything that runs",
    )
    restore.add_argument(
        "--full", action="store_true", help="all data files, also beside a zdb that runs"
    )
    restore.add_argument(
        "--take", choices=("local", "remote"), help="whose files are right, where both have some"
    )
    mount = add(
        "mount", runs["mount"], "Mount a remote; on SIGTERM upload all, then unmount.", config
    )
    mount.add_argument(
        "action",
        nargs="?",
        choices=("run", "wait", "cleanup"),
        default="run",
        help="run (the default); wait until it is ready; take a dead mount away",
    )
    mount.add_argument(
        "--wait-remote", action="store_true", help="try an unreachable remote for ever"
    )
    mount.add_argument(
        "--timeout", type=float, metavar="S", help="wait: give up after this (never)"
    )
    mount.add_argument("--socket", type=Path, metavar="PATH", help="wait: the mount's stats socket")
    guard = add(
        "guard",
        runs["guard"],
        "Make a mountpoint ready: take a dead mount away, and let the folder take no files until"
        " something is mounted on it.",
    )
    guard.add_argument("folder", type=Path, metavar="FOLDER", help="the mountpoint")
    guard.add_argument("--remove", action="store_true", help="take mount and guard away")
    # Only in the container, by its own services: no line in the help.
    container = commands.add_parser("container")
    container.set_defaults(run=runs["container"])
    container.add_argument("words", nargs="+")
    demo = add("demo", runs["demo"], "Show hookd at work while things go wrong on purpose.")
    demo.add_argument("--dir", type=Path, metavar="PATH", help="work in this folder")
    demo.add_argument("--keep", action="store_true", help="leave the folder for a look around")
    demo.add_argument("--quick", action="store_true", help="only the recorded zdb")
    demo.add_argument("--no-color", action="store_true", help="plain text")
    return made


def _positive(text: str) -> float:
    """Seconds for argparse, whose ValueError is a wrong command line."""
    value = float(text)
    if not 0 < value <= 86_400:
        raise ValueError
    return value


def _file(text: str) -> str:
    """A file's name as hookd writes it."""
    import re

    if not re.fullmatch(r"index/[^/]+/(i\d+|zdb-namespace)|data/[^/]+/d\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like data/NAMESPACE/d3")
    return text


def _config_options() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    return parent


def _client_options() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's stats socket")
    return parent


def _json_options() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--json", action="store_true", help="for programs")
    return parent
