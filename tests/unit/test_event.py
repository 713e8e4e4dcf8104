"""Event: every hook of zdb's table becomes its fact; what zdb never sends is refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookd import event as ev
from hookd.errors import EventMalformed
from hookd.event import BLOCKING, HOOKS, NEVER_SPOOLED, Event, parse

Z = "tcp://0.0.0.0:9900"

# argv without zdb's own argv[0], and the fact.
ROWS: dict[str, tuple[tuple[str, ...], Event]] = {
    "namespaces-init": (("/i", "/d"), ev.NamespacesInit(zdb=Z, index="/i", data="/d")),
    "ready": ((), ev.Ready(zdb=Z)),
    "jump-index": (
        ("/i/ns/i0", "/i/ns/i1", "4 0 6"),
        ev.IndexJumped(zdb=Z, closed="/i/ns/i0", opened="/i/ns/i1", dirty=(4, 0, 6)),
    ),
    "jump-data": (("/d/ns/d0", "/d/ns/d1"), ev.DataJumped(zdb=Z, closed="/d/ns/d0", opened="/d/ns/d1")),
    "missing-data": (("/d/ns/d0",), ev.DataMissing(zdb=Z, path="/d/ns/d0")),
    "namespace-created": (("ns",), ev.NamespaceCreated(zdb=Z, namespace="ns")),
    "namespace-updated": (("ns",), ev.NamespaceUpdated(zdb=Z, namespace="ns")),
    "namespace-deleted": (("ns",), ev.NamespaceDeleted(zdb=Z, namespace="ns")),
    "namespace-reloaded": (("ns",), ev.NamespaceReloaded(zdb=Z, namespace="ns")),
    "namespace-closing": (
        ("ns", "/i/ns/i0", "/d/ns/d0", ""),
        ev.NamespaceClosing(zdb=Z, namespace="ns", index="/i/ns/i0", data="/d/ns/d0", dirty=()),
    ),
    "close": ((), ev.Closing(zdb=Z)),
    "crash": ((), ev.Crashed(zdb=Z)),
}  # fmt: skip


def test_the_table_is_whole() -> None:
    """There is a row for each of the twelve hooks, and the two lists of hooks name known ones."""
    assert set(ROWS) == set(HOOKS)
    assert len(HOOKS) == 12
    assert set(HOOKS) > BLOCKING
    assert NEVER_SPOOLED < BLOCKING


@pytest.mark.parametrize("hook", ROWS)
class TestRows:
    def test_fact(self, hook: str) -> None:
        """A hook's arguments end in the right places."""
        arguments, fact = ROWS[hook]
        assert parse((hook, Z, *arguments)) == fact

    def test_more_arguments(self, hook: str) -> None:
        """A later zdb may append arguments: they are ignored."""
        arguments, fact = ROWS[hook]
        assert parse((hook, Z, *arguments, "more", "")) == fact

    def test_fewer_arguments(self, hook: str) -> None:
        """Any argument missing, the id included, is refused with the count that was expected."""
        arguments, _ = ROWS[hook]
        argv = (hook, Z, *arguments)
        for size in range(1, len(argv)):
            with pytest.raises(EventMalformed, match=f"and {len(arguments)} arguments"):
                parse(argv[:size])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        (" ", ()),
        ("0", (0,)),
        (" 7  3 ", (7, 3)),
        ("1 1 0 1", (1, 0)),
        ("4294967295", (4294967295,)),
        (" ".join(map(str, range(10_000))), tuple(range(10_000))),
    ],
    ids=lambda value: str(value)[:20],
)
def test_dirty_lists(text: str, numbers: tuple[int, ...]) -> None:
    """The list is kept in zdb's order, each number once."""
    jumped = parse(("jump-index", Z, "a", "b", text))
    assert isinstance(jumped, ev.IndexJumped)
    assert jumped.dirty == numbers
    closing = parse(("namespace-closing", Z, "ns", "a", "b", text))
    assert isinstance(closing, ev.NamespaceClosing)
    assert closing.dirty == numbers


@pytest.mark.parametrize(
    "text",
    ["x", "1,2", "-1", "+1", "1_0", "1.0", "0x1", "٣", "²", "4294967296", "9" * 5000, "1 2 i3"],
    ids=lambda text: text[:10],
)
def test_what_is_no_dirty_list(text: str) -> None:
    """What zdb never writes is refused whole: half a list would be half of the files."""
    with pytest.raises(EventMalformed, match="file number"):
        parse(("jump-index", Z, "a", "b", text))


@pytest.mark.parametrize("argv", [(), ("",), ("", Z)])
def test_no_name(argv: tuple[str, ...]) -> None:
    """Without a name there is no event."""
    with pytest.raises(EventMalformed, match="hook name"):
        parse(argv)


def test_unknown() -> None:
    """A hook of a later zdb is a fact too, with all that it came with."""
    assert parse(("flush", Z, "a", "")) == ev.UnknownHook(zdb=Z, name="flush", arguments=("a", ""))
    assert parse(("flush",)) == ev.UnknownHook(zdb="", name="flush", arguments=())


@given(st.lists(st.one_of(st.sampled_from(HOOKS), st.text(), st.binary().map(os.fsdecode))))
def test_anything(argv: list[str]) -> None:
    """Whatever the arguments, the outcome is a fact or EventMalformed."""
    try:
        assert isinstance(parse(argv), Event)
    except EventMalformed as error:
        str(error).encode()  # it is logged and kept: no lone surrogates
