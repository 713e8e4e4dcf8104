"""zstor's configuration as the container needs it: one line for what is wrong, none of its secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd.container.zstor_toml import check
from hookd.errors import ConfigError

KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
PASSWORD = "correct-horse-battery"
MNT = Path("/mnt")


def backend(address: str) -> str:
    return f'address = "{address}"\nnamespace = "ns"\npassword = "{PASSWORD}"\n'


def text() -> str:
    lines = [
        'socket = "/var/run/zstor.sock"',
        'zdbfs_mountpoint = "/mnt"',
        'zdb_data_dir_path = "/data/data/zdbfs-data"',
        "minimal_shards = 2",
        "expected_shards = 4",
        "redundant_groups = 0",
        "redundant_nodes = 0",
        f'[encryption]\nalgorithm = "AES"\nkey = "{KEY}"',
        '[compression]\nalgorithm = "snappy"',
        '[meta]\ntype = "zdb"\n[meta.config]\nprefix = "p"',
        f'[meta.config.encryption]\nalgorithm = "AES"\nkey = "{KEY}"',
    ]
    for number in range(4):
        lines.append(f"[[meta.config.backends]]\n{backend(f'[2001:db8::{number + 1}]:9900')}")
    lines.append("[[groups]]")
    for number in range(4):
        lines.append(f"[[groups.backends]]\n{backend(f'192.0.2.{number + 1}:9901')}")
    return "\n".join(lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zstor.toml"


def test_right(path: Path) -> None:
    path.write_text(text())
    backends, secrets = check(path, MNT)
    assert backends.meta[0] == ("2001:db8::1", 9900)
    assert backends.data[3] == ("192.0.2.4", 9901)
    assert {KEY, PASSWORD} <= set(secrets)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('zdbfs_mountpoint = "/mnt"\n', ""),
        ('zdb_data_dir_path = "/data/data/zdbfs-data"\n', ""),
        ("/var/run/zstor.sock", "/run/zstor.sock"),
        ("socket =", 'root = "/"\nsocket ='),
        ('"/mnt"', '"/mnt/"'),
    ],
)
def test_right_as_well(path: Path, old: str, new: str) -> None:
    assert old in text()
    path.write_text(text().replace(old, new))
    check(path, MNT)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("socket =", "sockte =", "sockte is no key"),
        ('socket = "/var/run/zstor.sock"', "", "socket is not set"),
        ("/var/run/zstor.sock", "/tmp/z.sock", "socket is '/tmp/z.sock'"),
        ('"/mnt"', '"/qsfs"', 'zdbfs_mountpoint = "/mnt"'),
        ("zdbfs-data", "other", 'zdb_data_dir_path = "/data/data/zdbfs-data"'),
        ("socket =", 'root = "/srv"\nsocket =', "root = '/srv'"),
        ("socket =", "max_zdb_data_dir_size = 9\nsocket =", "max_zdb_data_dir_size"),
        ("minimal_shards = 2", "minimal_shards = 5", "minimal_shards"),
        ("minimal_shards = 2", 'minimal_shards = "2"', "minimal_shards is needed"),
        ("expected_shards = 4", "expected_shards = 5", "only 4"),
        ("[compression]", "[compresion]", "compresion is no key"),
        (f'key = "{KEY}"', f'key = "{PASSWORD}"', "encryption.key"),
        (f'key = "{KEY}"\n[compr', "[compr", "encryption.key"),
        ('type = "zdb"', 'type = "etcd"', "meta"),
        ("192.0.2.1:9901", "node.example:9901", "no host names"),
        ("192.0.2.1:9901", "192.0.2.1", "address"),
        ("192.0.2.1:9901", "192.0.2.1:0", "no port"),
        ("[2001:db8::1]:9900", "2001:db8::1:9900", "in brackets"),
        ('namespace = "ns"', "", "namespace"),
        ("[[groups]]", "[groups]", "[[groups]]"),
        ("socket =", "socket = =", "is no TOML"),
    ],
)
def test_wrong(path: Path, old: str, new: str, words: str) -> None:
    assert old in text()
    path.write_text(text().replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        check(path, MNT)
    line = str(caught.value)
    assert str(path) in line
    assert words in line
    assert "\n" not in line
    assert KEY not in line
    assert PASSWORD not in line


def test_three_metadata_backends(path: Path) -> None:
    lone = f"[[meta.config.backends]]\n{backend('[2001:db8::4]:9900')}"
    path.write_text(text().replace(lone, ""))
    with pytest.raises(ConfigError, match="needs exactly 4"):
        check(path, MNT)


def test_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        check(path, MNT)
    path.mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check(path, MNT)


def test_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        check(path, MNT)
