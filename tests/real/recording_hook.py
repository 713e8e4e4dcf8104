"""A hook between zdb and the shim that writes down what was announced, and what the shim said.

    RECORD=FOLDER SHIM=PATH python -IS recording_hook.py NAME ZDBID ARGUMENTS…

Each call leaves a folder `NANOSECONDS-PID` with `argv` (JSON), copies of the files that the hook
names (`index.NS.iN`), made while zdb waits or no longer writes them, then `shim`, its process, and at
last `code`, its exit code.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time


def main() -> int:
    # as good a child as the shim: zdb's locks, listener and blocked signals are none of ours
    os.closerange(3, 4096)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    argv = sys.argv[1:]
    folder = f"{os.environ['RECORD']}/{time.monotonic_ns():020d}-{os.getpid()}"
    os.mkdir(f"{folder}.new")
    for path in _named(argv):
        root, namespace, name = path.split("/")[-3:]
        try:
            shutil.copyfile(path, f"{folder}.new/{root}.{namespace}.{name}")
        except FileNotFoundError:
            pass  # not there: then nothing was announced
    with open(f"{folder}.new/argv", "w") as file:
        json.dump(argv, file)
    os.rename(f"{folder}.new", folder)
    shim = subprocess.Popen([os.environ["SHIM"], *argv])
    _write(folder, "shim", shim.pid)
    code = shim.wait()
    _write(folder, "code", code)
    if code < 0:  # zdb is to see the same
        os.kill(os.getpid(), -code)
    return code


def _named(argv: list[str]) -> list[str]:
    """The files that a hook names, by 0-db's table of hooks."""
    hook, _, *rest = argv
    if hook == "jump-data":
        return [rest[0]]
    if hook == "jump-index":
        return [rest[0], *_beside(rest[0], rest[2])]
    if hook == "namespace-closing":
        return [rest[1], rest[2], *_beside(rest[1], rest[3])]
    return []


def _beside(index: str, numbers: str) -> list[str]:
    return [f"{os.path.dirname(index)}/i{number}" for number in numbers.split()]


def _write(folder: str, name: str, number: int) -> None:
    with open(f"{folder}/.{name}", "w") as file:
        file.write(str(number))
    os.rename(f"{folder}/.{name}", f"{folder}/{name}")


if __name__ == "__main__":
    sys.exit(main())
