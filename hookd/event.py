"""Stage event: the argv of one hook call into one typed, frozen fact.

Source of the table: 0-db libzdb/hook.c and its callers (v2.0.5 to v2.0.7). zdb calls its hook as
`HOOK NAME ZDBID ARGS…`; the shim drops its own argv[0], so a parsed argv starts with NAME. The
invariant of this module: an event that exists is well formed. Paths are still what zdb wrote; whether
they may be touched is decided by `Roots.key`, at admission.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hookd.errors import EventMalformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every hook says: which zdb (`tcp://listen:port` or `unix://path`)."""

    zdb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacesInit(Event):
    """Before anything is loaded. zdb waits, and ignores the exit code."""

    index: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """Listening, not yet serving. zdb waits; non-zero makes it stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJumped(Event):
    """iN is closed, i(N+1) exists, dN is complete but still open. zdb waits; 0 clears its dirty list."""

    closed: str
    opened: str
    dirty: tuple[int, ...]
    """Numbers of older index files rewritten in place since the last 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataJumped(Event):
    """dN is sealed, d(N+1) is open. zdb does not wait."""

    closed: str
    opened: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMissing(Event):
    """A sealed data file is not there. zdb waits, frozen, and opens it again after a 0."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfNamespace(Event):
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceCreated(_OfNamespace):
    """NSNEW was done. zdb does not wait, and the hook may come after later ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceUpdated(_OfNamespace):
    """NSSET was done: the descriptor file has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDeleted(_OfNamespace):
    """NSDEL was done: zdb has removed its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReloaded(_OfNamespace):
    """RELOAD was done: zdb has read the files again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceClosing(_OfNamespace):
    """zdb is ending; these are the active files. Not waited for, and it outlives zdb."""

    index: str
    data: str
    dirty: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing(Event):
    """SIGTERM or SIGINT has reached zdb. zdb waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed(Event):
    """SIGSEGV has reached zdb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownHook(Event):
    """A hook of a zdb newer than this table: kept, logged, answered 0."""

    name: str
    arguments: tuple[str, ...]


def _numbers(text: str) -> tuple[int, ...]:
    """`"0 4 6"` (or `""`) into numbers; zdb sends each once, in any case we keep each once."""
    words = text.split()
    if not all(word.isascii() and word.isdecimal() and len(word) <= 10 for word in words):
        raise EventMalformed(f"expected file numbers, read {text[:80]!r}")
    found = tuple(dict.fromkeys(map(int, words)))
    if any(number > 0xFFFFFFFF for number in found):
        raise EventMalformed(f"a file number is out of range in {text[:80]!r}")
    return found


_Make = Callable[[str, Sequence[str]], Event]

# The name, how many arguments follow the zdb id, what they become.
_TABLE: dict[str, tuple[int, _Make]] = {
    "namespaces-init": (2, lambda z, a: NamespacesInit(zdb=z, index=a[0], data=a[1])),
    "ready": (0, lambda z, a: Ready(zdb=z)),
    "jump-index": (
        3,
        lambda z, a: IndexJumped(zdb=z, closed=a[0], opened=a[1], dirty=_numbers(a[2])),
    ),
    "jump-data": (2, lambda z, a: DataJumped(zdb=z, closed=a[0], opened=a[1])),
    "missing-data": (1, lambda z, a: DataMissing(zdb=z, path=a[0])),
    "namespace-created": (1, lambda z, a: NamespaceCreated(zdb=z, namespace=a[0])),
    "namespace-updated": (1, lambda z, a: NamespaceUpdated(zdb=z, namespace=a[0])),
    "namespace-deleted": (1, lambda z, a: NamespaceDeleted(zdb=z, namespace=a[0])),
    "namespace-reloaded": (1, lambda z, a: NamespaceReloaded(zdb=z, namespace=a[0])),
    "namespace-closing": (
        4,
        lambda z, a: NamespaceClosing(
            zdb=z, namespace=a[0], index=a[1], data=a[2], dirty=_numbers(a[3])
        ),
    ),
    "close": (0, lambda z, a: Closing(zdb=z)),
    "crash": (0, lambda z, a: Crashed(zdb=z)),
}

HOOKS: tuple[str, ...] = tuple(_TABLE)
"""The twelve hooks of zdb 2.0."""

BLOCKING: frozenset[str] = frozenset(
    {"namespaces-init", "ready", "jump-index", "missing-data", "close"}
)
"""Those that freeze zdb until the hook ends (hook_execute_wait)."""

NEVER_SPOOLED: frozenset[str] = frozenset({"namespaces-init", "ready", "missing-data"})
"""Those whose answer nobody but the daemon can give."""


def parse(argv: Sequence[str]) -> Event:
    """One hook's argv (NAME, ZDBID, …) as its event. Raises EventMalformed.

    More arguments than the table knows are accepted and ignored: a later zdb may append some.
    """
    if not argv or not argv[0]:
        raise EventMalformed("expected a hook name, read nothing")
    name, zdb, arguments = argv[0], argv[1] if len(argv) > 1 else "", argv[2:]
    known = _TABLE.get(name)
    if known is None:
        return UnknownHook(zdb=zdb, name=name, arguments=tuple(arguments))
    count, make = known
    if len(argv) < 2 + count:
        raise EventMalformed(
            f"{name}: expected the zdb id and {count} arguments, read {len(argv) - 1}"
        )
    return make(zdb, arguments)
