"""zstor's wire format from the server's side, written apart from hookd's own codec."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One request as it was read."""

    verb: str
    path: str
    key_folder: str | None = None
    save_failure: bool = False
    delete: bool = False
    blocking: bool = True


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """`size` bytes. Raises EOFError."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def decode_request(payload: bytes) -> Request:
    """The request in a frame. Raises ValueError for what the real one does not understand."""
    try:
        (tag,) = struct.unpack_from("<I", payload)
        path, rest = _text(payload[4:])
        if tag in (1, 3) and not rest:
            return Request("retrieve" if tag == 1 else "check", path)
        if tag != 0:
            raise ValueError(f"tag {tag}")
        folder = None
        if rest[0]:
            folder, rest = _text(rest[1:])
        else:
            rest = rest[1:]
        save_failure, delete, blocking = (bool(byte) for byte in rest)
        return Request("store", path, folder, save_failure, delete, blocking)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def _text(data: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack_from("<Q", data)
    if len(data) < 8 + size:
        raise ValueError("text cut short")
    return data[8 : 8 + size].decode(), data[8 + size :]


def encode_reply(answer: bytes | str | None) -> bytes:
    """Payload: a digest, an error text, or None for success."""
    if answer is None:
        return struct.pack("<I", 0)
    if isinstance(answer, bytes):
        return struct.pack("<I", 2) + answer
    raw = answer.encode()
    return struct.pack("<IQ", 1, len(raw)) + raw
