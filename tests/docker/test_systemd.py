"""The units on a host with systemd, which is a container here: start, stop, kill, a lost disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.docker import image as images
from tests.docker.backends import Backends
from tests.docker.container import Container, Content, Docker
from tests.docker.world import MIB

UNITS = ("zstor", "hookd", "zdb", "zdb-namespaces", "zdbfs-guard", "zdbfs")
STATE = "/var/lib/hookd /var/lib/zdb"
BOOT = (
    "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && mount --make-rshared /"
    " && exec /sbin/init"
)
"""systemd wants a hierarchy of its own, whatever the host has."""
HOOKD_TOML = """[store]
kind = "zstor"
[store.zstor]
config = "/etc/zstor/zstor.toml"
[checkpoint]
mount = "/mnt/zdbfs"
"""
TWO_TOML = """[store]
kind = "directory"
[store.directory]
path = "/mnt/backup"
"""


@pytest.fixture(scope="session")
def systemd(image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of such a host: hookd and the programs, and the files that the how-to has copied."""
    folder = tmp_path_factory.mktemp("systemd")
    shutil.copytree(images.REPOSITORY / "rootfs/usr/lib", folder / "lib")
    lines = [
        f"FROM {image}",
        "RUN apt-get update && apt-get install -y --no-install-recommends systemd systemd-sysv",
        "COPY lib/ /usr/lib/",
        "ENTRYPOINT []",
    ]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    name = "hookd-test-systemd:latest"
    done = images.run("docker", "build", "--network", "host", "-t", name, str(folder))
    assert done.returncode == 0, done.stderr
    return name


class Host(Container):
    """A host with systemd, by the name of its container."""

    def boot(self) -> Host:
        """Until systemd runs."""
        self.start(mounted=False)
        self.until(lambda: self.systemctl("is-system-running", "--wait") == 0, "systemd runs")
        return self

    def systemctl(self, *words: str) -> int:
        """Its exit code."""
        return self.run(f"systemctl {' '.join(words)}", check=False)

    def states(self, *units: str) -> set[str]:
        """`active`, `deactivating`, `inactive`, `failed`, ..."""
        return set(self.output(f"systemctl is-active {' '.join(units)} || :").split())

    def all_active(self) -> None:
        """Wait until every unit is, and the file system is there."""
        self.until(lambda: self.states(*UNITS) == {"active"}, "all active")
        self.until_mounted()

    def pid(self, unit: str) -> int:
        """Of its main process, 0 while there is none."""
        return int(self.output(f"systemctl show -P MainPID {unit}"))

    def another(self, unit: str, before: int) -> bool:
        """Whether another one than `before` runs."""
        return self.pid(unit) not in (0, before)

    def log(self) -> str:
        """Of everything."""
        return (
            self.output("journalctl --no-pager -o cat -b -n 60") if self.state()["Running"] else ""
        )

    def said(self, unit: str) -> str:
        """The unit's log."""
        return self.output(f"journalctl --no-pager -o cat -u {unit}")


@pytest.fixture
def hosts(systemd: str) -> Iterator[Docker]:
    """Makes them."""
    made = Docker(systemd)
    yield made
    made.close()


def host_on(hosts: Docker, backends: Backends, folder: Path) -> Host:
    """A new one with nothing but its configuration, booted. Skips where systemd cannot be."""
    text = backends.config.read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("socket", "zdb"))]
    paths = ['socket = "/run/zstor/zstor.sock"', 'pid_file = "/run/zstor/zstor.pid"']
    folder.mkdir()
    (folder / "zstor.toml").write_text("\n".join([*paths, *kept]) + "\n")
    (folder / "hookd.toml").write_text(HOOKD_TOML)
    (folder / "two.toml").write_text(TWO_TOML)
    options = ["--cgroupns", "private", "--tmpfs", "/run", "-e", "container=docker"]
    options += ["--cap-add", "NET_ADMIN", "--security-opt", "seccomp=unconfined"]
    options += ["-v", f"{folder}:/given:ro", "--stop-signal", "RTMIN+3"]
    made = hosts.container(*options, mountpoint="/mnt/zdbfs", command=("sh", "-c", BOOT))
    host = Host(made.name, mountpoint="/mnt/zdbfs")
    try:
        host.boot()
    except (RuntimeError, TimeoutError) as error:
        pytest.skip(f"systemd does not run in a container here: {str(error)[:200]}")
    host.run(
        "mkdir /etc/hookd /etc/zstor; cp /given/hookd.toml /etc/hookd; cp /given/zstor.toml /etc/zstor;"
        " chgrp hookd /etc/zstor/zstor.toml; chmod 640 /etc/zstor/zstor.toml"
    )
    return host


