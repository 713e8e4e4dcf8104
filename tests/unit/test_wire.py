"""Wire: what is encoded comes back; what is no frame is refused, however it arrives."""

from __future__ import annotations

import os
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookd.errors import FrameError
from hookd.wire import (
    ANSWER_SPOOL,
    HEADER_SIZE,
    MAX_BODY,
    MAX_TEXT,
    Answer,
    Decoder,
    EventFrame,
    Frame,
    Heartbeat,
    decode_one,
    encode,
)

_ID = bytes(range(16))

FRAMES: dict[str, Frame] = {
    "heartbeat": Heartbeat(),
    "done": Answer(0),
    "failed": Answer(1, "no such data file"),
    "spool": Answer(ANSWER_SPOOL, "disk full"),
    "answer at its limit": Answer(255, "é" * (MAX_TEXT // 2)),
    "ready": EventFrame(_ID, ("ready", "tcp://0.0.0.0:9900"), "/", 5000),
    "jump-index": EventFrame(
        _ID, ("jump-index", "unix:///run/zdb", "/i/ns/i3", "/i/ns/i4", "0 2"), "/srv", 0
    ),
    "no arguments, no folder": EventFrame(_ID, (), "", 0xFFFFFFFF),
    "empty arguments": EventFrame(_ID, ("jump-index", "", "", "", ""), "/", 1),
    "not UTF-8": EventFrame(_ID, ("close", os.fsdecode(b"\xff\xfe\x00")), os.fsdecode(b"/\x80"), 1),
    "10,000 dirty ids": EventFrame(
        _ID, ("jump-index", "z", "a", "b", " ".join(map(str, range(10_000)))), "/", 5000
    ),
}


def raw(kind: int, body: bytes, *, length: int | None = None, crc: int | None = None) -> bytes:
    """A frame put together by hand, with a wrong length or checksum if so wanted."""
    size = len(body) if length is None else length
    checksum = zlib.crc32(body) if crc is None else crc
    return struct.pack(">3sBB3xII", b"HKD", 1, kind, size, checksum) + body


def event_body(*, cwd: int = 0, argc: int = 0, rest: bytes = b"") -> bytes:
    """The body of an EVENT with these counts, whether or not `rest` bears them out."""
    return _ID + struct.pack(">II", 5000, cwd) + struct.pack(">H", argc) + rest


# What is sent; how much of it is needed to know that it is no frame; what the error says.
BROKEN: dict[str, tuple[bytes, int, str]] = {
    "other magic": (b"GET / HTTP/1.1\r\n\r\n", 1, "expected b'HKD"),
    "magic breaks off": (b"HKX\x01" + bytes(12), 3, "expected b'HKD"),
    "other version": (b"HKD\x02" + bytes(12), 4, "expected b'HKD"),
    "kind 0": (b"HKD\x01\x00" + bytes(11), 5, "kind 0"),
    "kind 4": (b"HKD\x01\x04" + bytes(11), 5, "kind 4"),
    "reserved byte": (b"HKD\x01\x02\x00\x01" + bytes(9), 7, "zero bytes"),
    "event over the limit": (raw(1, b"", length=MAX_BODY + 1), 16, "length 1048577"),
    "event at 4 GiB": (raw(1, b"", length=0xFFFFFFFF), 16, "length 4294967295"),
    "event without room for itself": (raw(1, bytes(25)), 16, "length 25"),
    "heartbeat with a body": (raw(2, b"x"), 16, "length 1"),
    "answer without a code": (raw(3, b""), 16, "length 0"),
    "answer over the limit": (raw(3, bytes(MAX_TEXT + 2)), 16, "length 4098"),
    "answer not UTF-8": (raw(3, b"\x00\xff"), 18, "not UTF-8"),
    "checksum": (raw(3, b"\x00", crc=1), 17, "CRC-32"),
    "checksum of nothing": (raw(2, b"", crc=1), 16, "CRC-32"),
    "cwd too long": (raw(1, event_body(cwd=3)), 42, "expected"),
    "cwd of 4 GiB": (raw(1, event_body(cwd=0xFFFFFFFF)), 42, "expected"),
    "argument missing": (raw(1, event_body(argc=1)), 42, "expected"),
    "argument cut": (raw(1, event_body(argc=1, rest=b"\0\0\0\4abc")), 49, "expected"),
    "argument of 4 GiB": (raw(1, event_body(argc=1, rest=b"\xff\xff\xff\xff")), 46, "expected"),
    "bytes after the last": (raw(1, event_body(rest=b"x")), 43, "expected 26"),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
class TestWholeFrames:
    def test_at_once(self, frame: Frame) -> None:
        """A frame comes back as it was, from a spool file and from the socket."""
        data = encode(frame)
        decoder = Decoder()
        assert decode_one(data) == frame
        assert decoder.feed(data) == [frame]
        assert decoder.pending == 0

    def test_byte_by_byte(self, frame: Frame) -> None:
        """A frame comes back with its last byte, not earlier."""
        data = encode(frame)
        decoder = Decoder()
        for at in range(len(data) - 1):
            assert decoder.feed(data[at : at + 1]) == []
            assert decoder.pending == at + 1
        assert decoder.feed(data[-1:]) == [frame]

    def test_with_junk_behind(self, frame: Frame) -> None:
        """Junk is refused at its first byte; a spool file with junk is no event."""
        data = encode(frame)
        with pytest.raises(FrameError, match="expected one frame of"):
            decode_one(data + b"\n")
        with pytest.raises(FrameError, match="expected b'HKD"):
            Decoder().feed(data + b"\n")
        decoder = Decoder()
        assert decoder.feed(data) == [frame]
        with pytest.raises(FrameError, match="expected b'HKD"):
            decoder.feed(b"\n")

    def test_with_the_next_behind(self, frame: Frame) -> None:
        """Several frames in one chunk come in their order, and what is cut waits."""
        data = encode(frame) + encode(Answer(7)) + encode(Heartbeat())
        decoder = Decoder()
        assert decoder.feed(data[:-1]) == [frame, Answer(7)]
        assert decoder.pending == HEADER_SIZE - 1
        assert decoder.feed(data[-1:]) == [Heartbeat()]

    def test_cut(self, frame: Frame) -> None:
        """Less than a frame is an error in a spool file and patience on the socket."""
        data = encode(frame)
        for size in {0, 1, 4, HEADER_SIZE - 1, HEADER_SIZE, len(data) - 1} - {len(data)}:
            with pytest.raises(FrameError, match=f"read {size} bytes, expected"):
                decode_one(data[:size])
            assert Decoder().feed(data[:size]) == []


@pytest.mark.parametrize(("data", "needed", "message"), BROKEN.values(), ids=BROKEN.keys())
class TestBrokenFrames:
    def test_at_once(self, data: bytes, needed: int, message: str) -> None:
        """The error names what was read and what was expected."""
        with pytest.raises(FrameError, match=message):
            Decoder().feed(data)
        with pytest.raises(FrameError, match=r"expected|UTF-8"):
            decode_one(data)

    def test_byte_by_byte(self, data: bytes, needed: int, message: str) -> None:
        """It is raised at the first byte that gives it away."""
        decoder = Decoder()
        for at in range(needed - 1):
            assert decoder.feed(data[at : at + 1]) == []
        with pytest.raises(FrameError, match=message):
            decoder.feed(data[needed - 1 : needed])

    def test_there_is_no_way_back(self, data: bytes, needed: int, message: str) -> None:
        """Once out of step, a decoder never returns a frame again."""
        decoder = Decoder()
        for chunk in (data, b"", encode(Heartbeat())):
            with pytest.raises(FrameError, match=message):
                decoder.feed(chunk)


_events = st.builds(
    EventFrame,
    event_id=st.binary(min_size=16, max_size=16),
    argv=st.lists(st.binary(max_size=300).map(os.fsdecode), max_size=12).map(tuple),
    cwd=st.binary(max_size=300).map(os.fsdecode),
    timeout_ms=st.integers(0, 0xFFFFFFFF),
)
_answers = st.builds(
    Answer, st.integers(0, 255), st.text(st.characters(codec="utf-8"), max_size=1000)
)
_frames: st.SearchStrategy[Frame] = st.one_of(_events, _answers, st.just(Heartbeat()))


@given(st.lists(_frames, max_size=5), st.data())
def test_round_trip(frames: list[Frame], data: st.DataObject) -> None:
    """Any frames, cut anywhere, come back equal and in order."""
    stream = b"".join(map(encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == frames
    assert decoder.pending == 0


@given(_frames, st.data())
def test_no_flipped_bit_goes_unseen(frame: Frame, data: st.DataObject) -> None:
    """A spool file in which one bit has turned over is never taken for another event.

    The kind lies outside of the checksum: an event may read as an answer, which no spool holds.
    """
    damaged = bytearray(encode(frame))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode_one(bytes(damaged))
    except FrameError:
        return
    assert type(found) is not type(frame)


@given(st.binary(max_size=200), st.sampled_from([1, 2, 3]))
def test_only_frame_errors(body: bytes, kind: int) -> None:
    """A body of any bytes, with the right checksum, is a frame or a FrameError."""
    try:
        frame = decode_one(raw(kind, body))
    except FrameError:
        return
    assert encode(frame) == raw(kind, body)


def test_the_bytes_of_an_event() -> None:
    """The format itself, byte for byte: the shim in C writes the same."""
    frame = EventFrame(b"i" * 16, ("ready", "z"), "/d", 5000)
    body = (
        b"iiiiiiiiiiiiiiii" + b"\x00\x00\x13\x88" + b"\x00\x00\x00\x02/d"
        b"\x00\x02" + b"\x00\x00\x00\x05ready" + b"\x00\x00\x00\x01z"
    )
    header = b"HKD\x01" + b"\x01" + b"\x00\x00\x00" + b"\x00\x00\x00\x2a"
    assert encode(frame) == header + zlib.crc32(body).to_bytes(4, "big") + body


def test_the_largest_event() -> None:
    """1 MiB of body goes; one byte more, or one argument too many, is refused before it is sent."""
    room = MAX_BODY - 16 - 4 - 4 - 2 - 4
    largest = EventFrame(_ID, ("x" * room,), "", 1)
    assert decode_one(encode(largest)) == largest
    with pytest.raises(FrameError, match="expected at most 1048576"):
        encode(EventFrame(_ID, ("x" * (room + 1),), "", 1))
    with pytest.raises(FrameError, match="65536 arguments"):
        encode(EventFrame(_ID, ("",) * 65536, "", 1))


def test_a_long_text_is_cut_between_characters() -> None:
    """An answer is never lost over its text: too long is cut, what is no text is escaped."""
    answer = decode_one(encode(Answer(1, "€" * MAX_TEXT)))
    assert answer == Answer(1, "€" * (MAX_TEXT // 3))
    assert decode_one(encode(Answer(1, os.fsdecode(b"/d\xff")))) == Answer(1, "/d\\udcff")


def test_frames_check_themselves() -> None:
    """What no frame can carry is refused where it is made."""
    with pytest.raises(ValueError, match="15 bytes, expected 16"):
        EventFrame(bytes(15), (), "", 0)
    for timeout_ms in (-1, 1 << 32):
        with pytest.raises(ValueError, match="timeout_ms"):
            EventFrame(_ID, (), "", timeout_ms)
    for code in (-1, 256):
        with pytest.raises(ValueError, match="code"):
            Answer(code)
