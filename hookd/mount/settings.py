"""Stage mount, its settings: the table [mount], and what of the whole file `hookd mount` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from hookd.settings_types import AbsolutePath, Section, Size, Switch, Text, meta, seconds, whole


def _read_flags(value: Any, text: bool) -> object:
    return value.split() if text and isinstance(value, str) else value


Flags = Annotated[tuple[str, ...], meta("a list of rclone flags", _read_flags)]
FolderName = Annotated[
    str,
    meta("the name of a folder, without a slash", pattern=r"\A(?!\.{1,2}\Z)[^/\0]{1,255}\Z"),
]


class MountSection(Section, frozen=True, kw_only=True):
    """[mount]: the remote, where it appears, and how long things may take."""

    remote_path: Text | None = None
    """What is mounted, as rclone writes it (`rshare:/folder`); REMOTE_PATH gives it too."""
    local_path: AbsolutePath | None = None
    """Where it appears; LOCAL_PATH gives it too."""
    subdirectory: FolderName | None = None
    """Mount in this folder below `local_path`, so that tasks which bind `local_path` recover."""
    allow_non_empty: Switch = False
    """Mount over a folder that has files, which are hidden meanwhile."""
    allow_other: Switch = True
    """Users other than hookd's own may use the mount."""
    read_only: Switch = False
    """Nothing can be written; nothing is probed by writing."""
    rclone: Text = "rclone"
    """The program, looked for on PATH."""
    flags: Flags = ()
    """More flags for `rclone mount`."""
    password_form: Literal["auto", "plain", "obscured"] = "auto"
    """How passwords are given."""
    cache: AbsolutePath = Path("/var/lib/hookd/mount")
    """Folder of what is written and not uploaded yet."""
    cache_mode: Literal["off", "minimal", "writes", "full"] = "writes"
    """rclone's --vfs-cache-mode."""
    cache_max_bytes: Size | None = 10 * 1024**3
    """What is uploaded already leaves the cache beyond this."""
    cache_min_free_bytes: Size = 256 * 1024**2
    """What is uploaded already leaves the cache while its disk has less room than this."""
    write_back_s: Annotated[float, seconds(0.1, 3600)] = 5.0
    """A file is uploaded this long after it was closed. Never 0: rclone then does not retry."""
    transfers: Annotated[int, whole(1, 64)] = 4
    """Files uploaded at once."""
    runtime: AbsolutePath | None = None
    """Folder for the rclone.conf and its socket, on tmpfs."""
    remote_wait_s: Annotated[float, seconds(0, 86_400)] = 10.0
    """At the start: how long an unreachable remote is tried again."""
    wait_remote: Switch = False
    """At the start: try an unreachable remote for ever."""
    resume: Literal["first", "behind"] = "first"
    """Whether ready waits for files left by an earlier run to be uploaded."""
    resume_wait_s: Annotated[float, seconds(0, 86_400)] = 600.0
    """Longest time that ready waits for them."""
    probe_interval_s: Annotated[float, seconds(0.2, 3600)] = 10.0
    """Pause between two looks at mount and remote."""
    probe_timeout_s: Annotated[float, seconds(0.2, 60)] = 5.0
    """A look that takes longer is a failure."""
    drain_timeout_s: Annotated[float, seconds(0, 31_536_000)] | None = None
    """Give up draining after this; None waits until all is uploaded."""
    ready_file: AbsolutePath | None = None
    """Exists while the mount is ready."""
