"""A daemon, a real zdb that calls the real shim, and what the clients of that zdb were promised."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from hookd.demo.living_zdb import LivingZdb
from hookd.demo.resp import Client, RespError
from hookd.demo.stage import DemoFailed
from tests.e2e.daemon import PATIENCE_S, Daemon

TERMINATED = 128 + signal.SIGTERM
"""What zdb exits with after SIGTERM (0-db zdbd/zdbd.c)."""

NO_CLOSING = "zdb ended without its closing hooks"
"""What the daemon says where zdb was killed."""

LOCKED = "database unavailable"
LOCK_WITHIN_S = 20.0
"""What zdb says while somebody holds its lock, and how long that may last: the hooks of a zdb that was
killed hold it until the shim's first lines."""

VALUE_BYTES = 60_000
PASSWORD = "correct horse"


class World:
    """A daemon, a zdb, and what its clients were promised."""

    def __init__(
        self,
        daemon: Daemon,
        shim: Path,
        *,
        seed: int = 7,
        value_bytes: int = VALUE_BYTES,
        **environment: str,
    ) -> None:
        """`environment` is for zdb and what it calls; `shim` may be another hook."""
        self.daemon = daemon
        self._shim = shim
        self._environment = environment
        self._random = random.Random(seed)
        self._value_bytes = value_bytes
        self._names: dict[str, str] = {}
        self.values: dict[str, dict[bytes, bytes]] = {}
        """Namespace → key → value."""
        self.ever: dict[bytes, set[bytes]] = {}
        """Key → every value that it ever had, of all namespaces."""
        self.history: dict[str, dict[bytes, list[bytes | None]]] = {}
        """Namespace → key → what it was told to hold, in that order; None is a DEL."""
        self.deleted: dict[str, list[bytes]] = {}
        self.doubtful: dict[str, set[bytes]] = {}
        """Namespace → keys of commands that were under way when zdb died: done or not."""
        self.zdb: LivingZdb | None = None

    def start(self, *, patience_s: str = PATIENCE_S) -> LivingZdb:
        """Start zdb on the daemon's folders. Raises DemoFailed where it does not serve.

        `patience_s`: how long its shims try to reach a daemon before they spool.
        """
        finds = {**self.daemon.environment, "HOOKD_TIMEOUT_S": patience_s}
        environment = {**os.environ, **finds, **self._environment}
        ends = time.monotonic() + LOCK_WITHIN_S
        while True:
            try:
                self.zdb = LivingZdb(self.daemon.folder, hook=self._shim, environment=environment)
            except DemoFailed as error:
                if LOCKED not in str(error) or time.monotonic() > ends:
                    raise
            else:
                return self.zdb

    def create(self, name: str, mode: str) -> None:
        """A private namespace; `mode` is user or seq."""
        client = self.client
        client.ask("NSNEW", name)
        for key, value in (("mode", mode), ("password", PASSWORD), ("public", "0")):
            client.ask("NSSET", name, key, value)
        self._names[name] = mode
        self.values[name], self.deleted[name], self.doubtful[name] = {}, [], set()
        self.history[name] = {}

    def write(self, name: str, count: int) -> None:
        """New values, new ones under old keys, and now and then a DEL. Raises OSError if zdb dies."""
        client, values, doubtful = self.client, self.values[name], self.doubtful[name]
        history = self.history[name]
        client.ask("SELECT", name, PASSWORD)
        for number in range(count):
            value = self._random.randbytes(self._value_bytes)
            old = sorted(values.keys() - doubtful)
            if old and number % 9 == 8:
                key = self._random.choice(old)
                doubtful.add(key)
                history[key].append(None)
                client.ask("DEL", key)
                doubtful.remove(key)
                del values[key]
                self.deleted[name].append(key)
                continue
            if old and number % 3 == 2:
                key = self._random.choice(old)
                self.ever[key].add(value)
                history[key].append(value)
                doubtful.add(key)
                client.ask("SET", key, value)
                doubtful.remove(key)
            elif self._names[name] == "seq":
                given = client.ask("SET", "", value)
                assert isinstance(given, bytes)
                key = given
                history[key] = [value]
            else:
                key = b"key %d" % self._random.randrange(1 << 40)
                history[key] = [value]
                doubtful.add(key)
                client.ask("SET", key, value)
                doubtful.remove(key)
            values[key] = value
            self.ever.setdefault(key, set()).add(value)

    def wrong(self, zdb: LivingZdb) -> list[str]:
        """The keys that `zdb` does not answer as promised, deleted ones that it has included."""
        found = []
        for name, values in self.values.items():
            zdb.client.ask("SELECT", name, PASSWORD)
            for key in (*values, *self.deleted[name]):
                try:
                    answer = zdb.client.ask("GET", key)
                except RespError as error:
                    found.append(f"{name} {key!r}: {error}")
                    continue
                if key in self.doubtful[name] and (answer is None or answer in self.ever[key]):
                    continue
                if answer != values.get(key):
                    found.append(
                        f"{name} {key!r}: {'nothing' if answer is None else 'other bytes'}"
                    )
        return found

    def check_store(self, folder: Path) -> None:
        """As `check_files`, on a copy of the directory store."""
        copy_store(self.daemon, folder)
        self.check_files(folder)

    def check_files(self, folder: Path) -> None:
        """A zdb on these files says all that was promised, and guards what was private."""
        zdb = LivingZdb(folder)
        try:
            for name in self.values:
                with pytest.raises(RespError, match="private"):
                    zdb.client.ask("SELECT", name)
            assert not self.wrong(zdb)
            assert zdb.stop() == TERMINATED
        finally:
            zdb.close()

    @property
    def client(self) -> Client:
        """Of the zdb that runs."""
        assert self.zdb is not None
        return self.zdb.client


def copy_store(daemon: Daemon, folder: Path) -> None:
    """What an administrator would do by hand: the store's folders are zdb's."""
    for root in ("index", "data"):
        shutil.rmtree(folder / root, ignore_errors=True)
        (folder / root).mkdir(parents=True)
        if (daemon.store / root).exists():
            shutil.copytree(daemon.store / root, folder / root, dirs_exist_ok=True)


def sealed(daemon: Daemon, name: str) -> list[Path]:
    """The data files of a namespace that zdb has left behind, oldest first."""
    return sorted((daemon.data / name).glob("d*"), key=lambda path: int(path.name[1:]))[:-1]
