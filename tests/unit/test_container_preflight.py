"""What a start needs from its host: each thing missing is told with its cure."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from hookd.container import backends, layout, mounts, preflight
from hookd.errors import ConfigError, Exit, UserError

ROOTFS = Path(__file__).parents[2] / "rootfs"


def test_no_fuse(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device /dev/fuse") as caught:
        preflight.check_fuse(str(tmp_path / "fuse"))
    assert caught.value.code == Exit.NOPERM


def test_fuse_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """docker's device rules: it is there, and may not be used."""

    def refused(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=r"cannot be opened \(Operation not permitted\)"):
        preflight.check_fuse()


@pytest.mark.parametrize(
    ("capabilities", "may"), [("00000000a80425fb", False), ("00000000a82425fb", True)]
)
def test_sys_admin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, may: bool
) -> None:
    """The sets that docker gives without and with --cap-add SYS_ADMIN."""
    status = tmp_path / "status"
    status.write_text(f"Name:\thookd\nCapPrm:\t0\nCapEff:\t{capabilities}\n")
    monkeypatch.setattr(mounts, "may_mount", lambda: None)
    if may:
        preflight.check_mount(status)
        return
    with pytest.raises(UserError, match="--cap-add SYS_ADMIN") as caught:
        preflight.check_mount(status)
    assert caught.value.code == Exit.NOPERM


def test_apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("CapEff:\t000001ffffffffff\n")
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(mounts, "may_mount", lambda: refused)
    with pytest.raises(UserError, match="apparmor=unconfined"):
        preflight.check_mount(status)


def test_backends_away(unused_port: int) -> None:
    """Those that refuse are named; an IPv6 address is shown in brackets."""
    found = backends.away([("127.0.0.1", unused_port)])
    assert list(found) == [("127.0.0.1", unused_port)]
    assert "refused" in found["127.0.0.1", unused_port]
    assert backends.shown(("2001:db8::1", 9900)) == "[2001:db8::1]:9900"
    assert backends.away([]) == {}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The container's folders, elsewhere; its configuration file as it ships."""
    for name in ("data", "index", "hookd/spool"):
        (tmp_path / name).mkdir(parents=True)
    text = (ROOTFS / "etc/hookd/hookd.toml").read_text()
    (tmp_path / "hookd.toml").write_text(text.replace('"/data', f'"{tmp_path}'))
    for name, value in vars(layout).items():
        if isinstance(value, Path) and value.is_relative_to("/data"):
            monkeypatch.setattr(layout, name, tmp_path / value.relative_to("/data"))
    return tmp_path


def test_hookds_settings_as_they_ship(here: Path) -> None:
    preflight.check_hookd({"HOOKD_CONFIG": str(here / "hookd.toml")})


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("HOOKD_ZDB__DATA", "{here}", "zdb.data"),
        ("HOOKD_JOURNAL__PATH", "{here}/elsewhere/journal.db", "journal.path"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/staging", "snapshot.staging"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/hookd/../staging", "snapshot.staging"),
        ("HOOKD_SNAPSHOT__STAGING", "{here}/hookd/link", "snapshot.staging"),
        ("HOOKD_STORE__ZSTOR__CONFIG", "{here}/other.toml", "store.zstor.config"),
    ],
)
def test_state_off_the_volume(here: Path, variable: str, value: str, key: str) -> None:
    """What hookd keeps for the next start, and what it stores with, are the container's own."""
    (here / "elsewhere").mkdir()
    (here / "hookd/link").symlink_to(here / "elsewhere")
    environ = {"HOOKD_CONFIG": str(here / "hookd.toml"), variable: value.format(here=here)}
    with pytest.raises(ConfigError, match=re.escape(key)):
        preflight.check_hookd(environ)


def test_a_staging_folder_of_its_own_on_the_volume(here: Path) -> None:
    staging = str(here / "hookd/copies")
    environ = {"HOOKD_CONFIG": str(here / "hookd.toml"), "HOOKD_SNAPSHOT__STAGING": staging}
    preflight.check_hookd(environ)


def test_another_store_needs_no_zstor(here: Path) -> None:
    (here / "store").mkdir()
    preflight.check_hookd(
        {
            "HOOKD_CONFIG": str(here / "hookd.toml"),
            "HOOKD_STORE__KIND": "directory",
            "HOOKD_STORE__DIRECTORY__PATH": str(here / "store"),
            "HOOKD_STORE__ZSTOR__CONFIG": "/etc/other.toml",
        }
    )


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
