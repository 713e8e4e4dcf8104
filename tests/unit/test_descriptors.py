"""How many descriptors there may be, and how many of them shims get."""

from __future__ import annotations

import resource

import pytest

from hookd import descriptors


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of a process that is not this one; the newest is last."""
    found = [(1024, 4096)]

    def setrlimit(which: int, values: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        found.append(values)

    monkeypatch.setattr(resource, "getrlimit", lambda which: found[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (4096, 4096)),
        ((4096, 4096), (4096, 4096)),
        ((1024, 1 << 30), (descriptors.WANTED, 1 << 30)),
        ((1024, resource.RLIM_INFINITY), (descriptors.WANTED, resource.RLIM_INFINITY)),
        ((1 << 20, 1 << 20), (1 << 20, 1 << 20)),
        ((resource.RLIM_INFINITY,) * 2, (resource.RLIM_INFINITY,) * 2),
    ],
)
def test_raised(
    limits: list[tuple[int, int]], before: tuple[int, int], after: tuple[int, int]
) -> None:
    """As far as allowed and useful, and never lowered."""
    limits[0] = before
    descriptors.raise_limit()
    assert limits[-1] == after


def test_refused(limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not raise it goes on with what there is."""

    def refuse(which: int, values: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_limit()
    assert descriptors.for_shims(2000) == 1024 - descriptors.KEPT


@pytest.mark.parametrize(("soft", "shims"), [(4096, 1024), (1024, 768), (300, 150), (1, 1)])
def test_for_shims(limits: list[tuple[int, int]], soft: int, shims: int) -> None:
    """Some are kept for everything else."""
    limits[0] = (soft, 4096)
    assert descriptors.for_shims(1024) == shims
