"""Directory store: what lies on disk and in which order; what an admin changed; its start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hookd.digest import digest_of
from hookd.errors import Exit, StorePermanent, StoreTemporary, StoreUnreachable, UserError
from hookd.files import data_key, index_key
from hookd.stores import directory_folder, directory_mark
from hookd.stores.directory import DirectoryStore
from tests.fakes.in_folder import KEY, leftovers, opened, put

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The store's folder."""
    return tmp_path / "remote"


@pytest.fixture
def store(path: Path) -> DirectoryStore:
    return opened(path)


def modes(path: Path) -> tuple[set[int], set[int]]:
    """Of all folders and of all files."""
    found: tuple[set[int], set[int]] = (set(), set())
    for each in (path, *path.rglob("*")):
        found[not each.is_dir()].add(each.stat().st_mode & 0o777)
    return found


# -- on disk ---------------------------------------------------------------------------------------


async def test_layout_and_modes(store: DirectoryStore, path: Path) -> None:
    """Exact bytes at the fixed names, own records under .hookd, all of it private."""
    await put(store, path, b"data")
    await put(store, path, b"index", index_key("ns", 7))
    assert (path / "data/ns/d0").read_bytes() == b"data"
    assert (path / "index/ns/i7").read_bytes() == b"index"
    assert sorted(os.listdir(path)) == [".hookd", "data", "index"]
    assert modes(path) == ({0o700}, {0o600})
    assert leftovers(path) == []


