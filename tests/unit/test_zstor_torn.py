"""Metadata of a zstor that was killed: which shards are in the way, by what the four backends have."""

from __future__ import annotations

import os
import random
from hashlib import blake2b
from pathlib import Path

import pytest

from hookd.errors import ZdbUnreachable
from hookd.stores import zstor_torn
from hookd.stores.zstor_probe import Backend
from hookd.stores.zstor_torn import MetaStore, in_the_way, is_sign
from tests.conftest import Logs

MENDED = "zstor died while it wrote metadata"


def shards(seed: int, length: int = 100) -> list[bytes | None]:
    """What zstor leaves on its backends for one version (the parities by their equations)."""
    source = random.Random(seed)
    one, two = source.randbytes(length), source.randbytes(length)
    content = [one, two, mixed(one, 3, two, 2), mixed(one, 2, two, 3)]
    return [sealed(index, each) for index, each in enumerate(content)]


def sealed(index: int, content: bytes) -> bytes:
    """As zstor writes one."""
    return bytes([index]) + content + blake2b(content, digest_size=16).digest()


def mixed(one: bytes, x: int, two: bytes, y: int) -> bytes:
    """x times one plus y times two, over GF(256)."""
    return bytes(_times(x, a) ^ _times(y, b) for a, b in zip(one, two, strict=True))


def _times(factor: int, value: int) -> int:
    doubled = (value << 1) ^ (0x11D if value & 0x80 else 0)
    return doubled if factor == 2 else doubled ^ value


OLD, NEW = shards(1), shards(2)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_whole(order: tuple[int, ...]) -> None:
    """One version, on whichever backends; also with one of them empty."""
    values = [OLD[index] for index in order]
    assert in_the_way(values) == []
    for number in range(4):
        assert in_the_way([*values[:number], None, *values[number + 1 :]]) == []
    assert in_the_way([None] * 4) == []


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("most", "odd"), [(OLD, NEW), (NEW, OLD)])
def test_three_to_one(number: int, most: list[bytes | None], odd: list[bytes | None]) -> None:
    """The odd one is in the way of whichever version has three."""
    values = list(most)
    values[number] = odd[number]
    assert in_the_way(values) == [number]


def test_two_to_two() -> None:
    """Nobody can tell which belong together."""
    for two in ((0, 1), (0, 2), (1, 3)):
        values = [NEW[index] if index in two else OLD[index] for index in range(4)]
        assert in_the_way(values) == [0, 1, 2, 3]


def test_a_new_key() -> None:
    """One shard, or two that zstor does not understand, three that do not fit: all of them."""
    assert in_the_way([None, NEW[1], None, None]) == [0, 1, 2, 3]
    assert in_the_way([NEW[0], OLD[1], None, None]) == [0, 1, 2, 3]
    assert in_the_way([NEW[0], OLD[1], OLD[2], None]) == [0, 1, 2, 3]


def test_other_lengths_and_damage() -> None:
    """Another version may be longer; what is no shard counts for nothing."""
    longer = shards(3, length=101)
    assert in_the_way([longer[0], *OLD[1:]]) == [0]
    assert in_the_way([b"garbage", b"", None, None]) == [0, 1, 2, 3]
    assert in_the_way([b"garbage", *OLD[1:]]) == []
    assert in_the_way([OLD[1], *OLD[1:]]) == [0, 1, 2, 3], "one place twice"


def test_signs() -> None:
    """zstor's own words, 0.4.0 and head."""
    failed = "error during metadata: zdb metadata error while: ENCODING: key reconstruction failed"
    assert is_sign(failed)
    assert is_sign("zdb metadata error while: ENCRYPTION: decryption failed")
    assert is_sign("error during waiting for async task completion: Mailbox has closed")
    assert is_sign("zstor closed the connection: it was killed or did not understand")
    assert not is_sign("zdb metadata error while: ZDB BACKEND: connection refused")


@pytest.mark.parametrize("root", [None, "/"])
def test_the_key(tmp_path: Path, root: str | None) -> None:
    """Of the real path of the folder, without zstor's root."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    meta = MetaStore((), "pre", None if root is None else Path(root))
    path = os.path.realpath(tmp_path / "real") + "/i0"
    path = path if root is None else path.lstrip("/")
    wanted = blake2b(path.encode(), digest_size=16).hexdigest()
    assert meta.key(tmp_path / "link" / "i0") == f"/pre/meta/{wanted}"


class Backends:
    """Four, in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: list[bytes | None]) -> None:
        self.meta = MetaStore(tuple(Backend(f"b:{number}") for number in range(4)), "p", None)
        self.values = {f"b:{number}": value for number, value in enumerate(values)}
        self.away: str | None = None
        self.looks = 0
        monkeypatch.setattr(zstor_torn, "LOOK_AGAIN_S", 0.0)
        monkeypatch.setattr(zstor_torn, "_get", self._get)
        monkeypatch.setattr(zstor_torn, "_delete", self._delete)

    def _get(self, backend: Backend, key: str) -> bytes | None:
        self.looks += 1
        if backend.address == self.away:
            raise ZdbUnreachable("away")
        return self.values[backend.address]

    def _delete(self, backend: Backend, key: str) -> None:
        assert self.values[backend.address] is not None
        self.values[backend.address] = None

    def mend(self, *, replace: bool) -> bool:
        """Of some key."""
        return zstor_torn.mend(self.meta, Path("/x/i0"), replace=replace)


@pytest.mark.parametrize("replace", [False, True])
def test_a_version_is_kept(logs: Logs, monkeypatch: pytest.MonkeyPatch, replace: bool) -> None:
    """Whatever it is read for."""
    logs.expect(MENDED)
    backends = Backends(monkeypatch, [NEW[0], *OLD[1:]])
    assert backends.mend(replace=replace)
    assert [*backends.values.values()] == [None, *OLD[1:]]


def test_all_go_only_for_another(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read, nothing is removed."""
    backends = Backends(monkeypatch, [None, NEW[1], None, None])
    assert not backends.mend(replace=False)
    assert backends.values["b:1"] == NEW[1]
    logs.expect(MENDED)
    assert backends.mend(replace=True)
    assert [*backends.values.values()] == [None] * 4


def test_nothing_without_all_four(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is away may have what makes it whole."""
    logs.expect("metadata that zstor cannot read cannot be mended")
    values = [None, NEW[1], None, None]
    backends = Backends(monkeypatch, list(values))
    backends.away = "b:3"
    assert not backends.mend(replace=True)
    assert [*backends.values.values()] == values
    three = MetaStore(backends.meta.backends[:3], "p", None)
    assert not zstor_torn.mend(three, Path("/x/i0"), replace=True)


def test_nothing_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks have to be the same."""
    backends = Backends(monkeypatch, [None, NEW[1], None, None])
    get = backends._get

    def grows(backend: Backend, key: str) -> bytes | None:
        if backends.looks == 4:
            backends.values["b:0"] = NEW[0]
        return get(backend, key)

    monkeypatch.setattr(zstor_torn, "_get", grows)
    assert not backends.mend(replace=True)
    assert backends.values["b:1"] == NEW[1]


def test_nothing_of_a_whole_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zstor that sees too few backends says the same of every key."""
    backends = Backends(monkeypatch, list(OLD))
    assert not backends.mend(replace=True)
    assert [*backends.values.values()] == OLD
