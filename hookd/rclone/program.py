"""The program rclone: whether it is there and new enough, how it is started, the login of its control."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence

from hookd.errors import ConfigError

OLDEST = (1, 74, 3)
"""Remote control by unix socket with credentials, and the holes of it closed: older ones let anybody who
reaches the control do what needs a login (CVE-2026-41176, -41179, -49980)."""

OURS = ("RCLONE_RC", "RCLONE_LOG", "RCLONE_USE_JSON_LOG", "RCLONE_SYSLOG", "RCLONE_VERBOSE")
"""Beginnings of variables that change what hookd relies on, for whatever else they were meant."""

HARMFUL = frozenset({"RCLONE_DRY_RUN", "RCLONE_INTERACTIVE", "RCLONE_QUIET"})
"""With the first of them rclone says that it uploaded what it did not."""

_LAUNCH = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(command[0], command)
"""

_VERSION = re.compile(r"^rclone v(\d+)\.(\d+)(?:\.(\d+))?")


def find(name: str, key: str, path: str | None = None) -> str:
    """Where the program lies. Raises ConfigError, of the setting `key`."""
    found = shutil.which(name, path=path)
    if found is None:
        raise ConfigError(
            key,
            f"{name!r} is no program on PATH; install rclone {_shown(OLDEST)} or newer, or name its path",
        )
    return os.path.realpath(found)


def tied(command: Sequence[str]) -> list[str]:
    """`command`, an absolute path first, so that it is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]


def check_version(said: str, program: str, key: str) -> None:
    """Whether `rclone version` answered with one that is new enough. Raises ConfigError."""
    match = _VERSION.search(said)
    if match is None:
        raise ConfigError(key, f"{program} is no rclone; install rclone")
    found = tuple(int(part or 0) for part in match.groups())
    if found < OLDEST:
        raise ConfigError(
            key, f"{program} is {_shown(found)}; hookd needs {_shown(OLDEST)} or newer"
        )


def without(environ: Mapping[str, str], *dropped: str) -> dict[str, str]:
    """`environ` without hookd's own, `OURS`, `HARMFUL`, and what begins with `dropped`."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("HOOKD_", *OURS, *dropped)) and name not in HARMFUL
    }


def login() -> tuple[str, str]:
    """A user and a password for one process's control."""
    return secrets.token_hex(8), secrets.token_hex(16)


def login_variables(user: str, password: str) -> dict[str, str]:
    """How rclone is told them: not on its command line."""
    return {"RCLONE_RC_USER": user, "RCLONE_RC_PASS": password}


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
