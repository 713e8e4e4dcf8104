"""How long to wait before the next try: full jitter, capped. The formula is tenacity's.

    wait = uniform(0, min(cap, base · 2^(attempt − 1)))

Full jitter spreads the retries of many files; the cap keeps an outage of a day from costing an hour
more (AWS architecture blog, "Exponential Backoff and Jitter").
"""

from __future__ import annotations

from tenacity import RetryCallState, wait_random_exponential

BASE_S = 1.0
CAP_S = 300.0
DRAIN_CAP_S = 5.0
"""While somebody waits for the drain, nobody sleeps for minutes."""


class Backoff:
    """Turns a count of attempts into seconds."""

    def __init__(self, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._wait = wait_random_exponential(multiplier=base_s, max=cap_s)

    def hurry(self) -> None:
        """From now on wait at most DRAIN_CAP_S."""
        self._cap_s = min(self._cap_s, DRAIN_CAP_S)
        self._wait = wait_random_exponential(multiplier=self._base_s, max=self._cap_s)

    def after(self, attempts: int) -> float:
        """Seconds to wait after `attempts` failed ones (at least one)."""
        # tenacity asks a call's state for its attempt number; here attempts outlive the process
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = min(max(1, attempts), 64)
        return float(self._wait(state))
