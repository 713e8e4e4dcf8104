"""What is here, judged by what is known to be in the store: `Here`, and why. Pure, but for `descends`.

`known` is a file's least length: of the ledger and of snapshots on their way, where the manifest is the
one that we wrote last; of the manifest, or the store's own words, otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hookd.digest import CHUNK_BYTES, DIGEST_SIZE
from hookd.entries import DATA_HEADER_BYTES, HEADER_BYTES
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.manifest import Manifest
from hookd.restore.local import Local
from hookd.restore.table import Here


def classify(local: Local, known: Mapping[FileKey, int]) -> tuple[Here, str]:
    """The row of the table, and the reason in words that follow the namespace's name."""
    if local.interrupted:
        return Here.INTERRUPTED, "a restore was begun and not finished"
    expected = sorted(key.number for key in known if key.kind is Kind.INDEX)
    if not local.indexes or (local.blank and worth(known)):
        return Here.EMPTY, "its files are not here"
    assert local.active is not None
    namespace, here = local.namespace, set(local.indexes)
    gone = [number for number in expected if number not in here]
    if gone and gone[-1] > local.active and not _has_data_beyond(local, gone[-1], known):
        return (
            Here.OLDER,
            f"i{gone[-1]} is in the store, but the newest index here is i{local.active}",
        )
    if gone or local.gap is not None:
        number = gone[0] if gone else local.gap
        return Here.GAP, f"index file i{number} is absent"
    if local.lacks_active_data:
        active = data_key(namespace, local.active)
        index = local.length(index_key(namespace, local.active)) or 0
        if active in known or index > HEADER_BYTES:
            return Here.NO_ACTIVE_DATA, f"the active data file d{local.active} is absent"
    for key in (*(index_key(namespace, n) for n in expected), data_key(namespace, local.active)):
        size = local.length(key)
        if size is not None and size < known.get(key, 0):
            return (
                Here.OLDER,
                f"{key.name} has {size} bytes here, but {known[key]} are in the store",
            )
    descriptor = namespace_key(namespace)
    if descriptor in known and local.length(descriptor) is None:
        return Here.NO_DESCRIPTOR, f"{descriptor.name} is absent, which has its password"
    return Here.COMPLETE, ""


def worth(known: Mapping[FileKey, int]) -> bool:
    """Whether there is anything in these files that zdb does not make by itself."""
    return any(
        size > (DATA_HEADER_BYTES if key.kind is Kind.DATA else HEADER_BYTES)
        for key, size in known.items()
        if key.kind is not Kind.NAMESPACE
    )


def _has_data_beyond(local: Local, number: int, known: Mapping[FileKey, int]) -> bool:
    """Whether the newest data files are here: then index files were lost, not time."""
    key = data_key(local.namespace, number)
    size = local.length(key)
    return size is not None and size >= known.get(key, 0)


def descends(roots: Roots, local: Local, manifest: Manifest) -> str | None:
    """Why the data files here are not those that the manifest names, or longer versions of them.

    Looked at are the oldest and the newest data file that both have: two histories differ in their first
    values, and forks of one in their last. Blocking; None where nothing speaks against it.
    """
    both = [
        key
        for key in sorted(manifest.files, key=lambda key: key.number)
        if key.namespace == local.namespace and key.kind is Kind.DATA and key in local.lengths
    ]
    for key in {*both[:1], *both[-1:]}:
        named = manifest.files[key]
        if named.size_bytes <= DATA_HEADER_BYTES:
            continue
        if local.lengths[key] < named.size_bytes:
            return (
                f"{key.name} has {local.lengths[key]} bytes here, {named.size_bytes} in the store"
            )
        if prefix_digest(roots.path(key), named.size_bytes) != named.digest:
            return f"{key.name} has other content here than in the store"
    return None


def prefix_digest(path: Path, length: int) -> bytes | None:
    """BLAKE2b-128 of the first `length` bytes; None where they cannot be read."""
    state = hashlib.blake2b(digest_size=DIGEST_SIZE)
    try:
        with path.open("rb") as file:
            while length > 0:
                chunk = file.read(min(CHUNK_BYTES, length))
                if not chunk:
                    return None
                state.update(chunk)
                length -= len(chunk)
    except OSError:
        return None
    return state.digest()
