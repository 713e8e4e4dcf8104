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
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hookd.arguments import Run, parser
from hookd.errors import Exit, UserError
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.admin.client import Places
    from hookd.signals import Signals

STATUS_EXITS = {"ok": Exit.OK, "degraded": Exit.OK, "failing": Exit.FAILED}
"""Degraded is 0: every promise is kept, and a restart (docker's cure) would mend nothing."""

INTERRUPTED = 128 + 2
"""What a shell says of a command that SIGINT ended."""


def main(argv: Sequence[str] | None = None, *, signals: Signals | None = None) -> int:
    """Run one command; returns its exit code. argparse itself exits 2 on a wrong command line.

    `signals` caught those that came before, for `serve`.
    """
    arguments = parser(RUNS).parse_args(argv)
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
    if arguments.action != "run":
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
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


RUNS: Mapping[str, Run] = {
    "checkpoint": _checkpoint,
    "container": _container,
    "demo": _demo,
    "guard": _guard,
    "health": _health,
    "mount": _mount,
    "namespaces": _namespaces,
    "queue": _queue,
    "restore": _restore,
    "serve": _serve,
    "status": _status,
    "tell": _tell,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