def begin(host: Host) -> None:
    """As the how-to has it."""
    host.run("systemctl enable --now hookd.socket qsfs.target")
    host.all_active()


def test_a_whole_life(hosts: Docker, backends: Backends, tmp_path: Path) -> None:
    """Stored at a stop, there again, brought back on a lost disk, and elsewhere after a shutdown."""
    host = host_on(hosts, backends, tmp_path / "one")
    begin(host)
    content = Content()
    for number in range(4):
        content.put(host, f"f{number}", 6 * MIB)
    host.run("systemctl stop qsfs.target zstor")
    assert "drained: nothing is left" in host.said("hookd")
    assert host.states(*UNITS) == {"inactive"}
    assert host.run("grep -q /mnt/zdbfs /proc/mounts", check=False) == 1

    host.run("systemctl start qsfs.target")
    host.all_active()
    assert host.hashes() == content.expected
    host.run("systemctl stop qsfs.target zstor")
    host.run(f"find {STATE} -mindepth 1 -delete && systemctl start qsfs.target")
    host.all_active()
    assert host.hashes() == content.expected
    content.put(host, "last", 6 * MIB)
    host.stop()

    other = host_on(hosts, backends, tmp_path / "two")
    begin(other)
    assert other.hashes() == content.expected


def test_killed_and_reloaded(hosts: Docker, backends: Backends, tmp_path: Path) -> None:
    """Each comes back by itself, and what was written is there."""
    host = host_on(hosts, backends, tmp_path / "one")
    begin(host)
    content = Content()
    for unit in ("hookd", "zstor", "zdbfs", "zdb"):
        content.put(host, f"before-{unit}", 6 * MIB)
        host.run("hookd checkpoint")  # what zdbfs has in memory would be lost
        before = host.pid(unit)
        host.run(f"systemctl kill -s KILL {unit}")
        host.until(partial(host.another, unit, before), f"{unit} is started again")
        time.sleep(1)  # zdb takes zdbfs with it
        host.all_active()
        assert host.hashes() == content.expected
    before = host.pid("hookd")
    host.run("systemctl reload hookd")
    content.put(host, "meanwhile", 6 * MIB)
    host.until(partial(host.another, "hookd", before), "another hookd")
    host.all_active()
    host.run("systemctl stop qsfs.target zstor")
    assert "drained: nothing is left" in host.said("hookd")
    host.run("systemctl start qsfs.target")
    host.all_active()
    assert host.hashes() == content.expected


CRASHES = """
import socket, subprocess, time
ends, next_kill = time.monotonic() + 6, 0.0
while (now := time.monotonic()) < ends:
    with socket.socket(socket.AF_UNIX) as shim:  # one that waits: it has hookd started
        shim.connect_ex("/run/hookd/hook.sock")
        time.sleep(0.02)
    if now >= next_kill:
        subprocess.run(["systemctl", "kill", "-s", "KILL", "hookd"], stderr=subprocess.DEVNULL)
        next_kill = now + 0.35
"""


def test_crashes_in_a_row(hosts: Docker, backends: Backends, tmp_path: Path) -> None:
    """hookd dies again and again while shims wait, and the socket may fail over it: all goes on, at a
    later death of zdb too, and with the next hookd the socket is back.
    """
    host = host_on(hosts, backends, tmp_path / "one")
    begin(host)
    content = Content()
    content.put(host, "before", 6 * MIB)
    host.run("hookd checkpoint")
    for number in range(2):
        host.run(f"/opt/hookd/bin/python - <<'END'\n{CRASHES}END")
        host.until(lambda: host.states("hookd") == {"active"}, "hookd is there again")
        content.put(host, f"after-{number}", 6 * MIB)
        host.run("hookd checkpoint")
        before = host.pid("zdb")
        host.run("systemctl kill -s KILL --kill-whom=main zdb")
        host.until(partial(host.another, "zdb", before), "zdb is started again")
        time.sleep(1)
        host.all_active()
        assert host.hashes() == content.expected
        assert host.systemctl("start qsfs.target") == 0
        before = host.pid("hookd")
        host.run("systemctl reload hookd")
        host.until(partial(host.another, "hookd", before), "another hookd")
        host.until(lambda: host.states("hookd", "hookd.socket") == {"active"}, "the socket is back")
    host.run("systemctl stop qsfs.target zstor")
    assert "drained: nothing is left" in host.said("hookd")