async def test_nothing_returns_before_it_is_on_disk(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New folders into their parents, the file, its rename, the folder of its name."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(handle: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{handle}"))
        steps.append(f"fsync {'file' if '.hookd' in place.parts else place.name}")
        fsync(handle)

    def record_rename(old: Path, new: Path) -> None:
        steps.append(f"rename {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    await put(store, path, b"x")
    await put(store, path, b"y")
    again = ["fsync file", "rename d0", "fsync ns"]
    assert steps == ["fsync file", "fsync remote", "fsync data", "rename d0", "fsync ns", *again]


async def test_stat_after_put_reads_nothing(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest was verified a moment ago and recorded."""
    await put(store, path, b"stored")
    monkeypatch.setattr(directory_folder, "digest_fd", None)
    found = await store.stat(KEY)
    assert found is not None
    assert (found.digest, found.size_bytes) == (digest_of(b"stored"), 6)


def by_hand_in_place(place: Path) -> None:
    """Same size, same inode, the time set back."""
    times = place.stat()
    with open(place, "r+b") as handle:
        handle.write(b"forged")
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))


def by_hand_replaced(place: Path) -> None:
    fresh = place.with_name("fresh")
    fresh.write_bytes(b"forged")
    fresh.rename(place)


def by_hand_torn_record(place: Path) -> None:
    by_hand_replaced(place)
    record = place.parents[2] / ".hookd/sums/data/ns/d0"
    record.write_bytes(record.read_bytes()[:-3])


@pytest.mark.parametrize("change", [by_hand_in_place, by_hand_replaced, by_hand_torn_record])
async def test_what_an_admin_changed_is_hashed_again(
    store: DirectoryStore, path: Path, change: Callable[[Path], None]
) -> None:
    """No record is trusted for a file that is not the very one it was made for."""
    await put(store, path, b"stored")
    change(path / "data/ns/d0")
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(b"forged")


async def test_what_an_admin_copied_in_counts(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a record is hashed, once, and its namespace is listed."""
    (path / "data/ns").mkdir(parents=True)
    (path / "data/ns/d0").write_bytes(b"copied in")
    (path / "index/empty").mkdir(parents=True)
    (path / "index/notes.txt").write_bytes(b"")
    (path / "index/strange").mkdir()
    (path / "index/strange/i1.bak").write_bytes(b"")
    for _ in range(2):
        found = await store.stat(KEY)
        assert found is not None
        assert found.digest == digest_of(b"copied in")
        monkeypatch.setattr(directory_folder, "digest_fd", None)
    assert await store.namespaces() == ["ns"]


async def test_what_is_no_file(store: DirectoryStore, path: Path) -> None:
    """A folder or a FIFO in a file's place is an error, and hangs nobody."""
    (path / "data/ns/d0").mkdir(parents=True)
    os.mkfifo(path / "data/ns/d1")
    for number in (0, 1):
        with pytest.raises(StoreTemporary, match="no regular file"):
            await store.stat(data_key("ns", number))
    with pytest.raises(StorePermanent, match="directory"):
        await put(store, path, b"x")
    with pytest.raises(StorePermanent, match="too long"):
        await put(store, path, b"x", data_key("n" * 256, 0))
    assert leftovers(path) == []


# -- start -----------------------------------------------------------------------------------------


def test_prepare_removes_what_was_left(store: DirectoryStore, path: Path) -> None:
    """Temporaries of a killed daemon; the store stays the same store."""
    (path / ".hookd/tmp/d0.0123").write_bytes(b"half")
    again = DirectoryStore(path)
    again.prepare()
    assert leftovers(path) == []
    assert again.store_id == store.store_id
    assert len(store.store_id) == 32


def test_prepare_says_what_is_wrong(tmp_path: Path) -> None:
    """One line with the place and the reason; parents are not made up."""
    for place in (tmp_path / "absent" / "remote", tmp_path / "file"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UserError, match=f"store.directory.path: {place}.*director") as caught:
            DirectoryStore(place).prepare()
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


async def test_a_folder_that_goes_away_is_not_filled(store: DirectoryStore, path: Path) -> None:
    """An empty mount point, or another folder in its place: unreachable, and left alone."""
    await put(store, path, b"stored")
    os.rename(path, path.parent / "away")
    os.mkdir(path)
    for call in (lambda: put(store, path, b"new"), lambda: store.stat(KEY), store.namespaces):
        with pytest.raises(StoreUnreachable, match="store-id"):
            await call()
    assert os.listdir(path) == []
    os.rmdir(path)
    DirectoryStore(path).prepare()
    for call in (lambda: put(store, path, b"new"), store.prove_absence, store.health):
        with pytest.raises(StoreUnreachable, match="another folder"):
            await call()
    assert sorted(os.listdir(path)) == [".hookd"]


# -- one that must exist ---------------------------------------------------------------------------


def waiting(path: Path, known: str | None = None) -> DirectoryStore:
    """A store that is not made, asked for before it is there."""
    found = DirectoryStore(path, must_exist=True, known=known)
    found.prepare()
    return found


def waits(store: DirectoryStore) -> bool:
    """Whether its folder was not there yet."""
    return store.awaited is not None


@pytest.mark.parametrize("there", ["nothing", "empty"])
async def test_it_is_waited_for(tmp_path: Path, there: str) -> None:
    """Nothing is made of a bare folder, each call says so in a line; mounted it is taken."""
    place, told = tmp_path / "remote", []
    DirectoryStore(tmp_path / "away").prepare()
    if there == "empty":
        place.mkdir()
    store = waiting(place)

    async def identified(store_id: str) -> None:
        assert not list(place.glob("data/*/*"))
        told.append(store_id)

    store.identified = identified

    async def new() -> None:
        await put(store, place, b"new")

    for call in (new, store.prove_absence, store.health):
        with pytest.raises(
            StoreUnreachable, match=r"no store now; is it mounted\?.*mkdir"
        ) as caught:
            await call()
        assert "\n" not in str(caught.value)
    assert not place.exists() or os.listdir(place) == []
    assert waits(store)
    if there == "empty":
        place.rmdir()
    (tmp_path / "away").rename(place)
    await put(store, place, b"new")
    assert told == [store.store_id]
    assert not waits(store)
    await store.health()


@pytest.mark.parametrize("fails", ["probe", "told"])
async def test_it_is_not_used_untold(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """It is there, but not well yet, or its id could not be kept: nothing is done in it before that."""
    store = waiting(path)
    told, failing = list[str](), [True]
    probe = store._folder.probe

    def not_well() -> None:
        if fails == "probe" and failing:
            failing.pop()
            raise StoreUnreachable("health", path, "Read-only file system")
        probe()

    async def identified(store_id: str) -> None:
        if fails == "told" and failing:
            failing.pop()
            raise StoreUnreachable("health", path, "not kept")
        told.append(store_id)

    monkeypatch.setattr(store._folder, "probe", not_well)
    store.identified = identified
    (path / ".hookd").mkdir(parents=True)
    with pytest.raises(StoreUnreachable):
        await put(store, path, b"new")
    assert told == []
    assert waits(store) == (fails == "probe")
    await put(store, path, b"new")
    assert told == [store.store_id]


async def test_a_new_one_that_must_exist(path: Path) -> None:
    """An empty `.hookd` is an administrator's word for it."""
    (path / ".hookd").mkdir(parents=True)
    store = waiting(path)
    assert store.awaited is None
    await put(store, path, b"new")


async def test_another_one_is_mounted(tmp_path: Path) -> None:
    """Not the one that the journal speaks of: left alone, tmp too."""
    place = tmp_path / "remote"
    store = waiting(place, known="0" * 32)
    DirectoryStore(place).prepare()
    (place / ".hookd/tmp/d0.0123").write_bytes(b"another daemon's")
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="another store"):
            await put(store, place, b"new")
    assert leftovers(place) == ["d0.0123"]
    assert not (place / "data").exists()


def test_a_known_one_is_not_made_anew(path: Path) -> None:
    """Where the journal knows a store, an unmounted one stays the bare folder that it is."""
    path.mkdir()
    store = DirectoryStore(path, known="0" * 32)
    store.prepare()
    assert store.store_id == ""
    assert os.listdir(path) == []


@pytest.mark.parametrize("below", ["", "a/b"])
def test_not_below_an_empty_mount_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    """No new store where /etc/fstab mounts something that is absent; one that is there is taken."""
    mountpoint, fstab = tmp_path / "the backup", tmp_path / "fstab"
    place = mountpoint / below
    place.mkdir(parents=True)
    written = str(mountpoint).replace(" ", "\\040")
    fstab.write_text(f"# {mountpoint} x\n\nswap none swap\nnas:/x {written} nfs nofail 0 0\n")
    monkeypatch.setattr(directory_mark, "FSTAB", fstab)
    with pytest.raises(UserError, match="nothing is mounted") as caught:
        DirectoryStore(place).prepare()
    assert caught.value.code == Exit.UNAVAILABLE
    assert os.listdir(place) == []
    (place / ".hookd").mkdir()
    (place / ".hookd" / "store-id").write_text("1" * 32)
    DirectoryStore(place).prepare()
    (tmp_path / "elsewhere").mkdir()
    DirectoryStore(tmp_path / "elsewhere").prepare()


def test_a_dead_mount_elsewhere_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look at it would hang the start."""
    fstab, dead = tmp_path / "fstab", str(tmp_path / "dead")
    fstab.write_text(f"nas:/x {dead} nfs nofail 0 0\nnas:/y {dead}/below nfs nofail 0 0\n")
    monkeypatch.setattr(directory_mark, "FSTAB", fstab)
    real = os.lstat  # ismount and realpath look with it

    def look(path: str | Path) -> os.stat_result:
        assert not os.fspath(path).startswith(dead)
        return real(path)

    monkeypatch.setattr(os, "lstat", look)
    assert directory_mark.unmounted(tmp_path / "alive" / "store") is None
