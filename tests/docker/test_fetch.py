"""The stage of the Dockerfile that gets the programs: downloaded from where it is told, and compared."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.docker import image as images
from tests.docker.container import docker as client

RELEASES = {
    "zdb": "0-db/releases/download/v2.0.5/zdb-2.0.5-linux-amd64-static",
    "zdbfs": "0-db-fs/releases/download/v0.1.11/zdbfs-0.1.11-amd64-linux-static",
    "zstor": "0-stor_v2/releases/download/v0.4.0/zstor_v2-x86_64-linux-musl",
    "zinit": "zinit/releases/download/v0.2.10/zinit",
}
"""The pinned versions, where their projects publish them."""


class Quiet(SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        return


class Mirror:
    """A web server with all releases, and builds of the stage from it."""

    def __init__(self, folder: Path, base: str) -> None:
        self.files = folder / "files"
        self.tag = f"hookd-test-fetch:{uuid.uuid4().hex[:12]}"
        self._base = base
        for name, path in RELEASES.items():
            target = self.files / path
            target.parent.mkdir(parents=True)
            target.write_text(f"#!/bin/sh\necho {name}\n")
        serve = partial(Quiet, directory=str(self.files))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), serve)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.context = folder / "context"
        self._make_context()

    def _make_context(self) -> None:
        """The stages `fetch` and `components` of the Dockerfile, as they stand there."""
        text = (images.REPOSITORY / "Dockerfile").read_text()
        begin, end = text.index("FROM ${BASE} AS fetch"), text.index("FROM ${BASE} AS python")
        stages = f"ARG BASE\n{text[begin:end]}\nFROM components\nENTRYPOINT []\n"
        (self.context / "rootfs" / "components").mkdir(parents=True)
        (self.context / "Dockerfile").write_text(stages)
        source = images.REPOSITORY / "rootfs" / "fetch-component"
        target = self.context / "rootfs" / "fetch-component"
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)
        (self.context / "rootfs" / "components" / "README.md").write_text("put them here\n")

    def build(self, **arguments: str) -> subprocess.CompletedProcess[str]:
        given = {
            "BASE": self._base,
            "COMPONENTS_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            **arguments,
        }
        words = [word for item in given.items() for word in ("--build-arg", "=".join(item))]
        command = [
            "docker",
            "build",
            "--force-rm",
            "--network",
            "host",
            "-t",
            self.tag,
            *words,
            self.context,
        ]
        return images.run(*map(str, command))

    def says(self, name: str) -> str:
        """What a program in the built image prints."""
        return client("run", "--rm", self.tag, f"/components/{name}").stdout.strip()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        client("rmi", "--force", self.tag, check=False)


@pytest.fixture(scope="module")
def base() -> str:
    """With curl, so that not each build installs it."""
    if reason := images.missing_docker():
        pytest.skip(reason)
    return images.base_with("ca-certificates", "curl")


@pytest.fixture
def mirror(tmp_path: Path, base: str) -> Iterator[Mirror]:
    made = Mirror(tmp_path, base)
    yield made
    made.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_downloaded_and_compared(mirror: Mirror) -> None:
    """All four, each with the sum that was given."""
    sums = {f"{n.upper()}_SHA256": sha256(mirror.files / path) for n, path in RELEASES.items()}
    built = mirror.build(**sums)
    assert built.returncode == 0, built.stdout + built.stderr
    assert {name: mirror.says(name) for name in RELEASES} == {name: name for name in RELEASES}


def test_another_version(mirror: Mirror) -> None:
    """Of the build argument."""
    path = mirror.files / RELEASES["zinit"].replace("0.2.10", "0.2.14")
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\necho newer\n")
    assert mirror.build(ZINIT_VERSION="0.2.14").returncode == 0
    assert mirror.says("zinit") == "newer"


@pytest.mark.parametrize("name", RELEASES)
def test_a_wrong_sum(mirror: Mirror, name: str) -> None:
    """One line that names the program and the sum; no image."""
    wrong = "0" * 64
    built = mirror.build(**{f"{name.upper()}_SHA256": wrong})
    assert built.returncode != 0
    assert f"{name} does not have the SHA-256 {wrong}" in built.stdout + built.stderr


def test_not_there(mirror: Mirror) -> None:
    """One line with the address and the way without a download."""
    (mirror.files / RELEASES["zstor"]).unlink()
    built = mirror.build()
    assert built.returncode != 0
    said = built.stdout + built.stderr
    assert f"{RELEASES['zstor']} cannot be downloaded; put zstor into rootfs/components/" in said


def test_given_ones_are_taken(mirror: Mirror) -> None:
    """What lies in rootfs/components/ is not downloaded, but compared all the same."""
    (mirror.files / RELEASES["zdb"]).unlink()
    given = mirror.context / "rootfs" / "components" / "zdb"
    given.write_text("#!/bin/sh\necho given\n")
    assert mirror.build(ZDB_SHA256="0" * 64).returncode != 0
    assert mirror.build(ZDB_SHA256=sha256(given)).returncode == 0
    assert mirror.says("zdb") == "given"
