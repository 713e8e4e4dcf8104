"""Policy: the table in its docstring, row by row, and who is left out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hookd.errors import EventMalformed, PathRefused
from hookd.event import HOOKS, parse
from hookd.files import FileKey, Roots, data_key, index_key, namespace_key
from hookd.policy import Action, Plan, Rules, Want, plan

Z = "unix:///run/zdb.sock"


def resolve(path: str) -> FileKey:
    """`/index/ns/i0` into its key; no disk is asked."""
    return FileKey.parse(path.removeprefix("/"))


def planned(*argv: str, rules: Rules = Rules()) -> Plan:  # noqa: B008 (frozen)
    """The plan of a hook called with these arguments."""
    return plan(parse((argv[0], Z, *argv[1:])), rules, resolve)


def rewritten(number: int, needs: int) -> Want:
    """An index file to freeze now."""
    return Want(key=index_key("ns", number), freeze=True, needs=needs)


DESCRIPTOR = Want(key=namespace_key("ns"), freeze=True, optional=True)
ACTIVE_DATA = Want(key=data_key("ns", 3), freeze=True)

ROWS: dict[str, tuple[tuple[str, ...], Plan]] = {
    "namespaces-init": (("/index", "/data"), Plan(action=Action.SURVEY)),
    "ready": ((), Plan(action=Action.JUDGE)),
    "jump-index": (
        ("/index/ns/i3", "/index/ns/i4", "2 0"),
        Plan(namespace="ns", wants=(rewritten(3, 3), rewritten(2, 3), rewritten(0, 3))),
    ),
    "jump-data": (
        ("/data/ns/d3", "/data/ns/d4"),
        Plan(namespace="ns", wants=(Want(key=data_key("ns", 3), freeze=False, sealed=True),)),
    ),
    "missing-data": (
        ("/data/ns/d3",),
        Plan(action=Action.RETRIEVE, namespace="ns", retrieve=data_key("ns", 3)),
    ),
    "namespace-created": (("ns",), Plan(namespace="ns", wants=(DESCRIPTOR,))),
    "namespace-updated": (("ns",), Plan(namespace="ns", wants=(DESCRIPTOR,))),
    "namespace-reloaded": (
        ("ns",),
        Plan(namespace="ns", wants=(DESCRIPTOR,), action=Action.SCAN),
    ),
    "namespace-deleted": (("ns",), Plan(namespace="ns", action=Action.WITHDRAW)),
    "namespace-closing": (
        ("ns", "/index/ns/i3", "/data/ns/d3", "1"),
        Plan(
            namespace="ns",
            wants=(ACTIVE_DATA, rewritten(3, 3), rewritten(1, 3), DESCRIPTOR),
        ),
    ),
    "close": ((), Plan()),
    "crash": ((), Plan()),
}

STORING = [hook for hook, (_, todo) in ROWS.items() if todo.wants]


def test_the_table_is_whole() -> None:
    """Each of zdb's hooks has its row."""
    assert set(ROWS) == set(HOOKS)


@pytest.mark.parametrize("hook", ROWS)
def test_row(hook: str) -> None:
    """A hook causes what its row says and nothing else."""
    arguments, todo = ROWS[hook]
    assert planned(hook, *arguments) == todo


def test_unknown() -> None:
    """A hook of a later zdb causes nothing."""
    assert planned("flush", "ns", "/data/ns/d0") == Plan()


@pytest.mark.parametrize("hook", ROWS)
def test_skipped(hook: str) -> None:
    """A namespace to skip causes no store and no scan; what zdb waits for, it gets all the same."""
    arguments, todo = ROWS[hook]
    found = planned(hook, *arguments, rules=Rules(skip=frozenset({"ns"})))
    assert found.wants == ()
    assert found.held is None
    assert found.action is (Action.NOTHING if hook in STORING else todo.action)
    assert found.retrieve == todo.retrieve


@pytest.mark.parametrize("hook", ROWS)
def test_held(hook: str) -> None:
    """The plan of a held namespace says why, where it would store; a retrieve is never held up."""
    arguments, todo = ROWS[hook]
    found = planned(hook, *arguments, rules=Rules(held={"ns": "half of it is gone"}))
    assert found.held == ("half of it is gone" if hook in STORING else None)
    assert found.action is todo.action


