"""Stage start, zstor's configuration: refused with one line where the container could not work with it.

zstor refuses a wrong file too, but late, again and again, and 0.4.0 prints the file's password while
it does. Raises nothing but ConfigError, whose text holds no value that could be a secret.
Facts: 0-stor_v2 zstor/src/config.rs.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hookd.container.layout import DATA, ZDB_DATA, ZDB_INDEX, ZSTOR_SOCKET
from hookd.errors import ConfigError
from hookd.files import Roots
from hookd.stores.zstor_config import read_config

KNOWN = {
    "minimal_shards",
    "expected_shards",
    "redundant_groups",
    "redundant_nodes",
    "root",
    "socket",
    "pid_file",
    "zdb_data_dir_path",
    "max_zdb_data_dir_size",
    "zdbfs_mountpoint",
    "prometheus_port",
    "encryption",
    "compression",
    "meta",
    "groups",
}
METADATA_BACKENDS = 4
"""zstor splits metadata 2 + 2, always."""
READS_NEED = 2
"""Metadata backends without which zstor can read nothing, and says "not found" of everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How zstor opens one backend's namespace."""

    where: str
    """For the admin: the backend's place in the file."""
    address: tuple[str, int]
    namespace: str
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Where zstor's data and metadata are: (host, port), each once."""

    data: tuple[tuple[str, int], ...]
    meta: tuple[tuple[str, int], ...]
    data_logins: tuple[Login, ...] = ()
    """One for each that the file lists."""
    meta_logins: tuple[Login, ...] = ()
    minimal_shards: int = 1
    """Data backends without which zstor can read nothing."""


def check(path: Path, mountpoint: Path) -> tuple[Backends, tuple[str, ...]]:
    """Read the file; its backends, and its secrets. Blocking. Raises ConfigError."""
    if not os.path.lexists(path):
        raise ConfigError(
            str(path), f"is not there; mount your zstor configuration: -v FILE:{path}"
        )
    if path.is_dir():
        raise ConfigError(
            str(path),
            "is a folder, which docker makes where the file to mount does not exist on the host;"
            " correct the path before the colon in -v",
        )
    table = _load(path)
    _check_paths(path, table, mountpoint)
    _check_shape(path, table)
    found = read_config(path, Roots(ZDB_INDEX, ZDB_DATA))
    return _backends(path, table), found.secrets


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        # the rest of the message may quote the file
        position = re.search(r"\(at [^()]*\)$", str(error))
        where = f" {position.group()}" if position else ""
        raise ConfigError(str(path), f"is no TOML{where}; correct it") from None


def _check_paths(path: Path, table: dict[str, Any], mountpoint: Path) -> None:
    """The paths that are fixed in the container; absent ones that zstor can do without may be."""
    if unknown := sorted(set(table) - KNOWN):
        raise ConfigError(str(path), f"{unknown[0]} is no key of zstor; remove or correct it")
    if "max_zdb_data_dir_size" in table:
        raise ConfigError(
            str(path),
            "max_zdb_data_dir_size is set: zstor would delete data files by their age, also ones"
            " that changed since they were stored; remove the line",
        )
    fixed = {
        "socket": ZSTOR_SOCKET,
        "zdb_data_dir_path": ZDB_DATA / "zdbfs-data",
        "zdbfs_mountpoint": mountpoint,
    }
    for key, value in fixed.items():
        given = table.get(key)
        if given is None and key != "socket":
            continue
        if given is None:
            raise ConfigError(str(path), f'{key} is not set; write {key} = "{value}"')
        if not isinstance(given, str) or not _same(given, value):
            shown = given if isinstance(given, str) else "no text"
            raise ConfigError(str(path), f'{key} is {shown!r}, here it has to be {key} = "{value}"')
    root = table.get("root")
    if root is not None and (not isinstance(root, str) or not DATA.is_relative_to(root)):
        raise ConfigError(
            str(path), f"root = {root!r} does not contain {DATA}; remove it, it is not needed"
        )


