"""zstor's wire: the recorded bytes, whole and in pieces; garbage is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from hookd.errors import FrameError
from hookd.stores.zstor_wire import (
    Checksum,
    Failure,
    Reply,
    ReplyReader,
    Success,
    decode_reply,
    encode_check,
    encode_retrieve,
    encode_store,
)

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "zstor-socket.jsonl").read_text().splitlines()
]
IDS = [f"{line['zstor']}-{line['case']}" for line in RECORDED]

_BLOCKING = -1


def encoded(case: str, request: bytes) -> bytes:
    """The recorded request, made again from the path in it."""
    (size,) = struct.unpack_from("<Q", request, 6)
    path = request[14 : 14 + size].decode()
    if "check" in case:
        return encode_check(Path(path))
    if "retrieve" in case:
        return encode_retrieve(path)
    folder = Path("/srv/qsfs/index/zdbfs-data") if "snapshot" in case else None
    return encode_store(Path(path), key_folder=folder)


@pytest.mark.parametrize("line", RECORDED, ids=IDS)
def test_requests_are_the_recorded_bytes(line: dict[str, str]) -> None:
    """What hookd sends is what the real zstor was sent; it never sends a non-blocking store."""
    request = bytes.fromhex(line["request"])
    if "malformed" in line["case"]:
        assert len(request) == 6
        return
    made = encoded(line["case"], request)
    if "not blocking" in line["case"]:
        assert (made[:_BLOCKING], made[_BLOCKING], request[_BLOCKING]) == (
            request[:_BLOCKING],
            1,
            0,
        )
    else:
        assert made == request


def expected(line: dict[str, str]) -> Reply | None:
    """What a recorded reply says, read by hand."""
    reply = bytes.fromhex(line["reply"])
    if not reply:
        return None
    if reply[2] == 1:
        return Failure(reply[14:].decode())
    return Checksum(reply[6:]) if reply[2] == 2 else Success()


@pytest.mark.parametrize("line", RECORDED, ids=IDS)
def test_recorded_replies_whole_and_byte_by_byte(line: dict[str, str]) -> None:
    """One reply, complete with the last byte and not before."""
    reply, wanted = bytes.fromhex(line["reply"]), expected(line)
    assert ReplyReader().feed(reply) == wanted
    reader = ReplyReader()
    said = [reader.feed(bytes([byte])) for byte in reply]
    assert said == [None] * (len(reply) - 1) + [wanted] if reply else said == []


@pytest.mark.parametrize("line", [line for line in RECORDED if line["reply"]])
def test_recorded_replies_with_something_behind(line: dict[str, str]) -> None:
    """There is one reply on a connection: more is no reply."""
    with pytest.raises(FrameError, match="expected"):
        ReplyReader().feed(bytes.fromhex(line["reply"]) + b"\0")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0\0",
        b"\3\0\0\0",
        b"\1\0\0\0",
        b"\1\0\0\0" + struct.pack("<Q", 2) + b"a",
        b"\1\0\0\0" + struct.pack("<Q", 1) + b"ab",
        b"\1\0\0\0" + struct.pack("<Q", 2**63) + b"a",
        b"\2\0\0\0" + bytes(15),
        b"\2\0\0\0" + bytes(17),
        b"\xff\xff\xff\xff",
    ],
    ids=repr,
)
def test_garbage_is_no_reply(payload: bytes) -> None:
    """FrameError, never a guess: a success that was none would be data lost."""
    with pytest.raises(FrameError):
        decode_reply(payload)


def test_an_error_text_that_is_no_utf8() -> None:
    """Is still shown."""
    reply = decode_reply(b"\1\0\0\0" + struct.pack("<Q", 3) + b"a\xffb")
    assert reply == Failure("a\ufffdb")


def test_the_longest_request_and_one_more() -> None:
    """The length is a u16: 65,535 bytes fit."""
    room = 0xFFFF - 4 - 8
    assert len(encode_retrieve("/" * room)) == 2 + 0xFFFF
    with pytest.raises(FrameError, match="65535"):
        encode_retrieve("/" * (room + 1))
    with pytest.raises(FrameError, match="65535"):
        encode_store(Path("/" + "a" * 40_000), key_folder=Path("/" + "b" * 40_000))


def test_a_name_that_is_no_utf8() -> None:
    """zstor's paths are text; such a file cannot be asked for."""
    with pytest.raises(FrameError, match="UTF-8"):
        encode_check(Path("/srv/\udcff"))
