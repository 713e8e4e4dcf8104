"""Stage configuration, the settings themselves: every key with its type, limits, default and meaning.

The Structs are the one list of keys: `settings` walks them for the file, for the environment, for
the logs, and for the test that docs/reference/configuration.md is complete. Reading and checking
them is the business of `config`; the vocabulary of their types is in `settings_types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from hookd.settings_namespaces import NamespacesSection
from hookd.settings_types import (
    MAX_SOCKET_BYTES,
    AbsolutePath,
    Address,
    Command,
    Namespaces,
    Password,
    Port,
    Secret,
    Section,
    Size,
    SocketPath,
    Switch,
    Text,
    Users,
    seconds,
    whole,
)
from hookd.stores.rclone_settings import RcloneSection

__all__ = ["MAX_SOCKET_BYTES", "REQUIRED", "Config", "Secret", "Setting", "settings"]

from hookd.mount.settings import MountSection

REQUIRED = msgspec.NODEFAULT
"""`Setting.default` of a key that has none."""


class ZdbSection(Section, frozen=True, kw_only=True):
    """[zdb]: the zdb whose hook this daemon answers."""

    index: AbsolutePath
    """zdb's --index."""
    data: AbsolutePath
    """zdb's --data."""
    address: Address | None = None
    """Where zdb listens, written as zdb prints its id; tells whether zdb still runs."""
    admin_password: Password | None = None
    """zdb's --admin, for NSNEW and NSJUMP."""
    admin_password_file: AbsolutePath | None = None
    """File that holds it."""
    keep_free_bytes: Size | None = None
    """zdb takes no writes while its disk has less free than this."""
    skip_namespaces: Namespaces = ("zdbfs-temp",)
    """Namespaces of which nothing is stored."""


class ZstorSection(Section, frozen=True, kw_only=True):
    """[store.zstor]"""

    config: AbsolutePath
    """zstor's own configuration file; its `socket` is where hookd calls."""
    restart_command: Command | None = None
    """Run, without a shell, when zstor is blind: it started while its metadata backends were down."""
    restart_every_s: Annotated[float, seconds(1, 31_536_000)] = 300.0
    """It is run at most once in this time."""


class DirectorySection(Section, frozen=True, kw_only=True):
    """[store.directory]"""

    path: AbsolutePath
    """The folder that is the store."""
    must_exist: Switch = False
    """It is not made: hookd waits until a store is mounted there."""


class StoreSection(Section, frozen=True, kw_only=True):
    """[store]: where files go."""

    kind: Literal["zstor", "directory", "rclone"]
    """Which store; its own table is then needed."""
    timeout_s: Annotated[float, seconds(1, 86_400)] = 120.0
    """Time that one operation has, beside `min_rate_bytes_s`."""
    min_rate_bytes_s: Size = 1024**2
    """A file's size divided by this is added to `timeout_s`; bytes per second."""
    zstor: ZstorSection | None = None
    directory: DirectorySection | None = None
    rclone: RcloneSection | None = None

    def time_limit_s(self, size_bytes: int) -> float:
        """Seconds that one operation on a file of `size_bytes` may take."""
        return self.timeout_s + size_bytes / self.min_rate_bytes_s


class HookSection(Section, frozen=True, kw_only=True):
    """[hook]: where events come in."""

    socket: SocketPath = Path("/run/hookd/hook.sock")
    """The socket that the shim connects to."""
    spool: AbsolutePath = Path("/var/lib/hookd/spool")
    """Folder where the shim leaves events while the daemon is away."""
    allow_users: Users = ()
    """Who may hand in events, beside root and the daemon's own user."""
    max_connections: Annotated[int, whole(1, 65_536)] = 1024
    """Shims served at once; later ones wait in the listen queue."""
    frame_timeout_s: Annotated[float, seconds(0.1, 3600)] = 5.0
    """A frame must be complete this long after the connection."""
    missing_data_deadline_s: Annotated[float, seconds(1, 86_400)] = 60.0
    """missing-data is answered by then, if need be with a failure: zdb stands still meanwhile."""