def test_a_wrong_configuration(hosts: Docker, backends: Backends, tmp_path: Path) -> None:
    """One line, a few times, and an end; with the file corrected the same command starts all. A running
    file system goes on without hookd, and what its hooks spool is stored then.
    """
    host = host_on(hosts, backends, tmp_path / "one")
    toml = "/etc/hookd/hookd.toml"
    spoil = f"cp {toml} /var/tmp/good && echo '[nosuch]' >>{toml}"
    host.run(f"{spoil} && timeout 60 systemctl start hookd.socket qsfs.target")
    host.until(lambda: host.states("hookd", "zdb", "zdb-namespaces") == {"failed"}, "failed")
    assert host.states("zdbfs") == {"inactive"}
    assert host.said("hookd").count("hookd: nosuch") == 1
    host.run(f"cp /var/tmp/good {toml} && systemctl start qsfs.target")
    host.all_active()
    content = Content()
    content.put(host, "before", 6 * MIB)
    host.run(f"{spoil} && systemctl reload hookd")
    content.put(host, "meanwhile", 200 * MIB)  # hooks of zdb
    host.until(lambda: host.states("hookd", "hookd.socket") == {"failed"}, "failed again")
    assert host.hashes() == content.expected
    host.run(f"cp /var/tmp/good {toml} && systemctl start qsfs.target")
    host.all_active()
    host.run("systemctl stop qsfs.target zstor")
    assert "drained: nothing is left" in host.said("hookd")
    host.run(f"find {STATE} -mindepth 1 -delete && systemctl start qsfs.target")
    host.all_active()
    assert host.hashes() == content.expected


def test_a_stop_between_two_lives_of_hookd(
    hosts: Docker, backends: Backends, tmp_path: Path
) -> None:
    """systemd does not start it again, so it does not drain: that is said, and made good afterwards."""
    host = host_on(hosts, backends, tmp_path / "one")
    override = "/etc/systemd/system/hookd.service.d"
    host.run(f"mkdir {override} && printf '[Service]\nRestartSec=60\n' >{override}/a.conf")
    host.run("systemctl daemon-reload")
    begin(host)
    content = Content()
    content.put(host, "file", 6 * MIB)
    host.run("systemctl kill -s KILL hookd")
    state = "systemctl show -P SubState hookd"
    host.until(lambda: host.output(state).strip() == "auto-restart", "it is to be started again")
    # zdb's hooks wait at the socket, which may have hookd and zstor started again once they are down
    host.systemctl("stop qsfs.target zstor")
    host.until(lambda: host.states("zdb", "zdbfs") == {"inactive"}, "zdb has ended")
    assert host.said("zdb").count("hookd is not there") == 1
    assert "drained" not in host.said("hookd")
    host.run("systemctl start qsfs.target")
    host.all_active()
    assert host.hashes() == content.expected
    host.run("systemctl stop qsfs.target zstor")
    assert host.said("zdb").count("hookd is not there") == 1
    assert "drained: nothing is left" in host.said("hookd")


def test_a_second_stack_in_a_folder(hosts: Docker, backends: Backends, tmp_path: Path) -> None:
    """The templates, without a grid: its own folders, its own mount."""
    host = host_on(hosts, backends, tmp_path / "one")
    override = "/etc/systemd/system/hookd@two.service.d"
    host.run(
        "install -d -o hookd -g hookd -m 700 /mnt/backup && systemctl mask zstor@two.service"
        f" && mkdir {override} && printf '[Service]\\nReadWritePaths=/mnt/backup\\n' >{override}/a.conf"
        " && cp /given/two.toml /etc/hookd && systemctl daemon-reload"
        " && systemctl enable --now hookd@two.socket qsfs@two.target"
    )
    second = Host(host.name, mountpoint="/mnt/two")
    second.until_mounted()
    content = Content()
    content.put(second, "file", 20 * MIB)
    host.run("systemctl stop qsfs@two.target")
    host.until(lambda: host.states("hookd@two") == {"inactive"}, "it has drained")
    assert "drained: nothing is left" in host.said("hookd@two")
    host.run("find /var/lib/hookd/two /var/lib/zdb/two -mindepth 1 -delete")
    host.run("systemctl start qsfs@two.target")
    second.until_mounted()
    assert second.hashes() == content.expected
