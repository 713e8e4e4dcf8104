"""`hookd mount`: the parts put together, and its other two verbs, wait and cleanup."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio

from hookd.config import MountConfig
from hookd.errors import ConfigError, Exit, UserError
from hookd.mount import endpoints, guard
from hookd.mount.bounded import bounded
from hookd.mount.cache import Cache
from hookd.mount.environment import read
from hookd.mount.ground import Ground
from hookd.mount.life import Life
from hookd.mount.rclone import Rclone, runtime_folder
from hookd.mount.reap import Reaper
from hookd.mount.server import MountServer
from hookd.mount.settings import MountSection
from hookd.mount.state import State
from hookd.notify import Notify
from hookd.sockets import lock_file, make_folder

CLEAN_WITHIN_S = 10.0
WAIT_LOOK_S = 0.1


def run(config: MountConfig, environ: Mapping[str, str], *, wait_remote: bool = False) -> Exit:
    """Mount until a signal, drain, unmount. Blocking. Raises UserError."""
    if wait_remote:
        import msgspec

        config = msgspec.structs.replace(
            config, mount=msgspec.structs.replace(config.mount, wait_remote=True)
        )
    notify = Notify.from_environment(os.environ)
    code = anyio.run(partial(_run, config, environ, notify=notify))
    if any(
        not each.daemon for each in threading.enumerate() if each is not threading.main_thread()
    ):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a thread hangs in a dead file system; all that must last is on disk
    return code


async def _run(config: MountConfig, environ: Mapping[str, str], *, notify: Notify) -> Exit:
    settings = config.mount
    mountpoint = await bounded(partial(mountpoint_of, settings), CLEAN_WITHIN_S)
    if settings.remote_path is None:
        raise ConfigError(
            "mount.remote_path", "is needed; set REMOTE_PATH, for example rshare:/, or the key"
        )
    remotes = read(settings.remote_path, environ)
    _check_apart(settings, mountpoint)
    runtime = runtime_folder(settings.runtime, mountpoint)
    make_folder(runtime.parent, "mount.runtime")
    make_folder(runtime, "mount.runtime")
    locks = [_locked(runtime / "lock", "mount.local_path")]
    locks.append(
        _locked(config.stats.socket.with_name(config.stats.socket.name + ".lock"), "stats.socket")
    )
    cache = Cache(settings.cache, remote=remotes.name, path=remotes.path, identity=remotes.identity)
    mounter = Rclone(settings, remotes, cache=cache.folder, runtime=runtime, environ=environ)
    state = State(
        target=remotes.target,
        mountpoint=str(mountpoint),
        cache=str(cache.folder),
        min_free_bytes=settings.cache_min_free_bytes,
        read_only=settings.read_only,
    )
    life = Life(
        settings,
        mounter,
        cache,
        state=state,
        mountpoint=mountpoint,
        ground=Ground(mountpoint, cache.folder / "ground.json"),
        private=runtime / "private",
        notify=notify,
        announce=_announce,
    )
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(MountServer(config.stats, state).run)
            group.start_soon(Reaper().run)
            group.start_soon(_beat, notify)
            code = await life.run()
            group.cancel_scope.cancel()
        return code
    finally:
        config.stats.socket.unlink(missing_ok=True)
        if remotes.file is None:
            (runtime / "rclone.conf").unlink(missing_ok=True)
        cache.close()
        for handle in locks:
            os.close(handle)


async def _beat(notify: Notify) -> None:
    """The watchdog asks whether the event loop lives; whether the mount does is the watch's business."""
    while notify.watchdog_s is not None:
        notify.watchdog()
        await anyio.sleep(notify.watchdog_s / 3)


def mountpoint_of(settings: MountSection) -> Path:
    """Where it is mounted, as mountinfo will say it. Blocking, may hang. Raises ConfigError."""
    if settings.local_path is None:
        raise ConfigError(
            "mount.local_path", "is needed; set LOCAL_PATH, for example /storage, or the key"
        )
    path = settings.local_path
    if settings.subdirectory is not None:
        path /= settings.subdirectory
    return endpoints.real(path)


async def wait_ready(path: Path, within_s: float | None) -> Exit:
    """Until the mount that serves the stats socket `path` is ready; 69 after `within_s`."""
    from hookd.admin.client import ask

    ends = None if within_s is None else time.monotonic() + within_s
    why = "it did not answer"
    while ends is None or time.monotonic() < ends:
        try:
            answer = await bounded(partial(ask, path, "stats", within_s=5.0), 6.0)
            found = json.loads(answer)
            if found.get("ready"):
                return Exit.OK
            why = f"it is {found.get('phase', 'no mount')}"
        except (UserError, TimeoutError, ValueError) as error:
            why = str(error)
        await anyio.sleep(WAIT_LOOK_S)
    raise UserError(f"the mount is not ready: {why}", code=Exit.UNAVAILABLE)


async def cleanup(settings: MountSection) -> Exit:
    """Take away whatever FUSE mount lies at the mount point, alive, dead or hanging.

    For after a kill -9, or the end of a job on the host. Deletes no file and no cache; says what it
    did; doing it again is 0 too. Raises UserError (1) if something would not go.
    """
    mountpoint = await bounded(partial(mountpoint_of, settings), CLEAN_WITHIN_S)
    taken = 0
    while taken < endpoints.MOST_LAYERS:
        try:
            if not await bounded(partial(endpoints.unmount, mountpoint, lazy=True), CLEAN_WITHIN_S):
                break
        except TimeoutError:
            raise UserError(
                f"{mountpoint}: unmounting hangs; end the process that serves it"
            ) from None
        except OSError as error:
            if error.errno == errno.EINVAL:
                break
            raise UserError(f"{mountpoint}: cannot be unmounted ({error.strerror})") from None
        taken += 1
    try:
        guards = await bounded(partial(guard.lift, mountpoint), CLEAN_WITHIN_S)
    except (OSError, TimeoutError) as error:
        raise UserError(f"{mountpoint}: its guard cannot be unmounted ({error})") from None
    if settings.subdirectory is not None:
        try:
            await bounded(mountpoint.rmdir, CLEAN_WITHIN_S)
        except (OSError, TimeoutError):
            pass  # absent, or not empty: what is in it is not ours
    done = f"{taken} mounts taken away" if taken or guards else "nothing is mounted"
    print(f"{mountpoint}: {done}{', and the guard below' if guards else ''}")
    return Exit.OK


def _check_apart(settings: MountSection, mountpoint: Path) -> None:
    """What hookd needs for itself must not lie below the mount. Raises ConfigError."""
    for key, path in (
        ("mount.cache", settings.cache),
        ("mount.runtime", settings.runtime),
        ("mount.ready_file", settings.ready_file),
    ):
        if path is not None and (path == mountpoint or mountpoint in path.parents):
            raise ConfigError(
                key, f"{path} lies below the mount point {mountpoint}; keep them apart"
            )


def _locked(path: Path, what: str) -> int:
    """The lock; a second `hookd mount` is a mistake of configuration, for 69 means the remote."""
    try:
        return lock_file(path, what)
    except UserError as error:
        raise UserError(str(error), code=Exit.CONFIG) from None


def _announce(line: str) -> None:
    print(f"hookd: {line}", file=sys.stderr, flush=True)