class StatsSection(Section, frozen=True, kw_only=True):
    """[stats]: where the daemon is asked how it is."""

    socket: SocketPath = Path("/run/hookd/stats.sock")
    """Takes one line, answers, closes."""
    prometheus_port: Port | None = None
    """Port of the metrics over HTTP; none without it."""
    prometheus_address: Text = "127.0.0.1"
    """Address that port is bound to."""


class JournalSection(Section, frozen=True, kw_only=True):
    """[journal]: the database of events and jobs."""

    path: AbsolutePath = Path("/var/lib/hookd/journal.db")
    """The SQLite file; `-wal` and `-shm` appear beside it."""
    keep_s: Annotated[float, seconds(0, 31_536_000)] = 86_400.0
    """How long settled rows are kept."""


class SnapshotSection(Section, frozen=True, kw_only=True):
    """[snapshot]: frozen copies of files that zdb rewrites in place."""

    staging: AbsolutePath | None = None
    """Folder of the copies; see `Config.staging_path` for the default."""
    max_bytes: Size | None = 4 * 1024**3
    """Most that the copies may take together."""


class DispatchSection(Section, frozen=True, kw_only=True):
    """[dispatch]: how jobs are run."""

    workers: Annotated[int, whole(1, 256)] = 4
    """Jobs in flight at once; a serial store is given fewer."""
    supersede_within_s: Annotated[float, seconds(0, 3600)] = 30.0
    """A waiting snapshot gives way to a newer one of its file only while younger than this."""
    backoff_base_s: Annotated[float, seconds(0.01, 3600)] = 1.0
    """First pause after a temporary failure; it doubles with each further one."""
    backoff_max_s: Annotated[float, seconds(0.01, 86_400)] = 300.0
    """Longest pause."""


class DrainSection(Section, frozen=True, kw_only=True):
    """[drain]: the way out."""

    timeout_s: Annotated[float, seconds(0, 31_536_000)] | None = None
    """Give up draining after this; None waits until all is stored."""
    quiet_s: Annotated[float, seconds(0, 3600)] = 1.0
    """zdb gone and no event for this long counts as the last event."""


class CacheSection(Section, frozen=True, kw_only=True):
    """[cache]: kept for a later version."""

    max_bytes: Size | None = None
    """Local data beyond this would be evicted."""


class RestoreSection(Section, frozen=True, kw_only=True):
    """[restore]: what comes back when local files are absent."""

    full: Switch = False
    """Whether all data files come back before zdb starts, not only the active one; the others come when
    zdb asks for them."""
    namespaces: Namespaces = ("default", "zdbfs-meta", "zdbfs-data")
    """Namespaces looked for in a store that cannot list and has no manifest (files stored by hook.sh)."""
    prefetch: Annotated[int, whole(0, 64)] = 2
    """After two data files in a row were asked back, so many of the next ones are fetched ahead."""


class AuditSection(Section, frozen=True, kw_only=True):
    """[audit]: local files against ledger against store."""

    interval_s: Annotated[float, seconds(1, 31_536_000)] | None = 86_400.0
    """Pause between two audits; None leaves those at the start and on demand."""


class CheckpointSection(Section, frozen=True, kw_only=True):
    """[checkpoint]: active files closed and stored before they are full."""

    mount: AbsolutePath | None = None
    """Where zdbfs is mounted: it is told to write out its cache first."""
    interval_s: Annotated[float, seconds(1, 31_536_000)] | None = None
    """A checkpoint this often while something is dirty; None: only by `hookd checkpoint`."""


class LogSection(Section, frozen=True, kw_only=True):
    """[log]: what goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level written."""
    format: Literal["auto", "console", "json"] = "auto"
    """See `hookd.log.configure`."""


