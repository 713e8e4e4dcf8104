"""Every store under one roof: what the contract suite runs over, and what it asks of each."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.files import FileKey, Roots, data_key
from hookd.stores.base import Store
from hookd.stores.directory import DirectoryStore
from hookd.stores.rclone import RcloneStore
from hookd.stores.zstor import ZstorStore
from tests.fakes.rclone import FakeRclone
from tests.fakes.zstor import FakeZstor
from tests.real.grid import Grid
from tests.real.rclone import ServedRemote, program


class Harness(ABC):
    """One store with a zdb beside it, and power over the remote side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        self.roots = Roots(folder / "index", folder / "data")
        self.roots.index.mkdir()
        self.roots.data.mkdir()
        self.staging.mkdir(mode=0o700)
        self._snapshots = 0

    @abstractmethod
    def fresh(self) -> Store:
        """Another instance on the same remote, ready for use."""

    @abstractmethod
    def lose(self) -> None:
        """From now on the remote as a whole cannot be reached."""

    @abstractmethod
    def regain(self) -> None:
        """It is back, with what it held."""

    @abstractmethod
    def restart(self) -> None:
        """The remote dies without a warning and comes back."""

    @abstractmethod
    def arguments(self) -> tuple[str, str]:
        """What `open_store` needs in another process."""

    def live(self, key: FileKey, content: bytes) -> Path:
        """Write the live file of `key`."""
        path = self.roots.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def snapshot(self, key: FileKey, content: bytes) -> Path:
        """Write a snapshot; the folder of the live file exists, as when zdb runs."""
        self.roots.path(key).parent.mkdir(parents=True, exist_ok=True)
        self._snapshots += 1
        path = self.staging / str(self._snapshots) / key.name
        path.parent.mkdir()
        path.write_bytes(content)
        return path


class InFolder(Harness):
    """DirectoryStore. Its remote is the folder."""

    @property
    def path(self) -> Path:
        return self.folder / "remote"

    def fresh(self) -> Store:
        return open_store("directory", str(self.path), self.folder)

    def lose(self) -> None:
        self.path.rename(self.folder / "away")

    def regain(self) -> None:
        (self.folder / "away").rename(self.path)

    def restart(self) -> None:
        """A folder has no life of its own."""

    def arguments(self) -> tuple[str, str]:
        return "directory", str(self.path)


class OnFake(Harness):
    """ZstorStore on the fake."""

    secrets = ("fake-password",)

    def __init__(self, folder: Path, fake: FakeZstor) -> None:
        super().__init__(folder)
        self.fake = fake

    def fresh(self) -> Store:
        return open_store("zstor", str(self.fake.socket), self.folder)

    def lose(self) -> None:
        self.fake.stop()

    def regain(self) -> None:
        self.fake.objects.clear()
        self.fake.start()

    def restart(self) -> None:
        self.fake.stop()
        self.regain()

    def arguments(self) -> tuple[str, str]:
        return "zstor", str(self.fake.socket)


class OnGrid(Harness):
    """ZstorStore on the real thing."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        super().__init__(folder)
        self.grid = grid

    def fresh(self) -> Store:
        store, warnings = ZstorStore.from_config(self.grid.config, self.roots, self.staging)
        assert warnings == []
        store.prepare()
        return store

    def lose(self) -> None:
        self.grid.stop_zstor(kill=True)

    def regain(self) -> None:
        self.grid.start_zstor()

    def restart(self) -> None:
        self.grid.stop_zstor(kill=True)
        self.grid.start_zstor()

    def arguments(self) -> tuple[str, str]:
        return "zstor", str(self.grid.socket)


class OnRclone(Harness):
    """RcloneStore on a remote that a real rclone serves, or that is a folder."""

    def __init__(self, folder: Path, remote: ServedRemote) -> None:
        super().__init__(folder)
        self.remote = remote
        self._opened: list[RcloneStore] = []

    def fresh(self) -> Store:
        if self._opened and not self.remote.keeps:
            pytest.skip("rclone's memory remote ends with its process: there is no second instance")
        store = open_store(*self.arguments(), self.folder)
        assert isinstance(store, RcloneStore)
        self._opened.append(store)
        return store

    def lose(self) -> None:
        self.remote.lose()

    def regain(self) -> None:
        self.remote.regain()

    def restart(self) -> None:
        self.remote.restart()

    def arguments(self) -> tuple[str, str]:
        return "rclone", self.remote.name

    def close(self) -> None:
        """End every rclone, and the remote."""
        for store in self._opened:
            if (pid := store.process.pid) is not None:
                os.kill(pid, signal.SIGKILL)
        self.remote.close()


class OnFakeRclone(OnRclone):
    """The same on the fake: for where there is no rclone, and for what a real one does rarely."""

    secrets = ("fake-password",)

    def __init__(self, folder: Path, fake: FakeRclone) -> None:
        super().__init__(folder, ServedRemote(folder))
        self.fake = fake

    def arguments(self) -> tuple[str, str]:
        return "fake-rclone", str(self.fake.program)

    def lose(self) -> None:
        self.fake.remote.rename(self.folder / "away")

    def regain(self) -> None:
        (self.folder / "away").rename(self.fake.remote)


def open_store(kind: str, place: str, folder: Path) -> Store:
    """A store on `place`, for the zdb under `folder`; also called in other processes."""
    if kind in ("rclone", "fake-rclone"):
        rclone = RcloneStore(
            remote=place if kind == "rclone" else "nas:zdb",
            folder=Path(tempfile.mkdtemp(prefix="rc-", dir=folder)),
            known_id=folder / "rclone-store-id",
            program=program() if kind == "rclone" else place,
        )
        rclone.prepare()
        return rclone
    if kind == "directory":
        directory = DirectoryStore(Path(place))
        directory.prepare()
        return directory
    zstor = ZstorStore(
        socket=Path(place),
        roots=Roots(folder / "index", folder / "data"),
        staging=folder / "staging",
        secrets=OnFake.secrets,
    )
    zstor.prepare()
    return zstor


KEY = data_key("ns", 0)
"""Of the file that most tests are about."""


async def put(store: Store, key: FileKey, source: Path) -> bytes:
    """Store what `source` holds; its digest."""
    digest = digest_of(await run_sync(source.read_bytes))
    await store.put(key, source, digest)
    return digest


async def content(store: Store, harness: Harness, key: FileKey) -> bytes:
    """What the store gives back."""
    target = harness.folder / f"got-{random.getrandbits(64):x}"
    await store.get(key, target)
    found = target.read_bytes()
    target.unlink()
    return found


def tree(folder: Path) -> set[str]:
    """Every path below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def every_call(store: Store, harness: Harness) -> list[Callable[[], Awaitable[object]]]:
    """Everything that has to reach the remote."""
    live = harness.roots.path(KEY)
    digest = digest_of(live.read_bytes())
    return [
        lambda: store.put(KEY, live, digest),
        lambda: store.stat(KEY),
        lambda: store.get(KEY, harness.folder / "target"),
        store.health,
        store.prove_absence,
    ]
