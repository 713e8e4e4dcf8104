"""`hookd namespaces`: idempotent, patient, and never a blank namespace over a lost one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hookd import namespaces as module
from hookd import zdb_client
from hookd.admin.client import DaemonAway
from hookd.config import load
from hookd.errors import Exit, UserError
from hookd.namespaces import Namespaces
from hookd.settings import Config
from tests.fakes.zdb_server import FakeZdbServer, Space

NAMES = ("zdbfs-meta", "zdbfs-data", "zdbfs-temp")
ADMIN = "admin password"


class FakeDaemon:
    """What the daemon would say, and what it was asked."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.address: str | None = None
        self.away = False
        self.restore: dict[str, str | None] = {}
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []

    def ask(self, path: Path, line: str) -> str:
        self.asked.append(line)
        if self.away:
            raise DaemonAway(path, "nobody there")
        if line == "stats":
            view = {"held": self.held, "zdb": {"address": self.address}, "restore": self.restore}
            return json.dumps(view)
        command, _, name = line.partition(" ")
        assert command == "may-begin"
        return self.answers.get(name, "yes")


class Run:
    """Runs of the verb with a clock of their own; `at` says what happens before the n-th wait."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self.said: list[str] = []
        self.waits = 0
        self.at: dict[int, Callable[[], object]] = {}
        self._now = 0.0

    @property
    def config(self) -> Config:
        return load(None, self.environ)

    def __call__(self, wait_s: float = 60.0) -> dict[str, str]:
        verb = Namespaces(
            self.config,
            wait_s=wait_s,
            say=self.said.append,
            clock=lambda: self._now,
            sleep=self._sleep,
        )
        return verb.run()

    def refused(self, code: Exit) -> str:
        with pytest.raises(UserError) as caught:
            self()
        assert caught.value.code is code
        return str(caught.value)

    def _sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self._now += seconds
        self.waits += 1
        if change := self.at.get(self.waits):
            change()


@pytest.fixture
def zdb() -> Iterator[FakeZdbServer]:
    with FakeZdbServer() as server:
        yield server


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    found = FakeDaemon()
    monkeypatch.setattr(module, "ask", found.ask)
    monkeypatch.setattr(zdb_client, "LINGER_S", 0.0)
    return found


@pytest.fixture
def run(tmp_path: Path, zdb: FakeZdbServer, daemon: FakeDaemon) -> Run:
    for name in ("index", "data"):
        (tmp_path / name).mkdir()
    return Run(
        {
            "HOOKD_ZDB__INDEX": f"{tmp_path}/index",
            "HOOKD_ZDB__DATA": f"{tmp_path}/data",
            "HOOKD_ZDB__ADDRESS": zdb.id,
            "HOOKD_STORE__KIND": "directory",
            "HOOKD_STORE__DIRECTORY__PATH": f"{tmp_path}/store",
            "HOOKD_STATS__SOCKET": f"{tmp_path}/stats.sock",
        }
    )


def test_a_long_restore_is_waited_for(
    run: Run, zdb: FakeZdbServer, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait_s` is for what may never come; a restore goes on, and the lines say so."""
    daemon.restore = {"progress": "zdbfs-data: 10 of 900 files", "waiting": None}
    address = daemon.address
    monkeypatch.setitem(run.environ, "HOOKD_ZDB__ADDRESS", "tcp://127.0.0.1:9")

    def over() -> None:
        daemon.restore = {}
        monkeypatch.setitem(run.environ, "HOOKD_ZDB__ADDRESS", zdb.id)

    run.at[400] = over
    assert address is None
    with pytest.raises(UserError, match="does not answer"):
        run()
    assert run.waits >= 400
    assert any("10 of 900 files" in line for line in run.said)


