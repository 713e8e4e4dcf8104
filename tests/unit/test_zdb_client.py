"""The client of zdb's protocol, against the fake zdb's; the real one is met in tests/real."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.errors import ZdbRefused, ZdbUnreachable
from hookd.files import Roots, namespace_key
from hookd.zdb import ZdbLife
from hookd.zdb_client import ZdbClient, password_of
from hookd.zdb_jump import jump
from tests.fakes.zdb_files import descriptor
from tests.fakes.zdb_protocol import Protocol

Serve = Callable[..., Protocol]
PASSWORDS = {"open": None, "private": "s3cret"}


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/zdb.sock"


@pytest.fixture
def jumped() -> list[str]:
    return []


@pytest.fixture
def serve(tmp_path: Path, jumped: list[str]) -> Iterator[Serve]:
    """Starts a zdb; `admin` is its --admin."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/zdb.sock")

    def start(admin: str | None = None) -> Protocol:
        listener.listen()
        password = PASSWORDS.__getitem__
        return Protocol(listener, admin=admin, password=password, jump=jumped.append)

    yield start
    listener.close()


def test_passwords_are_proven_and_never_sent(serve: Serve, address: str) -> None:
    protocol = serve(admin="r00t")
    with ZdbClient(address) as zdb:
        zdb.sign_in("r00t")
        zdb.select("private", "s3cret")
        zdb.jump()
    sent = b" ".join(protocol.heard)
    assert b"AUTH SECURE CHALLENGE" in sent
    assert b"r00t" not in sent and b"s3cret" not in sent


def test_who_started_a_hook_stays_connected_and_does_not_wait(
    serve: Serve, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zdb 2.0.7 dies of a client that hangs up beside a hook; a checkpoint does not wait for that."""
    serve()
    monkeypatch.setattr("hookd.zdb_client.LINGER_S", 0.2)
    for hook in (False, True):
        hung_up = threading.Event()
        with ZdbClient(address) as zdb:
            monkeypatch.setattr(zdb._client, "close", hung_up.set)
            zdb.select("open")
            if hook:
                zdb.jump()
        assert hung_up.is_set() is not hook
        assert hung_up.wait(10)


def test_a_wrong_password_is_refused_and_not_named(serve: Serve, address: str) -> None:
    serve(admin="r00t")
    with ZdbClient(address) as zdb, pytest.raises(ZdbRefused) as refused:
        zdb.sign_in("wr0ng")
    assert "wr0ng" not in str(refused.value)


def test_a_zdb_without_an_admin_needs_no_password(serve: Serve, address: str) -> None:
    serve()
    with ZdbClient(address) as zdb:
        zdb.sign_in("anything")
        zdb.select("open")
        zdb.jump()


def test_nobody_there(address: str) -> None:
    with pytest.raises(ZdbUnreachable, match=r"zdb\.sock"):
        ZdbClient(address)


@pytest.mark.parametrize("address", ["tcp://host", "tcp://127.0.0.1:1", "nothing"])
def test_addresses_that_lead_nowhere(address: str) -> None:
    with pytest.raises(ZdbUnreachable):
        ZdbClient(address, limit_s=0.5)


def test_an_answer_that_does_not_come(address: str, tmp_path: Path) -> None:
    """zdb stands still in a hook: bounded."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/zdb.sock")
        listener.listen()
        with pytest.raises(ZdbUnreachable), ZdbClient(address, limit_s=0.2) as zdb:
            zdb.jump()


@pytest.mark.parametrize("password", [None, "s3cret", "ä"])
def test_the_password_in_a_descriptor(password: str | None) -> None:
    """As zdb writes it: lengths, then the name and the password without an end."""
    raw = (password or "").encode()
    content = struct.pack("<IBBQB", 1, 2, len(raw), 0, 1) + b"ns" + raw
    assert password_of(content) == password
    if raw:
        with pytest.raises(ValueError, match="expected"):
            password_of(content[:-1])


def test_what_is_no_descriptor() -> None:
    with pytest.raises(ValueError, match="expected at least 15"):
        password_of(b"")


# -- NSJUMP ------------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    found = Roots(tmp_path / "index", tmp_path / "data")
    for name, password in PASSWORDS.items():
        path = found.path(namespace_key(name))
        path.parent.mkdir(parents=True)
        raw = (password or "").encode()
        head = struct.pack("<IBBQB", 1, len(name), len(raw), 0, 1)
        path.write_bytes(head + name.encode() + raw if raw else descriptor(name))
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("name", PASSWORDS)
async def test_jump(serve: Serve, address: str, roots: Roots, jumped: list[str], name: str) -> None:
    """With the password that the namespace's own file has."""
    serve(admin="r00t")
    await jump(ZdbLife(address=address), roots, "r00t", name)
    assert jumped == [name]


@pytest.mark.anyio
async def test_jump_says_what_to_set(serve: Serve, address: str, roots: Roots) -> None:
    with pytest.raises(ZdbUnreachable, match=r"zdb\.address"):
        await jump(ZdbLife(), roots, None, "open")
    serve(admin="r00t")
    with pytest.raises(ZdbRefused, match=r"set zdb\.admin_password"):
        await jump(ZdbLife(address=address), roots, None, "open")
    with pytest.raises(ZdbRefused, match=r"zdb\.admin_password is refused"):
        await jump(ZdbLife(address=address), roots, "wr0ng", "open")
    with pytest.raises(ZdbRefused, match="not found"):
        await jump(ZdbLife(address=address), roots, "r00t", "unknown")
