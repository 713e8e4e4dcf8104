"""What a remote can do, and so how its files are put there and proven (`operations/fsinfo`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STRONG = ("sha256", "sha1", "md5", "sha512")
"""Computed here, in the same pass as our own digest; the first that the remote has is used."""

_THERE = ("blake3", "xxh128", "quickxor", "dropbox", "hidrive", "mailru", "whirlpool")
"""Computed by rclone for the source too. crc32 and xxh3 are too short to prove anything."""

_EXACT_NS = 1000
"""A remote whose times are this fine tells any two versions of a file apart by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one remote is used."""

    hash_name: str | None
    """The remote's own hash that puts are compared by; None: what was put is read back."""
    hash_here: bool
    """Whether hashlib has it."""
    hash_is_cheap: bool
    """Whether the remote tells it without reading the file: S3 does, a folder does not."""
    staged: bool
    """Uploaded under another name, proven, and moved into place. Else an upload is a file only once
    it is complete, as it is for S3 and its like."""
    exact_times: bool
    """Whether size and time of change identify a version."""
    local: bool
    """A folder of this machine, which may be gone from one moment to the next (not mounted)."""
    path: Path | None
    """Where it is, for a plain folder: rclone does not sync what it writes there, so hookd does."""
    described: str
    """In rclone's own words."""

    @property
    def synced(self) -> bool:
        """Whether what was put outlives a power loss as far as can be told."""
        return self.path is not None or not self.local


def plan(info: Mapping[str, Any], verify: str) -> Plan:
    """From what `operations/fsinfo` says; `verify` is the setting."""
    features: Mapping[str, bool] = info["Features"]
    hashes = frozenset(info.get("Hashes") or ())
    name = next((each for each in (*_STRONG, *_THERE) if each in hashes), None)
    if verify == "read-back":
        name = None
    described = str(info.get("String") or "")
    local = bool(features.get("IsLocal"))
    plain = local and described.startswith("Local file system at ")
    # PartialUploads: what is half written can be seen. WebDAV does not say so of itself, and what
    # its servers show of half an upload is theirs to decide; its MOVE replaces what is there.
    visible = bool(features.get("PartialUploads")) or described.lower().startswith("webdav")
    return Plan(
        hash_name=name,
        hash_here=name in hashlib.algorithms_guaranteed,
        hash_is_cheap=name is not None and not features.get("SlowHash"),
        staged=visible and bool(features.get("Move")) and not features.get("DuplicateFiles"),
        exact_times=0 < int(info.get("Precision") or 0) <= _EXACT_NS,
        local=local,
        path=Path(str(info["Root"])) if plain else None,
        described=described,
    )
