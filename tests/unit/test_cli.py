"""The command line: exit codes, one line for a mistake, and what it costs to ask."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hookd import __version__, cli, log
from hookd import arguments as command_line
from hookd.admin import client
from hookd.admin.view import STATES, LedgerAnswer, queue_view, view
from hookd.config import DEFAULT_PATH, settings
from hookd.errors import Exit, UserError
from hookd.files import FileKey
from hookd.journal import Job, JobState, connect, tables
from tests.fakes.parts import add_job, fake_parts


class Answering:
    """A daemon's stats socket that gives one answer to all, and keeps what it was asked."""

    def __init__(self, path: Path, answer: str) -> None:
        self.asked: list[str] = []
        self._answer = answer.encode() + b"\n"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).decode().removesuffix("\n"))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No HOOKD_ variable of the outside, and no secret that outlives a test."""
    for name in list(os.environ):
        if name.startswith("HOOKD_"):
            monkeypatch.delenv(name)
    yield
    log._secrets.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the stats socket is, or is not."""
    return tmp_path / "stats.sock"


def run(path: Path, command: str, *arguments: str) -> int:
    """One command that asks the daemon at `path`."""
    return cli.main([command, "--socket", str(path), *arguments])


def run_against(path: Path, answer: str, command: str, *arguments: str) -> tuple[int, str]:
    """The exit code, and the line that a daemon with this one answer was asked."""
    with closing(Answering(path, answer)) as daemon:
        code = run(path, command, *arguments)
    [asked] = daemon.asked
    return code, asked


def stats(status: str = "ok") -> str:
    """An answer to `stats`."""
    found = view(fake_parts(), ledger=LedgerAnswer(3, 30))
    found["health"]["status"] = status
    return json.dumps(found)


# -- the command line ------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hookd {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["reboot"], ["skip"], ["queue", "--state", "lost"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What hookd does not understand is 2, with the usage."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == Exit.USAGE
    assert "usage: hookd" in capsys.readouterr().err


def test_states_are_those_of_the_view() -> None:
    """The list is kept twice because the view costs too much to import."""
    assert command_line.STATES == STATES


# -- serve -----------------------------------------------------------------------------------------


def configuration(tmp_path: Path, *lines: str) -> str:
    """A file that `serve` accepts, plus `lines`."""
    for name in ("index", "data"):
        (tmp_path / name).mkdir()
    path = tmp_path / "hookd.toml"
    path.write_text(
        f'zdb.index = "{tmp_path}/index"\nzdb.data = "{tmp_path}/data"\n'
        f'store.kind = "directory"\nstore.directory.path = "{tmp_path}/store"\n'
        'zdb.admin_password = "hunter2"\n' + "\n".join(lines)
    )
    return str(path)