def test_makes_what_zdbfs_needs(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """All sequential; the scratch space private, with the password that zdbfs has built in."""
    assert run() == dict.fromkeys(NAMES, "made")
    for name in NAMES[:2]:
        assert zdb.spaces[name] == Space("sequential", public=True, password=None)
    assert zdb.spaces["zdbfs-temp"] == Space("sequential", public=False, password="hello")
    assert [line for line in daemon.asked if line != "stats"] == [f"may-begin {n}" for n in NAMES]


def test_again(run: Run, zdb: FakeZdbServer) -> None:
    """A second run finds all as it has to be, and changes nothing: each NSSET is a hook call."""
    run()
    zdb.commands.clear()
    assert run() == dict.fromkeys(NAMES, "as it was")
    assert zdb.changes == []


@pytest.mark.parametrize("killed_at", range(1, 8))
def test_a_run_that_died_halfway(
    run: Run, zdb: FakeZdbServer, daemon: FakeDaemon, killed_at: int
) -> None:
    """Wherever the first run was cut off, the next one ends where an undisturbed one does."""
    run()
    wanted, steps = dict(zdb.spaces), list(zdb.changes)
    zdb.spaces = {"default": Space()}
    for words in steps[:killed_at]:
        zdb._answer(words, admin=True)
    run()
    assert zdb.spaces == wanted


def test_hangs_up_a_moment_after_a_change(
    run: Run, zdb: FakeZdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zdb dies of a client that leaves while its hook is being started; nothing changed, no wait."""
    later: list[float] = []

    def timer(after_s: float, work: Callable[[], None]) -> threading.Timer:
        later.append(after_s)
        return threading.Timer(0, work)

    monkeypatch.setattr(zdb_client, "LINGER_S", 0.25)
    monkeypatch.setattr(zdb_client, "Timer", timer)
    run()
    assert later == [0.25]
    run()
    assert later == [0.25]


def test_connection_lost_in_between(run: Run, zdb: FakeZdbServer) -> None:
    """zdb going away in the middle is waited out like one that is not there yet."""
    zdb.dies_before = "NSSET"
    run()
    assert run.waits == 1
    assert zdb.spaces["zdbfs-meta"].mode == "sequential"


def test_other_names_modes_and_passwords(run: Run, zdb: FakeZdbServer, tmp_path: Path) -> None:
    """All three may be changed, a password may lie in a file, and one may be left out."""
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    run.environ |= {
        "HOOKD_NAMESPACES__META__NAME": "m",
        "HOOKD_NAMESPACES__META__MODE": "user",
        "HOOKD_NAMESPACES__META__PASSWORD_FILE": str(secret),
        "HOOKD_NAMESPACES__DATA__NAME": "none-such",
        "HOOKD_NAMESPACES__TEMP__NAME": "",
    }
    assert run() == {"m": "made", "none-such": "made"}
    assert zdb.spaces["m"] == Space("userkey", public=False, password="from a file")


def test_address_from_the_hooks(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """Without zdb.address, the id that zdb's hooks carry; until one has come, it waits."""
    del run.environ["HOOKD_ZDB__ADDRESS"]
    run.at[3] = lambda: setattr(daemon, "address", zdb.id)
    assert run() == dict.fromkeys(NAMES, "made")
    assert run.said == ["waiting: zdb has called no hook yet, and zdb.address is not set"]


# -- the admin password ------------------------------------------------------------------------------


@pytest.mark.parametrize("by_file", [False, True])
def test_admin_password(run: Run, daemon: FakeDaemon, tmp_path: Path, by_file: bool) -> None:
    """From a variable or from a file; it is used to sign in, and shown nowhere."""
    path = tmp_path / "admin"
    path.write_text(f"{ADMIN}\n")
    with FakeZdbServer(admin=ADMIN) as zdb:
        run.environ["HOOKD_ZDB__ADDRESS"] = zdb.id
        if by_file:
            run.environ["HOOKD_ZDB__ADMIN_PASSWORD_FILE"] = str(path)
        else:
            run.environ["HOOKD_ZDB__ADMIN_PASSWORD"] = ADMIN
        assert run() == dict.fromkeys(NAMES, "made")
    assert ADMIN in run.config.secrets()


def test_admin_password_of_an_open_zdb(run: Run) -> None:
    """A zdb without --admin lets everybody do everything: the password is not missed."""
    run.environ["HOOKD_ZDB__ADMIN_PASSWORD"] = ADMIN
    assert run() == dict.fromkeys(NAMES, "made")


@pytest.mark.parametrize("given", [None, "another"])
def test_admin_password_refused(run: Run, daemon: FakeDaemon, given: str | None) -> None:
    """A wrong or absent one is told at once, with the key, without either password."""
    with FakeZdbServer(admin=ADMIN) as zdb:
        run.environ["HOOKD_ZDB__ADDRESS"] = zdb.id
        if given:
            run.environ["HOOKD_ZDB__ADMIN_PASSWORD"] = given
        text = run.refused(Exit.NOPERM)
    assert "zdb.admin_password" in text
    assert ADMIN not in text and "another" not in text
    assert run.waits == 0


# -- waiting -----------------------------------------------------------------------------------------


def test_waits_for_zdb(run: Run, zdb: FakeZdbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, then there but held up by a hook, then serving; one line for each reason."""
    monkeypatch.setattr(module, "CALL_LIMIT_S", 0.1)
    run.environ["HOOKD_ZDB__ADDRESS"] = "tcp://127.0.0.1:9"
    zdb.mute = True
    text_before = "zdb does not answer at tcp://127.0.0.1:9"
    with pytest.raises(UserError, match=text_before) as caught:
        run(wait_s=3)
    assert caught.value.code is Exit.UNAVAILABLE
    assert "gave up after 3 s" in str(caught.value)
    assert run.said == [f"waiting: {text_before}"]
    run.environ["HOOKD_ZDB__ADDRESS"] = zdb.id
    run.waits = 0
    run.at[3] = lambda: setattr(zdb, "mute", False)
    assert run() == dict.fromkeys(NAMES, "made")


def test_says_what_it_waits_for_now_and_then(run: Run, zdb: FakeZdbServer) -> None:
    """The same reason again every ten seconds: a log that has gone quiet helps nobody."""
    run.environ["HOOKD_ZDB__ADDRESS"] = "tcp://127.0.0.1:9"
    run.refused(Exit.UNAVAILABLE)
    assert 5 <= len(run.said) <= 7


def test_zdb_is_not_let_serve(run: Run, daemon: FakeDaemon) -> None:
    """While zdb does not come up because hookd holds a namespace, the line says so."""
    run.environ["HOOKD_ZDB__ADDRESS"] = "tcp://127.0.0.1:9"
    daemon.held["zdbfs-data"] = "index file i0 is in the store but not here"
    assert "zdbfs-data: index file i0 is in the store" in run.refused(Exit.UNAVAILABLE)


# -- never a blank one over a lost one ---------------------------------------------------------------


def test_held(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """One held namespace: nothing is made or changed, not even the others."""
    daemon.held["zdbfs-data"] = "the store has its files, but they are not here"
    text = run.refused(Exit.FAILED)
    assert text.startswith("zdbfs-data is not made blank: the store has its files")
    assert zdb.changes == []
    assert run.waits == 0


def test_files_without_a_namespace(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """What the daemon refuses is not made; the line gives its reason."""
    daemon.answers["zdbfs-data"] = "no: index/zdbfs-data/i0 is on disk, but zdb has not loaded it"
    assert "i0 is on disk" in run.refused(Exit.FAILED)
    assert "zdbfs-data" not in zdb.spaces


def test_a_restore_is_waited_for(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """While files are being brought back nothing is made; afterwards it goes on."""
    daemon.answers["zdbfs-meta"] = "wait: files of it are being brought back"
    run.at[4] = daemon.answers.clear
    assert run() == dict.fromkeys(NAMES, "made")
    assert run.said == [
        "waiting: zdbfs-meta has to be made, but files of it are being brought back"
    ]


def test_a_store_that_cannot_tell(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """Not knowing is no permission, however long it lasts."""
    daemon.answers["zdbfs-meta"] = "wait: the store cannot tell whether it has files of it: down"
    assert "cannot tell" in run.refused(Exit.UNAVAILABLE)
    assert zdb.changes == []


def test_without_a_daemon(run: Run, zdb: FakeZdbServer, daemon: FakeDaemon) -> None:
    """Nothing is made that nobody can vouch for; what is there already needs no daemon."""
    daemon.away = True
    assert "nobody can tell" in run.refused(Exit.UNAVAILABLE)
    assert zdb.changes == []
    daemon.away = False
    run()
    daemon.away = True
    assert run() == dict.fromkeys(NAMES, "as it was")


def test_made_by_somebody_else_meanwhile(
    run: Run, zdb: FakeZdbServer, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at once: the files of the one are not taken by the other for those of a lost one."""

    def ask(path: Path, line: str) -> str:
        if line == "may-begin zdbfs-meta":
            zdb.spaces["zdbfs-meta"] = Space()
            return "no: index/zdbfs-meta/i0 is on disk, but zdb has not loaded it"
        return daemon.ask(path, line)

    monkeypatch.setattr(module, "ask", ask)
    run()
    assert zdb.spaces["zdbfs-meta"].mode == "sequential"


# -- what is there and is otherwise ------------------------------------------------------------------


def test_another_mode_in_use(run: Run, zdb: FakeZdbServer) -> None:
    """A namespace with entries keeps its mode: told, not changed."""
    zdb.spaces["zdbfs-data"] = Space("userkey", entries=3)
    text = run.refused(Exit.FAILED)
    assert "zdbfs-data is in userkey mode and has 3 entries, expected sequential" in text


def test_another_password(run: Run, zdb: FakeZdbServer) -> None:
    """One that zdbfs could not open is told, and neither password shown."""
    zdb.spaces["zdbfs-temp"] = Space("sequential", public=False, password="somebody's")
    text = run.refused(Exit.FAILED)
    assert "zdbfs-temp has another password than namespaces.temp.password" in text
    assert "somebody's" not in text and "hello" not in text


def test_a_password_that_is_not_configured(run: Run, zdb: FakeZdbServer) -> None:
    """The same where none is configured."""
    zdb.spaces["zdbfs-data"] = Space("sequential", password="x")
    assert "namespaces.data.password is not set" in run.refused(Exit.FAILED)


def test_zdb_with_one_mode(run: Run, daemon: FakeDaemon) -> None:
    """zdb's own words where it refuses something else."""
    with FakeZdbServer(fixed_mode=True) as zdb:
        run.environ["HOOKD_ZDB__ADDRESS"] = zdb.id
        assert "zdb refuses: This server instance" in run.refused(Exit.FAILED)