class Config(Section, frozen=True, kw_only=True):
    """All of it, as `load` returns it."""

    zdb: ZdbSection
    store: StoreSection
    hook: HookSection = HookSection()
    stats: StatsSection = StatsSection()
    journal: JournalSection = JournalSection()
    snapshot: SnapshotSection = SnapshotSection()
    dispatch: DispatchSection = DispatchSection()
    drain: DrainSection = DrainSection()
    cache: CacheSection = CacheSection()
    audit: AuditSection = AuditSection()
    restore: RestoreSection = RestoreSection()
    namespaces: NamespacesSection = NamespacesSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()
    mount: MountSection = MountSection()

    @property
    def staging_path(self) -> Path:
        """`snapshot.staging`, or the folder `staging` beside the journal."""
        return self.snapshot.staging or self.journal.path.parent / "staging"

    def value(self, key: str) -> object:
        """The value of a dotted key; None where its table is absent."""
        found: object = self
        for part in key.split("."):
            found = getattr(found, part, None)
        return found

    def secrets(self) -> tuple[str, ...]:
        """Every secret in it, for `hookd.log.register_secret`."""
        values = (self.value(setting.key) for setting in settings())
        return tuple(str(value) for value in values if isinstance(value, Secret))

    def describe(self) -> dict[str, object]:
        """Dotted keys to plain values, fit for a log line; secrets are `***`."""
        return {setting.key: _plain(self.value(setting.key)) for setting in settings()}

    def warnings(self) -> tuple[str, ...]:
        """Lines about keys that are set and do nothing in this version."""
        lines = []
        if self.cache.max_bytes is not None:
            lines.append("cache.max_bytes: this version does not evict; the key has no effect")
        return tuple(lines)


class MountConfig(Section, frozen=True, kw_only=True):
    """What `hookd mount` reads of it: no zdb and no store are needed for a mount."""

    mount: MountSection = MountSection()
    stats: StatsSection = StatsSection()
    log: LogSection = LogSection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key, as declared above."""

    key: str
    """Dotted, as in the TOML: `store.zstor.config`."""
    type: Any
    """Its annotation without `| None`: `Annotated[bare, Meta]` or a Literal."""
    optional: bool
    """Whether None is a value."""
    default: object
    """Or REQUIRED."""

    @property
    def environment(self) -> str:
        """The variable that sets it: `HOOKD_STORE__ZSTOR__CONFIG`."""
        return "HOOKD_" + self.key.upper().replace(".", "__")

    @property
    def bare(self) -> Any:
        """Its type without limits: str, int, float, Path, Secret, a tuple or a Literal."""
        return get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type

    @property
    def expects(self) -> str:
        """What a value has to be, in words that follow "is not"."""
        if get_origin(self.type) is Literal:
            return " or ".join(f'"{choice}"' for choice in get_args(self.type))
        return str(self._extra["expects"])

    @property
    def read(self) -> Callable[[Any, bool], object] | None:
        """What prepares a raw value for the type; see `meta`."""
        found: Callable[[Any, bool], object] | None = self._extra["read"]
        return found

    @property
    def _extra(self) -> dict[str, Any]:
        if get_origin(self.type) is Literal:
            return {"read": None}
        extra: dict[str, Any] = get_args(self.type)[1].extra
        return extra


def settings(section: type[Struct] = Config, prefix: str = "") -> Iterator[Setting]:
    """Every key of `section` and the tables in it, in order of declaration."""
    for field in msgspec.structs.fields(section):
        kind, optional = unwrap(field.type)
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from settings(kind, f"{prefix}{field.name}.")
        else:
            yield Setting(
                key=prefix + field.name, type=kind, optional=optional, default=field.default
            )


def unwrap(annotation: Any) -> tuple[Any, bool]:
    """`X | None` into (X, True), anything else into (itself, False)."""
    arguments = get_args(annotation)
    if type(None) in arguments:
        return next(kind for kind in arguments if kind is not type(None)), True
    return annotation, False


def class_of(kind: Any) -> type:
    """`kind` if it is a class, else one that is no subclass of anything asked for here."""
    return kind if isinstance(kind, type) else object


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
