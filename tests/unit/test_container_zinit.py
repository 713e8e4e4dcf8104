"""zinit's socket, and the service files: their order in both directions."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest

from hookd.container.layout import LOGS, SERVICES
from hookd.container.zinit import Status, Zinit, ZinitError, ZinitSilent

ROOTFS = Path(__file__).parents[2] / "rootfs"


def answers(path: Path, answer: bytes) -> list[bytes]:
    """A zinit that says this once; what it was asked."""
    asked: list[bytes] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with connection, server:
            asked.append(connection.recv(1000))
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return asked


def test_status(tmp_path: Path) -> None:
    path = tmp_path / "zinit.sock"
    body = '{"name":"zdb","pid":7,"state":"Running","target":"Up","after":{"hookd":"Running"}}'
    asked = answers(path, b'{"state":"ok","body":%b}' % body.encode())
    assert Zinit(path).status("zdb") == Status(pid=7, state="Running", wanted=True)
    assert asked == [b"status zdb\n"]


def test_told_to_stay_down(tmp_path: Path) -> None:
    path = tmp_path / "zinit.sock"
    answers(path, b'{"state":"ok","body":{"pid":0,"state":"Success","target":"Down"}}')
    assert Zinit(path).status("zdb").wanted is False


def test_it_says_no(tmp_path: Path) -> None:
    path = tmp_path / "zinit.sock"
    answers(path, b'{"state":"error","body":"service name \\"x\\" unknown"}')
    with pytest.raises(ZinitError, match="unknown") as caught:
        Zinit(path).stop("x")
    assert not isinstance(caught.value, ZinitSilent)


@pytest.mark.parametrize("answer", [b"", b"nonsense", b'{"state":'])
def test_it_makes_no_sense(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "zinit.sock"
    answers(path, answer)
    assert not Zinit(path).answers()


def test_it_is_away(tmp_path: Path) -> None:
    with pytest.raises(ZinitSilent):
        Zinit(tmp_path / "nobody").start("zdb")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("Success", 0),
        ("Error(Exited(Pid(33), 75))", 75),
        ("Error(Signaled(Pid(33), SIGKILL, false))", None),
        ("Running", None),
        ("Blocked", None),
    ],
)
def test_exit_codes(state: str, code: int | None) -> None:
    assert Status(pid=0, state=state).exit_code == code


@pytest.mark.parametrize(
    ("state", "signal"),
    [
        ("Error(Signaled(Pid(33), SIGKILL, false))", "SIGKILL"),
        ("Error(Exited(Pid(33), 75))", None),
        ("Success", None),
    ],
)
def test_signals(state: str, signal: str | None) -> None:
    assert Status(pid=0, state=state).signal == signal


# -- the files -----------------------------------------------------------------------------------------


def service(name: str) -> dict[str, str]:
    """Its keys; the files use no more of YAML than `key: value` lines."""
    lines = (ROOTFS / "etc/zinit" / f"{name}.yaml").read_text().splitlines()
    pairs = [line.partition(": ")[::2] for line in lines if not line.startswith("#")]
    return dict(pairs)


def after(name: str) -> list[str]:
    return re.findall(r"\w+", service(name).get("after", ""))


def test_there_are_these_five() -> None:
    assert {path.stem for path in (ROOTFS / "etc/zinit").iterdir()} == set(SERVICES)


def test_every_start_waits_for_the_one_before() -> None:
    """zstor, hookd, zdb, ns, fs: a line, and no name in `after` that is not there."""
    for number, name in enumerate(SERVICES):
        assert set(after(name)) <= set(SERVICES[:number])
        if number:
            assert SERVICES[number - 1] in after(name)


def test_every_stop_waits_for_the_one_before() -> None:
    """zinit goes along `after` backwards; a oneshot that has ended holds nobody up, so fs names zdb."""
    assert "zdb" in after("fs")


def test_each_is_asked_whether_it_is_ready() -> None:
    for name in SERVICES:
        if service(name).get("oneshot") != "true":
            assert service(name)["test"] == f"hookd container wait {name}"


def test_each_has_time_to_stop() -> None:
    """zinit's own default is 10 s, after which it goes on to the next, without a word."""
    times = {name: int(service(name)["shutdown_timeout"]) for name in SERVICES}
    assert times["fs"] >= 300
    assert times["zdb"] >= 300
    assert times["hookd"] >= 31_536_000


