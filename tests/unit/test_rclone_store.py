"""The rclone store on the fake: what it asks of rclone, when it believes its records, what it says."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from hookd.digest import digest_of
from hookd.errors import (
    ConfigError,
    RemoteMissing,
    SourceChanged,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.files import data_key
from hookd.stores import rclone_process
from hookd.stores.base import Remote
from hookd.stores.rclone import RcloneStore
from hookd.stores.rclone_process import RcloneProcess
from tests.conftest import Logs
from tests.fakes.rclone import FakeRclone

pytestmark = pytest.mark.anyio

KEY = data_key("ns", 0)
SUM = ".hookd/sums/data/ns/d0"
SLOW_HASH = {"SlowHash": True}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def fake(tmp_path: Path) -> FakeRclone:
    return FakeRclone(tmp_path)


def opened(fake: FakeRclone, verify: str = "hash", **more: object) -> RcloneStore:
    """Another store on the fake."""
    place = fake.folder.parent
    remote = str(more.pop("remote", "nas:zdb"))
    folder = place / f"rc{len(list(place.glob('rc*')))}"
    process = RcloneProcess(
        remote=remote, folder=folder, program=str(fake.program), ping_every_s=0.2, ping_within_s=0.5
    )
    store = RcloneStore(
        remote=remote,
        folder=folder,
        known_id=place / "known-id",
        verify=verify,
        health_timeout_s=3.0,
        process=process,
    )
    store.prepare()
    return store


@pytest.fixture
async def store(fake: FakeRclone) -> AsyncIterator[RcloneStore]:
    made = opened(fake)
    yield made
    await made.aclose()


def live(fake: FakeRclone, content: bytes) -> Path:
    place = fake.folder.parent / "live" / "d0"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    return place


async def put(store: RcloneStore, fake: FakeRclone, content: bytes) -> None:
    await store.put(KEY, live(fake, content), digest_of(content))


# -- the process -----------------------------------------------------------------------------------


async def test_how_rclone_is_started(
    fake: FakeRclone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing secret on the command line; a private socket; no setting of ours or against us."""
    monkeypatch.setenv("RCLONE_CONFIG_NAS_PASS", "hunter2")
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("RCLONE_RC_NO_AUTH", "true")
    monkeypatch.setenv("RCLONE_TIMEOUT", "7s")
    monkeypatch.setenv("HOOKD_ZDB__ADMIN_PASSWORD", "other")
    store = opened(fake)
    await store.health()
    [started] = fake.started()
    environ, argv = started["environ"], " ".join(started["argv"])
    assert environ["RCLONE_CONFIG_NAS_PASS"] == "hunter2"
    assert environ["RCLONE_TIMEOUT"] == "7s"
    assert not {"RCLONE_DRY_RUN", "RCLONE_RC_NO_AUTH", "HOOKD_ZDB__ADMIN_PASSWORD"} & set(environ)
    assert environ["RCLONE_CONFIG_HOOKDSTORE_REMOTE"] == "nas:zdb"
    assert len(environ["RCLONE_RC_PASS"]) == 32
    for secret in ("hunter2", environ["RCLONE_RC_PASS"], environ["RCLONE_RC_USER"]):
        assert secret not in argv
    folder = Path(started["argv"][started["argv"].index("--rc-addr") + 1][7:]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await store.aclose()
    assert store.process.pid is None


async def test_missing_program(tmp_path: Path) -> None:
    """One line that names the key and what to do; code 78."""
    store = RcloneStore(
        remote="nas:", folder=tmp_path / "rc", known_id=tmp_path / "id", program="no-such-rclone"
    )
    with pytest.raises(ConfigError, match="no program on PATH; install rclone") as caught:
        store.prepare()
    assert caught.value.key == "store.rclone.program"


@pytest.mark.parametrize(
    ("version", "said"), [("1.60.1-DEV", r"1\.60\.1; hookd needs 1\.74\.3"), ("x", "no rclone")]
)
async def test_old_rclone(fake: FakeRclone, version: str, said: str) -> None:
    """It is told which one is needed."""
    fake.behave(version=version)
    with pytest.raises(ConfigError, match=said):
        opened(fake)


async def test_unknown_remote(fake: FakeRclone) -> None:
    """A name that rclone's configuration does not have is told the names that it has."""
    with pytest.raises(ConfigError, match=r"no remote 'nsa' \(it knows: nas:\)"):
        opened(fake, remote="nsa:zdb")


async def test_rclone_that_cannot_start(fake: FakeRclone, store: RcloneStore) -> None:
    """Unreachable in its own words; not started anew with each call; back when it can."""
    fake.behave(exit=[1, "CRITICAL: cannot decrypt: password=hunter2"])
    with pytest.raises(StoreUnreachable, match="exited with 1: CRITICAL: cannot decrypt") as caught:
        await store.health()
    assert "hunter2" not in str(caught.value)
    for _ in range(5):
        with pytest.raises(StoreUnreachable):
            await store.stat(KEY)
    assert len(fake.started()) < 4
    fake.behave()
    with anyio.fail_after(10):
        while True:
            try:
                await store.health()
                return
            except StoreUnreachable:
                await anyio.sleep(0.05)


async def test_killed_in_a_put(fake: FakeRclone, store: RcloneStore) -> None:
    """The put says unreachable at once, the old content stays, the next one works."""
    await put(store, fake, b"old")
    fake.behave(slow_s=0.2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, store, fake)
        with anyio.fail_after(5):
            while len(fake.asked("operations/copyfile")) < 2:
                await anyio.sleep(0.01)
        assert store.process.pid is not None
        os.kill(store.process.pid, signal.SIGKILL)
    fake.behave()
    await _again(store, fake, b"newer")
    assert (fake.remote / "data/ns/d0").read_bytes() == b"newer"
    assert len(fake.started()) == 2


async def test_rclone_that_hangs_is_killed(fake: FakeRclone, store: RcloneStore) -> None:
    """Stopped in the middle of a call: noticed without waiting for the call, and started anew."""
    await put(store, fake, b"old")
    fake.behave(slow_s=0.2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, store, fake)
        with anyio.fail_after(5):
            while len(fake.asked("operations/copyfile")) < 2:
                await anyio.sleep(0.01)
        assert store.process.pid is not None
        os.kill(store.process.pid, signal.SIGSTOP)
    fake.behave()
    await _again(store, fake, b"newer")


async def _refused(store: RcloneStore, fake: FakeRclone) -> None:
    with anyio.fail_after(10), pytest.raises(StoreUnreachable):
        await put(store, fake, b"lost" * 100_000)


async def _again(store: RcloneStore, fake: FakeRclone, content: bytes) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                await put(store, fake, content)
                return
            except StoreUnreachable:
                await anyio.sleep(0.05)


async def test_a_folder_that_hangs(fake: FakeRclone, store: RcloneStore) -> None:
    """A plain folder on a dead NFS is read by hookd itself: health is told in its time all the same."""
    fake.behave(plain=True, features={"IsLocal": True})
    await store.health()
    place = fake.remote / ".hookd/store-id"
    known = place.read_bytes()
    place.unlink()
    os.mkfifo(place)  # opening it hangs until somebody writes
    try:
        for _ in range(2):
            with anyio.fail_after(6), pytest.raises(StoreUnreachable, match="no answer within 3 s"):
                await store.health()
    finally:
        for _ in range(2):
            handle = os.open(place, os.O_RDWR | os.O_NONBLOCK)
            os.write(handle, known)
            await anyio.sleep(0.1)
            os.close(handle)
    place.unlink()
    place.write_bytes(known)
    await store.health()


async def test_rclone_that_cannot_be_ended(
    fake: FakeRclone, store: RcloneStore, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """Hanging in the kernel, as on a dead NFS: hookd goes on, and starts no other beside it."""
    logs.expect("rclone cannot be ended", "rclone ended")
    monkeypatch.setattr(rclone_process, "END_WITHIN_S", 0.2)
    await store.health()
    pid, starts = store.process.pid, store.process.starts
    assert pid is not None
    with monkeypatch.context() as kernel:
        kernel.setattr(subprocess.Popen, "send_signal", lambda *_: None)
        running = store.process._running
        assert running is not None
        with anyio.fail_after(2):
            await store.process._end(running)
        with pytest.raises(StoreUnreachable, match=f"process {pid}\\) cannot be ended"):
            await store.health()
        assert store.process.starts == starts
    os.kill(pid, signal.SIGKILL)
    with anyio.fail_after(10):
        while store.process.starts == starts:
            with contextlib.suppress(StoreUnreachable):
                await store.health()
            await anyio.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


# -- which remote it is ----------------------------------------------------------------------------


async def test_another_remote_is_refused(fake: FakeRclone, store: RcloneStore) -> None:
    """An emptied remote takes nothing, and its "not found" is not believed."""
    await put(store, fake, b"x")
    shutil.rmtree(fake.remote)
    fake.remote.mkdir()
    other = opened(fake)
    calls: list[Callable[[], Awaitable[object]]] = [other.health, other.prove_absence]
    calls += [lambda: other.stat(KEY), lambda: put(other, fake, b"y")]
    for call in calls:
        with pytest.raises(StoreUnreachable, match="not the store that was here before"):
            await call()
    with pytest.raises(StoreUnreachable):
        await store.stat(KEY)  # also by one that has seen the right one
    assert list(fake.remote.iterdir()) == []
    await other.aclose()


# -- records ---------------------------------------------------------------------------------------


def reads(fake: FakeRclone, path: str = "data/ns/d0") -> int:
    """How often an object was read whole."""
    return sum(each["parameters"]["path"] == path for each in fake.asked("GET"))


async def test_stat_after_a_put_reads_nothing(fake: FakeRclone, store: RcloneStore) -> None:
    """The record stands for the content, for another instance too."""
    await put(store, fake, b"x")
    other = opened(fake)
    for each in (store, other):
        assert await each.stat(KEY) == Remote(digest_of(b"x"), 1)
    assert reads(fake) == 0
    await other.aclose()


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"blake2b_128":"zz"}', None])
async def test_no_record(fake: FakeRclone, store: RcloneStore, record: bytes | None) -> None:
    """Died between object and record, or while it was written: read once, and recorded."""
    await put(store, fake, b"content")
    if record is None:
        (fake.remote / SUM).unlink()
    else:
        (fake.remote / SUM).write_bytes(record)
    after = opened(fake)
    for _ in range(2):
        assert await after.stat(KEY) == Remote(digest_of(b"content"), 7)
    assert reads(fake) == 1
    await after.aclose()


@pytest.mark.parametrize("features", [{}, SLOW_HASH])
async def test_stale_record(fake: FakeRclone, features: dict[str, bool]) -> None:
    """Died after the new object, before its record: never the old digest for the new content,
    though size and time of change are the same."""
    fake.behave(features=features, modified="2026-01-01")
    store = opened(fake)
    await put(store, fake, b"old!")
    fake.behave(
        features=features, modified="2026-01-01", fail={"operations/uploadfile": [500, "no"]}
    )
    await put(store, fake, b"new!")
    fake.behave(features=features, modified="2026-01-01")
    assert await store.stat(KEY) == Remote(digest_of(b"new!"), 4)
    await store.aclose()


async def test_replaced_by_somebody_else(fake: FakeRclone, store: RcloneStore) -> None:
    """The remote's hash gives it away."""
    await put(store, fake, b"mine")
    (fake.remote / "data/ns/d0").write_bytes(b"them")
    assert await store.stat(KEY) == Remote(digest_of(b"them"), 4)


async def test_record_kept_by_name(fake: FakeRclone, store: RcloneStore) -> None:
    """hookd's own records: written, read, told apart by their digest without reading again."""
    assert await store.get_record("manifest") is None
    assert await store.stat_record("manifest") is None
    await store.put_record("manifest", b"one")
    before = reads(fake, ".hookd/manifest.json")
    for _ in range(3):
        assert await store.stat_record("manifest") == digest_of(b"one")
    assert reads(fake, ".hookd/manifest.json") == before + 1
    await store.put_record("manifest", b"two")
    assert await store.stat_record("manifest") == digest_of(b"two")
    assert await store.get_record("manifest") == b"two"


async def test_record_without_hash_is_read(fake: FakeRclone) -> None:
    """Where versions cannot be told apart for certain, it is read each time."""
    fake.behave(hashes=[], modified="2026-01-01")
    store, other = opened(fake), opened(fake)
    await store.put_record("manifest", b"one")
    assert await store.stat_record("manifest") == digest_of(b"one")
    await other.put_record("manifest", b"two")
    assert await store.stat_record("manifest") == digest_of(b"two")
    await store.aclose()
    await other.aclose()


# -- proof -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", [["md5"], []])
async def test_corrupted_on_its_way(fake: FakeRclone, hashes: list[str]) -> None:
    """Noticed by the hash or by reading it back; the old content stays; nothing is left behind."""
    fake.behave(hashes=hashes)
    store = opened(fake)
    await put(store, fake, b"old")
    fake.behave(hashes=hashes, corrupt=True)
    with pytest.raises(StoreTemporary, match="differ"):
        await put(store, fake, b"new")
    fake.behave(hashes=hashes)
    assert await store.stat(KEY) == Remote(digest_of(b"old"), 3)
    await put(store, fake, b"new")  # after the clean-up
    assert list((fake.remote / ".hookd/tmp").iterdir()) == []
    await store.aclose()


async def test_verified_by_size(fake: FakeRclone) -> None:
    """`size` reads nothing back; a copy is then not proven, and the store says so."""
    fake.behave(hashes=[])
    store = opened(fake, verify="size")
    assert not store.proves_copies
    await put(store, fake, b"x")
    assert fake.asked("GET")[0]["parameters"]["path"] == ".hookd/store-id"
    assert not [each for each in fake.asked("GET") if ".hookd/tmp" in each["parameters"]["path"]]
    assert await store.stat(KEY) == Remote(digest_of(b"x"), 1)
    await store.aclose()


async def test_always_read_back(fake: FakeRclone) -> None:
    """`read-back` does not ask for a hash."""
    store = opened(fake, verify="read-back")
    await put(store, fake, b"x")
    assert [each for each in fake.asked("GET") if ".hookd/tmp" in each["parameters"]["path"]]
    await store.aclose()


async def test_object_without_its_hash(fake: FakeRclone, store: RcloneStore) -> None:
    """A remote with hashes may lack that of one object: it is read, and read again for each stat."""
    fake.behave(hash_missing=True)
    await put(store, fake, b"x")
    for _ in range(2):
        assert await store.stat(KEY) == Remote(digest_of(b"x"), 1)
    assert reads(fake) == 2


async def test_source_that_is_no_file(fake: FakeRclone, store: RcloneStore) -> None:
    """A folder or a pipe in its place is told, and does not hang."""
    place = live(fake, b"")
    place.unlink()
    os.mkfifo(place)
    with anyio.fail_after(5), pytest.raises(StorePermanent, match="no regular file"):
        await store.put(KEY, place, None)


async def test_hash_of_another_kind(fake: FakeRclone) -> None:
    """One that only rclone can compute is asked of it for the source, and must be the same."""
    fake.behave(hashes=["quickxor"])
    store = opened(fake)
    await put(store, fake, b"x")
    assert fake.asked("operations/hashsumfile")
    fake.behave(hashes=["quickxor"], corrupt=True)
    with pytest.raises(StoreTemporary, match="differ"):
        await put(store, fake, b"y")
    await store.aclose()


# -- given up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [True, False])
async def test_next_put_waits_for_the_one_given_up(fake: FakeRclone, staged: bool) -> None:
    """rclone is told to stop; the next put of the key begins when it has."""
    features = {"PartialUploads": staged}
    fake.behave(features=features, slow_s=2.0)
    store = opened(fake)
    await store.health()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put, store, fake, b"1" * 8_000_000)
        with anyio.fail_after(10):
            while not fake.asked("operations/copyfile"):
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    fake.behave(features=features)
    await put(store, fake, b"2")
    assert len(fake.asked("job/stop")) >= 1
    await anyio.sleep(0.3)
    assert (fake.remote / "data/ns/d0").read_bytes() == b"2"
    assert list((fake.remote / ".hookd").glob("tmp/*")) == []
    await store.aclose()


