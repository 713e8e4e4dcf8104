"""The fake zstor answers each recorded request with the recorded bytes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.digest import digest_of
from hookd.stores.zstor_wire import Checksum, ReplyReader, Success, encode_check, encode_store
from tests.fakes.zstor import FakeZstor, Mode, Stored

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "zstor-socket.jsonl").read_text().splitlines()
]

D0 = "/srv/qsfs/data/zdbfs-data/d0"
I0 = "/srv/qsfs/index/zdbfs-data/i0"


def talk(place: Path, request: bytes) -> bytes:
    """Everything that comes back for one request."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
        client.sendall(request)
        said = b""
        while more := client.recv(65536):
            said += more
        return said


def mode_of(case: str, version: str) -> Mode:
    """The state that a recorded case was in."""
    if "started while" in case or "the same," in case:
        return Mode.BLIND
    if "all backends down" in case:
        return Mode.DOWN
    if "one backend down" in case:
        return Mode.DOWN if version == "0.4.0" else Mode.NOT_WRITABLE
    return Mode.WELL


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The files that the recording was made with; their content is not known."""
    world = Path(os.path.realpath(tmp_path)) / "world"
    for path in (D0, I0, "/srv/qsfs/staging/i0"):
        (world / path[1:]).parent.mkdir(parents=True)
        (world / path[1:]).write_bytes(b"content")
    return world


@pytest.mark.parametrize("line", RECORDED, ids=[f"{x['zstor']}-{x['case']}" for x in RECORDED])
def test_recorded_exchange(line: dict[str, str], world: Path, tmp_path: Path) -> None:
    """Same state, same request, same reply, to the byte."""
    fake = FakeZstor(tmp_path / "s", version=line["zstor"], world=str(world))
    reply = bytes.fromhex(line["reply"])
    fake.behave(mode_of(line["case"], line["zstor"]))
    digest = reply[6:] if reply[2:3] == b"\2" else b""
    for key in (D0, I0):
        fake.objects[key] = Stored(b"content", digest)
    with fake:
        assert talk(fake.socket, bytes.fromhex(line["request"])) == reply


def test_keys_are_made_like_the_real_one_makes_them(world: Path, tmp_path: Path) -> None:
    """A snapshot's key is its name in the real folder of the live file; nothing is left there."""
    (world / "srv/qsfs/linked").symlink_to(world / "srv/qsfs/index/zdbfs-data")
    with FakeZstor(tmp_path / "s", world=str(world)) as fake:
        request = encode_store(Path("/srv/qsfs/staging/i0"), key_folder=Path("/srv/qsfs/linked"))
        talk(fake.socket, request)
        (world / I0[1:]).unlink()
        talk(fake.socket, request)
        assert list(fake.objects) == [I0]
        assert not (world / I0[1:]).exists()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Path]:
    """It as a process of its own; the path of its socket."""
    with subprocess.Popen(command(tmp_path / "s"), cwd=Path(__file__).parents[2]) as process:
        wait_for(tmp_path / "s")
        (tmp_path / "pid").write_text(str(process.pid))
        yield tmp_path / "s"
        process.kill()


def command(place: Path) -> list[str]:
    return [sys.executable, "-m", "tests.fakes.zstor", str(place), "--state", f"{place}.state"]


def wait_for(place: Path) -> None:
    """Until somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(str(place)):
            time.sleep(0.01)


def test_what_it_keeps_survives_a_kill(process: Path, tmp_path: Path) -> None:
    """Objects are on disk before the reply; the control file says how the next one behaves."""
    source = Path(os.path.realpath(tmp_path)) / "d0"
    source.write_bytes(b"kept")
    assert ReplyReader().feed(talk(process, encode_store(source, key_folder=None))) == Success()
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    process.unlink()
    with subprocess.Popen(command(process), cwd=Path(__file__).parents[2]) as again:
        wait_for(process)
        check = encode_check(source)
        assert ReplyReader().feed(talk(process, check)) == Checksum(digest_of(b"kept"))
        Path(f"{process}.control").write_text("close")
        assert talk(process, check) == b""
        Path(f"{process}.control").write_text("blind")
        assert ReplyReader().feed(talk(process, check)) == Success()
        again.terminate()
    assert again.returncode == 0
    assert not process.exists()
