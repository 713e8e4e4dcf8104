"""Stage policy: (event, rules) into what it causes. One pure function, one table; never touches disk.

| hook               | files frozen before the answer      | files read later | and then           |
|--------------------|-------------------------------------|------------------|--------------------|
| namespaces-init    |                                     |                  | survey             |
| ready              |                                     |                  | judge, then scan   |
| jump-index         | closed iN, each dirty iK            |                  |                    |
| jump-data          |                                     | dN (sealed)      |                    |
| missing-data       |                                     |                  | retrieve           |
| namespace-created  | descriptor                          |                  |                    |
| namespace-updated  | descriptor                          |                  |                    |
| namespace-reloaded | descriptor                          |                  | scan               |
| namespace-deleted  |                                     |                  | withdraw           |
| namespace-closing  | active iN, dN, dirty iK, descriptor |                  |                    |
| close, crash       |                                     |                  |                    |
| unknown            |                                     |                  |                    |

An index snapshot carries `needs`: the number of the newest data file it may point into. zdb
rewrites an entry of an old index in place with `dataid` = the active data file (index_set.c), so
that is the number of the closing (or active) index for every file of the list.

Namespaces in `Rules.skip` cause no stores; those in `Rules.held` (their local
files were judged bogus) have their files recorded as held instead of queued.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hookd import event as ev
from hookd.errors import EventMalformed
from hookd.files import FileKey, Kind, data_key, index_key, namespace_key

Resolve = Callable[[str], FileKey]
"""A path of zdb's into its key, or PathRefused; `Roots.key` in the daemon."""


class Action(enum.Enum):
    """What an event causes beside stores."""

    NOTHING = "nothing"
    """The answer is 0 once the event is committed."""
    SURVEY = "survey"
    """Compare what is local with what is remote, and remember the finding for `ready`."""
    JUDGE = "judge"
    """Answer by that finding; then look for files that no hook announced."""
    RETRIEVE = "retrieve"
    """Bring one data file back before the answer."""
    WITHDRAW = "withdraw"
    """Give up the pending stores of a namespace whose files zdb has removed."""
    SCAN = "scan"
    """Look for files that no hook announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One file that must end in the store."""

    key: FileKey
    freeze: bool
    """Whether zdb may rewrite it, so that it is copied before the answer."""
    sealed: bool = False
    """Whether its content is final: other content under this name is a conflict."""
    needs: int | None = None
    """The newest data file of the namespace that its entries may point into."""
    optional: bool = False
    """Whether its absence is no news (the descriptor of a namespace deleted meanwhile)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that one event causes."""

    wants: tuple[Want, ...] = ()
    action: Action = Action.NOTHING
    namespace: str | None = None
    retrieve: FileKey | None = None
    held: str | None = None
    """Why this namespace takes no stores now, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the administrator and earlier judgements decided."""

    skip: frozenset[str] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)
    """Namespace → why it takes no stores."""


def _indexes(namespace: str, last: int, dirty: Iterable[int]) -> tuple[Want, ...]:
    """The closing (or active) index and the rewritten ones, each needing data up to `last`."""
    return tuple(
        Want(key=index_key(namespace, number), freeze=True, needs=max(last, number))
        for number in dict.fromkeys((last, *dirty))
    )


_A = {Kind.INDEX: "an index", Kind.DATA: "a data"}


def _kind(key: FileKey, kind: Kind, path: str) -> FileKey:
    if key.kind is not kind:
        raise EventMalformed(f"expected {_A[kind]} file, read {path!r}")
    return key


def plan(event: ev.Event, rules: Rules, resolve: Resolve) -> Plan:
    """What `event` causes. Raises PathRefused (from `resolve`) and EventMalformed."""
    match event:
        case ev.IndexJumped(closed=path, dirty=dirty):
            key = _kind(resolve(path), Kind.INDEX, path)
            return _stores(key.namespace, _indexes(key.namespace, key.number, dirty), rules)
        case ev.DataJumped(closed=path):
            key = _kind(resolve(path), Kind.DATA, path)
            return _stores(key.namespace, (Want(key=key, freeze=False, sealed=True),), rules)
        case ev.NamespacesInit():
            return Plan(action=Action.SURVEY)
        case ev.Ready():
            return Plan(action=Action.JUDGE)
        case ev.DataMissing(path=path):
            key = _kind(resolve(path), Kind.DATA, path)
            return Plan(action=Action.RETRIEVE, namespace=key.namespace, retrieve=key)
        case ev.NamespaceClosing(namespace=name, index=index, data=data, dirty=dirty):
            ikey = _kind(resolve(index), Kind.INDEX, index)
            dkey = _kind(resolve(data), Kind.DATA, data)
            if name != ikey.namespace or name != dkey.namespace:
                raise EventMalformed(f"namespace {name!r} does not own {index!r} and {data!r}")
            active = Want(key=data_key(name, dkey.number), freeze=True)
            wants = (active, *_indexes(name, ikey.number, dirty), _descriptor(name))
            return _stores(name, wants, rules)
        case ev.NamespaceCreated(namespace=name) | ev.NamespaceUpdated(namespace=name):
            return _stores(name, (_descriptor(name),), rules)
        case ev.NamespaceReloaded(namespace=name):
            return _stores(name, (_descriptor(name),), rules, action=Action.SCAN)
        case ev.NamespaceDeleted(namespace=name):
            namespace_key(name)  # refuses a name that would leave the roots
            return Plan(action=Action.WITHDRAW, namespace=name)
        case _:
            return Plan()


def _descriptor(namespace: str) -> Want:
    return Want(key=namespace_key(namespace), freeze=True, optional=True)


def _stores(
    namespace: str, wants: tuple[Want, ...], rules: Rules, *, action: Action = Action.NOTHING
) -> Plan:
    if namespace in rules.skip:
        return Plan(namespace=namespace)
    return Plan(wants=wants, action=action, namespace=namespace, held=rules.held.get(namespace))