def test_each_writes_to_its_own_pipe() -> None:
    for name in SERVICES:
        assert f">{LOGS / name} 2>&1" in service(name)["exec"]
        assert service(name)["log"] == "stdout"


def test_each_is_the_program_itself() -> None:
    """A shell in between would get zinit's signals, and keep them."""
    for name in SERVICES:
        if name != "ns":
            assert service(name)["exec"].startswith("sh -c 'exec ")


# -- the files for a host where zinit runs everything ----------------------------------------------------

BARE = ROOTFS / "usr/share/hookd/zinit"
CHAIN = ("zstor", "hookd", "zdb", "zdb-namespaces", "zdbfs")
"""In the order of starting."""


def bare(name: str) -> dict[str, str]:
    """Keys of a file, those below `env` as `env.NAME`."""
    found, inner = {}, ""
    for line in (BARE / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, _, value = line.partition(":")
        if key.startswith("  "):
            found[f"{inner}.{key.strip()}"] = value.strip()
        else:
            inner = key
            found[key] = value.strip()
    return found


def test_bare_files_are_a_chain() -> None:
    """Each starts after the one before, and zinit stops along `after` backwards; no unknown name."""
    assert {path.stem for path in BARE.iterdir()} == {*CHAIN, "zdbfs-guard"}
    for number, name in enumerate(CHAIN):
        after = re.findall(r"[\w-]+", bare(name).get("after", ""))
        assert set(after) <= {*CHAIN[:number], "zdbfs-guard"}
        if number:
            assert CHAIN[number - 1] in after
    assert re.findall(r"[\w-]+", bare("zdbfs")["after"]) == ["zdb-namespaces", "zdb", "zdbfs-guard"]


def test_bare_mountpoint_is_guarded() -> None:
    """From before zdbfs until after it; nothing takes the guard away in between."""
    assert "after" not in bare("zdbfs-guard")
    assert "umount" not in bare("zdbfs")["exec"]
    for name in ("zdbfs-guard", "zdbfs"):
        assert "hookd guard /mnt/zdbfs || exit 1" in bare(name)["exec"]
    assert "--remove" not in bare("zdbfs")["exec"]


def test_bare_services_have_time_to_stop() -> None:
    times = {name: int(bare(name)["shutdown_timeout"]) for name in CHAIN}
    assert times["zdbfs"] >= 31_536_000
    assert times["hookd"] >= 31_536_000
    assert times["zdb"] >= 600


def test_bare_services_need_no_container() -> None:
    """What they name is there on a host too, and the same as in the systemd units."""
    for name in CHAIN:
        text = " ".join(bare(name).values())
        assert "hookd container" not in text
        assert " /data/" not in text
    units = (ROOTFS / "usr/lib/systemd/system/hookd.service").read_text()
    variables = {k[4:]: v for k, v in bare("hookd").items() if k.startswith("env.")}
    assert len(variables) == 8
    for key, value in variables.items():
        assert f"{key}={value}" in units
    for name in ("zdb-namespaces", "zdbfs"):
        assert {k[4:]: v for k, v in bare(name).items() if k.startswith("env.")} == variables
    zdb = (ROOTFS / "usr/lib/systemd/system/zdb.service").read_text()
    for key in ("HOOKD_SOCKET", "HOOKD_SPOOL"):
        assert f"{key}={bare('zdb')[f'env.{key}']}" in zdb


def test_bare_services_are_the_programs_themselves() -> None:
    """A shell that stays would get zinit's signal instead of the program."""
    for name in CHAIN:
        if name != "zdb-namespaces":
            assert re.search(r"exec [a-z]+ [^;&|]*'$", bare(name)["exec"]), name
