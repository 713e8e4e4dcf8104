"""The order of the stop, with a zinit that is a fake: each service waits for the one before.

The fake does what zinit 0.2.14 does (src/zinit/mod.rs): a service told to stop stays down, any other is
started again some time after it ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from hookd.container.stop import AFTER_KILL_S, HOOKD_START_LIMIT_S, Stop
from hookd.container.zinit import Status, ZinitError, ZinitSilent
from hookd.errors import Exit

RESTART_S = 2.0


@dataclass
class Service:
    """One of the fake's."""

    takes_s: float = 1.0
    """From its stop signal to its end; math.inf hangs."""
    code: int = 0
    up: bool = True
    wanted: bool = True
    signal: str | None = None
    """That ends it, whatever `code` is."""
    ends_at: float | None = None
    starts_at: float | None = None
    starts: bool = True
    """False for one that waits for another."""
    tested: bool = True
    """Whether its test has passed."""


@dataclass
class Zinit:
    """Five services on a clock that moves when somebody sleeps."""

    now: float = 0.0
    events: list[str] = field(default_factory=list)
    services: dict[str, Service] = field(
        default_factory=lambda: {name: Service() for name in ("zstor", "hookd", "zdb", "ns", "fs")}
    )
    signals: int = 1
    second_at: float | None = None
    said: list[str] = field(default_factory=list)
    unwritten: str = ""
    """What zdbfs's log says once it has ended."""
    served: bool = True

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.second_at is not None and self.now >= self.second_at:
            self.signals = 2
        for name, each in self.services.items():
            if each.up and each.ends_at is not None and self.now >= each.ends_at:
                self.end(name)
            if (
                not each.up
                and each.wanted
                and each.starts
                and each.starts_at is not None
                and self.now >= each.starts_at
            ):
                each.up, each.ends_at = True, None
                self.events.append(f"{name} starts")

    def end(self, name: str) -> None:
        each = self.services[name]
        each.up, each.ends_at, each.starts_at = False, None, self.now + RESTART_S
        self.events.append(f"{name} ends")

    def status(self, service: str) -> Status:
        each = self.services[service]
        state = f"Error(Exited(Pid(7), {each.code}))" if each.code else "Success"
        if each.signal:
            state = f"Error(Signaled(Pid(7), {each.signal}, false))"
        if each.up:
            state = "Running" if each.tested else "Spawned"
        return Status(pid=7 if each.up else 0, state=state, wanted=each.wanted)

    def start(self, service: str) -> None:
        each = self.services[service]
        if not each.wanted:  # else it is started anyway, in its time
            each.wanted, each.starts_at = True, self.now

    def stop(self, service: str) -> None:
        each = self.services[service]
        each.wanted = False
        if each.up:
            self.events.append(f"{service} stops")
            each.ends_at = self.now + each.takes_s

    def kill(self, service: str, signal: str) -> None:
        if not self.services[service].up:
            raise ZinitError(f"zinit: kill {service}: down")
        self.events.append(f"{service} {signal}")
        self.end(service)
        if signal == "SIGTERM":
            self.services[service].code = Exit.TEMPFAIL

    def run(self, limit_s: float = 300.0) -> int:
        stop = Stop(
            self,
            say=self.said.append,
            limit_s=limit_s,
            is_ready=lambda: self.services["hookd"].up,
            unmount=lambda: self.events.append("unmount"),
            hurried=lambda: self.signals > 1,
            served=lambda: self.served,
            unwritten=lambda: self.unwritten if not self.services["fs"].up else "",
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        return stop.run()


ORDER = [
    *("ns stops", "ns ends", "fs stops", "fs ends", "unmount"),
    *("zdb stops", "zdb ends", "hookd stops", "hookd ends", "zstor stops", "zstor ends"),
]


def test_in_order() -> None:
    zinit = Zinit()
    assert zinit.run() == Exit.OK
    assert zinit.events == ORDER


def test_a_drain_takes_as_long_as_it_takes() -> None:
    zinit = Zinit()
    zinit.services["hookd"].takes_s = 100_000
    assert zinit.run() == Exit.OK
    assert zinit.events == ORDER
    assert any("hookd to store what is left" in line for line in zinit.said)


@pytest.mark.parametrize("code", [Exit.TEMPFAIL, Exit.CONFIG])
def test_the_exit_code_is_hookds(code: Exit) -> None:
    zinit = Zinit()
    zinit.services["hookd"].code = code
    assert zinit.run() == code
    assert zinit.events == ORDER


@pytest.mark.parametrize("dead", ["fs", "zdb", "zstor", "ns"])
def test_a_dead_one_stays_down_once_it_is_its_turn(dead: str) -> None:
    """zinit would start it again while the others stop."""
    zinit = Zinit()
    zinit.services[dead].up = False
    zinit.services[dead].starts_at = 1.0
    assert zinit.run() == Exit.OK
    stops = zinit.events.index
    for one, other in (("fs", "zdb"), ("zdb", "hookd"), ("hookd", "zstor")):
        if dead not in (one, other):
            assert stops(f"{one} ends") < stops(f"{other} stops")
    starts = [event for event in zinit.events if event == f"{dead} starts"]
    if starts:  # it came back while others still needed it, and was stopped then
        assert stops(f"{dead} starts") < stops(f"{dead} stops")
    assert not zinit.services[dead].up


def test_a_dead_hookd_drains_all_the_same() -> None:
    """What zdb announced meanwhile is in the spool."""
    zinit = Zinit()
    zinit.services["hookd"].up = False
    zinit.services["hookd"].starts_at = 30.0
    assert zinit.run() == Exit.OK
    assert zinit.events.index("hookd starts") < zinit.events.index("hookd stops")
    assert zinit.events.index("hookd ends") < zinit.events.index("zstor stops")


def test_a_hookd_killed_in_its_drain_drains_again() -> None:
    zinit = Zinit()
    zinit.services["hookd"].code = 137
    assert zinit.run() == Exit.SOFTWARE
    assert zinit.events.count("hookd stops") == 3
    assert zinit.events[-1] == "zstor ends"


@pytest.mark.parametrize(
    ("hung", "missing"),
    [
        ("fs", "zdbfs .* may be missing or incomplete"),
        ("zdb", "zdb .* stored after the next start"),
    ],
)
def test_one_that_hangs_is_killed(hung: str, missing: str) -> None:
    """Whatever they are, the drain comes after them; and nobody is told that all is stored."""
    zinit = Zinit()
    zinit.services[hung].takes_s = 1e9
    assert zinit.run(limit_s=60) == Exit.TEMPFAIL
    assert f"{hung} SIGKILL" in zinit.events
    assert zinit.now < 60 + AFTER_KILL_S + 10
    assert zinit.events[-4:] == ORDER[-4:]
    assert re.search(missing, zinit.said[-1])


@pytest.mark.parametrize("killed", ["fs", "zdb"])
def test_one_that_somebody_else_kills_in_its_flush(killed: str) -> None:
    """The kernel, short of memory: the same as if it had been killed here."""
    zinit = Zinit()
    zinit.services[killed].signal = "SIGKILL"
    assert zinit.run() == Exit.TEMPFAIL
    assert zinit.events == ORDER
    assert "was killed" in zinit.said[-1]


@pytest.mark.parametrize("code", [Exit.OK, Exit.TEMPFAIL, Exit.CONFIG])
def test_a_zdbfs_that_ended_but_did_not_write_all(code: Exit) -> None:
    """Everything is done as always; the last word is what may be missing, and never 0."""
    zinit = Zinit(unwritten="zdbfs could not write all")
    zinit.services["hookd"].code = code
    assert zinit.run() == (code or Exit.TEMPFAIL)
    assert zinit.events == ORDER
    assert zinit.said[-1] == "zdbfs could not write all"


def test_one_that_the_stop_signal_ends_has_not_begun() -> None:
    """A stop in the first moment finds a service that is not yet its program."""
    zinit = Zinit()
    zinit.services["fs"].signal = "SIGTERM"
    assert zinit.run() == Exit.OK


@pytest.mark.parametrize("killed", ["fs", "zdb"])
def test_one_that_was_killed_just_before_the_stop(killed: str) -> None:
    """zinit has not started it again yet: what it held is gone all the same, and nobody else says so."""
    zinit = Zinit()
    zinit.services[killed].up, zinit.services[killed].signal = False, "SIGKILL"
    assert zinit.run() == Exit.TEMPFAIL
    assert "was killed" in zinit.said[-1]


@pytest.mark.parametrize("served", [False, True])
def test_a_zdb_that_waits_in_its_first_hook(served: bool) -> None:
    """Nobody has written to it, so it is not waited for; one that has served before is."""
    zinit = Zinit(served=served)
    zinit.services["zdb"].takes_s, zinit.services["zdb"].tested = 1e9, False
    assert zinit.run(limit_s=300) == (Exit.TEMPFAIL if served else Exit.OK)
    assert "zdb SIGKILL" in zinit.events
    assert (zinit.now > 300) == served
    assert zinit.events[-4:] == ORDER[-4:]


@pytest.mark.parametrize("code", [Exit.OK, Exit.CONFIG, Exit.USAGE])
def test_a_hookd_that_never_comes_up_is_tried_once(code: Exit) -> None:
    """Its zstor does not start, say; one that its configuration ends is not waited for at all."""
    zinit = Zinit()
    zinit.services["hookd"] = Service(up=False, wanted=False, code=code, starts=False)
    assert zinit.run() == (code or Exit.SOFTWARE)  # 0 is that of an earlier one
    assert zinit.now < (20 if code else HOOKD_START_LIMIT_S + 20)
    assert zinit.events[-2:] == ["zstor stops", "zstor ends"]


def test_a_second_signal_in_the_flush() -> None:
    """zdbfs is killed a second later, which is what was asked for, and is told."""
    zinit = Zinit(second_at=3.0)
    zinit.services["fs"].takes_s = 30
    assert zinit.run() == Exit.TEMPFAIL
    assert any("may be missing" in line for line in zinit.said)
    assert zinit.now < 10


def test_what_hookd_says_counts_more_than_a_kill() -> None:
    zinit = Zinit()
    zinit.services["fs"].takes_s = 1e9
    zinit.services["hookd"].code = Exit.CONFIG
    assert zinit.run(limit_s=1) == Exit.CONFIG


def test_a_second_signal_means_now() -> None:
    zinit = Zinit(second_at=10.0)
    zinit.services["hookd"].takes_s = 100_000
    assert zinit.run() == Exit.TEMPFAIL
    assert "hookd SIGTERM" in zinit.events
    assert zinit.now < HOOKD_START_LIMIT_S


@dataclass
class Deaf(Zinit):
    """Some of its answers never come: `silent` are numbers of questions, counted from 0."""

    silent: frozenset[int] = frozenset()
    about: str = ""
    heard: bool = True
    """Whether it does what it does not answer."""
    questions: int = 0

    def _lost(self, service: str) -> bool:
        if service != self.about:
            return False
        self.questions += 1
        return self.questions - 1 in self.silent

    def status(self, service: str) -> Status:
        if self._lost(service):
            raise ZinitSilent(f"zinit: status {service}: timed out")
        return super().status(service)

    def stop(self, service: str) -> None:
        lost = self._lost(service)
        if self.heard or not lost:
            super().stop(service)
        if lost:
            raise ZinitSilent(f"zinit: stop {service}: timed out")


@pytest.mark.parametrize("service", ["ns", "fs", "zdb", "hookd", "zstor"])
@pytest.mark.parametrize("number", range(6))
def test_a_question_without_an_answer_is_no_end(service: str, number: int) -> None:
    """The next ones are not stopped before it has ended, and it is told to stop once."""
    zinit = Deaf(silent=frozenset({number}), about=service)
    zinit.services[service].takes_s = 5
    assert zinit.run() == Exit.OK
    assert zinit.events == ORDER


@pytest.mark.parametrize("service", ["fs", "zdb", "hookd"])
def test_a_stop_that_was_never_heard_is_told_again(service: str) -> None:
    first_stop = {"fs": 1, "zdb": 1, "hookd": 1}[service]
    zinit = Deaf(silent=frozenset({first_stop, first_stop + 1}), about=service, heard=False)
    assert zinit.run() == Exit.OK
    assert zinit.events == ORDER
    assert zinit.questions > first_stop + 2


def test_a_last_answer_that_is_lost_costs_no_drain() -> None:
    """hookd's exit code is asked for until it comes."""
    zinit = Deaf(silent=frozenset(range(12, 40)), about="hookd")
    assert zinit.run() == Exit.OK
    assert zinit.events == ORDER


def test_a_stop_that_was_never_heard_between_two_lives() -> None:
    """No process is there, but zinit would start one: told again until it knows."""
    zinit = Deaf(silent=frozenset({1}), about="fs", heard=False)
    zinit.services["fs"].up, zinit.services["fs"].starts_at = False, 2.0
    assert zinit.run() == Exit.OK
    assert not zinit.services["fs"].wanted
    assert "fs starts" not in zinit.events
