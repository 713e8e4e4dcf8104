"""Metadata that zstor cannot put together any more, because it died while it wrote it.

zstor writes the metadata of a key as four shards, any two of which make it whole, to its four metadata
backends at once (0-stor_v2 zstor/src/zdb_meta.rs `write_value`). Killed in between it leaves one shard of
a new key, or shards of two versions, and can then neither read nor replace that key, for ever: a store
begins with reading what is there.

In: the place of a key, after zstor has refused it; out: the shards that are in the way are gone. The
invariants: nothing is removed before all four backends have answered twice, and the same; where three
shards are of one version only the fourth goes, and zstor reads that version again; all of them go only if
the key is to be stored anew, or is a record that hookd can make anew.

Weakness: of two and two nobody can tell which belong together, so both versions are given up then.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from hookd.errors import ZdbRefused, ZdbUnreachable
from hookd.log import get
from hookd.stores.zstor_probe import Backend
from hookd.zdb_client import ZdbClient

log = get("zstor")

SHARDS = 4
"""0-stor_v2 zstor/src/zdb_meta.rs: as many as backends; two of them hold the data."""

_ROWS = ((1, 0), (0, 1), (3, 2), (2, 3))
"""What each shard is of the two data shards: reed-solomon-erasure's matrix for 2 + 2, over GF(256)."""

_POLYNOMIAL = 0x11D
_CHECKSUM_BYTES = 16
CLOSED = "zstor closed the connection"
"""How `ZstorStore` says that it ended in the middle."""

LOOK_AGAIN_S = 1.0
CALL_LIMIT_S = 3.0

SIGNS = (
    "key reconstruction failed",
    "metadata error while: encoding",
    "metadata error while: encryption",
    "metadata error while: serialization",
    "mailbox has closed",
    CLOSED,
)
"""What zstor says then: over shards of two lengths it panics, a part of it (0.4.0) or all of it (0.5). A
zstor that lacks backends, or was killed, says the same.
"""


@dataclass(frozen=True, slots=True)
class MetaStore:
    """Where zstor's metadata lies, by its configuration."""

    backends: tuple[Backend, ...]
    prefix: str
    root: Path | None
    """Paths below it are keys without it."""

    def key(self, place: Path) -> str:
        """Of the object whose live file is at `place` (zdb_meta.rs `build_key`)."""
        path = Path(os.path.realpath(place.parent)) / place.name
        if self.root is not None:
            path = path.relative_to(self.root)
        return f"/{self.prefix}/meta/{blake2b(os.fsencode(path), digest_size=16).hexdigest()}"


def is_sign(text: str) -> bool:
    """Whether zstor's words may be about torn metadata."""
    lowered = text.lower()
    return any(sign in lowered for sign in SIGNS)


def mend(meta: MetaStore, place: Path, *, replace: bool) -> bool:
    """Whether shards that were in the way are gone. `replace`: nothing of what is there is needed any
    more. Blocking, some seconds. Raises nothing: what cannot be proven stays.
    """
    if len(meta.backends) != SHARDS:
        return False
    try:
        key = meta.key(place)
        first = [_get(backend, key) for backend in meta.backends]
        time.sleep(LOOK_AGAIN_S)  # nobody is writing it now?
        if first != [_get(backend, key) for backend in meta.backends]:
            return False
        bad = in_the_way(first)
        if not bad or (len(bad) == SHARDS and not replace):
            return False
        for number in bad:
            if first[number] is not None:
                _delete(meta.backends[number], key)
    except (ZdbRefused, ZdbUnreachable, ValueError) as error:
        log.warning("metadata that zstor cannot read cannot be mended", error=str(error))
        return False
    kept = "all of it is gone" if len(bad) == SHARDS else "the other three make it whole"
    log.warning("zstor died while it wrote metadata", path=str(place), shards=len(bad), kept=kept)
    return True


def in_the_way(values: Sequence[bytes | None]) -> list[int]:
    """The backends whose shards make that zstor, which has refused the key, cannot read it, by what each
    of them has; none where all is well, or nothing there.
    """
    everywhere = list(range(len(values)))
    found = {number: shard for number in everywhere if (shard := _shard(values[number]))}
    if all(value is None for value in values):
        return []
    shards = dict(found.values())
    if len(shards) < len(found) or len(shards) < 3:  # a place twice; or too few to compare
        return everywhere
    triples = [t for t in itertools.combinations(sorted(shards), 3) if _agree(shards, t)]
    if len(shards) == 3:
        return [] if triples else everywhere
    if len(triples) != 1:
        return [] if triples else everywhere
    (odd,) = shards.keys() - set(triples[0])
    return [number for number, (index, _) in found.items() if index == odd]


def _shard(value: bytes | None) -> tuple[int, bytes] | None:
    """(place, content) of a sound one."""
    if value is None or len(value) <= 1 + _CHECKSUM_BYTES or value[0] >= SHARDS:
        return None
    content, checksum = value[1:-_CHECKSUM_BYTES], value[-_CHECKSUM_BYTES:]
    sound = blake2b(content, digest_size=_CHECKSUM_BYTES).digest() == checksum
    return (value[0], content) if sound else None


def _agree(shards: Mapping[int, bytes], triple: Sequence[int]) -> bool:
    """Whether three shards are of one content: the third is what follows from the other two."""
    one, two, third = (shards[index] for index in triple)
    if not len(one) == len(two) == len(third):
        return False
    (a, b), (c, d), (e, f) = (_ROWS[index] for index in triple)
    inverse = _inverse(_mul(a, d) ^ _mul(c, b))
    x = _mul(_mul(e, d) ^ _mul(c, f), inverse)
    y = _mul(_mul(a, f) ^ _mul(e, b), inverse)
    expected = (p ^ q for p, q in zip(_times(one, x), _times(two, y), strict=True))
    return bytes(expected) == third


def _times(content: bytes, factor: int) -> bytes:
    return content.translate(bytes(_mul(factor, value) for value in range(256)))


def _mul(a: int, b: int) -> int:
    """In GF(256)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _POLYNOMIAL
        b >>= 1
    return product


def _inverse(value: int) -> int:
    return next(each for each in range(1, 256) if _mul(value, each) == 1)


def _get(backend: Backend, key: str) -> bytes | None:
    """Raises ZdbRefused, ZdbUnreachable."""
    with _open(backend) as zdb:
        found = zdb.ask("GET", key)
    return found if isinstance(found, bytes) else None


def _delete(backend: Backend, key: str) -> None:
    with _open(backend) as zdb:
        zdb.ask("DEL", key)


def _open(backend: Backend) -> ZdbClient:
    zdb = ZdbClient(f"tcp://{backend.address}", limit_s=CALL_LIMIT_S)
    try:
        if backend.namespace:
            zdb.select(backend.namespace, backend.password)
    except BaseException:
        zdb.close()
        raise
    return zdb
