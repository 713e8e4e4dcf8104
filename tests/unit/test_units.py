"""The systemd units: who starts before whom, who stops before whom, and what must not be in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hookd.container import mounts

ROOTFS = Path(__file__).parents[2] / "rootfs"
UNITS = ROOTFS / "usr" / "lib" / "systemd" / "system"
CHAIN = ("zstor", "hookd", "zdb", "zdb-namespaces", "zdbfs")
"""In the order of starting; stopping is the other way round."""

PLAIN = sorted(path.name for path in UNITS.iterdir() if "@" not in path.name)

Unit = dict[str, dict[str, list[str]]]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on PATH"
)


def parse(path: Path) -> Unit:
    """Section → key → its values, in order; lines that end in a backslash are joined."""
    found: Unit = {}
    section: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", path.read_text()).splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def words(unit: Unit, section: str, key: str) -> list[str]:
    """All words of all values of a key."""
    return [word for value in unit.get(section, {}).get(key, []) for word in value.split()]


def service(name: str) -> Unit:
    return parse(UNITS / f"{name}.service")


def one(unit: Unit, key: str) -> str:
    """The one value of a key of [Service]."""
    [value] = unit["Service"][key]
    return value


# -- order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(len(CHAIN) - 1))
def test_order(before: int) -> None:
    """Each is ordered after the one before it, which systemd keeps in both directions: started after
    it, and it is stopped only when this one has ended. And each pulls in what it needs.
    """
    unit = service(CHAIN[before + 1])
    first = f"{CHAIN[before]}.service"
    assert first in words(unit, "Unit", "After")
    assert first in words(unit, "Unit", "Wants") + words(unit, "Unit", "Requires")


def test_nobody_is_ordered_the_other_way() -> None:
    """No Before= and no After= against the chain: systemd would drop one of the two."""
    for place, name in enumerate(CHAIN):
        unit = service(name)
        later = {f"{other}.service" for other in CHAIN[place:]}
        assert not later & set(words(unit, "Unit", "After"))
        assert "Before" not in unit["Unit"]


def test_network_outlives_the_drain() -> None:
    """What drains over the network is stopped before the network is."""
    for name in ("zstor", "hookd"):
        assert "network-online.target" in words(service(name), "Unit", "After")


def test_a_restart_stays_where_it_is() -> None:
    """A new hookd or zstor does not take zdb and the file system with it (Requires= would), and zdb
    starts where the socket has failed, which it cannot do while hookd listens by itself.
    """
    for name in CHAIN:
        required = words(service(name), "Unit", "Requires")
        assert not {"hookd.service", "hookd.socket", "zstor.service"} & set(required)
        assert not any(key in service(name)["Unit"] for key in ("BindsTo", "PropagatesStopTo"))


def test_target_stops_all() -> None:
    """One name for all of them."""
    target = parse(UNITS / "qsfs.target")
    assert words(target, "Unit", "Wants") == [f"{name}.service" for name in CHAIN]
    for name in CHAIN:
        assert words(service(name), "Unit", "PartOf") == ["qsfs.target"]


# -- how they end ----------------------------------------------------------------------------------


def test_shims_are_never_killed() -> None:
    """mixed would SIGKILL zdb's shims as soon as zdb has ended; control-group waits for them."""
    zdb = service("zdb")
    assert one(zdb, "KillMode") == "control-group"
    assert one(zdb, "TimeoutStopSec") == "10min"  # more than HOOKD_WAIT_S, 60 s
    assert one(zdb, "OOMPolicy") == "continue"
    assert one(zdb, "SuccessExitStatus") == "143"


def test_hookd_is_watched_and_given_time() -> None:
    """notify: ready, watchdog, and more time than TimeoutStopSec while it drains."""
    hookd = service("hookd")
    assert one(hookd, "Type") == "notify"
    assert one(hookd, "WatchdogSec") == "3min"
    assert one(hookd, "ExecReload") == "sh -c 'kill -HUP \"$MAINPID\"'"  # no procps needed
    assert one(hookd, "Restart") == "on-failure"  # 75 after SIGHUP is one
    assert "75" not in one(hookd, "RestartPreventExitStatus").split()


def test_a_hookd_that_cannot_start_is_given_up() -> None:
    """Its unit has no limit, for shims wait for it; the socket would start it with each of them."""
    socket = parse(UNITS / "hookd.socket")["Socket"]
    assert socket["TriggerLimitIntervalSec"] == ["10s"]
    assert socket["TriggerLimitBurst"] == ["5"]
    assert "78" in one(service("hookd"), "RestartPreventExitStatus").split()
    mark = "/run/hookd/refused"
    assert one(service("hookd"), "ExecStartPre") == f"rm -f {mark}"
    assert f"2|77|78) : >{mark}" in one(service("hookd"), "ExecStopPost")
    assert f"[ -e {mark} ]" in one(service("zdb"), "ExecStart")
    assert one(service("zdb"), "RestartPreventExitStatus") == "78"


