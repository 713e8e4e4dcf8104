"""The log: its two formats, and what never gets into either."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from hookd import log

NAMESPACE = "ns\n\x1b[31mred\u202e"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No secret, handler or set-up outlives its test."""
    monkeypatch.setattr(log, "_secrets", [])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    """Stands for stderr, and is no terminal."""
    return io.StringIO()


def only_line(stream: io.StringIO) -> str:
    """The one line written, without its end."""
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text[:-1]


def without_time(line: str) -> str:
    """A console line after its time, which has to be one."""
    time, _, rest = line.partition(" ")
    assert len(time) == len("2026-01-01T12:00:00Z")
    assert (time[10], time[-1]) == ("T", "Z")
    return rest


# -- formats ---------------------------------------------------------------------------------------


def test_console_line(stream: io.StringIO) -> None:
    """Time, level, event, then the fields in the order of the call."""
    log.configure("info", "console", stream)
    log.get("dispatcher").info("stored", file="data/zdbfs-data/d3", size_bytes=16, again=False)
    line = without_time(only_line(stream))
    assert line == "info  stored  file=data/zdbfs-data/d3 size_bytes=16 again=False"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "debug"), ("info", "info "), ("warning", "warn "), ("error", "error")],
)
def test_console_levels_are_aligned(stream: io.StringIO, level: str, shown: str) -> None:
    """Every level takes five columns."""
    log.configure("debug", "console", stream)
    getattr(log.get("x"), level)("event")
    assert without_time(only_line(stream)) == f"{shown} event"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain/é", "plain/é"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x" \\', r'"say \"x\" \\"'),
        ("", '""'),
        (None, "None"),
        (1.5, "1.5"),
        (Path("/a/b"), "/a/b"),
        (b"\x00\xff", "00ff"),
        (ValueError("no room"), '"no room"'),
        ({"a": [1, Path("/x")]}, '{"a":[1,"/x"]}'),
        (("d1", "d2"), '["d1","d2"]'),
    ],
)
def test_console_values(stream: io.StringIO, value: object, shown: str) -> None:
    """A value is one word, or quoted; nothing shows as a Python type."""
    log.configure("info", "console", stream)
    log.get("x").info("event", value=value)
    assert without_time(only_line(stream)) == f"info  event  value={shown}"


def test_names_from_outside_stay_on_their_line(stream: io.StringIO) -> None:
    """A namespace's name forges no line and steers no terminal."""
    log.configure("info", "console", stream)
    log.get("x").info(f"closing {NAMESPACE}", namespace=NAMESPACE, nested={NAMESPACE: [NAMESPACE]})
    line = only_line(stream)
    assert line.isprintable()
    assert line.count(r"ns\n\x1b[31mred\u202e") == 2


def test_bytes_of_a_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    """A name that the file system decoded with escapes is written, not raised."""
    path = tmp_path / "log"
    for format_ in ("console", "json"):
        with path.open("w", encoding="ascii") as stream:
            log.configure("info", format_, stream)
            log.get("x").info("é", file="a\udcff")
        assert "udcff" in path.read_text("ascii")


def test_json_line(stream: io.StringIO) -> None:
    """One object a line: the module's name, the time to the microsecond, numbers as numbers."""
    log.configure("info", "json", stream)
    log.get("dispatcher").warning("stored", file=Path("/d3"), size_bytes=16, name=NAMESPACE)
    line = only_line(stream)
    assert line.isprintable()
    record = json.loads(line)
    time = record.pop("timestamp")
    assert len(time) == len("2026-01-01T12:00:00.000000Z")
    assert record == {
        "level": "warning",
        "logger": "dispatcher",
        "event": "stored",
        "file": "/d3",
        "size_bytes": 16,
        "name": NAMESPACE,
    }


def test_traceback_on_the_console_is_indented(stream: io.StringIO) -> None:
    """An exception follows its line; what it quotes steers no terminal."""
    log.configure("info", "console", stream)
    try:
        raise ValueError(NAMESPACE)
    except ValueError:
        log.get("x").exception("internal error", file="d3")
    first, *rest = stream.getvalue().splitlines()
    assert without_time(first) == "error internal error  file=d3"
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert any(line.startswith("    ValueError: ns") for line in rest)


def test_traceback_in_json_is_a_field(stream: io.StringIO) -> None:
    """For machines it stays one line."""
    log.configure("info", "json", stream)
    log.get("x").error("internal error", exc_info=ValueError("bad"))
    assert json.loads(only_line(stream))["exception"] == "ValueError: bad"


def test_auto_is_json_where_no_terminal_is(stream: io.StringIO) -> None:
    """A pipe or a file is read by programs."""
    log.configure("info", "auto", stream)
    log.get("x").info("event")
    assert json.loads(only_line(stream))["event"] == "event"


