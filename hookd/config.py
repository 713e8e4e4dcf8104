"""Stage configuration: a TOML file and the environment into one frozen, checked `Config`.

Parsed once, at start. What counts, first to last: the `HOOKD_SECTION__KEY` variables, the file,
the shim's own HOOKD_SOCKET and HOOKD_SPOOL (for `hook.socket` and `hook.spool`), the defaults
below. This module owns two invariants: in a `Config` that `load` returned every key is known,
typed, in range and fits the others; and everything wrong ends in one `ConfigError` line that
names the key, says what to do and shows no secret.

The keys themselves are in `settings`.
"""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hookd.errors import ConfigError
from hookd.settings import (
    MAX_SOCKET_BYTES,
    REQUIRED,
    Config,
    MountConfig,
    Secret,
    Setting,
    class_of,
    settings,
    unwrap,
)
from hookd.stores.rclone_settings import holds_secret

__all__ = [
    "DEFAULT_PATH",
    "MAX_SOCKET_BYTES",
    "REQUIRED",
    "Config",
    "MountConfig",
    "Secret",
    "Setting",
    "load",
    "load_mount",
    "settings",
]
DEFAULT_PATH = Path("/etc/hookd/hookd.toml")
"""Read where neither the caller nor HOOKD_CONFIG names a file; may be absent."""

