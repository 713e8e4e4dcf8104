"""What the objects of an rclone store hashed to, so that a stat after a put reads no content.

One small object beside each stored one, at `.hookd/sums/ROOT/NAMESPACE/NAME`: its size, its
BLAKE2b-128, and what tells that very object from any other of its name: the remote's own hash, its
time of change, its id. It is written after the object that it describes, and where only the time
would tell a new object from the old one, removed before. It is a shortcut: lost, torn or stale, it
costs reading the object once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Item:
    """An object as the remote describes it (`operations/stat`)."""

    size_bytes: int
    modified: str
    id: str
    hash: str
    """Empty where the remote has none or was not asked for it."""

    @classmethod
    def parse(cls, found: Mapping[str, Any], hash_name: str | None) -> Item:
        """From rclone's own words."""
        hashes = found.get("Hashes") or {}
        return cls(
            size_bytes=int(found["Size"]),
            modified=str(found.get("ModTime") or ""),
            id=str(found.get("ID") or ""),
            hash=str(hashes.get(hash_name) or "").lower(),
        )


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """One record."""

    blake2b_128: str
    size: int
    hash_name: str | None
    hash: str
    modified: str
    id: str

    @classmethod
    def of(cls, digest: bytes, item: Item, hash_name: str | None) -> Sum:
        """`item` hashed to `digest`."""
        return cls(
            blake2b_128=digest.hex(),
            size=item.size_bytes,
            hash_name=hash_name,
            hash=item.hash,
            modified=item.modified,
            id=item.id,
        )

    @classmethod
    def parse(cls, content: bytes | None) -> Sum | None:
        """None for what is no record."""
        try:
            return msgspec.json.decode(content, type=cls) if content else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def encode(self) -> bytes:
        """As it is stored."""
        return msgspec.json.encode(self) + b"\n"

    def digest_of(self, item: Item, hash_name: str | None, *, by_hash: bool) -> bytes | None:
        """The digest of `item` if it is the object that this describes, else None.

        `by_hash`: the remote's hash decides; else size, time and id do.
        """
        if self.size != item.size_bytes:
            return None
        if by_hash:
            same = bool(item.hash) and (self.hash_name, self.hash) == (hash_name, item.hash)
        else:
            same = (self.modified, self.id) == (item.modified, item.id)
        try:
            digest = bytes.fromhex(self.blake2b_128)
        except ValueError:
            return None
        return digest if same and len(digest) == 16 else None
