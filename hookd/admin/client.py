"""The other end of the stats socket: finds it, asks one line, returns the answer.

Cheap to import, because `hookd status` pays for it. Finding the socket needs no valid
configuration: an administrator's shell may see none of zdb's folders, and a mistake in the file is
what `hookd status` may be asked about. Only the two keys that are needed are looked at.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hookd.errors import ConfigError, Exit, UserError

# hookd.config has the same ones (a test compares them), but takes ten times as long to import.
DEFAULT_CONFIG = Path("/etc/hookd/hookd.toml")
DEFAULT_SOCKET = Path("/run/hookd/stats.sock")
DEFAULT_JOURNAL = Path("/var/lib/hookd/journal.db")

REFUSED = "error: "
"""How an answer begins that says why not (`hookd.admin.server`)."""

ANSWER_WITHIN_S = 30.0


class DaemonAway(UserError):
    """Nobody serves the stats socket."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the daemon is not running ({path}: {reason})", code=Exit.UNAVAILABLE)


class Places(NamedTuple):  # no dataclass: importing that module takes a third of `hookd status`
    """Where a daemon with this configuration is found."""

    socket: Path
    journal: Path


def places(config: Path | None, environ: Mapping[str, str]) -> Places:
    """Look them up as `hookd.config.load` would: environment, file, defaults.

    Raises ConfigError if `config`, the file named on the command line, cannot be used; any other
    file is passed over if it cannot.
    """
    try:
        table = _read(config or Path(environ.get("HOOKD_CONFIG") or DEFAULT_CONFIG))
    except (OSError, ValueError) as error:
        if config is not None:
            reason = getattr(error, "strerror", None) or f"is no TOML: {error}"
            raise ConfigError(str(config), reason) from None
        table = {}
    return Places(
        socket=_place(environ.get("HOOKD_STATS__SOCKET"), table, "stats", "socket", DEFAULT_SOCKET),
        journal=_place(
            environ.get("HOOKD_JOURNAL__PATH"), table, "journal", "path", DEFAULT_JOURNAL
        ),
    )


def _read(path: Path) -> dict[str, object]:
    """The file's tables. Raises OSError, ValueError."""
    data = path.read_bytes()
    import tomllib  # only where there is a file

    return tomllib.loads(data.decode())


def _place(
    variable: str | None, table: Mapping[str, object], section: str, key: str, default: Path
) -> Path:
    if variable:
        return Path(variable)
    values = table.get(section)
    found = values.get(key) if isinstance(values, dict) else None
    return Path(found) if isinstance(found, str) and found else default


def ask(path: Path, line: str, *, within_s: float = ANSWER_WITHIN_S) -> str:
    """What the daemon answers to `line`, without the last line end. Blocking.

    Raises DaemonAway, and UserError with the reason where the daemon refuses or does not answer.
    """
    with asked(path, line, within_s=within_s) as chunks:
        answer = b"".join(chunks).decode("utf-8", "replace").removesuffix("\n")
    if not answer:
        raise DaemonAway(path, "it went away without an answer")
    if answer.startswith(REFUSED):
        raise UserError(answer.removeprefix(REFUSED), code=Exit.FAILED)
    return answer


def follow(path: Path, line: str, *, within_s: float = ANSWER_WITHIN_S) -> Iterator[str]:
    """The answer line by line, as it comes; `within_s` bounds each pause. Blocking. Raises as `ask`."""
    rest = b""
    with asked(path, line, within_s=within_s) as chunks:
        for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for found in lines:
                text = found.decode("utf-8", "replace")
                if text.startswith(REFUSED):
                    raise UserError(text.removeprefix(REFUSED), code=Exit.FAILED)
                yield text


@contextmanager
def asked(path: Path, line: str, *, within_s: float) -> Iterator[Iterator[bytes]]:
    """What comes back, piece by piece, until the daemon hangs up. Raises as `ask`."""
    if "\n" in line:  # the daemon reads one line: it would act on half of a name
        raise UserError(f"{line!r} is more than one line; name the file by its number")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(within_s)
        try:
            client.connect(os.fspath(path))
            client.sendall(line.encode("utf-8", "surrogateescape") + b"\n")
            yield iter(partial(client.recv, 1 << 16), b"")
        except PermissionError:
            raise UserError(
                f"{path}: not permitted; ask as root or as the daemon's user", code=Exit.NOPERM
            ) from None
        except TimeoutError:
            raise UserError(
                f"the daemon runs, but does not answer within {within_s:g} s", code=Exit.UNAVAILABLE
            ) from None
        except OSError as error:
            raise DaemonAway(path, error.strerror or str(error)) from None
