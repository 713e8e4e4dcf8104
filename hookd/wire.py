"""Wire: bytes into frames and frames into bytes; the one format of the socket and the spool.

Sans-I/O: nothing here reads, writes, waits or decides. The invariant of this module: a frame that
was decoded is whole, its checksum is right and every length in it adds up; whether its arguments
make sense is the business of `event`.

Version 1, integers big-endian. The shim writes the same in shim/frame.c:

    header     magic "HKD" | version u8 = 1 | kind u8 | 3 zero bytes
               | body length u32 | body CRC-32 u32 (zlib's)
    EVENT      event id, 16 bytes | timeout_ms u32 | cwd | argc u16 | argc times argument
               (cwd and argument: length u32, then as many bytes)
    HEARTBEAT  empty
    ANSWER     code u8 | text, UTF-8, at most 4096 bytes

A connection carries one EVENT to the daemon, then any number of HEARTBEATs and one ANSWER back. A
spool file holds one EVENT and nothing after it.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

from hookd.errors import FrameError

MAX_BODY = 1 << 20
"""Bytes; no body is longer. The kernel's own limit for one argument is an eighth of it."""

MAX_TEXT = 4096
"""Bytes of UTF-8; no text of an answer is longer."""

ANSWER_SPOOL = 254
"""The answer code of a daemon that cannot commit now: the shim is to spool the event itself."""

EVENT_ID_SIZE = 16

_HEADER = struct.Struct(">3sBB3sII")
_EVENT = struct.Struct(">16sII")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")

HEADER_SIZE = _HEADER.size

_MAGIC = b"HKD"
_VERSION = 1
_RESERVED = bytes(3)
_KIND_EVENT, _KIND_HEARTBEAT, _KIND_ANSWER = 1, 2, 3

# Per kind, the shortest and the longest body: enough to refuse a frame from its header alone.
_BODY_SIZES = {
    _KIND_EVENT: (_EVENT.size + _U16.size, MAX_BODY),
    _KIND_HEARTBEAT: (0, 0),
    _KIND_ANSWER: (1, 1 + MAX_TEXT),
}


@dataclass(frozen=True, slots=True)
class EventFrame:
    """Shim to daemon, and the content of a spool file: one call of the hook."""

    event_id: bytes
    """16 random bytes, drawn once per hook call: the same on every connection and in the spool."""
    argv: tuple[str, ...]
    """HOOK, ZDBID, arguments, as `os.fsdecode` gives them: any bytes survive there and back."""
    cwd: str
    """zdb's working directory, against which it means relative paths; empty if unknown."""
    timeout_ms: int
    """For how long the shim bears silence (HOOKD_TIMEOUT_S): heartbeats come more often."""

    def __post_init__(self) -> None:
        if len(self.event_id) != EVENT_ID_SIZE:
            raise ValueError(f"event id of {len(self.event_id)} bytes, expected {EVENT_ID_SIZE}")
        if not 0 <= self.timeout_ms <= 0xFFFFFFFF:
            raise ValueError(f"timeout_ms is {self.timeout_ms}, expected an unsigned 32 bit number")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Daemon to shim: still at work, keep waiting."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Daemon to shim: what to exit with, and a line for zdb's stderr."""

    code: int
    """0 committed, 1 failed, `ANSWER_SPOOL`, or whatever else zdb is to see (u8)."""
    text: str = ""
    """Printed by the shim unless empty; cut at `MAX_TEXT` bytes when encoded."""

    def __post_init__(self) -> None:
        if not 0 <= self.code <= 0xFF:
            raise ValueError(f"answer code is {self.code}, expected 0 to 255")