@pytest.mark.parametrize("no_color", [False, True])
def test_auto_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    """A terminal gets the console format, coloured unless NO_COLOR asks for none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    main, side = pty.openpty()
    with open(side, "w", encoding="utf-8") as terminal:
        log.configure("info", "auto", terminal)
        log.get("x").info("event", key="value")
        written = os.read(main, 4096).decode()
    os.close(main)
    assert "info  event" in written.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert ("\x1b[" in written) is not no_color


def test_console_elsewhere_is_plain(stream: io.StringIO) -> None:
    """No colours in a file, though the format was asked for."""
    log.configure("info", "console", stream)
    log.get("x").error("event", key="value")
    assert "\x1b" not in stream.getvalue()


def test_level(stream: io.StringIO) -> None:
    """What is below the level is not written."""
    log.configure("warning", "console", stream)
    log.get("x").info("quiet")
    log.get("x").warning("loud")
    assert without_time(only_line(stream)) == "warn  loud"


def test_bad_arguments(stream: io.StringIO) -> None:
    """A level or a format that does not exist is refused."""
    with pytest.raises(KeyError):
        log.configure("loud", "json", stream)
    with pytest.raises(ValueError, match="expected auto, console or json"):
        log.configure("info", "xml", stream)


def test_a_logger_made_before_the_set_up(stream: io.StringIO) -> None:
    """Modules make their loggers when they are imported."""
    early = log.get("early")
    log.configure("info", "json", io.StringIO())
    early.info("to the first stream")
    log.configure("info", "json", stream)
    early.info("event")
    assert json.loads(only_line(stream))["event"] == "event"


def test_context_of_a_task(stream: io.StringIO) -> None:
    """What is bound for a task is on its lines."""
    log.configure("info", "console", stream)
    with structlog.contextvars.bound_contextvars(event_id=7):
        log.get("x").info("event")
    assert without_time(only_line(stream)) == "info  event  event_id=7"


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["console", "json"])
def test_registered_secret_is_nowhere(stream: io.StringIO, format_: str) -> None:
    """Not in the event, a value, a nested value, a key, an error, a traceback, nor in bytes."""
    log.configure("info", format_, stream)
    log.register_secret("hunter2")
    error = ValueError("zdb said hunter2")
    log.get("x").error(
        "wrong hunter2",
        text="a hunter2 b",
        nested={"list": ["hunter2"], "hunter2": 1},
        raw=b"..hunter2..",
        path=Path("/hunter2"),
        error=error,
        exc_info=error,
    )
    assert "hunter2" not in stream.getvalue()
    assert b"hunter2".hex() not in stream.getvalue()
    assert stream.getvalue().count("***") == 8


@pytest.mark.parametrize("secret", ['pa"ss\\word', "naïve\n", "it's"])
@pytest.mark.parametrize("quote", [str, repr, json.dumps])
@pytest.mark.parametrize("format_", ["console", "json"])
def test_secret_in_quotes(stream: io.StringIO, secret: str, quote: type[str], format_: str) -> None:
    """An error that quotes a secret escapes some of it; that is hidden as well."""
    log.configure("info", format_, stream)
    log.register_secret(secret)
    log.get("x").info("event", error=f"<{quote(secret)}>")
    line = only_line(stream)
    value = json.loads(line)["error"] if format_ == "json" else line.partition("error=")[2]
    assert value.replace('\\"', '"').strip("\"<>'") == "***"


def test_number_that_is_a_secret(stream: io.StringIO) -> None:
    """A password of digits does not get out as a number."""
    log.configure("info", "json", stream)
    log.register_secret("271828")
    log.get("x").info("event", value=271828, other=3)
    record = json.loads(only_line(stream))
    assert (record["value"], record["other"]) == ("***", 3)


def test_a_secret_inside_another(stream: io.StringIO) -> None:
    """The longer one leaves nothing behind."""
    log.configure("info", "json", stream)
    log.register_secret("hunter")
    log.register_secret("hunter2000")
    log.get("x").info("event", value="hunter2000")
    assert json.loads(only_line(stream))["value"] == "***"


@pytest.mark.parametrize(
    "name", ["password", "admin_password", "secret", "client_secret", "key_material", "Token"]
)
def test_values_under_a_secret_s_name(stream: io.StringIO, name: str) -> None:
    """A value that nobody registered is hidden for the name of its key, at any depth."""
    log.configure("info", "json", stream)
    fields = {name: "hunter2", "config": {name: 271828, "list": [{name: b"hunter2"}]}}
    log.get("x").info("event", **fields)
    record = json.loads(only_line(stream))
    assert record[name] == "***"
    assert record["config"] == {name: "***", "list": [{name: "***"}]}


def test_no_password_is_shown_as_none(stream: io.StringIO) -> None:
    """That there is none is no secret, and worth knowing."""
    log.configure("info", "json", stream)
    log.get("x").info("event", admin_password=None)
    assert json.loads(only_line(stream))["admin_password"] is None


def test_a_short_secret_spares_time_and_level(stream: io.StringIO) -> None:
    """What hookd itself writes stays readable whatever the password is."""
    log.configure("info", "json", stream)
    log.register_secret("2")
    log.get("x").info("event 2")
    record = json.loads(only_line(stream))
    assert record["timestamp"].startswith("2")
    assert record["event"] == "event ***"


def test_scrub() -> None:
    """The same for a text that is not logged; an empty secret is none."""
    log.register_secret("")
    log.register_secret("hunter2")
    assert log.scrub("a hunter2 b") == "a *** b"


# -- libraries -------------------------------------------------------------------------------------


def test_libraries_write_the_same_way(stream: io.StringIO) -> None:
    """What asyncio says about a lost exception is a line like another, scrubbed."""
    log.configure("info", "json", stream)
    log.register_secret("hunter2")
    logging.getLogger("asyncio").error("lost %s", "hunter2", exc_info=ValueError("hunter2"))
    record = json.loads(only_line(stream))
    assert (record["logger"], record["level"]) == ("asyncio", "error")
    assert record["event"] == "lost ***"
    assert record["exception"] == "ValueError: ***"


def test_libraries_speak_from_warning_up(stream: io.StringIO) -> None:
    """watchdog's debug lines are not ours, even at our own level debug."""
    log.configure("debug", "console", stream)
    logging.getLogger("watchdog").info("chatter")
    logging.getLogger("watchdog").log(35, "a level of its own")
    assert without_time(only_line(stream)) == "warn  a level of its own"


