"""The command line: `hookd serve`, and the commands that ask or tell the running daemon.

A command imports what it needs when it runs: `hookd status` must not pay for the daemon's
libraries. A mistake of the user is one line on stderr and an exit code (`hookd.errors.Exit`), never
a traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookd import __version__
from hookd.errors import Exit, UserError
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.admin.client import Places
    from hookd.signals import Signals

STATES = ("pending", "blocked", "running", "quarantined")
"""Of the queue (`hookd.admin.view.STATES`, which costs more to import)."""

STATUS_EXITS = {"ok": Exit.OK, "degraded": Exit.OK, "failing": Exit.FAILED}
"""Degraded is 0: every promise is kept, and a restart (docker's cure) would mend nothing."""

INTERRUPTED = 128 + 2
"""What a shell says of a command that SIGINT ended."""


def main(argv: Sequence[str] | None = None, *, signals: Signals | None = None) -> int:
    """Run one command; returns its exit code. argparse itself exits 2 on a wrong command line.

    `signals` caught those that came before, for `serve`.
    """
    arguments = _parser().parse_args(argv)
    arguments.signals = signals
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a character must not end it
            stream.reconfigure(errors="backslashreplace")
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `hookd queue | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except BaseExceptionGroup as group:
        return _say(_mistake(group) or group)
    except Exception as error:
        return _say(error)


def _mistake(group: BaseExceptionGroup[BaseException]) -> UserError | None:
    """The user's mistake in what a task group raised, if there is nothing else in it."""
    mistakes, others = group.split(UserError)
    found: BaseException | None = mistakes if others is None else None
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, UserError) else None


def _say(error: BaseException) -> int:
    """One line for a mistake, a traceback for a fault; returns the exit code."""
    if isinstance(error, UserError):
        print(f"hookd: {scrub(str(error))}", file=sys.stderr)
        return error.code
    import traceback

    print(scrub("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return Exit.SOFTWARE


# -- the commands ------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    from hookd import config, log

    loaded = config.load(arguments.config, os.environ)
    for secret in loaded.secrets():
        log.register_secret(secret)
    log.configure(loaded.log.level, loaded.log.format)
    from hookd.daemon import serve

    return serve(loaded, arguments.signals)


def _mount(arguments: argparse.Namespace) -> int:
    import signal

    # As PID 1 of a container a stop signal without a handler is dropped; blocked, it waits for one
    # (`Life.run`). The image blocks them before this (`env --block-signal`), so the others unblock them.
    how = signal.SIG_BLOCK if arguments.action == "run" else signal.SIG_UNBLOCK
    signal.pthread_sigmask(how, (signal.SIGTERM, signal.SIGINT))
    from hookd import config, log

    loaded = config.load_mount(arguments.config, os.environ)
    log.configure(loaded.log.level, loaded.log.format)
    from hookd.mount import command

    if arguments.action == "run":
        return command.run(loaded, os.environ, wait_remote=arguments.wait_remote)
    import anyio

    if arguments.action == "cleanup":
        return anyio.run(command.cleanup, loaded.mount)
    socket = arguments.socket or loaded.stats.socket
    return anyio.run(command.wait_ready, socket, arguments.timeout)


def _status(arguments: argparse.Namespace) -> int:
    from hookd.admin.client import DaemonAway, ask

    places = _places(arguments)
    try:
        answer = ask(places.socket, "stats")
    except DaemonAway as away:
        return _away(arguments, places, away)
    import json

    view = json.loads(answer)
    if arguments.json:
        print(answer)
    else:
        from hookd.admin import screen

        screen.show_status(view)
    return STATUS_EXITS[view["health"]["status"]]


def _away(arguments: argparse.Namespace, places: Places, away: UserError) -> int:
    """Say that no daemon is there, and what its journal holds."""
    from hookd.admin.away import journal_left, lines, starting

    pid, left = starting(places.socket), journal_left(places.journal)
    if arguments.json:
        import json

        phase = "away" if pid is None else "silent"
        journal = {"path": str(places.journal), "states": left}
        print(json.dumps({"phase": phase, "pid": pid, "reason": str(away), "journal": journal}))
    else:
        print("\n".join(lines(str(away), pid, places.journal, left)))
    return away.code


def _queue(arguments: argparse.Namespace) -> int:
    words = ["queue", "--json", str(arguments.limit)]
    if arguments.state:
        words.append(arguments.state)
    answer = _ask(arguments, *words)
    if arguments.json:
        print(answer)
    else:
        import json

        from hookd.admin import screen

        found = json.loads(answer)
        if found.get("kind") == "mount":
            print("\n".join(found["lines"]))
        else:
            screen.show_queue(found)
    return Exit.OK


def _health(arguments: argparse.Namespace) -> int:
    answer = _ask(arguments, "health")
    print(answer)
    return STATUS_EXITS[answer.partition("\n")[0]]


def _tell(arguments: argparse.Namespace) -> int:
    """retry, skip, pause, resume, release: the daemon's answer is the line to print."""
    words = [arguments.command]
    if "target" in arguments:
        words.append(arguments.target)
    print(_ask(arguments, *words))
    return Exit.OK


def _namespaces(arguments: argparse.Namespace) -> int:
    from hookd import config, log

    loaded = config.load(arguments.config, os.environ)
    for secret in loaded.secrets():
        log.register_secret(secret)
    from hookd.namespaces import Namespaces

    def say(line: str) -> None:
        print(f"hookd: {scrub(line)}", file=sys.stderr, flush=True)

    wait_s = loaded.namespaces.wait_s if arguments.wait is None else arguments.wait
    for name, outcome in Namespaces(loaded, wait_s=wait_s, say=say).run().items():
        print(f"{name}: {outcome}")
    return Exit.OK


def _checkpoint(arguments: argparse.Namespace) -> int:
    """How far it is goes to stderr, the outcome to stdout."""
    import json

    from hookd.admin.client import DaemonAway, follow

    socket = _places(arguments).socket
    line = f"checkpoint --json --timeout {arguments.timeout:g}"
    found: dict[str, Any] = {}
    said = ""
    for text in follow(socket, line):
        found = json.loads(text)
        if (doing := found.get("doing", said)) != said:
            print(f"hookd: {doing}", file=sys.stderr, flush=True)
            said = doing
    if "safe" not in found:
        raise DaemonAway(socket, "it went away without an answer")
    if arguments.json:
        print(text)
    elif found["safe"]:
        print(f"safe until {found['until_utc']}")
    else:
        print(f"hookd: not safe: {'; '.join(found['problems'])}", file=sys.stderr)
    return int(found["code"])


def _verify(arguments: argparse.Namespace) -> int:
    from hookd.admin import verify

    return verify.main(arguments, _places(arguments))


def _restore(arguments: argparse.Namespace) -> int:
    from hookd.admin.restore import main as restore

    return restore(arguments, _places(arguments))


def _guard(arguments: argparse.Namespace) -> int:
    from hookd.container import services

    if arguments.remove:
        services.give_back(arguments.folder)
    else:
        services.clear(arguments.folder, print)
    return Exit.OK


def _container(arguments: argparse.Namespace) -> int:
    from hookd.container import init

    return init.command(arguments.words, os.environ)


def _demo(arguments: argparse.Namespace) -> int:
    from hookd.demo import run

    return run.main(arguments)


def _ask(arguments: argparse.Namespace, *words: str) -> str:
    from hookd.admin.client import ask

    return ask(_places(arguments).socket, " ".join(words))


def _places(arguments: argparse.Namespace) -> Places:
    from hookd.admin.client import places

    found = places(arguments.config, os.environ)
    return found if arguments.socket is None else found._replace(socket=arguments.socket)


# -- the command line --------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hookd", description="Answers the hooks of a 0-db and stores what they announce."
    )
    parser.add_argument("--version", action="version", version=f"hookd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Any, text: str, *parents: argparse.ArgumentParser) -> Any:
        found = commands.add_parser(name, help=text, description=text, parents=parents)
        found.set_defaults(run=run)
        return found

    config, client, as_json = _config_options(), _client_options(), _json_options()
    add("serve", _serve, "Run the daemon until SIGTERM, then store all that is left.", config)
    add("status", _status, "How the daemon is, and what waits.", config, client, as_json)
    queue = add("queue", _queue, "The files that are not stored yet.", config, client, as_json)
    queue.add_argument("--limit", type=int, default=50, metavar="N", help="at most N files (50)")
    queue.add_argument("--state", choices=STATES, help="only files in this state")
    add("health", _health, "ok, degraded or failing; then the reasons.", config, client)
    retry = add("retry", _tell, "Store files again that have failed, at once.", config, client)
    retry.add_argument("target", metavar="all|FILE|ID", help="a file of the queue, or all failed")
    skip = add("skip", _tell, "Give up a quarantined file; the log says who did.", config, client)
    skip.add_argument("target", metavar="FILE|ID", help="a file of the queue, by name or number")
    add("pause", _tell, "Start no further store; events are taken as ever.", config, client)
    add("resume", _tell, "Store again after a pause.", config, client)
    text = "Let zdb use what zdb.keep_free_bytes keeps free; zdbfs is about to stop."
    add("release", _tell, text, config, client)
    namespaces = add("namespaces", _namespaces, "Make the namespaces of zdbfs in zdb.", config)
    namespaces.add_argument(
        "--wait", type=float, metavar="SECONDS", help="for zdb, at most (namespaces.wait_s)"
    )
    text = "Store all that zdb holds now; prints the moment until which everything is safe."
    checkpoint = add("checkpoint", _checkpoint, text, config, client, as_json)
    checkpoint.add_argument(
        "--timeout", type=_positive, default=300.0, metavar="SECONDS", help="at most (300)"
    )
    verify = add(
        "verify",
        _verify,
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
    restore = add("restore", _restore, "Bring back what is stored.", config, client, as_json)
    restore.add_argument("name", nargs="?", metavar="NAMESPACE", help="with --take: only this one")
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
    mount = add("mount", _mount, "Mount a remote; on SIGTERM upload all, then unmount.", config)
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
        _guard,
        "Make a mountpoint ready: take a dead mount away, and let the folder take no files until"
        " something is mounted on it.",
    )
    guard.add_argument("folder", type=Path, metavar="FOLDER", help="the mountpoint")
    guard.add_argument("--remove", action="store_true", help="take mount and guard away")
    # Only in the container, by its own services: no line in the help.
    container = commands.add_parser("container")
    container.set_defaults(run=_container)
    container.add_argument("words", nargs="+")
    demo = add("demo", _demo, "Show hookd at work while things go wrong on purpose.")
    demo.add_argument("--dir", type=Path, metavar="PATH", help="work in this folder")
    demo.add_argument("--keep", action="store_true", help="leave the folder for a look around")
    demo.add_argument("--quick", action="store_true", help="only the recorded zdb")
    demo.add_argument("--no-color", action="store_true", help="plain text")
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
