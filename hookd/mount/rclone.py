"""The provider rclone: its configuration, the check of program and remote, and the process.

Secrets go to rclone by a 0600 rclone.conf alone (on tmpfs): they are obscured over a private socket, and
are neither in argv nor in the environment of any process. A fixed configuration file is also what lets
rclone find its cache again: with options in the environment it names the cache by their hash, and
obscured text differs every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import anyio

from hookd.errors import ConfigError, Exit, RemoteRefused, RemoteUnreachable, UserError
from hookd.log import get, register_secret, scrub
from hookd.mount import failures
from hookd.mount.environment import Remotes
from hookd.mount.forms import Way, ways
from hookd.mount.options import is_secret, option_of
from hookd.mount.rclone_asker import Asker
from hookd.mount.rclone_process import RcloneMount, end, lives
from hookd.mount.settings import MountSection
from hookd.rclone import program
from hookd.rclone.control import HungUp, Refused, RemoteControl
from hookd.sockets import lock_file

if TYPE_CHECKING:
    from hookd.mount.provider import Mount

log = get("mount")

CHECK_WITHIN_S = 30.0
"""For one listing of the remote; a black hole is given up by rclone's own --timeout before.

A server may think for seconds before it sends the head of a long listing.
"""

FREE_WITHIN_S = 5.0
"""How long an rclone that was just ended may take to let go of the cache."""

_CHECK_FLAGS = [
    "--low-level-retries=1",
    "--contimeout=5s",
    "--timeout=15s",
    "--log-level=ERROR",
]

OURS = frozenset(
    [
        "config",
        "cache-dir",
        "rc",
        "daemon",
        "daemon-wait",
        "vfs-cache-mode",
        "vfs-write-back",
        "allow-other",
        "allow-non-empty",
        "read-only",
        "syslog",
        "verbose",
        "use-json-log",
        "password-command",
        "vfs-cache-max-size",
        "vfs-cache-min-free-space",
        "transfers",
    ]
)
"""Flags that hookd sets; `mount.flags` may not."""

OURS_BEGIN = ("rc-", "log-", "config-")

HARMFUL = frozenset({"dry-run", "interactive", "quiet"})
"""With the first of them rclone says that it uploaded what it did not. See also program.HARMFUL."""

SWITCHES = frozenset({"ask-password", "use-cookies"})
"""Flags that have the name of a secret, and are none."""


_LOGIN = re.compile(r"://[^/\s]*@")
"""User and password in a URL."""


class Rclone:
    """One remote, and the folder for its rclone.conf, its socket and the id of its process."""

    def __init__(
        self,
        settings: MountSection,
        remotes: Remotes,
        *,
        cache: Path,
        runtime: Path,
        environ: Mapping[str, str],
    ) -> None:
        """`runtime` is a folder that only we can enter. Raises ConfigError."""
        self._settings = settings
        self._remotes = remotes
        self._cache = cache
        self._runtime = runtime
        self._record = cache / "rclone.pid"
        self._environment = _environment(
            {name: value for name, value in environ.items() if name not in remotes.taken},
            keep_password=remotes.file is not None,
        )
        self._config = remotes.file or runtime / "rclone.conf"
        self._program = program.find(settings.rclone, "mount.rclone", environ.get("PATH"))
        check_flags(settings.flags, remotes.sections)

    # -- before the mount ------------------------------------------------------------------------

    async def check(self) -> None:
        """See provider.Mounter. The way that works stays written in the rclone.conf."""
        async with await self._asker() as asker:
            if self._remotes.file is not None:
                return await self._list(asker)
            first: UserError | None = None
            obscured: dict[tuple[str, str], str] = {}
            for way in ways(self._remotes, self._settings.password_form):
                if way.passwords == "plain" and not obscured:
                    obscured = await self._obscure(asker)
                self._write(way, obscured)
                try:
                    await self._list(asker)
                except RemoteUnreachable:
                    raise
                except UserError as error:
                    # A refusal says more than what a changed URL or password ran into.
                    if first is None or isinstance(error, RemoteRefused) > isinstance(
                        first, RemoteRefused
                    ):
                        first = error
                    continue
                if way.notice:
                    log.warning("remote", notice=way.notice)
                return None
            assert first is not None
            raise first

    async def _asker(self) -> Asker:
        """One that runs. Raises ConfigError: it is no rclone, or too old a one."""
        try:
            asker = await Asker.start(
                self._program,
                [f"--config={self._config}", *_CHECK_FLAGS],
                folder=self._runtime,
                environment=self._environment,
            )
        except HungUp as ended:  # then its version says why, or nothing does
            done = await self._run(["version"])
            program.check_version(
                done.stdout.decode("utf-8", "replace"), self._program, "mount.rclone"
            )
            raise ConfigError("mount.rclone", f"{self._program}: {ended}") from None
        try:
            program.check_version(asker.version, self._program, "mount.rclone")
        except ConfigError:
            asker.end()
            raise
        return asker

    async def _list(self, asker: Asker) -> None:
        """Look at the remote once. Raises RemoteRefused, RemoteUnreachable, UserError (78)."""
        target = self._remotes.target
        try:
            with anyio.fail_after(CHECK_WITHIN_S):
                await asker.list_folders(target)
        except TimeoutError:
            raise RemoteUnreachable(
                f"{target}: the remote does not answer within {CHECK_WITHIN_S:g} s"
            ) from None
        except HungUp as error:
            raise RemoteUnreachable(f"{target}: {error}") from None
        except Refused as error:
            raise failures.classify(target, error.text) from None

    async def _obscure(self, asker: Asker) -> dict[tuple[str, str], str]:
        """(remote, option) → the password that is there, as rclone.conf has it."""
        found = {}
        for remote, option in self._remotes.passwords():
            if value := self._remotes.sections[remote][option]:
                try:
                    found[remote, option] = await self._obscured(asker, value)
                except (Refused, HungUp, TimeoutError):
                    key = f"RCLONE_CONFIG_{remote}_{option}".upper()
                    raise ConfigError(key, "cannot be obscured") from None
                register_secret(found[remote, option])
        return found

    async def _obscured(self, asker: Asker, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:  # not UTF-8, which JSON cannot carry
            done = await self._run(["obscure", "-"], given=os.fsencode(value))
            return done.stdout.decode().strip()
        return await asker.obscure(value)

    def _write(self, way: Way, obscured: Mapping[tuple[str, str], str]) -> None:
        """The rclone.conf of this way, 0600, whole or not at all."""
        lines = []
        for remote, options in way.sections.items():
            lines.append(f"[{remote}]")
            for option, value in options.items():
                if way.passwords == "plain":
                    value = obscured.get((remote, option), value)
                if value:
                    lines.append(f"{option} = {value}")
            lines.append("")
        temporary = self._config.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines))  # a kilobyte in memory
        temporary.rename(self._config)

    async def _run(
        self, arguments: list[str], *, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        # A session of its own: Ctrl-C is for hookd, which decides what it means.
        return await anyio.run_process(
            [self._program, *arguments],
            input=given,
            check=False,
            env=self._environment,
            start_new_session=True,
        )

    # -- the process -----------------------------------------------------------------------------

    async def stop_orphan(self) -> bool:
        """See provider.Mounter. Its process is known by its id, start time and command line.

        The record lies in the cache, for that is what two must not share; the last one may have
        mounted elsewhere.
        """
        try:
            number, started = self._record.read_text().split()
            pid = int(number)
        except (OSError, ValueError):
            return False
        if not lives(pid, started, f"--cache-dir={self._cache}"):
            return False
        log.warning(
            "an earlier run left its rclone; it is ended, its files stay in the cache", pid=pid
        )
        await end(pid, started)
        return True

    async def start(self, mountpoint: Path) -> Mount:
        """See provider.Mounter."""
        socket = self._runtime / "rc.sock"
        socket.unlink(missing_ok=True)  # left by a kill -9; rclone would not start over it
        user, password = program.login()
        register_secret(password)
        environment = {**self._environment, **program.login_variables(user, password)}
        lock = await self._lock_cache()
        try:
            process = await anyio.open_process(
                [self._program, *self._arguments(mountpoint, socket)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),
            )
        except OSError as error:
            raise ConfigError("mount.rclone", f"{self._program}: {error.strerror}") from None
        finally:
            os.close(lock)
        return RcloneMount(
            process,
            mountpoint=mountpoint,
            target=self._remotes.target,
            control=RemoteControl(socket, user, password),
            record=self._record,
        )

    async def _lock_cache(self) -> int:
        """A lock that rclone inherits: held as long as an rclone is at this cache, whoever started it.

        The lock of `Cache` is hookd's alone, and hookd may be killed. Raises UserError (78).
        """
        path = self._cache / "rclone.lock"
        ends = time.monotonic() + FREE_WITHIN_S
        while True:
            try:
                return lock_file(path, "mount.cache")
            except UserError as error:
                if error.code is not Exit.UNAVAILABLE or time.monotonic() > ends:
                    if error.code is not Exit.UNAVAILABLE:
                        raise
                    raise UserError(
                        f"mount.cache: an rclone that an earlier run left is at {self._cache}; end it, or"
                        " give this mount a cache of its own",
                        code=Exit.CONFIG,
                    ) from None
            await anyio.sleep(0.05)

    def _arguments(self, mountpoint: Path, socket: Path) -> list[str]:
        settings = self._settings
        found = [
            "mount",
            f"--config={self._config}",
            f"--cache-dir={self._cache}",
            f"--vfs-cache-mode={settings.cache_mode}",
            f"--vfs-write-back={settings.write_back_s:g}s",
            f"--vfs-cache-min-free-space={settings.cache_min_free_bytes}B",
            f"--transfers={settings.transfers}",
            "--rc",
            f"--rc-addr=unix://{socket}",
            "--use-json-log",
            "--log-level=NOTICE",
            # Whether the folder is empty was looked at before; at the root of a bind mount rclone
            # says "directory already mounted" without this.
            "--allow-non-empty",
        ]
        if settings.cache_max_bytes is not None:
            found.append(f"--vfs-cache-max-size={settings.cache_max_bytes}B")
        if settings.allow_other:
            found.append("--allow-other")
        if settings.read_only:
            found.append("--read-only")
        return [*found, *settings.flags, "--", self._remotes.target, str(mountpoint)]


def runtime_folder(configured: Path | None, mountpoint: Path) -> Path:
    """Where rclone.conf and sockets of this mount lie: on tmpfs, if there is any."""
    base = configured
    if base is None:
        base = Path("/run/hookd")
        if not _on_tmpfs(Path("/run")) and _on_tmpfs(Path("/dev/shm")):
            base = Path(f"/dev/shm/hookd-{os.geteuid()}")
    return base / f"mount-{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:8]}"


def _on_tmpfs(path: Path) -> bool:
    kinds = {}
    with contextlib.suppress(OSError), open("/proc/self/mounts") as lines:
        for line in lines:
            _, place, kind, *_ = line.split(" ")
            kinds[place] = kind
    return kinds.get(str(path)) == "tmpfs" and os.access(path, os.W_OK)


def check_flags(
    flags: tuple[str, ...], sections: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> None:
    """What `mount.flags` may not hold, beside the remotes `sections`.

    A flag wins over what the cache is named after (`Remotes.identity`): with another server in it, what
    waits in the cache for one place would be uploaded to the other. Raises ConfigError, which repeats no
    value.
    """
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        if not flag.startswith("--") or not name:
            shown = scrub(flag.partition("=")[0])
            raise ConfigError("mount.flags", f"{shown!r} is no flag; write --name=value")
        if name in HARMFUL:
            raise ConfigError(
                "mount.flags", f"--{name} keeps rclone from writing, or from telling; take it out"
            )
        if name in OURS or name.startswith(OURS_BEGIN):
            raise ConfigError("mount.flags", f"--{name} is hookd's own; use the keys of [mount]")
        if is_secret(name.replace("-", "_")) and name not in SWITCHES:
            raise ConfigError(
                "mount.flags",
                f"--{name} may hold a secret, and everybody can read a command line; write the variable"
                " of the remote (RCLONE_CONFIG_NAME_OPTION, or its _FILE form)",
            )
        variable = f"RCLONE_{name.upper().replace('-', '_')}"
        if name.startswith("header") or _LOGIN.search(flag):
            why = "may hold a secret, and everybody can read a command line"
            raise ConfigError("mount.flags", f"--{name} {why}; write the variable {variable}")
        if option_of(name, sections):
            raise ConfigError(
                "mount.flags",
                f"--{name} is an option of the remote, and the cache would not know of it; write"
                f" {variable}, or the variable of the remote itself (RCLONE_CONFIG_NAME_OPTION)",
            )


def _environment(environ: Mapping[str, str], *, keep_password: bool) -> dict[str, str]:
    """What rclone gets: no remote, no control and no log settings but ours."""
    kept = program.without(environ, "RCLONE_CONFIG", "RCLONE_DAEMON")
    if keep_password and "RCLONE_CONFIG_PASS" in environ:
        kept["RCLONE_CONFIG_PASS"] = environ["RCLONE_CONFIG_PASS"]
    return kept
