"""Where things are in the container, and the few settings that are not hookd's own.

The paths under /data, the socket of zstor and the mount at /mnt are a contract with existing
configurations; only the mount can be moved. What can be set comes from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import ConfigError

DATA = Path("/data")
ZSTOR_CONFIG = DATA / "zstor.toml"
ZDB_DATA = DATA / "data"
ZDB_INDEX = DATA / "index"
STATE = DATA / "hookd"
"""Journal, spool, staging, locks: all that hookd keeps."""
SPOOL = STATE / "spool"
ZSTOR_SOCKET = Path("/var/run/zstor.sock")
HOOK_SOCKET = Path("/run/hookd/hook.sock")
STATS_SOCKET = Path("/run/hookd/stats.sock")
ZDB_SOCKET = Path("/run/qsfs/zdb.sock")
RUN = Path("/run/qsfs")
LOGS = RUN / "log"
"""One FIFO a service, named like it."""
ZSTOR_LOG = RUN / "zstor.log"
"""zstor writes to a file alone, which it rolls at 10 MiB."""
ZSTOR_WAITS = RUN / "zstor.waits"
"""Exists while zstor is not started because its backends are away."""
ZSTOR_LACKS = RUN / "zstor.lacks"
"""Addresses, one a line, of the backends that were away when zstor was started."""
ZINIT_SOCKET = Path("/var/run/zinit.sock")
ZINIT_SERVICES = Path("/etc/zinit")

SERVICES = ("zstor", "hookd", "zdb", "ns", "fs")
"""In order of their start; stopped in reverse."""

PREFIX = "QSFS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The QSFS_ variables. All of hookd's own settings are HOOKD_SECTION__KEY."""

    mountpoint: Path = Path("/mnt")
    """QSFS_MOUNTPOINT: where zdbfs is mounted, /mnt or a folder in it."""
    mount_options: str = ""
    """QSFS_MOUNT_OPTIONS: more options for zdbfs, separated by commas."""
    data_file_bytes: int = 16 << 20
    """QSFS_DATA_FILE_BYTES: zdb's --datasize; a data file of this size is complete and stored."""
    rotate_s: int = 900
    """QSFS_ROTATE_S: zdb's --rotate, after which a smaller one is stored too; 0 never."""
    backends_wait_s: int = 30
    """QSFS_BACKENDS_WAIT_S: how long zstor's start waits for backends that are away."""
    stop_limit_s: int = 300
    """QSFS_STOP_LIMIT_S: zdbfs, then zdb, are killed when they have not ended this long after their
    stop signal. The drain of hookd has its own limit, drain.timeout_s."""

    @property
    def hookd_variables(self) -> dict[str, str]:
        """What hookd is told of this container, unless somebody says otherwise.

        Kept free of writes: a data file for each namespace, which may begin at any moment, and some for
        hookd's own files.
        """
        return {
            "HOOKD_CHECKPOINT__MOUNT": str(self.mountpoint),
            "HOOKD_ZDB__KEEP_FREE_BYTES": str(4 * self.data_file_bytes + (32 << 20)),
        }


def stores_in_zstor(environ: Mapping[str, str]) -> bool:
    """Whether the store is zstor, as it is unless HOOKD_STORE__KIND says otherwise."""
    return (environ.get("HOOKD_STORE__KIND") or "zstor") == "zstor"


_NUMBERS = {
    "QSFS_DATA_FILE_BYTES": ("data_file_bytes", 1 << 20, 1 << 32),
    "QSFS_ROTATE_S": ("rotate_s", 0, 31_536_000),
    "QSFS_BACKENDS_WAIT_S": ("backends_wait_s", 0, 86_400),
    "QSFS_STOP_LIMIT_S": ("stop_limit_s", 1, 86_400),
}
_OF_A_SERVICE = re.compile(r"QSFS_(\w+_)?(SERVICE_(HOST|PORT)|PORT$|PORT_\d)")
"""What Kubernetes tells every pod of a namespace that has a Service called qsfs or qsfs-NAME."""

NAMES = frozenset({"QSFS_MOUNTPOINT", "QSFS_MOUNT_OPTIONS", *_NUMBERS})
"""Of all settings."""


def is_of_a_service(name: str) -> bool:
    """Whether Kubernetes makes a variable of this name for a Service; then it is nobody's mistake."""
    return _OF_A_SERVICE.match(name) is not None


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings that `environ` holds; empty values count as absent. Raises ConfigError."""
    for name in environ:
        if name.startswith(PREFIX) and name not in NAMES and not is_of_a_service(name):
            known = ", ".join(sorted(NAMES))
            raise ConfigError(name, f"is no setting of this container; there are {known}")
    numbers = {}
    for name, (field, low, high) in _NUMBERS.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ConfigError(name, f"{text!r} is not a whole number from {low} to {high}")
        numbers[field] = int(text)
    return Settings(
        mountpoint=_mountpoint(environ.get("QSFS_MOUNTPOINT") or "/mnt"),
        mount_options=_options(environ.get("QSFS_MOUNT_OPTIONS", "").strip(",")),
        **numbers,
    )


def _mountpoint(text: str) -> Path:
    path = Path(text)
    root = Path("/mnt")
    if ".." in path.parts or not (path == root or root in path.parents):
        raise ConfigError("QSFS_MOUNTPOINT", f"{text!r} is not /mnt or a folder in it")
    if not re.fullmatch(r"[\w./-]+", text):  # it becomes part of /proc/mounts and of an option
        raise ConfigError("QSFS_MOUNTPOINT", f"{text!r} has characters beside letters and . _ - /")
    return path


def _options(text: str) -> str:
    if not re.fullmatch(r"[\w=,./:-]*", text):
        raise ConfigError("QSFS_MOUNT_OPTIONS", f"{text!r} is not option,option=value,...")
    for option in text.split(","):
        name = option.partition("=")[0]
        if name in ("unix", "host", "port", "background", "logfile"):
            raise ConfigError("QSFS_MOUNT_OPTIONS", f"{name} is set by the container; leave it out")
    return text
