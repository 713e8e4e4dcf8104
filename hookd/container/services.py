"""What the zinit services of the container execute: `hookd container zstor | fs | wait`.

zinit's `exec` and `test` lines call these. `zstor` and `fs` become the program they start, so zinit's
signals reach it; `wait` is quick about what zinit would ask only every two seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hookd.container import layout, mounts
from hookd.errors import Exit, UserError, ZdbRefused, ZdbUnreachable

SAY_EVERY_S = 30.0
LOOK_EVERY_S = 2.0

_WAIT_EVERY_S = 0.05
_WAIT_LIMIT_S = 30.0


def zstor(environ: Mapping[str, str]) -> None:
    """Wait for the backends, then become `zstor monitor`. Raises UserError.

    A zstor that starts while metadata backends are away stays blind to them until it is started again
    (0.5.0-rc.1), or ends with a message that holds the password (0.4.0). So it is started late; after
    `backends_wait_s` also without some, if what it can reach is enough to read, and `layout.ZSTOR_LACKS`
    then says which ones were away.
    """
    from hookd.container import backends, zstor_toml

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if not layout.stores_in_zstor(environ):
        layout.ZSTOR_WAITS.touch()
        print("not started: the store is another one", flush=True)
        _become("sleep", "infinity")
    settings = layout.read_settings(environ)
    wanted, _ = zstor_toml.check(layout.ZSTOR_CONFIG, settings.mountpoint)
    started = time.monotonic()
    said = 0.0
    while away := backends.away([*wanted.meta, *wanted.data]):
        usable = len(set(wanted.meta) - set(away)) >= zstor_toml.READS_NEED
        now = time.monotonic()
        if usable and now - started >= settings.backends_wait_s:
            break
        layout.ZSTOR_WAITS.touch()
        if not said or now - said >= SAY_EVERY_S:
            said = now
            names = ", ".join(f"{backends.shown(a)} ({reason})" for a, reason in away.items())
            print(f"waiting for backends: {names}", flush=True)
        time.sleep(LOOK_EVERY_S)
    if away:
        print(
            f"started without {len(away)} backends; it is started again when they are back",
            flush=True,
        )
        layout.ZSTOR_LACKS.write_text("".join(f"{backends.shown(a)}\n" for a in away))
    else:
        layout.ZSTOR_LACKS.unlink(missing_ok=True)
    layout.ZSTOR_WAITS.unlink(missing_ok=True)
    layout.ZSTOR_SOCKET.unlink(missing_ok=True)
    _become("zstor", "-c", layout.ZSTOR_CONFIG, "--log_file", layout.ZSTOR_LOG, "monitor")


def zdb(environ: Mapping[str, str]) -> None:
    """Become zdb."""
    settings = layout.read_settings(environ)
    rotate = ("--rotate", settings.rotate_s) if settings.rotate_s else ()
    _become(
        "zdb",
        *("--index", layout.ZDB_INDEX),
        *("--data", layout.ZDB_DATA),
        *("--socket", layout.ZDB_SOCKET),
        *("--datasize", settings.data_file_bytes),
        *rotate,
        *("--hook", "/usr/bin/hookd-shim"),
    )


def fs(environ: Mapping[str, str]) -> None:
    """Clear the mountpoint of what a killed zdbfs left, become zdbfs. Raises UserError."""
    settings = layout.read_settings(environ)
    point = settings.mountpoint
    clear(point, lambda line: print(line, flush=True))
    _begin_anew()
    options = ",".join(filter(None, (f"unix={layout.ZDB_SOCKET}", settings.mount_options)))
    _become("zdbfs", "-o", options, point)


def _begin_anew() -> None:
    """As `hookd namespaces` does; here for each start of zdb, that one runs once. Raises UserError."""
    from hookd.files import Roots
    from hookd.zdb_jump import begin_anew

    roots = Roots(layout.ZDB_INDEX, layout.ZDB_DATA)
    try:
        begin_anew(f"unix://{layout.ZDB_SOCKET}", roots, None)
    except (ZdbRefused, ZdbUnreachable) as error:
        raise UserError(str(error)) from None


def clear(path: Path, say: Callable[[str], None]) -> None:
    """Make the mountpoint ready: no stale mount, a folder, and on it a guard that takes no files.

    Raises UserError, also where another file system is mounted there that is alive, or may be.
    """
    try:
        if count := mounts.detach_dead(path):
            say(f"removed {count} stale mount(s) of an earlier zdbfs at {path}")
        path.mkdir(parents=True, exist_ok=True)
        if not mounts.is_guard(mounts.top(path)) and os.listdir(path):
            say(
                f"warning: {path} is not empty: what lies there was written while no file system was"
                " mounted; it is hidden now, and stored nowhere"
            )
        mounts.guard(path)
    except mounts.Taken as error:
        raise UserError(str(error), code=Exit.CONFIG) from None
    except OSError as error:
        raise UserError(f"{path} cannot be cleared: {error}", code=Exit.FAILED) from None


def give_back(path: Path) -> None:
    """The mountpoint as it was: no stale mount, no guard. One that is alive or may be is not ours, and
    stays with what lies below it. Raises UserError.
    """
    try:
        with contextlib.suppress(mounts.Taken):
            mounts.detach_dead(path)
        mounts.unguard(path)
    except OSError as error:
        raise UserError(f"{path} cannot be cleared: {error}", code=Exit.FAILED) from None


def wait(service: str, environ: Mapping[str, str]) -> bool:
    """Whether the service is ready, looked at for up to `_WAIT_LIMIT_S`."""
    settings = layout.read_settings(environ)
    looks: dict[str, Callable[[], bool]] = {
        "zstor": lambda: layout.ZSTOR_WAITS.exists() or _zstor_answers(),
        "hookd": lambda: connects(layout.HOOK_SOCKET),  # from now on a shim is answered
        "zdb": lambda: _answer(layout.ZDB_SOCKET, b"*1\r\n$4\r\nPING\r\n", 5) == b"+PONG",
        "fs": lambda: mounts.is_fuse(mounts.top(settings.mountpoint)),
    }
    ends = time.monotonic() + _WAIT_LIMIT_S
    while not looks[service]():
        if time.monotonic() > ends:
            return False
        time.sleep(_WAIT_EVERY_S)
    return True


def _zstor_answers() -> bool:
    """Whether zstor takes requests. An empty connection would do, but zstor logs it as an error."""
    from hookd.stores.zstor_wire import encode_check

    question = encode_check(layout.ZDB_DATA / "zdbfs-data" / "d0")
    if _answer(layout.ZSTOR_SOCKET, question, 2):
        return True
    return connects(layout.ZSTOR_SOCKET)  # busy, but there


def release() -> None:
    """Have hookd let zdb write into what is kept free. One that does not answer is no hindrance."""
    _answer(layout.STATS_SOCKET, b"release\n")


def connects(path: os.PathLike[str]) -> bool:
    """Whether somebody listens on the unix socket."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(os.fspath(path))
        return True
    except OSError:
        return False


def _answer(path: os.PathLike[str], question: bytes, size: int = 1 << 20) -> bytes:
    """Up to `size` bytes of the answer; nothing where nobody answers."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(os.fspath(path))
            client.sendall(question)
            while len(data) < size and (more := client.recv(size - len(data))):
                data += more
    except OSError:
        pass
    return data


def _become(program: str, *arguments: object) -> None:
    sys.stdout.flush()
    try:
        os.execvp(program, [program, *map(str, arguments)])
    except OSError as error:
        raise UserError(f"{program} cannot be started: {error.strerror}") from None
