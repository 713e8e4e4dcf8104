"""zstor's socket protocol: requests out, replies in; bytes only, no I/O.

    frame    u16 big-endian length, then that many bytes of bincode 1
    bincode  little-endian; enum tag u32; text u64 length + UTF-8; Option u8 tag; bool u8

One request and one reply per connection; what zstor cannot decode it answers by closing
(0-stor_v2 zstor/src/main.rs `handle_client`, actors/zstor.rs `ZstorCommand`, `ZstorResponse`;
the same in v0.4.0 and v0.5.0-rc.1, recorded in tests/data/zstor-socket.jsonl).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from hookd.digest import DIGEST_SIZE
from hookd.errors import FrameError

MAX_PAYLOAD_BYTES = 0xFFFF

_LENGTH = struct.Struct(">H")
_TAG = struct.Struct("<I")
_SIZE = struct.Struct("<Q")

_STORE, _RETRIEVE, _CHECK = 0, 1, 3
_SUCCESS, _ERROR, _CHECKSUM = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Success:
    """Done; for a check: no such file."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Not done, for the reason `text`. It may hold passwords."""

    text: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """A check found the file; `digest` is the BLAKE2b-128 that its content had when stored."""

    digest: bytes


Reply = Success | Failure | Checksum


def encode_store(file: Path, *, key_folder: Path | None) -> bytes:
    """Frame: store `file` now and answer when done; keep the file; leave retrying to us.

    The object's key is the real path of `file`, or of a file of its name in `key_folder`.
    Raises FrameError if the paths do not fit or are no UTF-8.
    """
    folder = b"\0" if key_folder is None else b"\1" + _text(key_folder)
    save_failure, delete, blocking = b"\0", b"\0", b"\1"
    return _frame(_STORE, _text(file) + folder + save_failure + delete + blocking)


def encode_retrieve(path: str) -> bytes:
    """Frame: write the object with the key `path`, lexically cleaned, to where the kernel finds
    `path`. Raises FrameError."""
    return _frame(_RETRIEVE, _text(path))


def encode_check(path: Path) -> bytes:
    """Frame: ask for the checksum of the object with the key `path`. Raises FrameError."""
    return _frame(_CHECK, _text(path))


class ReplyReader:
    """Gathers one reply from pieces of any size."""

    def __init__(self) -> None:
        self._seen = b""

    def feed(self, data: bytes) -> Reply | None:
        """Take more bytes; the reply once it is whole, None before.

        Raises FrameError for bytes that are no reply, or beyond it.
        """
        self._seen += data
        if len(self._seen) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._seen)
        payload = self._seen[_LENGTH.size :]
        if len(payload) > size:
            raise FrameError(f"read {len(payload)} bytes of reply, expected {size}")
        return decode_reply(payload) if len(payload) == size else None


def decode_reply(payload: bytes) -> Reply:
    """The reply in a frame without its length. Raises FrameError."""
    if len(payload) < _TAG.size:
        raise FrameError(f"read a reply of {len(payload)} bytes, expected 4 or more")
    (tag,) = _TAG.unpack_from(payload)
    rest = payload[_TAG.size :]
    if tag == _SUCCESS and not rest:
        return Success()
    if tag == _ERROR:
        return Failure(_read_text(rest))
    if tag == _CHECKSUM and len(rest) == DIGEST_SIZE:
        return Checksum(rest)
    raise FrameError(
        f"read reply tag {tag} with {len(rest)} bytes, expected 0 with none, 1 with a text"
        f" or 2 with {DIGEST_SIZE}"
    )


def _frame(tag: int, body: bytes) -> bytes:
    payload = _TAG.pack(tag) + body
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise FrameError(
            f"the request takes {len(payload)} bytes, zstor reads at most {MAX_PAYLOAD_BYTES}"
        )
    return _LENGTH.pack(len(payload)) + payload


def _text(path: Path | str) -> bytes:
    try:
        raw = str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        # a name that is no UTF-8 on disk; zstor's paths are Rust strings on the wire
        raise FrameError(f"{path!r} is no UTF-8, zstor cannot be asked for it") from error
    return _SIZE.pack(len(raw)) + raw


def _read_text(raw: bytes) -> str:
    if len(raw) < _SIZE.size:
        raise FrameError(f"read a text length of {len(raw)} bytes, expected {_SIZE.size}")
    (size,) = _SIZE.unpack_from(raw)
    text = raw[_SIZE.size :]
    if len(text) != size:
        raise FrameError(f"read a text of {len(text)} bytes, expected {size}")
    return text.decode("utf-8", errors="replace")