Frame = EventFrame | Heartbeat | Answer


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Raises FrameError when an event is larger than the format allows."""
    match frame:
        case EventFrame():
            kind, body = _KIND_EVENT, _event_body(frame)
        case Heartbeat():
            kind, body = _KIND_HEARTBEAT, b""
        case Answer():
            kind, body = _KIND_ANSWER, bytes((frame.code,)) + _text(frame.text)
    if len(body) > MAX_BODY:
        raise FrameError(f"the body has {len(body)} bytes, expected at most {MAX_BODY}")
    head = _HEADER.pack(_MAGIC, _VERSION, kind, _RESERVED, len(body), zlib.crc32(body))
    return head + body


def decode_one(data: bytes) -> Frame:
    """The frame that `data` is: all of it and nothing more. Raises FrameError."""
    if len(data) < HEADER_SIZE:
        _check_start(data)
        raise FrameError(f"read {len(data)} bytes, expected a header of {HEADER_SIZE}")
    kind, length, crc = _parse_header(data)
    if len(data) != HEADER_SIZE + length:
        raise FrameError(f"read {len(data)} bytes, expected one frame of {HEADER_SIZE + length}")
    return _parse_body(kind, data[HEADER_SIZE:], crc)


class Decoder:
    """Chunks of a byte stream in, whole frames out.

    After a FrameError there is no way back into step: every later `feed` raises again, and frames
    that preceded the bad bytes in the same chunk are not returned. That loses nothing, for a shim
    without an answer sends its event again.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """How many bytes of a frame that is not yet whole are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`; return the frames that are whole now, in order, perhaps none.

        Raises FrameError at the first byte that no valid frame can have.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        while len(buffer) >= HEADER_SIZE:
            kind, length, crc = _parse_header(buffer)
            end = HEADER_SIZE + length
            if len(buffer) < end:
                return frames
            # Removed only once parsed: what was refused stays, and is refused again.
            frames.append(_parse_body(kind, bytes(buffer[HEADER_SIZE:end]), crc))
            del buffer[:end]
        _check_start(buffer)
        return frames


def _event_body(frame: EventFrame) -> bytes:
    if len(frame.argv) > 0xFFFF:
        raise FrameError(f"the event has {len(frame.argv)} arguments, expected at most {0xFFFF}")
    cwd = os.fsencode(frame.cwd)
    parts = [
        _EVENT.pack(frame.event_id, frame.timeout_ms, len(cwd)),
        cwd,
        _U16.pack(len(frame.argv)),
    ]
    for argument in map(os.fsencode, frame.argv):
        parts += (_U32.pack(len(argument)), argument)
    return b"".join(parts)


def _text(text: str) -> bytes:
    """UTF-8 of any text: no answer is to fail over a path that is not UTF-8, or over its length."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_TEXT:
        return raw
    return raw[:MAX_TEXT].decode("utf-8", "ignore").encode("utf-8")


def _check_start(data: bytes | bytearray) -> None:
    """Refuse less than a header if no header begins like this. Raises FrameError."""
    start = bytes(data[:4])
    expected = _MAGIC + bytes((_VERSION,))
    if not expected.startswith(start):
        raise FrameError(f"read {start!r}, expected {expected!r}")
    if len(data) > 4:
        _check_kind(data[4])
    if any(data[5:8]):
        raise FrameError(f"read {bytes(data[5:8])!r} in the header, expected zero bytes")


def _check_kind(kind: int) -> tuple[int, int]:
    sizes = _BODY_SIZES.get(kind)
    if sizes is None:
        raise FrameError(f"read frame kind {kind}, expected one of {sorted(_BODY_SIZES)}")
    return sizes


def _parse_header(data: bytes | bytearray) -> tuple[int, int, int]:
    """Kind, body length and body CRC-32 of the frame `data` starts with. Raises FrameError."""
    magic, version, kind, reserved, length, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or reserved != _RESERVED:
        _check_start(data)
    shortest, longest = _check_kind(kind)
    if not shortest <= length <= longest:
        raise FrameError(f"read body length {length}, expected {shortest} to {longest}")
    return kind, length, crc


def _parse_body(kind: int, body: bytes, crc: int) -> Frame:
    """The frame of a kind and length that `_parse_header` let pass. Raises FrameError."""
    found = zlib.crc32(body)
    if found != crc:
        raise FrameError(f"read a body with CRC-32 {found:#010x}, expected {crc:#010x}")
    if kind == _KIND_EVENT:
        return _parse_event(body)
    if kind == _KIND_HEARTBEAT:
        return Heartbeat()
    try:
        return Answer(body[0], body[1:].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FrameError(f"read an answer that is not UTF-8: {error.reason}") from None


def _parse_event(body: bytes) -> EventFrame:
    event_id, timeout_ms, cwd_size = _EVENT.unpack_from(body)
    at = _EVENT.size
    argv: list[str] = []
    # Only the lengths are checked here: a slice past the end is short, never an error by itself,
    # so the one comparison after the loop covers all of them.
    try:
        cwd = os.fsdecode(body[at : at + cwd_size])
        at += cwd_size
        (argc,) = _U16.unpack_from(body, at)
        at += 2
        for _ in range(argc):
            (size,) = _U32.unpack_from(body, at)
            at += 4
            argv.append(os.fsdecode(body[at : at + size]))
            at += size
    except struct.error:
        raise FrameError(f"read an event of {len(body)} bytes, expected more than {at}") from None
    if at != len(body):
        raise FrameError(f"read an event of {len(body)} bytes, expected {at}")
    return EventFrame(event_id, tuple(argv), cwd, timeout_ms)
