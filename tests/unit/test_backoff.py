"""Backoff: full jitter within its bounds, whatever the count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookd.backoff import BASE_S, CAP_S, DRAIN_CAP_S, Backoff

counts = st.integers(1, 10**6)
bases = st.floats(0.01, 100)
caps = st.floats(0.01, 10_000)


def bound(attempts: int, base_s: float, cap_s: float) -> float:
    """The formula of the docstring."""
    return min(cap_s, base_s * 2.0 ** min(attempts - 1, 1000))


@given(counts, bases, caps)
def test_bounds(attempts: int, base_s: float, cap_s: float) -> None:
    """Never below 0, never beyond min(cap, base · 2^(attempts - 1))."""
    wait_s = Backoff(base_s=base_s, cap_s=cap_s).after(attempts)
    assert 0 <= wait_s <= bound(attempts, base_s, cap_s) * (1 + 1e-9)


@given(st.integers(1, 6), st.floats(0.1, 10))
def test_full_jitter(attempts: int, base_s: float) -> None:
    """Waits fill the whole range evenly: files that failed together do not come back together."""
    backoff = Backoff(base_s=base_s, cap_s=1e6)
    top = bound(attempts, base_s, 1e6)
    waits = sorted(backoff.after(attempts) / top for _ in range(400))
    assert waits[0] < 0.1
    assert waits[-1] > 0.9
    assert 0.35 < sum(waits) / len(waits) < 0.65


@pytest.mark.parametrize("attempts", [0, -5])
def test_no_attempt_counts_as_one(attempts: int) -> None:
    """A count that was never raised waits like the first."""
    assert 0 <= Backoff(base_s=2.0).after(attempts) <= 2.0


@given(counts)
def test_hurry(attempts: int) -> None:
    """While a drain waits, no wait is longer than DRAIN_CAP_S; early ones stay as short as before."""
    backoff = Backoff()
    backoff.hurry()
    assert backoff.after(attempts) <= bound(attempts, BASE_S, DRAIN_CAP_S)


def test_hurry_never_slows_down() -> None:
    """A cap below DRAIN_CAP_S stays."""
    backoff = Backoff(base_s=1.0, cap_s=0.5)
    backoff.hurry()
    assert max(backoff.after(50) for _ in range(200)) <= 0.5


def test_the_cap_is_reached() -> None:
    """Long outages do come near the cap: else the default would promise less than it says."""
    assert max(Backoff().after(40) for _ in range(400)) > 0.9 * CAP_S