async def test_upload_that_does_not_end(
    fake: FakeRclone, store: RcloneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then rclone is killed, which ends it; the next put does not wait for ever."""
    monkeypatch.setattr("hookd.stores.rclone_uploads.STOP_WITHIN_S", 0.5)
    await store.health()
    fake.behave(hang=["operations/copyfile"])
    with anyio.move_on_after(0.3):
        await put(store, fake, b"1")
    fake.behave()
    await _again(store, fake, b"2")
    assert len(fake.started()) == 2


# -- errors ----------------------------------------------------------------------------------------


async def test_get_that_is_cut(fake: FakeRclone, store: RcloneStore, tmp_path: Path) -> None:
    """Half a content is no content."""
    await put(store, fake, b"content" * 1000)
    fake.behave(cut=True)
    with pytest.raises(StoreError, match="3500 of 7000 bytes came"):
        await store.get(KEY, tmp_path / "target")


async def test_missing(fake: FakeRclone, store: RcloneStore, tmp_path: Path) -> None:
    """RemoteMissing leaves no target."""
    with pytest.raises(RemoteMissing):
        await store.get(KEY, tmp_path / "target")
    assert not (tmp_path / "target").exists()


async def test_no_error_shows_a_secret(
    fake: FakeRclone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever rclone says."""
    monkeypatch.setenv("RCLONE_CONFIG_NAS_PASS", "hunter2")
    store = opened(fake)
    await put(store, fake, b"x")
    text = "Put http://me:hunter2@h/?sig=abcdef: hunter2"
    commands = (
        "GET",
        *(f"operations/{name}" for name in ("stat", "copyfile", "list", "deletefile")),
    )
    fake.behave(fail={command: [500, text] for command in commands})
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: put(store, fake, b"y"),
        lambda: store.stat(KEY),
        lambda: store.get(KEY, tmp_path / "target"),
        store.health,
        store.prove_absence,
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            await call()
        assert "hunter2" not in f"{caught.value} {caught.value.detail} {caught.value.__context__}"
    await store.aclose()


async def test_source_that_changed(fake: FakeRclone, store: RcloneStore) -> None:
    """What is not what was hashed is not uploaded at all."""
    with pytest.raises(SourceChanged):
        await store.put(KEY, live(fake, b"newer"), digest_of(b"older"))
    assert fake.asked("operations/copyfile") == []


async def test_health_is_bounded(fake: FakeRclone) -> None:
    """A remote that does not answer is unreachable soon."""
    fake.behave(hang=["GET"])
    store = opened(fake)
    with anyio.fail_after(6), pytest.raises(StoreUnreachable, match="no answer within 3 s"):
        await store.health()
    await store.aclose()
