"""What an index snapshot must wait for, read from its entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.entries import NotAnIndex, pointers_into, reach_of
from hookd.files import Roots, index_key
from hookd.journal import Job
from hookd.needs import no_further, points_to
from tests.conftest import Logs
from tests.fakes.zdb_files import DATA_ITEM, DELETED, SEQUENTIAL, Place, header, index_entry

ENTRY = Place(index=0, position=29, data=0, offset=28, length=5)

LOST = "a data file has lost values at its end"

USER = 0


def index(*entries: tuple[Place, int], mode: int = SEQUENTIAL, number: int = 0) -> bytes:
    """An index file of a zdb."""
    head = bytearray(header("index", number, 1))
    head[28] = mode
    return bytes(head) + b"".join(
        index_entry(place, b"key", b"value", 7, f) for place, f in entries
    )


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Of a namespace with d0, d1 and d2."""
    for root in ("index/ns", "data/ns"):
        (tmp_path / root).mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"data/ns/d{number}").write_bytes(bytes(100 + number))
    return Roots(tmp_path / "index", tmp_path / "data")


def job(number: int, needs: int) -> Job:
    return Job(key=index_key("ns", number), needs=needs)


def test_its_entries(roots: Roots) -> None:
    """The newest data file that an entry points into, up to the value's end."""
    far = Place(index=0, position=29, data=1, offset=60, length=5)
    end = 60 + DATA_ITEM.size + 5
    assert points_to(roots, job(0, 2), index((ENTRY, 0), (far, 0))) == (1, end)
    assert reach_of(index((ENTRY, 0), (far, 0))).ends == {0: 28 + DATA_ITEM.size + 5, 1: end}


def test_its_own_data_file(roots: Roots) -> None:
    """iN needs dN, whatever its entries say: zdb would make dN anew."""
    assert points_to(roots, job(2, 2), index((ENTRY, 0))) == (2, 28)


def test_replaced_in_user_mode(roots: Roots) -> None:
    """An update flags the old entry and appends a new one elsewhere: without that the key is gone."""
    assert points_to(roots, job(0, 1), index((ENTRY, DELETED), mode=USER)) == (2, 102)


def test_replaced_and_the_active_files_are_blank(roots: Roots, tmp_path: Path) -> None:
    """The new entry is not there: a file that is stored only with zdb's next value is not waited for."""
    content = index((ENTRY, DELETED), mode=USER)
    for number in (2, 1):
        (tmp_path / f"data/ns/d{number}").write_bytes(header("data", number, 1))
        assert points_to(roots, job(0, 0), content) == (number - 1, 101 - (2 - number))
    assert points_to(roots, job(0, 2), content) == (2, 28)
    (tmp_path / "data/ns/d1").unlink()  # in the store alone
    assert points_to(roots, job(0, 0), content) == (1, 28)


def test_flagged_in_sequential_mode(roots: Roots) -> None:
    """There an update rewrites the entry, which tells itself where it points to."""
    assert points_to(roots, job(0, 1), index((ENTRY, DELETED))) == (0, 28 + 18 + 5)


def test_values_that_a_crash_has_lost(roots: Roots, logs: Logs) -> None:
    """zdb appends a value before it writes its entry: what a file has less than that never comes. It is
    said once.
    """
    logs.expect(LOST)
    far = Place(index=0, position=29, data=1, offset=98, length=5)
    for _ in range(2):
        assert points_to(roots, job(0, 1), index((far, 0))) == (1, 101)
    assert len(logs.of(LOST)) == 1


def test_in_the_store_alone(roots: Roots, tmp_path: Path) -> None:
    """An evicted data file is whole: all of it must be remote."""
    (tmp_path / "data/ns/d1").unlink()
    far = Place(index=0, position=29, data=1, offset=98, length=5)
    assert points_to(roots, job(0, 1), index((far, 0))) == (1, 98 + DATA_ITEM.size + 5)


def test_of_a_deleted_namespace(roots: Roots, tmp_path: Path) -> None:
    """Its closing index is not here: of the next one no file is waited for that is not here."""
    for number in range(2):
        (tmp_path / f"index/ns/i{number}").write_bytes(index())
    content = index((ENTRY, DELETED), mode=USER)
    assert points_to(roots, job(0, 7), content) == (2, 102)
    assert no_further(roots, job(0, 7)) == 2
    assert no_further(roots, job(6, 7)) == 6
    assert no_further(roots, job(0, 1)) == 1


def test_new_entries_in_user_mode(roots: Roots, tmp_path: Path) -> None:
    """A real zdb writes 0 for the data file of a new key there, and takes the index file's number."""
    (tmp_path / "data/ns/d1").write_bytes(bytes(400_000))
    far = Place(index=1, position=29, data=0, offset=300_000, length=5)
    content = index((far, 0), (ENTRY, 0), mode=USER, number=1)
    end = 300_000 + DATA_ITEM.size + 5
    assert reach_of(content).ends == {1: end}
    assert points_to(roots, job(1, 1), content) == (1, end)


@pytest.mark.parametrize("content", [b"", b"IDX0", b"x" * 100])
def test_no_index(roots: Roots, content: bytes) -> None:
    """What cannot be read needs all that is there."""
    with pytest.raises(NotAnIndex):
        reach_of(content)
    assert points_to(roots, job(0, 0), content) == (2, 102)


@pytest.mark.parametrize("mode", [SEQUENTIAL, USER])
def test_pointers(mode: int) -> None:
    """In user mode iN points into dN whatever its entries say; a deleted entry points nowhere."""
    gone = Place(index=5, position=29, data=0, offset=60, length=5)
    content = index((ENTRY, 0), (gone, DELETED), mode=mode, number=5)
    own, zero = ([p.offset for p in pointers_into(content, number)] for number in (5, 0))
    assert (own, zero) == (([28], []) if mode == USER else ([], [28]))


def test_pointers_of_no_index() -> None:
    """As `reach_of`."""
    with pytest.raises(NotAnIndex):
        list(pointers_into(b"DAT0" + bytes(40), 0))
