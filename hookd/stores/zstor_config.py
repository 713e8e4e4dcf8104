"""zstor's own configuration file, as far as hookd needs it: where it listens, what is secret."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import ConfigError
from hookd.files import Roots
from hookd.stores.zstor_probe import Backend
from hookd.stores.zstor_torn import MetaStore

CONFIG_KEY = "store.zstor.config"

_SECRET_NAMES = frozenset({"password", "pass", "passwd", "key", "secret", "token"})
_POSITION = re.compile(r"\(at [^()]*\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZstorConfig:
    """What hookd takes from a zstor configuration (0-stor_v2 zstor/src/config.rs)."""

    socket: Path
    """Where `zstor monitor` listens."""
    meta: MetaStore
    """Where its metadata is kept."""
    secrets: tuple[str, ...]
    """Every password and key in the file, to be kept out of what is shown."""
    warnings: tuple[str, ...]
    """One line each, for the admin."""


def read_config(path: Path, roots: Roots) -> ZstorConfig:
    """Read and check the file `path` for a zdb at `roots`. Blocking.

    Raises ConfigError, whose text holds nothing from the file but `root` and a position.
    """
    table = _load(path)
    socket = table.get("socket")
    if not isinstance(socket, str) or not socket:
        raise ConfigError(CONFIG_KEY, f'{path} has no socket = "…": hookd talks to zstor there')
    _check_root(path, table.get("root"), roots)
    return ZstorConfig(
        socket=Path(socket),
        meta=_meta(table),
        secrets=tuple(sorted(set(_secrets(table)))),
        warnings=tuple(_warnings(path, table)),
    )


def _load(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(CONFIG_KEY, f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise ConfigError(CONFIG_KEY, f"{path} is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        # its message may quote the file, and the chained traceback would
        position = _POSITION.search(str(error))
        where = f" {position.group()}" if position else ""
        raise ConfigError(CONFIG_KEY, f"{path} is no TOML{where}") from None


def _check_root(path: Path, root: object, roots: Roots) -> None:
    """zstor compares real paths of files with `root` as it is written (actors/pipeline.rs)."""
    if root is None:
        return
    for folder in (roots.index, roots.data):
        if not isinstance(root, str) or not folder.is_relative_to(root):
            raise ConfigError(
                CONFIG_KEY,
                f"{path}: root = {root!r} does not contain {folder} (by its real path),"
                " so zstor would refuse every file of it",
            )


def _warnings(path: Path, table: dict[str, object]) -> Iterator[str]:
    if "max_zdb_data_dir_size" in table:
        yield (
            f"{path}: max_zdb_data_dir_size is set: zstor then deletes data files by age, also ones"
            " that were changed since they were stored; unset it, hookd evicts what is proven"
        )


def _meta(table: dict[str, object]) -> MetaStore:
    """[meta.config]; what is not written as zstor needs it is zstor's business."""
    meta, root = table.get("meta"), table.get("root")
    config = meta.get("config") if isinstance(meta, dict) else None
    rows = config.get("backends") if isinstance(config, dict) else None
    prefix = config.get("prefix") if isinstance(config, dict) else None
    return MetaStore(
        backends=tuple(_backends(rows if isinstance(rows, list) else [])),
        prefix=prefix if isinstance(prefix, str) else "",
        root=Path(root) if isinstance(root, str) else None,
    )


def _backends(rows: list[object]) -> Iterator[Backend]:
    for row in rows:
        address = row.get("address") if isinstance(row, dict) else None
        if isinstance(row, dict) and isinstance(address, str):
            namespace, password = row.get("namespace"), row.get("password")
            yield Backend(
                address,
                namespace if isinstance(namespace, str) else "",
                password if isinstance(password, str) else None,
            )


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _SECRET_NAMES and isinstance(inner, str) and inner:
                yield inner
            else:
                yield from _secrets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner)