def test_serve_with_a_bad_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that begins with the key, and 78."""
    config = configuration(tmp_path, 'store.kinds = "x"')
    assert cli.main(["serve", "--config", config]) == Exit.CONFIG
    error = capsys.readouterr().err
    assert error.startswith("hookd: store.kinds: is no known key; did you mean store.kind?")
    assert error.count("\n") == 1


@pytest.mark.parametrize("nested", [False, True])
def test_serve_with_a_mistake_found_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nested: bool,
) -> None:
    """Also out of a task group: one line and its code."""
    mistake = UserError("stats.socket: in the way", code=Exit.CONFIG)

    def serve(*_: object) -> Exit:
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [mistake])]) if nested else mistake

    monkeypatch.setattr("hookd.daemon.serve", serve)
    assert cli.main(["serve", "--config", configuration(tmp_path)]) == Exit.CONFIG
    assert capsys.readouterr().err == "hookd: stats.socket: in the way\n"


@pytest.mark.parametrize("nested", [False, True])
def test_serve_with_a_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nested: bool,
) -> None:
    """A traceback without secrets, and 70; a mistake beside it does not hide it."""
    fault = RuntimeError("hunter2 is wrong")

    def serve(*_: object) -> Exit:
        raise ExceptionGroup("tasks", [fault, UserError("x")]) if nested else fault

    monkeypatch.setattr("hookd.daemon.serve", serve)
    assert cli.main(["serve", "--config", configuration(tmp_path)]) == Exit.SOFTWARE
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "RuntimeError: *** is wrong" in error
    assert "hunter2" not in error


@pytest.mark.parametrize("code", [Exit.OK, Exit.TEMPFAIL])
def test_serve_ends_with_the_daemons_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Exit
) -> None:
    """Drained, or stopped with work kept."""
    monkeypatch.setattr("hookd.daemon.serve", lambda *_: code)
    assert cli.main(["serve", "--config", configuration(tmp_path)]) == code


# -- where the daemon is ---------------------------------------------------------------------------


def test_defaults_are_those_of_the_configuration() -> None:
    """The client keeps its own copy: hookd.config costs too much to import."""
    defaults = {setting.key: setting.default for setting in settings()}
    assert defaults["stats.socket"] == client.DEFAULT_SOCKET
    assert defaults["journal.path"] == client.DEFAULT_JOURNAL
    assert DEFAULT_PATH == client.DEFAULT_CONFIG


def test_places(tmp_path: Path) -> None:
    """Environment, then file, then defaults; nothing else of the file has to be right."""
    config = tmp_path / "hookd.toml"
    config.write_text('[zdb]\nindex = "/not/here"\n[stats]\nsocket = "/a/stats.sock"\nlost = 1\n')
    assert client.places(config, {}) == (Path("/a/stats.sock"), client.DEFAULT_JOURNAL)
    named = {"HOOKD_CONFIG": str(config)}
    assert client.places(None, named).socket == Path("/a/stats.sock")
    named |= {"HOOKD_STATS__SOCKET": "/b.sock", "HOOKD_JOURNAL__PATH": "/j.db"}
    assert client.places(None, named) == (Path("/b.sock"), Path("/j.db"))


@pytest.mark.parametrize("text", ["stats = ", "stats = 1", "[stats]\nsocket = 7", "\udcff"])
def test_places_in_a_bad_file(tmp_path: Path, text: str) -> None:
    """The defaults: a mistake in it may be what one asks about."""
    config = tmp_path / "hookd.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert client.places(None, {"HOOKD_CONFIG": str(config)}).socket == client.DEFAULT_SOCKET


def test_a_file_that_was_named_has_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silently asking another daemon would be worse."""
    assert cli.main(["status", "--config", str(tmp_path / "absent.toml")]) == Exit.CONFIG
    assert capsys.readouterr().err == f"hookd: {tmp_path}/absent.toml: No such file or directory\n"