def test_others_are_neither() -> None:
    """Skipping and holding are of one namespace: one whose name begins alike is not meant."""
    arguments, todo = ROWS["jump-index"]
    rules = Rules(skip=frozenset({"n", "ns2"}), held={"": "x", "nss": "x"})
    assert planned("jump-index", *arguments, rules=rules) == todo


class TestDirtyLists:
    def test_empty(self) -> None:
        """Without rewritten files the closing one is left."""
        assert planned("jump-index", "/index/ns/i0", "/index/ns/i1", "").wants == (rewritten(0, 0),)

    def test_names_the_closing_one(self) -> None:
        """zdb names the closing file too where it was rewritten: it is frozen once, and first."""
        wants = planned("jump-index", "/index/ns/i3", "/index/ns/i4", "1 3").wants
        assert wants == (rewritten(3, 3), rewritten(1, 3))

    def test_ten_thousand(self) -> None:
        """Each file of a long list is wanted once, the closing one first, all with its data."""
        ids = " ".join(map(str, range(10_000)))
        wants = planned("jump-index", "/index/ns/i10000", "/index/ns/i10001", ids).wants
        assert [want.key.number for want in wants] == [10_000, *range(10_000)]
        assert {want.needs for want in wants} == {10_000}

    def test_newer_than_the_closing_one(self) -> None:
        """A number beyond the closing file (a list that came late) needs its own data file."""
        assert planned("jump-index", "/index/ns/i1", "/index/ns/i2", "5").wants[1].needs == 5


class TestRefused:
    @pytest.mark.parametrize(
        "argv",
        [
            ("jump-index", "/data/ns/d0", "/index/ns/i1", ""),
            ("jump-index", "/index/ns/zdb-namespace", "/index/ns/i1", ""),
            ("jump-data", "/index/ns/i0", "/data/ns/d1"),
            ("missing-data", "/index/ns/i0"),
            ("namespace-closing", "ns", "/data/ns/d0", "/index/ns/i0", ""),
            ("namespace-closing", "ns", "/index/other/i0", "/data/ns/d0", ""),
            ("namespace-closing", "ns", "/index/ns/i0", "/data/other/d0", ""),
            ("namespace-closing", "", "/index/ns/i0", "/data/ns/d0", ""),
        ],
        ids=str,
    )
    def test_files_that_do_not_fit(self, argv: tuple[str, ...]) -> None:
        """A file of another kind, or of another namespace than the hook's, is never stored."""
        with pytest.raises(EventMalformed):
            planned(*argv)

    @pytest.mark.parametrize("hook", ["created", "updated", "deleted", "reloaded"])
    @pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../etc", os.fsdecode(b"\xfe")])
    def test_names_that_lead_out(self, hook: str, name: str) -> None:
        """A namespace name that would leave the roots is refused, also where nothing is stored."""
        with pytest.raises(PathRefused):
            planned(f"namespace-{hook}", name)

    def test_paths_that_lead_out(self, tmp_path: Path) -> None:
        """What `Roots.key` refuses is refused for every hook that names a path."""
        roots = Roots(tmp_path / "index", tmp_path / "data")
        for hook, (arguments, _) in ROWS.items():
            if hook == "namespaces-init" or not any("/" in text for text in arguments):
                continue
            with pytest.raises(PathRefused):
                plan(parse((hook, Z, *arguments)), Rules(), roots.key)


def test_never_touches_disk() -> None:
    """No row opens or lists anything (the interpreter's audit events would show it)."""
    script = """if True:
        import sys
        from hookd.event import parse
        from hookd.files import FileKey
        from hookd.policy import Rules, plan
        from tests.unit.test_policy import ROWS, resolve
        found = []
        sys.addaudithook(lambda name, arguments: found.append(name))
        for hook, (arguments, _) in ROWS.items():
            plan(parse((hook, "z", *arguments)), Rules(), resolve)
        assert not [n for n in found if n == "open" or n.startswith("os.")], found
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
