"""The container's own variables: read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.container.layout import (
    NAMES,
    Settings,
    is_of_a_service,
    read_settings,
    stores_in_zstor,
)
from hookd.errors import ConfigError

ALL = {
    "QSFS_MOUNTPOINT": "/mnt/fs",
    "QSFS_MOUNT_OPTIONS": "allow_other,cachesize=128,",
    "QSFS_DATA_FILE_BYTES": "67108864",
    "QSFS_ROTATE_S": "0",
    "QSFS_BACKENDS_WAIT_S": "5",
    "QSFS_STOP_LIMIT_S": " 60 ",
}


def test_nothing_is_set() -> None:
    assert read_settings({"PATH": "/bin", "HOOKD_LOG__LEVEL": "debug"}) == Settings()


@pytest.mark.parametrize("service", ["QSFS", "QSFS_METRICS", "QSFS_A_2"])
def test_a_service_of_kubernetes(service: str) -> None:
    """It is called qsfs, qsfs-metrics, ...: every pod of its namespace is told of it."""
    port = (
        "PORT",
        "PORT_9464_TCP",
        *(f"PORT_9464_TCP_{each}" for each in ("PROTO", "PORT", "ADDR")),
    )
    told = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", *port)
    environ = {f"{service}_{name}": "tcp://10.0.0.1:9464" for name in told}
    assert read_settings(environ) == Settings()


def test_no_setting_is_taken_for_a_service() -> None:
    """None of the real ones, and none that only looks a little like it."""
    assert set(ALL) == NAMES
    for name in (*ALL, "QSFS_REPORT", "QSFS_PORTS", "QSFS_SERVICE", "QSFS_MOUNTPORT"):
        assert not is_of_a_service(name), name


def test_all_are_read() -> None:
    assert read_settings(ALL) == Settings(
        mountpoint=Path("/mnt/fs"),
        mount_options="allow_other,cachesize=128",
        data_file_bytes=64 << 20,
        rotate_s=0,
        backends_wait_s=5,
        stop_limit_s=60,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QSFS_MOUNTPOINT", "/srv"),
        ("QSFS_MOUNTPOINT", "/mnt/../etc"),
        ("QSFS_MOUNTPOINT", "/mnt/a b"),
        ("QSFS_MOUNT_OPTIONS", "a b"),
        ("QSFS_MOUNT_OPTIONS", "ro,unix=/tmp/other"),
        ("QSFS_DATA_FILE_BYTES", "16MiB"),
        ("QSFS_DATA_FILE_BYTES", "100"),
        ("QSFS_ROTATE_S", "-1"),
        ("QSFS_STOP_LIMIT_S", "0"),
        ("QSFS_STOPLIMIT", "1"),
    ],
)
def test_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({name: value})
    assert caught.value.key == name


def test_the_store() -> None:
    assert stores_in_zstor({})
    assert stores_in_zstor({"HOOKD_STORE__KIND": ""})
    assert not stores_in_zstor({"HOOKD_STORE__KIND": "directory"})
