"""Snapshot: what was frozen is exact, bounded, and either whole or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.digest import digest_of
from hookd.errors import NoRoom, SourceGone, StorePermanent, StoreTemporary
from hookd.orphans import ORPHANED
from hookd.snapshot import (
    FICLONE,
    INLINE_AT_ONCE_BYTES,
    INLINE_BYTES,
    STABLE_TRIES,
    Snapshot,
    Staging,
    hash_live,
)
from tests.fakes.disk import fill, small_disk
from tests.fakes.zdb_files import descriptor

KIB = 1024


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A namespace's folder."""
    folder = tmp_path / "live"
    folder.mkdir()
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    """An open staging folder of 10 MiB at most."""
    found = Staging(tmp_path / "staging", max_bytes=10 << 20)
    found.open([])
    yield found
    found.close()


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def one(staging: Staging, path: Path) -> Snapshot:
    """The snapshot of one file that is there."""
    [made] = staging.freeze([path])
    assert made is not None
    return made


def files(staging: Staging) -> list[str]:
    """What lies in the staging folder, folders included."""
    return sorted(str(path.relative_to(staging.folder)) for path in staging.folder.rglob("*"))


class TestFreeze:
    @pytest.mark.parametrize("size", [1, 29, INLINE_BYTES, INLINE_BYTES + 1, 3 << 20])
    def test_exact(self, staging: Staging, live: Path, size: int) -> None:
        """A snapshot has the file's bytes, name and digest, and stays when the file changes."""
        content = os.urandom(size)
        path = write(live, "i3", content)
        made = one(staging, path)
        path.write_bytes(b"rewritten")
        copy = staging.path(made.staged)
        assert copy.read_bytes() == content
        assert (made.digest, made.size_bytes) == (digest_of(content), size)
        assert copy.name == "i3"
        assert copy.stat().st_mode & 0o777 == 0o600
        assert staging.size_bytes == size

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("i0", b""),
            ("d0", b""),
            ("zdb-namespace", b""),
            ("zdb-namespace", descriptor("ns", "secret")[:15]),
            ("zdb-namespace", descriptor("ns", "secret")[:-1]),
        ],
    )
    def test_half_made(self, staging: Staging, live: Path, name: str, content: bytes) -> None:
        """A file that zdb has made and not filled yet is no version of it; nothing is left behind."""
        path = write(live, name, content)
        with pytest.raises(SourceGone, match="zdb is making it"):
            staging.freeze([path])
        assert (files(staging), staging.size_bytes) == ([], 0)

    @pytest.mark.parametrize("content", [descriptor("ns"), descriptor("ns", "secret") + b"older"])
    def test_descriptor(self, staging: Staging, live: Path, content: bytes) -> None:
        """A whole one is taken; zdb leaves the end of a longer one behind it."""
        assert one(staging, write(live, "zdb-namespace", content)).size_bytes == len(content)

    def test_small_ones_for_the_journal(self, staging: Staging, live: Path) -> None:
        """A small one carries its bytes for the commit; a large one is on disk by itself."""
        small = one(staging, write(live, "i0", b"x" * INLINE_BYTES))
        large = one(staging, write(live, "i1", b"x" * (INLINE_BYTES + 1)))
        assert small.content == b"x" * INLINE_BYTES
        assert large.content is None

    def test_together_small_ones_are_bounded(self, staging: Staging, live: Path) -> None:
        """A commit carries INLINE_AT_ONCE_BYTES at most, whatever the number of small files."""
        paths = [write(live, f"i{n}", os.urandom(INLINE_BYTES)) for n in range(20)]
        made = [item for item in staging.freeze(paths) if item is not None]
        carried = sum(len(item.content) for item in made if item.content is not None)
        assert carried <= INLINE_AT_ONCE_BYTES
        assert [item.digest for item in made] == [digest_of(p.read_bytes()) for p in paths]

    def test_what_is_not_carried_is_synced(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """File, its folder and the staging folder are fsynced before a large snapshot is returned."""
        synced: set[str] = set()
        real = os.fsync

        def fsync(handle: int) -> None:
            synced.add(os.readlink(f"/proc/self/fd/{handle}"))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        made = one(staging, write(live, "i0", bytes(INLINE_BYTES + 1)))
        copy = staging.path(made.staged).resolve()
        assert synced == {str(copy), str(copy.parent), str(staging.folder.resolve())}

    def test_many_in_order(self, staging: Staging, live: Path) -> None:
        """One entry for each source, in order, None where there is no file."""
        paths = [write(live, f"i{n}", b"%d" % n) for n in range(5)]
        paths[2].unlink()
        paths.append(live / "gone" / "i9")
        paths.append(paths[0] / "i9")
        made = staging.freeze(paths)
        assert [item and item.digest for item in made] == [
            digest_of(b"0"), digest_of(b"1"), None, digest_of(b"3"), digest_of(b"4"), None, None,
        ]  # fmt: skip

    def test_never_the_same_path(self, staging: Staging, live: Path) -> None:
        """A store may still read an earlier snapshot: a path is not used twice, and serials ascend."""
        path = write(live, "i0", b"x")
        first = one(staging, path)
        staging.remove([first.staged])
        second, third = one(staging, path), one(staging, path)
        assert len({first.staged, second.staged, third.staged}) == 3
        assert first.begun < second.begun < third.begun

    def test_from_many_threads(self, staging: Staging, live: Path) -> None:
        """Two at once get paths of their own, and the account stays right."""
        paths = [write(live, f"i{n}", bytes(n + 1)) for n in range(50)]
        made: list[Snapshot | None] = []

        def work() -> None:
            made.extend(staging.freeze(paths))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        staged = [item.staged for item in made if item is not None]
        assert len(set(staged)) == len(staged) == 400
        assert staging.size_bytes == 8 * sum(range(1, 51))
        staging.remove(staged)
        assert staging.size_bytes == 0
        assert files(staging) == []

    def test_folder_made_again(self, staging: Staging, live: Path) -> None:
        """Somebody who removes the staging folder of a running daemon does not stop the snapshots."""
        staging.folder.rmdir()
        made = one(staging, write(live, "i0", b"x"))
        assert staging.path(made.staged).read_bytes() == b"x"


class TestWhatIsNoFile:
    def test_symbolic_link(self, staging: Staging, live: Path, tmp_path: Path) -> None:
        """What a link points to is never copied."""
        write(tmp_path, "secret", b"s")
        (live / "i0").symlink_to(tmp_path / "secret")
        with pytest.raises(OSError, match="symbolic links") as refused:
            staging.freeze([live / "i0"])
        assert refused.value.errno == errno.ELOOP
        assert files(staging) == []

    def test_pipe(self, staging: Staging, live: Path) -> None:
        """A pipe in a file's place is refused at once; nobody waits for its writer."""
        os.mkfifo(live / "i0")
        with pytest.raises(OSError, match="no regular file"):
            staging.freeze([live / "i0"])
        with pytest.raises(StorePermanent, match="no regular file"):
            hash_live(live / "i0")

    def test_folder(self, staging: Staging, live: Path) -> None:
        """Nor is a folder a file."""
        (live / "i0").mkdir()
        with pytest.raises(OSError, match="no regular file"):
            staging.freeze([live / "i0"])
        assert files(staging) == []


class TestChanging:
    """zdb may not be waiting: the event came from the spool, or its shim was killed."""

    def after_each_copy(
        self, staging: Staging, monkeypatch: pytest.MonkeyPatch, change: Callable[[int], None]
    ) -> None:
        """Call `change` with the count of copies, between a copy and its check."""
        real, count = staging._copy, 0

        def copy(reader: int, writer: int) -> tuple[bytes, int]:
            nonlocal count
            found = real(reader, writer)
            count += 1
            change(count)
            return found

        monkeypatch.setattr(staging, "_copy", copy)

    def test_grows(self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that grows under the copy is copied again: the snapshot is one of its states."""
        path = write(live, "i0", b"1")

        def grow(count: int) -> None:
            if count < STABLE_TRIES:
                with path.open("ab") as file:
                    file.write(b"+")

        self.after_each_copy(staging, monkeypatch, grow)
        made = one(staging, path)
        expected = b"1" + b"+" * (STABLE_TRIES - 1)
        assert staging.path(made.staged).read_bytes() == expected
        assert made.content == expected
        assert made.digest == digest_of(expected)
        assert staging.size_bytes == len(expected)

    def test_shrinks(self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of a longer first copy is left behind a shorter second one."""
        path = write(live, "i0", b"long content")

        def shrink(count: int) -> None:
            if count == 1:
                path.write_bytes(b"short")

        self.after_each_copy(staging, monkeypatch, shrink)
        made = one(staging, path)
        assert staging.path(made.staged).read_bytes() == b"short"
        assert staging.size_bytes == 5

    def test_rewritten_in_place(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A change that keeps the length is seen too."""
        path = write(live, "i0", b"aaaa")

        def rewrite(count: int) -> None:
            if count == 1:
                path.write_bytes(b"bbbb")

        self.after_each_copy(staging, monkeypatch, rewrite)
        assert one(staging, path).digest == digest_of(b"bbbb")

    def test_never_still(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that never stands still is a temporary failure, and nothing of it stays."""
        still, path = write(live, "i1", b"x"), write(live, "i0", b"")

        def change(count: int) -> None:
            path.write_bytes(b"%d" % count)

        self.after_each_copy(staging, monkeypatch, change)
        with pytest.raises(StoreTemporary, match="kept changing"):
            staging.freeze([still, path])
        assert files(staging) == []
        assert staging.size_bytes == 0


class TestReflink:
    def test_where_the_file_system_can(self, staging: Staging, live: Path) -> None:
        """A clone is used where there is one: same bytes, no copying."""
        source, probe = write(live, "i0", b"x" * 8192), staging.folder / "probe"
        with source.open("rb") as reader, probe.open("wb") as writer:
            try:
                fcntl.ioctl(writer, FICLONE, reader.fileno())
            except OSError as error:
                pytest.skip(f"this file system has no reflinks: {error.strerror}")
        probe.unlink()
        made = one(staging, source)
        assert staging.path(made.staged).read_bytes() == source.read_bytes()
        assert staging._clones

    def test_by_a_pretended_one(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What FICLONE made is hashed and checked like a copy, and replaced when it was too early."""
        path = write(live, "i0", b"first state")

        def ioctl(writer: int, request: int, reader: int) -> int:
            assert request == FICLONE
            content = os.pread(reader, 1 << 20, 0)
            os.ftruncate(writer, 0)
            os.pwrite(writer, content, 0)
            if content == b"first state":
                path.write_bytes(b"second")
            return 0

        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        made = one(staging, path)
        assert staging.path(made.staged).read_bytes() == b"second"
        assert made.digest == digest_of(b"second")

    @pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.EPERM])
    def test_where_it_cannot(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """Refused once, it is not asked for again, and the copy is as good."""
        asked = []

        def ioctl(*_: object) -> int:
            asked.append(1)
            raise OSError(code, "no")

        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        for content in (b"a", b"b"):
            assert one(staging, write(live, "i0", content)).digest == digest_of(content)
        assert len(asked) == 1


class TestRoom:
    def test_limit(self, tmp_path: Path, live: Path) -> None:
        """Beyond the limit nothing is frozen and nothing left; room given back counts again."""
        staging = Staging(tmp_path / "staging", max_bytes=100)
        staging.open([])
        first = one(staging, write(live, "i0", bytes(60)))
        before = files(staging)
        paths = [write(live, "i1", bytes(40)), write(live, "i2", bytes(1))]
        with pytest.raises(NoRoom) as refused:
            staging.freeze(paths)
        assert refused.value.size_bytes == 1
        assert files(staging) == before
        assert staging.size_bytes == 60
        assert "100" in (staging.refused or "")
        staging.remove([first.staged])
        staging.freeze(paths)
        assert staging.size_bytes == 41
        assert staging.refused is None
        staging.close()

    def test_no_limit(self, tmp_path: Path, live: Path) -> None:
        """None is no limit; a file of the limit's very size fits."""
        for limit in (None, 100):
            staging = Staging(tmp_path / f"staging-{limit}", max_bytes=limit)
            staging.open([])
            assert one(staging, write(live, "i0", bytes(100))).size_bytes == 100
            staging.close()

    @pytest.mark.parametrize("size_kib", [64, 1024])
    def test_disk_full(self, tmp_path: Path, live: Path, size_kib: int) -> None:
        """A full disk is NoRoom, nothing is left behind, and it works again with room."""
        small, large = write(live, "i1", b"x" * 10), write(live, "i0", bytes(size_kib * KIB))
        with small_disk(tmp_path / "disk", size_kib=2048) as disk:
            staging = Staging(disk / "staging", max_bytes=None)
            staging.open([])
            kept = one(staging, small)
            ballast = fill(disk, leave_kib=32)
            with pytest.raises(NoRoom):
                staging.freeze([small, large])
            assert files(staging) == sorted([kept.staged, kept.staged.partition("/")[0]])
            assert staging.size_bytes == 10
            assert staging.refused is not None
            ballast.unlink()
            assert one(staging, large).size_bytes == size_kib * KIB
            staging.close()

    def test_disk_full_at_the_sync(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where blocks are given out late, the disk is full at fsync: NoRoom just the same."""

        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(NoRoom):
            staging.freeze([write(live, "i0", bytes(INLINE_BYTES + 1))])
        assert files(staging) == []
        assert staging.size_bytes == 0

    def test_other_errors_are_not_no_room(
        self, staging: Staging, live: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that errs is an OSError, and nothing is left of the attempt."""

        def fsync(_: int) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="broken"):
            staging.freeze([write(live, "i0", bytes(INLINE_BYTES + 1))])
        assert files(staging) == []


class TestOpen:
    @pytest.fixture
    def left(self, tmp_path: Path, live: Path) -> list[str]:
        """Two snapshots of a process that is gone."""
        before = Staging(tmp_path / "staging", max_bytes=None)
        before.open([])
        made = [one(before, write(live, f"i{n}", b"%d" % n * 10)) for n in range(2)]
        before.close()
        return [item.staged for item in made]

    def test_known_ones_stay(self, tmp_path: Path, left: list[str]) -> None:
        """What a job refers to stays and is counted; the rest was never acknowledged and goes."""
        staging = Staging(tmp_path / "staging", max_bytes=None)
        assert staging.open(left[:1]) == []
        assert staging.path(left[0]).read_bytes() == b"0" * 10
        assert not staging.path(left[1]).exists()
        assert staging.size_bytes == 10
        staging.remove(left[:1])
        assert files(staging) == []

    def test_journal_lost(self, tmp_path: Path, left: list[str]) -> None:
        """With the journal lost nothing is removed, only moved to where a person looks."""
        staging = Staging(tmp_path / "staging", max_bytes=None)
        staging.open([], keep_unknown=True)
        for number, staged in enumerate(left):
            assert (staging.folder / ORPHANED / staged).read_bytes() == b"%d" % number * 10
        assert Staging(tmp_path / "staging", max_bytes=None).open([]) == []
        assert (staging.folder / ORPHANED / left[0]).exists()

    @pytest.mark.parametrize("links", [True, False])
    def test_kept(
        self, tmp_path: Path, left: list[str], monkeypatch: pytest.MonkeyPatch, links: bool
    ) -> None:
        """In both places, and as often as it is asked for; also where a file has but one name."""

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        staging = Staging(tmp_path / "staging", max_bytes=None)
        assert staging.open(left) == []
        if not links:
            monkeypatch.setattr(os, "link", refuse)
        for _ in range(2):
            staging.keep(left)
        for number, staged in enumerate(left):
            for folder in (staging.folder, staging.folder / ORPHANED):
                assert (folder / staged).read_bytes() == b"%d" % number * 10
        assert staging.orphans() == 2
        staging.remove(left)
        staging.keep(left)  # nothing to keep any more, and nothing to say
        staging.open([], keep_unknown=True)
        assert staging.orphans() == 2

    def test_missing(self, tmp_path: Path, left: list[str]) -> None:
        """Known ones that somebody removed are named."""
        staging = Staging(tmp_path / "staging", max_bytes=None)
        assert staging.open([*left, "0123456789ab-7/i9"]) == ["0123456789ab-7/i9"]

    def test_retrieves_and_strangers(self, tmp_path: Path) -> None:
        """A killed retrieve leaves nothing; what is not hookd's own is not touched."""
        folder = tmp_path / "staging"
        for name in ("get-abc", "mine", "0123456789ab"):
            (folder / name).mkdir(parents=True)
            (folder / name / "d0").write_bytes(b"x")
        Staging(folder, max_bytes=None).open([])
        assert sorted(os.listdir(folder)) == ["0123456789ab", "mine"]

    def test_restored_from_the_journal(self, tmp_path: Path) -> None:
        """After a power cut a small copy is as the journal has it, whatever the disk kept of it."""
        staging = Staging(tmp_path / "staging", max_bytes=None)
        staged = ["0123456789ab-1/i0", "0123456789ab-2/i1"]
        torn = staging.path(staged[0])
        torn.parent.mkdir(parents=True)
        torn.write_bytes(bytes(100))
        for name in staged:
            staging.restore(name, b"content")
        assert staging.open(staged) == []
        assert [staging.path(name).read_bytes() for name in staged] == [b"content", b"content"]
        assert staging.size_bytes == 14


class TestHashLive:
    def test_digest(self, live: Path) -> None:
        """Digest and size of what is there."""
        content = os.urandom((3 << 20) + 7)
        assert hash_live(write(live, "d0", content)) == (digest_of(content), len(content))

    def test_gone(self, live: Path) -> None:
        """A file or a namespace that is gone is permanent."""
        for path in (live / "d0", live / "no" / "d0", write(live, "d1", b"") / "d0"):
            with pytest.raises(SourceGone):
                hash_live(path)

    def test_no_file(self, live: Path) -> None:
        """A link or a folder is never read, now or later."""
        (live / "d0").symlink_to(live / "d1")
        (live / "d2").mkdir()
        for name in ("d0", "d2"):
            with pytest.raises(StorePermanent):
                hash_live(live / name)

    def test_unreadable(self, live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that errs may be well again later."""

        def readv(*_: object) -> int:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "readv", readv)
        with pytest.raises(StoreTemporary):
            hash_live(write(live, "d0", b"x"))
