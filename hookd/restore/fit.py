"""Does what is here and there make one whole? Pure: raises Refused, or returns.

A data file is never placed without its index, and nothing is placed that entries do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hookd.entries import DATA_HEADER_BYTES, HEADER_BYTES, Reach
from hookd.errors import HookdError
from hookd.files import FileKey, Kind, data_key, index_key
from hookd.restore.local import Local
from hookd.restore.remote import There


class Refused(HookdError):
    """What the store has cannot be restored to a consistent whole; the message says why, in one line."""

    spared = False
    """Whether all but the values of a closed data file can be restored, if somebody decides so."""


def bogus(local: Local, key: FileKey, there: There) -> bool:
    """Whether zdb made this file itself because the real one was not there."""
    if key not in there.all and key.kind is not Kind.DATA:
        return False
    if local.blank:
        return True
    if not local.interrupted:
        return False
    if key.kind is Kind.NAMESPACE:
        # Placed before i0: beside an i0 with entries it is the real one. zdb's own has no password.
        return (local.length(index_key(local.namespace, 0)) or 0) <= HEADER_BYTES
    return local.lengths[key] <= (DATA_HEADER_BYTES if key.kind is Kind.DATA else HEADER_BYTES)


def fits(
    namespace: str,
    reach: Reach,
    active: int,
    here: Mapping[FileKey, int],
    there: There,
    lacks: Callable[[FileKey, str, int], None],
) -> None:
    """Every entry points to something that is here, or there, in full. `lacks` is told each data file of
    which that is not true, why, and how long it is here; it may raise Refused.
    """
    stored = there.all
    for number, end in sorted(reach.ends.items()):
        key = data_key(namespace, number)
        if key in here:
            if here[key] < end:
                lacks(key, too_short(key, here[key], end, "here"), here[key])
        elif key not in stored:
            why = f"{key} is neither here nor in the store, and index entries point into it"
            lacks(key, why, 0)
        else:
            size = stored[key].size_bytes
            if size is not None and size < end:
                lacks(key, too_short(key, size, end, "in the store"), 0)
        if number > active:
            newest = f"the newest index of {namespace} is i{active}"
            lacks(key, f"index entries point into {key}, but {newest}", 0)


def too_short(key: FileKey, size: int, end: int, where: str) -> str:
    return f"{key} has {size} bytes {where}, but index entries point up to byte {end} of it"