def _same(given: str, wanted: Path) -> bool:
    """/var/run is /run in every Debian."""
    plain = re.sub(r"^/var/run/", "/run/", os.path.normpath(given))
    return plain == re.sub(r"^/var/run/", "/run/", str(wanted))


def _check_shape(path: Path, table: dict[str, Any]) -> None:
    def wrong(reason: str) -> ConfigError:
        return ConfigError(str(path), reason)

    for key in ("minimal_shards", "expected_shards", "redundant_groups", "redundant_nodes"):
        if not isinstance(table.get(key), int) or isinstance(table[key], bool) or table[key] < 0:
            raise wrong(f"{key} is needed, a whole number")
    if not 1 <= table["minimal_shards"] <= table["expected_shards"]:
        raise wrong("minimal_shards has to be at least 1 and at most expected_shards")
    for key in ("encryption", "compression", "meta"):
        if not isinstance(table.get(key), dict):
            raise wrong(f"the table [{key}] is needed")
    _check_key(path, "encryption.key", table["encryption"].get("key"))
    config = table["meta"].get("config")
    if table["meta"].get("type") != "zdb" or not isinstance(config, dict):
        raise wrong('[meta] with type = "zdb" and the table [meta.config] are needed')
    encryption = config.get("encryption")
    if not isinstance(encryption, dict):
        raise wrong("the table [meta.config.encryption] is needed")
    _check_key(path, "meta.config.encryption.key", encryption.get("key"))


def _check_key(path: Path, name: str, key: object) -> None:
    if not isinstance(key, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise ConfigError(
            str(path),
            f"{name} is not 64 hexadecimal digits (not shown); make one: openssl rand -hex 32",
        )


def _backends(path: Path, table: dict[str, Any]) -> Backends:
    meta = list(_logins(path, "meta.config.backends", table["meta"]["config"].get("backends")))
    if len(meta) != METADATA_BACKENDS:
        raise ConfigError(
            str(path), f"[[meta.config.backends]]: {len(meta)} are there, zstor needs exactly 4"
        )
    groups = table.get("groups")
    if not isinstance(groups, list) or not groups:
        raise ConfigError(str(path), "[[groups]] with [[groups.backends]] is needed")
    data: list[Login] = []
    for group in groups:
        inner = group.get("backends") if isinstance(group, dict) else None
        data += _logins(path, "groups.backends", inner)
    if len(data) < table["expected_shards"]:
        raise ConfigError(
            str(path),
            f"expected_shards = {table['expected_shards']}, but there are only {len(data)}"
            " [[groups.backends]]",
        )
    return Backends(
        data=tuple(dict.fromkeys(login.address for login in data)),
        meta=tuple(dict.fromkeys(login.address for login in meta)),
        data_logins=tuple(data),
        meta_logins=tuple(meta),
        minimal_shards=table["minimal_shards"],
    )


def _logins(path: Path, name: str, backends: object) -> Iterator[Login]:
    if not isinstance(backends, list):
        raise ConfigError(str(path), f"[[{name}]] is needed")
    for number, backend in enumerate(backends, start=1):
        where = f"[[{name}]] number {number}"
        if not isinstance(backend, dict) or not isinstance(backend.get("address"), str):
            raise ConfigError(str(path), f"{where} has no address")
        if not isinstance(backend.get("namespace"), str):
            raise ConfigError(str(path), f"{where} has no namespace")
        password = backend.get("password")
        if password is not None and not isinstance(password, str):
            raise ConfigError(str(path), f"{where}: password is no text (not shown)")
        yield Login(
            where=f"{where} ({backend['address']})",
            address=_address(path, where, backend["address"]),
            namespace=backend["namespace"],
            password=password,
        )


def _address(path: Path, where: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    advice = 'write "IP:port", an IPv6 address in brackets: "[2001:db8::1]:9900"'
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        raise ConfigError(
            str(path), f"{where}: {text!r} is no address (no host names); {advice}"
        ) from None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ConfigError(str(path), f"{where}: {text!r} has no port; {advice}")
    if (version == 6) != host.startswith("["):
        raise ConfigError(str(path), f"{where}: {text!r}; {advice}")
    return bare, int(port)
