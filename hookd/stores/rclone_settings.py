"""Settings of the rclone store; `hookd.settings` hangs them into [store]."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from hookd.settings_types import AbsolutePath, Section, Text, meta


def _read_remote(value: Any, text: bool) -> str:
    # "backup" alone would be a folder beside whatever rclone's working directory is
    if not isinstance(value, str) or not (value.startswith("/") or ":" in value) or "\0" in value:
        raise ValueError
    return value


SECRET_NAMES = re.compile(
    r"pass|secret|token|(^|_)key(_|$)|credential|(^|_)sas|cookie|auth|bearer", re.IGNORECASE
)
"""Names of rclone's options (`secret_access_key`, `pass`) whose values nobody else is to see."""

_OPTION = re.compile(r",([\w-]+)=(?:[\"']([^\"']*)[\"']|([^,:]*))")
_OPEN = frozenset({"env_auth", "auth_url", "auth_no_redirect", "no_auth"})


def secret_options(remote: str) -> list[str]:
    """The secrets in a connection string (`:sftp,host=h,pass=p:path`)."""
    return [
        quoted or plain
        for name, quoted, plain in _OPTION.findall(remote)
        if SECRET_NAMES.search(name) and name not in _OPEN and (quoted or plain)
    ]


def holds_secret(remote: str) -> bool:
    """Whether the setting `store.rclone.remote` should not be shown; then it is refused."""
    return bool(secret_options(remote)) or bool(re.search(r"://[^/\s]*:[^/\s]*@", remote))


class RcloneSection(Section, frozen=True, kw_only=True):
    """[store.rclone]"""

    remote: Annotated[str, meta('a remote as rclone takes it, "name:path"', _read_remote)]
    """The remote that is the store."""
    config: AbsolutePath | None = None
    """rclone's configuration file; without it what rclone finds itself, RCLONE_CONFIG_* included."""
    program: Text = "rclone"
    """The rclone to run: a name on PATH, or a path."""
    verify: Literal["hash", "read-back", "size"] = "hash"
    """How a put is proven: see docs/reference/configuration.md."""