def test_a_hookd_that_crashes_often_is_not_given_up() -> None:
    """The trigger limit fails the socket then, too. Each start of hookd and of zdb starts it again before
    it, however often (the limit of starts would stop that); where it does not come, hookd listens by
    itself. The path stays: a hookd that was given the socket a moment before serves it still.
    """
    socket = parse(UNITS / "hookd.socket")
    assert socket["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert "RemoveOnStop" not in socket["Socket"]
    for name in ("hookd", "zdb"):
        for key in ("Wants", "After"):
            assert "hookd.socket" in words(service(name), "Unit", key)
    hookd = service("hookd")
    assert hookd["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert not {"69", "70"} & set(one(hookd, "RestartPreventExitStatus").split())


def test_a_stop_without_a_drain_is_told() -> None:
    """systemd starts nothing again while it stops; the gap is short, and zdb, stopped before, looks."""
    assert one(service("hookd"), "RestartSec") == "100ms"
    told = one(service("zdb"), "ExecStopPost")
    assert "hookd health --socket /run/hookd/stats.sock" in told
    assert "-ne 69" in told


def test_no_core_files() -> None:
    """Content, keys and passwords would be in them; a hang is ended by SIGKILL, not SIGABRT."""
    for path in UNITS.glob("*.service"):
        unit = parse(path)
        assert one(unit, "LimitCORE") == "0", path.name
        if "WatchdogSec" in unit["Service"]:
            assert one(unit, "WatchdogSignal") == "SIGKILL", path.name


def test_file_system_flushes_however_long_it_takes() -> None:
    """What it has not written to zdb exists nowhere else."""
    assert one(service("zdbfs"), "TimeoutStopSec") == "infinity"


# -- who sees what ---------------------------------------------------------------------------------


def test_all_see_the_same_files() -> None:
    """zstor opens hookd's staging by path, zdb hookd's spool: same user, nothing private in between."""
    for name in ("hookd", "zdb", "zstor"):
        unit = service(name)
        assert one(unit, "User") == "hookd"
        assert {"hookd", "zdb"} <= set(words(unit, "Service", "StateDirectory"))
        keys = unit["Service"].keys()
        private = {
            "PrivateTmp",
            "PrivateUsers",
            "RootDirectory",
            "TemporaryFileSystem",
            "DynamicUser",
        }
        assert not private & keys


def test_the_mount_is_seen_by_all() -> None:
    """A mount namespace of its own would hide it."""
    keys = service("zdbfs")["Service"].keys()
    assert not [key for key in keys if key.startswith(("Private", "Protect", "ReadWrite", "Bind"))]


def test_the_mountpoint_is_guarded() -> None:
    """From before zdbfs until after it, its restarts too: never is the folder below open to writes."""
    zdbfs, guard = service("zdbfs"), service("zdbfs-guard")
    for key in ("Requires", "After"):
        assert "zdbfs-guard.service" in words(zdbfs, "Unit", key)
    assert guard["Unit"]["StopWhenUnneeded"] == ["yes"]
    assert "PartOf" not in guard["Unit"]  # a restart of zdbfs would take it away in between
    assert one(guard, "RemainAfterExit") == "yes"
    assert one(guard, "ExecStart") == "hookd guard ${ZDBFS_MOUNT}"
    assert one(guard, "ExecStop") == "hookd guard --remove ${ZDBFS_MOUNT}"
    assert one(zdbfs, "ExecStartPre") == "hookd guard ${ZDBFS_MOUNT}"
    assert one(zdbfs, "ExecStopPost") == "-hookd guard ${ZDBFS_MOUNT}"
    assert " fuse" in one(zdbfs, "ExecStartPost")  # the guard is a mount, too
    assert one(zdbfs, "TimeoutStartSec") == "1min"  # systemd counts ExecStartPre, too
    assert mounts.LOOK_WITHIN_S <= 30
    assert not any("umount" in value for v in zdbfs["Service"].values() for value in v)
    same = ("EnvironmentFile", "NoNewPrivileges", "CapabilityBoundingSet")
    assert all(one(zdbfs, key) == one(guard, key) for key in same)
    assert "ZDBFS_MOUNT=/mnt/zdbfs" in words(guard, "Service", "Environment")
    keys = guard["Service"].keys()
    assert not [key for key in keys if key.startswith(("Private", "Protect", "ReadWrite", "Bind"))]


def test_paths_agree() -> None:
    """The socket, the spool and zdb's address are the same in all units that name them."""
    hookd = " ".join(service("hookd")["Service"]["Environment"])
    zdb = service("zdb")
    socket = parse(UNITS / "hookd.socket")["Socket"]["ListenStream"][0]
    assert f"HOOKD_HOOK__SOCKET={socket}" in hookd.split()
    assert f"HOOKD_SOCKET={socket}" in words(zdb, "Service", "Environment")
    spool = "/var/lib/hookd/spool"
    assert f"HOOKD_HOOK__SPOOL={spool}" in hookd.split()
    assert f"HOOKD_SPOOL={spool}" in words(zdb, "Service", "Environment")
    assert "HOOKD_ZDB__ADDRESS=unix:///run/zdb/zdb.sock" in hookd.split()
    assert "--socket /run/zdb/zdb.sock" in one(zdb, "ExecStart")
    assert "unix=/run/zdb/zdb.sock" in one(service("zdbfs"), "ExecStart")
    same = service("zdb-namespaces")["Service"]["Environment"]
    assert same == service("hookd")["Service"]["Environment"]


@pytest.mark.parametrize("name", PLAIN)
def test_template_is_the_same(name: str) -> None:
    """An instance differs from the plain unit by its name in paths and units, and in nothing else."""
    stem, _, kind = name.rpartition(".")
    template = (UNITS / f"{stem}@.{kind}").read_text()
    plain = (UNITS / name).read_text()
    back = template.replace("@%i", "").replace("/mnt/%i", "/mnt/zdbfs")
    back = back.replace("/etc/zstor/%i", "/etc/zstor/zstor").replace("-%i.env", ".env")
    back = back.replace("ExecStartPre=install -d -o hookd -g hookd -m 0700 /run/hookd/%i\n", "")
    back = re.sub(r"/etc/hookd/%i\b", "/etc/hookd/hookd", back).replace(" (%i)", "")
    assert back.replace("/%i", "") == plain


def test_folders_and_user() -> None:
    """The folders of the sockets are there before the sockets, and private."""
    tmpfiles = (ROOTFS / "usr/lib/tmpfiles.d/hookd.conf").read_text()
    for folder in ("/run/hookd", "/run/zdb", "/var/lib/hookd", "/var/lib/zdb"):
        assert f"d {folder} 0700 hookd hookd\n" in tmpfiles
    assert "\nu hookd - " in (ROOTFS / "usr/lib/sysusers.d/hookd.conf").read_text()


# -- systemd's own word ------------------------------------------------------------------------------


@needs_systemd
def test_verify(tmp_path: Path) -> None:
    """systemd reads them without a complaint; the programs need not be on this machine."""
    names = []
    for path in UNITS.iterdir():
        text = re.sub(r"^(Exec\w+=-?)(hookd|zstor) ", r"\1/bin/true ", path.read_text(), flags=re.M)
        name = path.name.replace("@.", "@a.")
        (tmp_path / path.name).write_text(text)
        names.append(str(tmp_path / name))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "hookd" in line]
    assert not ours
    assert done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("name", ["hookd", "zdb", "zstor", "zdb-namespaces"])
def test_security(name: str) -> None:
    """Exposure of at most 4.0 (of 10); zdbfs mounts, so it is not among them."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / f"{name}.service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    match = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert match is not None
    assert float(match[1]) <= 4.0


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None,
    reason="systemd-sysusers and systemd-tmpfiles are not on PATH",
)
@pytest.mark.skipif(os.geteuid() != 0, reason="giving folders to another user needs root")
def test_user_and_folders_are_made(tmp_path: Path) -> None:
    """In an empty root: a user without a password, and folders that are that user's alone."""
    (tmp_path / "etc").mkdir()
    for program, words, path in (
        ("systemd-sysusers", [], "sysusers.d"),
        ("systemd-tmpfiles", ["--create"], "tmpfiles.d"),
    ):
        done = subprocess.run(
            [program, f"--root={tmp_path}", *words, ROOTFS / "usr/lib" / path / "hookd.conf"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr.count("hookd.conf:")) == (0, 0), done.stderr
    [entry] = [
        line.split(":")
        for line in (tmp_path / "etc" / "passwd").read_text().splitlines()
        if line.startswith("hookd:")
    ]
    assert entry[5:] == ["/var/lib/hookd", "/usr/sbin/nologin"]
    for folder in ("run/hookd", "run/zdb", "var/lib/hookd", "var/lib/zdb"):
        found = (tmp_path / folder).stat()
        assert (found.st_mode & 0o777, str(found.st_uid)) == (0o700, entry[2])