def test_a_library_s_mistake(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """A record whose arguments do not fit is written without them, and prints nothing else."""
    logging.getLogger().handlers.clear()  # pytest's own handler raises such a mistake
    log.configure("info", "json", stream)
    logging.getLogger("lib").error("%d files of %s", "hunter2")
    assert json.loads(only_line(stream))["event"] == "%d files of %s"
    assert capsys.readouterr().err == ""


def test_set_up_twice_writes_once(stream: io.StringIO) -> None:
    """A second set-up replaces the first one's handler."""
    log.configure("info", "json", stream)
    log.configure("info", "json", stream)
    logging.getLogger("lib").error("once")
    assert json.loads(only_line(stream))["event"] == "once"


# -- never in the way ------------------------------------------------------------------------------


class Broken:
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_value_without_text(stream: io.StringIO) -> None:
    """A value that fails to print does not fail its caller."""
    log.configure("info", "json", stream)
    log.get("x").info("event", value=Broken())
    assert json.loads(only_line(stream))["value"] == "<Broken>"


def test_a_reader_that_is_gone() -> None:
    """With nobody at the other end of stderr, the lines are lost and the daemon goes on."""
    code = (
        "import sys; from hookd import log; sys.stdin.read(); log.configure();"
        " [log.get('x').info('event') for _ in range(3)]; print('on')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    child.stderr.close()
    child.stderr = None
    out, _ = child.communicate("")
    assert (child.returncode, out) == (0, "on\n")


def test_a_closed_stream(stream: io.StringIO) -> None:
    """So with a stream that was closed at exit."""
    log.configure("info", "json", stream)
    stream.close()
    log.get("x").info("event")
    assert stream.closed


def python(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter's answer."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


async def _cancelled_as_it_is_woken() -> None:
    """What anyio does to a reader of a socket that is cancelled while data comes."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    loop.call_soon(waiter.set_result, None)
    waiter.cancel()
    await asyncio.wait([waiter])
    await asyncio.sleep(0)


def test_a_waiter_that_was_cancelled_is_no_error(stream: io.StringIO) -> None:
    """Nobody could do anything about it; anything else that asyncio says is written."""
    log.configure("info", "json", stream)
    asyncio.run(_cancelled_as_it_is_woken())
    assert stream.getvalue() == ""
    logging.getLogger("asyncio").error("Exception in callback f()", exc_info=ValueError("x"))
    assert "Exception in callback f()" in stream.getvalue()


def test_default_stream_is_stderr() -> None:
    """The answer of a command on stdout is not mixed with its log."""
    done = python("from hookd import log; log.configure(); log.get('x').info('event')")
    assert done.stdout == ""
    assert json.loads(done.stderr)["event"] == "event"


def test_started_without_stderr() -> None:
    """A daemon whose descriptor 2 is closed runs all the same."""
    code = "from hookd import log; log.configure(); log.get('x').info('event'); print('on')"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_import_is_cheap() -> None:
    """A short command that scrubs an error pays for neither structlog nor logging."""
    code = (
        "import sys; from hookd import log; log.register_secret('hunter2'); print(log.scrub('a'));"
        " print({'structlog', 'logging', 'rich', 'asyncio'} & set(sys.modules))"
    )
    assert python(code).stdout == "a\nset()\n"
