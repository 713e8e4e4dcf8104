"""Stage log: events of every module, and of the libraries, into lines on stderr.

Owns the invariant that no registered secret and no value under a secret's name is written, and
that an event is one line whatever the names in it hold: zdb takes any bytes for a namespace's
name, so line ends and terminal escapes arrive from outside. A traceback is the one exception; the
console shows it on lines of its own, indented.

Logging never fails its caller: what cannot be written (stderr's reader is gone) is lost. It can
hold its caller up, though, when stderr is a pipe that nobody empties.

structlog takes about as long to import as everything else that a short command needs together
(it loads rich where that is installed), so only `configure` and `get` import it: `scrub` and
`register_secret` are free.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from logging import LogRecord

    from structlog.typing import FilteringBoundLogger

HIDDEN = "***"
"""Stands where a secret was."""

_SECRET_NAMES = ("password", "secret", "key_material", "token")
"""A key whose name contains one of these has its value hidden: rather one too many."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SHORT = {"warning": "warn", "critical": "crit"}
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_FIRST = ("timestamp", "level", "logger", "event")

_LIBRARIES_FROM = 30
"""Least level taken from libraries: watchdog and asyncio are chatty below warning."""

_secrets: list[str] = []


def register_secret(secret: str) -> None:
    """Never write `secret` again, wherever in a line it stands; an empty one is ignored.

    Also in the two forms in which error messages quote text: as Python's repr and as JSON do.
    """
    import json

    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]} - {""}
    # Longest first: a secret inside another one must not leave the rest of the longer one behind.
    _secrets[:] = sorted({*_secrets, *forms}, key=len, reverse=True)


def scrub(text: str) -> str:
    """`text` with every registered secret as `***`; for errors and answers that are no log."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    return text


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Set up logging for this process; a later call replaces the set-up.

    `level` is the least that is written: debug, info, warning or error. `format` is console, json,
    or auto: console where `stream` (None: stderr as it is now) is a terminal, else json. Colours
    only on a terminal, and not with NO_COLOR set. Raises KeyError for an unknown level,
    ValueError for an unknown format.
    """
    import structlog

    if format not in ("auto", "console", "json"):
        raise ValueError(f"log format {format!r}, expected auto, console or json")
    stream = sys.stderr if stream is None else stream
    terminal = stream is not None and stream.isatty()
    if format == "console" or (format == "auto" and terminal):
        precision = "%Y-%m-%dT%H:%M:%SZ"
        coloured = terminal and not os.environ.get("NO_COLOR")
        renderer: Any = _Console(coloured=coloured)
    else:
        precision = "iso"
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=precision, utc=True),
            _name_logger,
            structlog.processors.format_exc_info,
            _scrub_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        context_class=dict,
        logger_factory=lambda *names: _Lines(stream, *names),
        # Loggers are made at import, before this runs, and tests configure more than once.
        cache_logger_on_first_use=False,
    )
    _take_over_libraries(_LEVELS[level])


def get(name: str) -> FilteringBoundLogger:
    """The logger of a module; `name` is the field `logger` of its JSON lines."""
    import structlog

    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _Lines:
    """Writes finished lines; what structlog calls a wrapped logger."""

    def __init__(self, stream: TextIO | None, name: str | None = None) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        if self._stream is None:  # started with descriptor 2 closed
            return
        try:
            # One write: lines of several threads do not mix. Escaped: a stream in ASCII, or a
            # name that is no UTF-8, must not cost the line.
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # its reader is gone; or it is closed, at exit
            pass

    debug = info = warning = error = critical = msg


def _name_logger(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    name = getattr(logger, "name", None)
    if name is not None:
        event.setdefault("logger", name)
    return event


def _scrub_event(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    ordered = {key: event.pop(key) for key in _FIRST if key in event} | dict(event)
    # The first two are ours: a short secret may well be part of them.
    own = {key: ordered.pop(key) for key in _FIRST[:2]}
    return own | {key: _scrub_value(key, value) for key, value in ordered.items()}


def _scrub_value(key: str, value: object) -> Any:
    """`value` fit for either renderer: plain types only, no secrets."""
    if value is None or isinstance(value, bool):
        return value
    if any(name in key.lower() for name in _SECRET_NAMES):
        return HIDDEN
    if isinstance(value, (int, float)):
        return value if scrub(str(value)) == str(value) else HIDDEN
    if isinstance(value, Mapping):
        return {scrub(str(name)): _scrub_value(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrub_value(key, item) for item in value]
    if isinstance(value, bytes):  # digests
        return value.hex() if scrub(text := value.decode("latin-1")) == text else HIDDEN
    try:
        return scrub(str(value))
    except Exception:  # a broken __str__ is its author's, not the caller's, fault
        return f"<{type(value).__name__}>"


class _Console:
    """`2026-01-01T12:00:00Z info  stored  file=data/zdbfs-data/d3 bytes=16777216`."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        trace = event.pop("exception", None)
        event.pop("logger", None)
        level = event.pop("level")
        head = self._paint(_COLOURS[level], f"{_SHORT.get(level, level):<5}")
        line = f"{event.pop('timestamp')} {head} {_printable(str(event.pop('event')))}"
        fields = " ".join(
            f"{self._paint('2', f'{_printable(name)}=')}{_field(value)}"
            for name, value in event.items()
        )
        if fields:
            line = f"{line}  {fields}"
        if trace is not None:
            line = "\n    ".join([line, *map(_printable, str(trace).splitlines())])
        return line

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text


def _printable(text: str) -> str:
    """`text` with every control character, escape and lone surrogate as a backslash sequence."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _field(value: object) -> str:
    """A value as one word, quoted where it would not be one."""
    if isinstance(value, (dict, list)):
        import json

        return _printable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    text = str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(quoted)}"'


def _is_late_wake(record: LogRecord) -> bool:
    """anyio wakes whoever waits for a socket by a plain `set_result`: where the waiter was cancelled in
    that very turn of the loop, asyncio calls that an error. It is none.
    """
    text, error = str(record.msg), record.exc_info[1] if record.exc_info else None
    return (
        record.name == "asyncio"
        and text.startswith("Exception in callback Future.set_result(None)")
        and type(error).__name__ == "InvalidStateError"
    )


def _take_over_libraries(level: int) -> None:
    """Send what libraries log (logging, from warning up) the same way, scrubbed alike."""
    import logging

    class Forward(logging.Handler):
        """Hands records to structlog."""

        hookd = True

        def emit(self, record: logging.LogRecord) -> None:
            if _is_late_wake(record):
                return
            level = max((n for n in _LEVELS.values() if n <= record.levelno), default=10)
            try:
                text = record.getMessage()
            except Exception:  # logging would print the arguments, unscrubbed
                text = str(record.msg)
            get(record.name).log(level, text, exc_info=record.exc_info)

    root = logging.getLogger()
    for handler in root.handlers[:]:
        if getattr(handler, "hookd", False):
            root.removeHandler(handler)
    root.addHandler(Forward())
    root.setLevel(max(level, _LIBRARIES_FROM))