_SHIM_DEFAULTS = {"HOOKD_SOCKET": "hook.socket", "HOOKD_SPOOL": "hook.spool"}
_MOUNT_DEFAULTS = {"REMOTE_PATH": "mount.remote_path", "LOCAL_PATH": "mount.local_path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A raw value and where it comes from."""

    value: Any
    text: bool
    """From the environment, so always a str."""
    fix: str
    """What to do about a wrong one, with the file or the variable."""


def load(path: Path | None, environ: Mapping[str, str], *, zdb_here: bool = True) -> Config:
    """Read, check and return the configuration.

    `path` None reads the file that HOOKD_CONFIG names, else DEFAULT_PATH if there is one. The
    roots of zdb must exist, unless `zdb_here` is not asked for (who reads the store alone); every
    other folder is left to the daemon to create.

    Raises ConfigError.
    """
    given = _gather(path, environ, _SHIM_DEFAULTS)
    _read_secret_files(given)
    config: Config = _build(Config, "", given)
    _check_store(config)
    _check_numbers(config)
    if zdb_here:
        _check_roots(config)
    _check_folders(config)
    return config


def load_mount(path: Path | None, environ: Mapping[str, str]) -> MountConfig:
    """What `hookd mount` reads, from the same places; no zdb and no store need be configured.

    Raises ConfigError.
    """
    config: MountConfig = _build(MountConfig, "", _gather(path, environ, _MOUNT_DEFAULTS))
    return config


def _gather(
    path: Path | None, environ: Mapping[str, str], defaults: Mapping[str, str]
) -> dict[str, _Given]:
    """All raw values by dotted key; `defaults` are variables that count where nothing else does."""
    given = _from_environment(environ)
    source = _source(path, environ)
    if source is not None:
        fix = f"correct it in {_name(str(source))}"
        given = {**_from_table(_parse(source), Config, "", fix), **given}
    for variable, key in defaults.items():
        if environ.get(variable):
            fallback = _Given(value=environ[variable], text=True, fix=f"correct {variable}")
            given.setdefault(key, fallback)
    return given


def _read_secret_files(given: dict[str, _Given]) -> None:
    """Each secret whose `KEY_file` is given gets the content of that file, without its line end.

    A variable stands before the file's own keys, whichever of the two it sets. Raises ConfigError.
    """
    for setting in settings():
        key, source = f"{setting.key}_file", given.get(f"{setting.key}_file")
        if setting.bare is not Secret or source is None or source.value in ("", "none"):
            continue
        direct = given.get(setting.key)
        if direct is not None and direct.text == source.text:
            raise ConfigError(key, f"is given beside {setting.key}; keep one of the two")
        if direct is not None and direct.text:
            continue
        try:
            value = Path(str(source.value)).read_bytes().decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text in UTF-8"
            shown = _shown(source.value)
            raise ConfigError(key, f"{shown} cannot be read ({reason}); {source.fix}") from None
        if not value:
            raise ConfigError(key, f"{_shown(source.value)} is empty; write the password into it")
        fix = f"correct it in {_name(str(source.value))}"
        given[setting.key] = _Given(value=value, text=source.text, fix=fix)


def _source(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if environ.get("HOOKD_CONFIG"):
        return Path(environ["HOOKD_CONFIG"])
    return DEFAULT_PATH if os.path.lexists(DEFAULT_PATH) else None


def _parse(source: Path) -> dict[str, Any]:
    """The tables of the file. Raises ConfigError, whose key is the file."""
    try:
        return tomllib.loads(source.read_bytes().decode())
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); create it, or name another with --config"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8; save the file as UTF-8"
    except ValueError as error:
        # Also what int() says of a number of more than 4300 digits.
        reason = f"is no TOML: {' '.join(str(error).split())}; correct it there"
    raise ConfigError(_name(str(source)), reason)


def _from_table(
    table: Mapping[str, Any], section: type[Struct], prefix: str, fix: str
) -> dict[str, _Given]:
    """The values of a table by dotted key. Raises ConfigError for an unknown key."""
    tables = {field.name: unwrap(field.type)[0] for field in msgspec.structs.fields(section)}
    given: dict[str, _Given] = {}
    for name, value in table.items():
        key = prefix + name
        if name not in tables:
            raise _unknown_key(key, fix)
        if not issubclass(class_of(tables[name]), Struct):
            given[key] = _Given(value=value, text=False, fix=fix)
        elif isinstance(value, dict):
            given.update(_from_table(value, tables[name], f"{key}.", fix))
        else:
            raise ConfigError(key, f"is a table, not a value; write [{key}] with its keys; {fix}")
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """The values of the HOOKD_SECTION__KEY variables by dotted key. Raises ConfigError."""
    known = {setting.environment: setting.key for setting in settings()}
    slips = {variable.replace("__", "_"): variable for variable in known}
    given: dict[str, _Given] = {}
    for variable, value in environ.items():
        if variable in known:
            fix = f"correct {variable}"
            given[known[variable]] = _Given(value=value, text=True, fix=fix)
        elif variable in slips:
            raise ConfigError(variable, f"sets nothing; write {slips[variable]}")
        elif variable.startswith("HOOKD_") and "__" in variable.removeprefix("HOOKD_"):
            hint = _nearest(variable.upper(), known)
            raise ConfigError(_name(variable), f"is no known setting; {hint}rename or unset it")
    return given


def _build(section: type[Struct], prefix: str, given: Mapping[str, _Given]) -> Any:
    """`section` from its values. Raises ConfigError for one that is wrong or needed."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        key = prefix + field.name
        kind, optional = unwrap(field.type)
        if issubclass(class_of(kind), Struct):
            if not optional or any(name.startswith(f"{key}.") for name in given):
                values[field.name] = _build(kind, f"{key}.", given)
            continue
        setting = Setting(key=key, type=kind, optional=optional, default=field.default)
        if key in given:
            values[field.name] = _convert(setting, given[key])
        elif setting.default is REQUIRED:
            raise ConfigError(
                key, f"is needed; set it in the configuration file or by {setting.environment}"
            )
    return section(**values)


def _convert(setting: Setting, given: _Given) -> object:
    """The value of a key, in its type. Raises ConfigError.

    TOML has no null, and a variable set to nothing is how deployments unset one: an empty text
    is None where None is a value, and so is "none" where text would not be.
    """
    value = given.value
    textual = issubclass(class_of(setting.bare), str)
    if setting.optional and (value == "" or (value == "none" and not textual)):
        return None
    try:
        if setting.read is not None:
            value = setting.read(value, given.text)
        return msgspec.convert(value, setting.type, strict=not given.text)
    except (ValueError, TypeError):
        pass
    shown = "the value (not shown)" if setting.bare is Secret else _shown(given.value)
    raise ConfigError(setting.key, f"{shown} is not {setting.expects}; {given.fix}")


def _check_store(config: Config) -> None:
    kind = config.store.kind
    key = {
        "zstor": "store.zstor.config",
        "directory": "store.directory.path",
        "rclone": "store.rclone.remote",
    }[kind]
    if config.value(key) is None:
        raise ConfigError(key, f"is needed because store.kind = {kind}; set it")
    if config.store.rclone is not None and holds_secret(config.store.rclone.remote):
        raise ConfigError(
            "store.rclone.remote",
            "holds a password, key or token; keep it in rclone's own configuration"
            " (`rclone config`, or RCLONE_CONFIG_NAME_... variables) and name that remote here",
        )


def _check_numbers(config: Config) -> None:
    dispatch = config.dispatch
    if dispatch.backoff_base_s > dispatch.backoff_max_s:
        raise ConfigError(
            "dispatch.backoff_base_s",
            f"{dispatch.backoff_base_s:g} is more than dispatch.backoff_max_s "
            f"({dispatch.backoff_max_s:g}); make it smaller",
        )


def _check_roots(config: Config) -> None:
    """Refuse roots that are not there."""
    for key, root in (("zdb.index", config.zdb.index), ("zdb.data", config.zdb.data)):
        if not os.path.isdir(root):  # Path.is_dir raises where a parent may not be searched
            raise ConfigError(
                key, f"{_shown(root)} is no folder on this disk; mount or create it first"
            )


def _check_folders(config: Config) -> None:
    """Refuse folders that would work on each other's files.

    zdb takes every folder under its index root for a namespace, zstor's and the daemon's
    clean-ups remove what they do not know, and a store inside what it stores feeds on itself.
    Symbolic links are resolved; the same folder mounted twice is not noticed.
    """
    folders = [
        ("zdb.index", config.zdb.index),
        ("zdb.data", config.zdb.data),
        ("hook.spool", config.hook.spool),
        ("snapshot.staging", config.staging_path),
    ]
    if config.store.kind == "directory" and config.store.directory is not None:
        folders.insert(2, ("store.directory.path", config.store.directory.path))
    if config.store.kind == "rclone" and config.store.rclone is not None:
        remote = config.store.rclone.remote
        if remote.startswith("/"):
            folders.insert(2, ("store.rclone.remote", Path(remote)))
    for (other, outer), (key, path) in itertools.combinations(folders, 2):
        _check_apart(key, path, other, outer)
        _check_apart(other, outer, key, path)
    for other, outer in folders:
        _check_apart("journal.path", config.journal.path, other, outer)
    if os.path.realpath(config.hook.socket) == os.path.realpath(config.stats.socket):
        shown = _shown(config.stats.socket)
        raise ConfigError("stats.socket", f"{shown} is hook.socket too; give each its own")


def _check_apart(key: str, path: Path, other: str, outer: Path) -> None:
    """Raise ConfigError if `path` is `outer` or lies in it."""
    real, real_outer = Path(os.path.realpath(path)), Path(os.path.realpath(outer))
    if real == real_outer:
        relation = "is the same as"
    elif real_outer in real.parents:
        relation = "lies inside"
    else:
        return
    raise ConfigError(
        key, f"{_shown(path)} {relation} {other} ({_shown(outer)}); keep the two apart"
    )


def _unknown_key(key: str, fix: str) -> ConfigError:
    keys = [setting.key for setting in settings()]
    # A table is meant where one may stand: beside the other tables of its depth.
    tables = {known.rpartition(".")[0] for known in keys}
    beside = sorted(table for table in tables if table.count(".") == key.count("."))
    hint = _nearest(key, [*keys, *beside])
    return ConfigError(_name(key), f"is no known key; {hint}{fix}")


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    # Imported where it is needed: only a mistake pays for it.
    from difflib import get_close_matches

    return "".join(f"did you mean {match}? " for match in get_close_matches(name, known, n=1))


def _name(name: str) -> str:
    """A key, a variable or a file's path, fit for the head of a line."""
    return name if re.fullmatch(r"[\w./-]{1,200}", name) else _shown(name)


def _shown(value: object) -> str:
    """A value fit for one line, written as in TOML where that is not the same as in Python."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    shown = repr(str(value) if isinstance(value, Path) else value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
