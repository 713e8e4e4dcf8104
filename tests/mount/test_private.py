"""Passwords of every kind, and a control that is ours alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio
import pytest

from hookd.rclone.control import Refused, RemoteControl
from tests.mount.rig import PASSWORD, USER, HookdMount, Server, rclone, remote_variables

PASSWORDS = [
    "pass word",
    "star*",
    "$HOME",
    "-leading",
    "quote\"'`",
    "line\nend",
    "ümläut",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",  # could be obscured, by its letters
]


@pytest.mark.real
# Without its own text in the id: pytest puts that into the environment of what the test starts.
@pytest.mark.parametrize("password", PASSWORDS, ids=range(len(PASSWORDS)))
def test_passwords(mount: HookdMount, server: Server, password: str) -> None:
    """Each is taken as it is, by a file or by the variable; it is in no command line and no log."""
    server.change_password(password)
    secret = mount.folder / "secret"
    secret.write_text(password + "\n")
    del mount.variables["RCLONE_CONFIG_RSHARE_PASS"]
    mount.variables["RCLONE_CONFIG_RSHARE_PASS_FILE"] = str(secret)
    mount.start()
    mount.write(1)
    pid = mount.rclone_pid()
    for what in ("cmdline", "environ"):
        seen = Path(f"/proc/{pid}/{what}").read_bytes()
        assert password.encode() not in seen
        assert b"RCLONE_CONFIG_RSHARE" not in seen
    (config,) = mount.runtime.glob("mount-*/rclone.conf")
    assert config.stat().st_mode & 0o777 == 0o600
    assert password not in mount.ask("stats") + mount.log.read_text() + config.read_text()
    assert mount.stop() == 0


@pytest.mark.real
def test_password_of_a_kind_of_remote(mount: HookdMount, server: Server) -> None:
    """RCLONE_WEBDAV_PASS works, and is neither in rclone's environment nor in a line."""
    del mount.variables["RCLONE_CONFIG_RSHARE_PASS"]
    mount.variables["RCLONE_WEBDAV_PASS"] = PASSWORD
    mount.start()
    made = mount.write(1)
    pid = mount.rclone_pid()
    for what in ("cmdline", "environ"):
        assert PASSWORD.encode() not in Path(f"/proc/{pid}/{what}").read_bytes()
    assert PASSWORD not in mount.ask("stats") + mount.log.read_text()
    assert mount.stop() == 0
    assert server.files() == made


def test_obscured_password(mount: HookdMount, server: Server) -> None:
    """Given as `rclone obscure` makes it, it works too."""
    program = rclone()
    assert program is not None
    made = subprocess.run(
        [program, "obscure", "-"], input=server.password, capture_output=True, text=True, check=True
    )
    mount.variables["RCLONE_CONFIG_RSHARE_PASS"] = made.stdout.strip()
    mount.start()
    assert mount.stop() == 0


@pytest.mark.real
def test_rotated_password_finds_the_cache(mount: HookdMount, server: Server) -> None:
    """20 files left; the password is changed on both sides: all 20 go up from the same cache."""
    mount.settings |= {"write_back_s": 3600, "drain_timeout_s": 0}
    mount.start()
    made = mount.write(20)
    assert mount.stop() == 75
    server.change_password("another")
    mount.variables |= remote_variables(server)
    mount.start()
    assert server.files() == made
    assert mount.stop() == 0
    assert len([path for path in mount.cache.iterdir() if path.is_dir()]) == 1


@pytest.mark.real
def test_the_control_is_ours_alone(mount: HookdMount) -> None:
    """rclone's control: a socket in a folder that only we enter, and without the login it says no."""
    mount.start()
    (socket,) = mount.runtime.glob("mount-*/rc.sock")
    assert socket.parent.stat().st_mode & 0o777 == 0o700

    async def ask(user: str, password: str) -> None:
        with pytest.raises(Refused) as caught:
            await RemoteControl(socket, user, password).call("vfs/stats")
        assert caught.value.status == 401

    anyio.run(ask, "", "")
    anyio.run(ask, USER, PASSWORD)
    words = Path(f"/proc/{mount.rclone_pid()}/cmdline").read_bytes()
    assert b"no-auth" not in words
    assert b"rc-pass" not in words
    assert mount.stop() == 0
