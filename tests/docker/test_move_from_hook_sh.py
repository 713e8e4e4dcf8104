"""docs/how-to/move-from-hook-sh.md, step by step: from a container with a hook script, and back to it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.docker.backends import Backends
from tests.docker.container import Container, Content, Docker
from tests.docker.world import mounted
from tests.real.grid import _free_ports

MIB = 1 << 20

HOOK = """#!/bin/sh
# What a hook script did: each event a zstor of its own, some of them not waited for.
z() { zstor -c /data/zstor.toml "$@"; }
echo "hook: $*"
case $3 in */zdbfs-temp/*|zdbfs-temp) exit 0 ;; esac
case $1 in
    ready) ;;
    namespaces-init)
        for space in zdbfs-meta zdbfs-data; do
            z retrieve --file "/data/index/$space/zdb-namespace"
            number=0
            while z retrieve --file "/data/index/$space/i$number"; do number=$((number + 1)); done
            [ $number = 0 ] || z retrieve --file "/data/data/$space/d$((number - 1))"
        done ;;
    namespace-created|namespace-updated) z store -s --file "/data/index/$3/zdb-namespace" ;;
    jump-index)
        copy=$(mktemp -d /tmp/zdb.hook.XXXXXXXX) folder=$(dirname "$3")
        for dirty in $5; do cp "$folder/i$dirty" "$copy/"; done
        cp "$3" "$copy/"
        z store -s -d -f "$copy" -k "$folder" & ;;
    jump-data) z store -s --file "$3" ;;
    namespace-closing)
        z store -s --file "$4"
        z store -s --file "$5"
        for dirty in $6; do z store -s --file "$(dirname "$4")/i$dirty"; done ;;
    missing-data) z retrieve --file "$3" ;;
    *) exit 1 ;;
esac
exit 0
"""

SERVICES = {
    "zstor": "exec: zstor --log_file /data/zstor.log -c /data/zstor.toml monitor\n"
    "test: test -S /var/run/zstor.sock\nlog: stdout\n",
    "wait_hooks": "exec: /old/wait_hooks\nshutdown_timeout: 600\nlog: stdout\nafter: [zstor]\n",
    "zdb": "exec: zdb --mode seq --data /data/data --index /data/index --hook /old/hook.sh"
    " --listen 127.0.0.1 --port {port} --datasize 16777216\n"
    "test: grep -q ':{hex} .* 0A ' /proc/net/tcp\nshutdown_timeout: 65\nlog: stdout\n"
    "after: [wait_hooks]\n",
    "fs": "exec: zdbfs -o port={port} {autons} /mnt\nlog: stdout\nafter: [zdb]\n",
}
WAIT_HOOKS = """#!/bin/sh
wait_hooks() {
    while cat /proc/*/comm 2>/dev/null | grep -q '[h]ook.sh'; do sleep .1; done
    kill $sleeping
}
trap wait_hooks TERM
sleep infinity & sleeping=$!
wait $sleeping
"""


def old(
    docker: Docker, backends: Backends, volume: str, folder: Path, *, first: bool = False
) -> Container:
    """The container from before: zinit alone, a hook script, zdb on a TCP port."""
    folder.mkdir(exist_ok=True)
    port = _free_ports(1)[0]
    for name, text in SERVICES.items():
        autons = "-o autons" if first else ""
        filled = text.format(port=port, hex=f"{port:04X}", autons=autons)
        (folder / f"{name}.yaml").write_text(filled)
    for name, text in (("hook.sh", HOOK), ("wait_hooks", WAIT_HOOKS)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    options = ["--entrypoint", "zinit", "-v", f"{folder}:/old:ro", *mounted(backends, volume)]
    return docker.container(*options, command=("init", "--container", "--config", "/old"))


@pytest.fixture
def content() -> Content:
    return Content()


def test_move_and_back(
    docker: Docker, backends: Backends, volume: str, content: Content, tmp_path: Path
) -> None:
    """Found, taken over, not uploaded again, and whole for the old container again."""
    before = old(docker, backends, volume, tmp_path / "old", first=True).start()
    for number in range(5):
        content.put(before, f"old{number}", 6 * MIB)
    before.run("sync")
    time.sleep(15)  # zdbfs writes out what has been idle for ten seconds
    before.stop(120)
    stored = backends.used()

    new = docker.container(*mounted(backends, volume)).start()
    assert new.hashes() == content.expected
    new.idle(120)
    totals = new.stats()["totals"]
    assert totals["already_there"] >= 4, totals  # d0 and i0 of both namespaces, at the least
    # 30 MiB, each byte twice, had all of it gone up again; what the old stop cut off is made up for
    assert backends.used() - stored < 32 * MIB
    content.put(new, "new", 20 * MIB)
    assert new.hashes() == content.expected
    assert new.stop() == 0

    back = old(docker, backends, volume, tmp_path / "old").start()
    assert back.hashes() == content.expected
    content.put(back, "back", 6 * MIB)
    back.run("sync")
    time.sleep(15)
    back.stop(120)

    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected
    again.idle(120)
    assert again.stop() == 0
    elsewhere = docker.container(*mounted(backends, docker.volume())).start()
    assert elsewhere.hashes() == content.expected