# -- asking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("degraded", 0), ("failing", Exit.FAILED)])
def test_status(path: Path, status: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Degraded is 0: a restart would mend nothing."""
    assert run_against(path, stats(status), "status") == (code, "stats")
    assert capsys.readouterr().out.startswith("Everything is stored.\n")
    path.unlink()
    assert run_against(path, f"{status}\nwhy", "health") == (code, "health")
    assert capsys.readouterr().out == f"{status}\nwhy\n"


def test_status_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's own words."""
    run_against(path, stats(), "status", "--json")
    assert json.loads(capsys.readouterr().out)["ledger"]["files"] == 3


def test_queue(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, or as it came."""
    parts = fake_parts()
    add_job(parts, "data/ns/d1")
    answer = json.dumps(queue_view(parts, 10))
    asked = run_against(path, answer, "queue", "--limit", "7", "--state", "pending")
    assert asked == (0, "queue --json 7 pending")
    assert "data/ns/d1" in capsys.readouterr().out.splitlines()[1]
    path.unlink()
    assert run_against(path, answer, "queue", "--json") == (0, "queue --json 50")
    assert capsys.readouterr().out == f"{answer}\n"


@pytest.mark.parametrize("words", ["retry all", "retry 7", "skip data/my ns/d1", "pause", "resume"])
def test_verbs(path: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's answer is the line."""
    command, *target = words.split(" ", 1)
    assert run_against(path, "done", command, *target) == (0, words)
    assert capsys.readouterr().out == "done\n"


def test_a_refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, and 1."""
    code, _ = run_against(path, "error: 7 is running", "skip", "7")
    assert code == Exit.FAILED
    assert capsys.readouterr() == ("", "hookd: 7 is running\n")


def test_one_line_only(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon would act on half of a name."""
    assert run(path, "skip", "data/ns/d1\nx") == Exit.FAILED
    assert "more than one line" in capsys.readouterr().err


def test_a_daemon_that_does_not_answer(path: Path) -> None:
    """It runs, so it is not away; but nobody waits for ever."""
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(UserError, match=r"does not answer within 0\.1 s") as raised:
            client.ask(path, "stats", within_s=0.1)
    assert raised.value.code == Exit.UNAVAILABLE


def test_a_socket_of_somebody_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """77, and what to do."""

    class Locked(socket.socket):
        def connect(self, _: Any) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Locked)
    with pytest.raises(UserError, match="ask as root or as the daemon's user") as raised:
        client.ask(path, "stats")
    assert raised.value.code == Exit.NOPERM


# -- with no daemon --------------------------------------------------------------------------------


def journal(path: Path, *states: JobState) -> None:
    """A journal with a job of 1 MiB in each of `states`, closed as after a clean end."""
    with closing(connect(path)) as db:
        for number, state in enumerate(states, 1):
            key = FileKey.parse(f"data/ns/d{number}")
            job = Job(key=key, id=number, turn=number, state=state, size_bytes=1 << 20)
            tables.insert(db, (), [tables.job_values(job, time.time())])


def test_away(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One clear line, what the journal holds, and 69; the journal's folder stays as it was."""
    found = tmp_path / "state" / "journal.db"
    found.parent.mkdir()
    states = (JobState.PENDING, JobState.RUNNING, JobState.QUARANTINED, JobState.SETTLED)
    journal(found, *states)
    monkeypatch.setenv("HOOKD_JOURNAL__PATH", str(found))
    assert run(path, "status") == Exit.UNAVAILABLE
    assert capsys.readouterr().out.splitlines() == [
        f"The daemon is not running ({path}: No such file or directory).",
        f"Its journal {found} holds 3 files (3 MiB) to be stored after the next start; 1 of them"
        " is quarantined.",
    ]
    assert os.listdir(found.parent) == ["journal.db"]
    assert run(path, "status", "--json") == Exit.UNAVAILABLE
    answer = json.loads(capsys.readouterr().out)
    assert (answer["phase"], answer["pid"]) == ("away", None)
    assert answer["journal"]["states"]["pending"] == {"files": 1, "bytes": 1 << 20}


def test_away_with_nothing_owed(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Or with a journal that cannot be read, which is another thing."""
    found = tmp_path / "journal.db"
    monkeypatch.setenv("HOOKD_JOURNAL__PATH", str(found))
    run(path, "status")
    assert "cannot be read, so what it owes is not known." in capsys.readouterr().out
    found.write_bytes(b"no database" * 100)
    run(path, "status")
    assert "cannot be read" in capsys.readouterr().out
    found.unlink()
    journal(found, JobState.SETTLED)
    run(path, "status")
    assert "owes nothing: all it took is stored." in capsys.readouterr().out


def test_starting(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It holds its lock, but does not listen yet: that is not "away"."""
    with path.with_name("stats.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        assert run(path, "status") == Exit.UNAVAILABLE
    expected = f"The daemon (pid {os.getpid()}) is starting or stopping"
    assert capsys.readouterr().out.startswith(expected)
    run(path, "status")
    assert capsys.readouterr().out.startswith("The daemon is not running")


def test_away_for_the_others(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr."""
    assert run(path, "health") == Exit.UNAVAILABLE
    assert capsys.readouterr().err.startswith("hookd: the daemon is not running (")


# -- what it costs, and other processes ------------------------------------------------------------


def test_asking_imports_little(path: Path) -> None:
    """`hookd status` must not pay for the daemon's libraries, nor for rich without a terminal."""
    code = (
        "import sys; from hookd import cli;"
        " code = cli.main(['status', '--socket', sys.argv[1]]);"
        " print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    with closing(Answering(path, stats())):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
    loaded = set(done.stderr.split())
    costly = {"anyio", "asyncio", "msgspec", "rich", "structlog", "sqlite3", "prometheus_client"}
    assert not loaded & {*costly, "dataclasses", "inspect", "hookd.config", "hookd.daemon"}


def test_a_reader_that_has_enough(path: Path) -> None:
    """`hookd queue | head -1` is no mistake."""
    parts = fake_parts()
    for number in range(5000):
        add_job(parts, f"data/ns/d{number}")
    with closing(Answering(path, json.dumps(queue_view(parts, 5000)))):
        process = subprocess.Popen(
            [sys.executable, "-m", "hookd", "queue", "--socket", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"  ID  STATE")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() == 0


def test_a_locale_that_lacks_a_character(path: Path) -> None:
    """It costs the character, not the answer."""
    found = json.loads(stats())
    found["notices"] = ["ünïcode →"]
    with closing(Answering(path, json.dumps(found))):
        done = subprocess.run(
            [sys.executable, "-m", "hookd", "status", "--socket", str(path)],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
    assert rb"! \xfcn\xefcode \u2192" in done.stdout


def test_demo_is_handed_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its exit code is ours."""
    seen: list[argparse.Namespace] = []

    def main(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 1

    monkeypatch.setattr("hookd.demo.run.main", main)
    assert cli.main(["demo", "--quick", "--dir", "/d"]) == 1
    assert (seen[0].dir, seen[0].keep, seen[0].quick) == (Path("/d"), False, True)
    assert seen[0].no_color is False
