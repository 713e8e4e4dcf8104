"""Stage configuration, [namespaces]: what `hookd namespaces` makes in zdb.

The defaults are what zdbfs v0.1.11 insists on: the names and the password of its scratch space are
constants of its own (0-db-fs src/init.c), and its option `autons` makes all three sequential.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from hookd.settings_types import AbsolutePath, Secret, Section, meta, seconds

ZDBFS_TEMP_PASSWORD = "hello"
"""What zdbfs always gives for zdbfs-temp: published, so no secret."""

MAX_NAME_BYTES = 127
MAX_PASSWORD_BYTES = 63
"""Longest value that NSSET takes (0-db zdbd/commands_namespace.c)."""


def _read_name(value: Any, text: bool) -> str:
    """What zdb takes for a name; `default` is always there and cannot be changed."""
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_NAME_BYTES:
        raise ValueError
    if value in (".", "..", "default") or "/" in value or not value.isprintable():
        raise ValueError
    return value


def _read_password(value: Any, text: bool) -> Secret:
    """NSSET would take `*` for "no password"."""
    if not isinstance(value, str) or value == "*" or "\0" in value:
        raise ValueError
    if not 0 < len(value.encode()) <= MAX_PASSWORD_BYTES:
        raise ValueError
    return Secret(value)


NamespaceName = Annotated[
    str, meta(f"a namespace name of at most {MAX_NAME_BYTES} bytes without a slash", _read_name)
]
NamespacePassword = Annotated[
    Secret, meta(f"text of at most {MAX_PASSWORD_BYTES} bytes other than *", _read_password)
]


class NamespaceSection(Section, frozen=True, kw_only=True):
    """[namespaces.X]: one of them."""

    name: NamespaceName | None = None
    """None: it is not made."""
    mode: Literal["seq", "user"] = "seq"
    """zdb's mode of the namespace: keys given by zdb, or by its clients."""
    password: NamespacePassword | None = None
    """With one, the namespace is private."""
    password_file: AbsolutePath | None = None
    """File that holds it."""


class MetaSection(NamespaceSection, frozen=True, kw_only=True):
    """[namespaces.meta]: inodes of zdbfs."""

    name: NamespaceName | None = "zdbfs-meta"


class DataSection(NamespaceSection, frozen=True, kw_only=True):
    """[namespaces.data]: blocks of zdbfs."""

    name: NamespaceName | None = "zdbfs-data"


class TempSection(NamespaceSection, frozen=True, kw_only=True):
    """[namespaces.temp]: scratch space of zdbfs; without a password it gets zdbfs's own."""

    name: NamespaceName | None = "zdbfs-temp"


class NamespacesSection(Section, frozen=True, kw_only=True):
    """[namespaces]: what `hookd namespaces` makes."""

    wait_s: Annotated[float, seconds(0, 86_400)] = 300.0
    """How long it waits for zdb, the daemon and the store, all together."""
    meta: MetaSection = MetaSection()
    data: DataSection = DataSection()
    temp: TempSection = TempSection()
