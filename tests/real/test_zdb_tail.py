"""Blank index files of a real zdb: whatever was closed and begun when, every key is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.errors import ZdbUnreachable
from hookd.files import Roots
from hookd.zdb_client import ZdbClient
from hookd.zdb_jump import begin_anew, jump_now
from hookd.zdb_tail import Tail, tail
from tests.e2e.daemon import WITHIN_S

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
]


class Zdb:
    """Without a hook; one sequential namespace, and what each of its keys has to answer."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "index", folder / "data")
        self.address = f"unix://{folder}/zdb.sock"
        self.values: dict[bytes, bytes] = {}
        self._folder = folder
        self.start()
        for words in (("NSNEW", "ns"), ("NSSET", "ns", "mode", "seq")):
            with self.client() as client:
                client.ask(*words)

    def start(self) -> None:
        command = ["zdb", "--index", str(self.roots.index), "--data", str(self.roots.data)]
        with (self._folder / "zdb.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--socket", f"{self._folder}/zdb.sock"], stdout=log, stderr=log
            )
        ends = time.monotonic() + WITHIN_S
        while True:
            try:
                self.client().close()
                return
            except ZdbUnreachable:
                assert time.monotonic() < ends
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(WITHIN_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def client(self) -> ZdbClient:
        made = ZdbClient(self.address)
        made.ask("PING")
        return made

    def put(self, count: int = 3) -> None:
        """New keys; and each of the older ones gets another value."""
        with self.client() as client:
            client.select("ns")
            for _ in range(count):
                value = os.urandom(9).hex()
                self.values[client.ask("SET", "", value)] = value.encode()
            for key in self.values:
                value = os.urandom(9).hex()
                assert client.ask("SET", key, value) == key
                self.values[key] = value.encode()

    def delete(self) -> None:
        """The oldest key."""
        key = next(iter(self.values))
        del self.values[key]
        with self.client() as client:
            client.select("ns")
            client.ask("DEL", key)

    def jump(self) -> None:
        jump_now(self.address, self.roots, None, "ns")

    def begin_anew(self) -> list[str]:
        return begin_anew(self.address, self.roots, None)

    def holds(self) -> bool:
        with self.client() as client:
            client.select("ns")
            return all(client.ask("GET", key) == value for key, value in self.values.items())


@pytest.fixture
def zdb(tmp_path: Path) -> Iterator[Zdb]:
    made = Zdb(tmp_path)
    yield made
    made.stop()


def closed(zdb: Zdb) -> None:
    zdb.jump()
    assert tail(zdb.roots, "ns") is Tail.BEGUN


def closed_and_started_on(zdb: Zdb) -> None:
    zdb.jump()
    zdb.restart()
    assert tail(zdb.roots, "ns") is Tail.LOADED
    assert zdb.begin_anew() == ["ns"]


def begun_anew_twice(zdb: Zdb) -> None:
    closed_and_started_on(zdb)
    assert zdb.begin_anew() == []


def closed_twice(zdb: Zdb) -> None:
    zdb.jump()
    zdb.jump()


def closed_with_only_a_deletion_between(zdb: Zdb) -> None:
    """As a checkpoint does, after a file was removed: data files grow by it, indexes do not."""
    zdb.jump()
    zdb.delete()
    zdb.jump()


def started_twice(zdb: Zdb) -> None:
    closed_and_started_on(zdb)
    zdb.restart()
    assert zdb.begin_anew() == ["ns"]


def nobody_can_look(zdb: Zdb) -> None:
    """zdb runs in another container: once started on the blank file, once not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hookd.zdb_tail.lock_holders", lambda roots: [])
        zdb.jump()
        assert zdb.begin_anew() == ["ns"]
        zdb.jump()
        zdb.restart()
        assert zdb.begin_anew() == ["ns"]


@pytest.mark.parametrize(
    "happens",
    [
        closed,
        closed_and_started_on,
        begun_anew_twice,
        closed_twice,
        closed_with_only_a_deletion_between,
        started_twice,
        nobody_can_look,
    ],
)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_every_key_is_found(zdb: Zdb, happens: Callable[[Zdb], None], rounds: int) -> None:
    """At once, after updates, and after the next start of zdb."""
    zdb.put()
    for _ in range(rounds):
        happens(zdb)
        zdb.put()
        assert zdb.holds()
    zdb.restart()
    assert zdb.holds()


@pytest.mark.parametrize("way", ["started on", "closed twice"])
def test_zdb_still_needs_it(zdb: Zdb, way: str) -> None:
    """Without it keys are lost: a zdb that does not lose them needs none of this any more."""
    zdb.put()
    zdb.jump()
    with zdb.client() as client:
        client.select("ns")
        if way == "closed twice":
            client.jump()
    if way == "started on":
        zdb.restart()
    with zdb.client() as client:
        client.select("ns")
        key = client.ask("SET", "", "lost")
        assert client.ask("GET", key) is None
