"""A survey and all that it consists of, wired: for the daemon and for `hookd restore` without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from hookd.backoff import Backoff
from hookd.fence import Fence
from hookd.files import Roots
from hookd.journal import Journal
from hookd.restore.asked import Asked
from hookd.restore.choices import Choices
from hookd.restore.claim import Claim
from hookd.restore.finding import Holds
from hookd.restore.restorer import Restorer
from hookd.restore.survey import Survey
from hookd.restore.unworked import Unworked
from hookd.restore.verdict import Verdicts
from hookd.restore.weigh import Scales
from hookd.scheduler import Scheduler
from hookd.stores.base import Store


def survey_of(
    *,
    journal: Journal,
    store: Store,
    roots: Roots,
    fence: Fence,
    restorer: Restorer,
    scheduler: Scheduler,
    skip: Collection[str],
    names: Collection[str],
    held: dict[str, str],
    changed: Callable[[], Awaitable[None]],
    backoff: Backoff,
    private: Path,
    takes: Mapping[str, str] | None = None,
    disown: Callable[[str, str], Awaitable[None]] | None = None,
    forsake: Callable[[str, Collection[str]], Awaitable[None]] | None = None,
) -> Survey:
    """A survey with its choices and its claim; see there and `Survey` for the arguments. `private` is the
    staging folder: the store can write to it what is only compared. `disown`, `forsake`: see
    `Departures`; None where nobody works on the jobs.
    """
    unworked = Unworked(journal, scheduler, private)
    disown, forsake = disown or unworked.disown, forsake or unworked.forsake
    holds = Holds(journal, held, changed)
    choices = Choices(journal, store, roots, scheduler, dict(takes or {}), disown)
    scales = Scales(store, roots, private, journal)
    asked = Asked(journal, store, names)
    claim = Claim(
        journal, store, roots, fence, scheduler, skip, holds, choices, scales, asked, forsake
    )
    fence.recheck = claim.recheck
    verdicts = Verdicts(journal, store, roots, fence, restorer, scheduler, holds, choices, claim)
    survey = Survey(
        journal=journal,
        store=store,
        roots=roots,
        fence=fence,
        restorer=restorer,
        scheduler=scheduler,
        verdicts=verdicts,
        skip=skip,
        asked=asked,
        holds=holds,
        choices=choices,
        claim=claim,
        backoff=backoff,
    )
    verdicts.stopping = lambda: survey.stopping()
    return survey
