"""An rclone for tests: what the rclone store asks of `rclone rcd`, over a folder.

Run as a program (`FakeRclone.program`), so that starting, dying and hanging are real. How it
behaves is in a JSON file that each request reads anew; what it was asked is in another, a line each.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socketserver
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 64 << 10


class FakeRclone:
    """The test's side: where the program is, how it behaves, what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fake-rclone"
        self.remote = self.folder / "remote"
        self.remote.mkdir(parents=True)
        self.program = self.folder / "rclone"
        self.program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\n"
            f"from tests.fakes.rclone import main\nmain({str(self.folder)!r})\n"
        )
        self.program.chmod(0o755)
        self.behave()

    def behave(self, **how: object) -> None:
        """From now on so:

        `features` and `hashes` of the remote; `fail`: command → [status, text]; `hang`: commands
        that never answer; `cut`: a GET sends half; `corrupt`: an upload changes a byte;
        `slow_s`: pause of an upload after each piece; `exit`: [code, text] at the start;
        `version`: its own;
        `hash_missing`: no hash of any object; `modified`: the time of change of all of them.
        """
        fresh = self.folder / "behaviour.new"
        fresh.write_text(json.dumps(how))
        fresh.rename(self.folder / "behaviour")

    def asked(self, command: str = "") -> list[dict[str, Any]]:
        """What was asked, of one command or of all; `command` and `parameters` each."""
        try:
            lines = (self.folder / "asked").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [each for each in found if command in ("", each["command"])]

    def started(self) -> list[dict[str, Any]]:
        """`argv` and `environ` of each start."""
        return [each["parameters"] for each in self.asked("start")]


class Refusal(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


def digest(name: str, content: bytes) -> str:
    """One of hashlib's, or any other name for one that only rclone knows."""
    known = name if name in hashlib.algorithms_guaranteed else "sha3_256"
    return hashlib.new(known, content).hexdigest()


class Rcd:
    """The commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.remote = folder / "remote"
        self.jobs: dict[int, str] = {}
        self.stopped: set[int] = set()
        self._next = 0
        self._lock = threading.Lock()

    def how(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "behaviour").read_text())
        return found

    def note(self, command: str, parameters: Mapping[str, object]) -> None:
        with self._lock, (self.folder / "asked").open("a") as file:
            file.write(json.dumps({"command": command, "parameters": parameters}) + "\n")

    def meddle(self, command: str) -> None:
        how = self.how()
        if command in how.get("hang", ()):
            time.sleep(3600)
        if command in how.get("fail", {}):
            raise Refusal(*how["fail"][command])
        if not self.remote.is_dir():
            raise Refusal(500, "dial tcp 127.0.0.1:9: connect: connection refused")

    def run(self, command: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.note(command, parameters)
        with self._lock:
            self._next += 1
            number = self._next
            self.jobs[number] = str(parameters.get("_group"))
        try:
            if command.startswith("operations/"):
                self.meddle(command)
            name = command.replace("/", "_")
            handler: Callable[[int, dict[str, Any]], dict[str, Any] | None] = getattr(self, name)
            return handler(number, parameters) or {}
        finally:
            self.jobs.pop(number, None)

    # -- one method a command ------------------------------------------------------------------

    def rc_noop(self, job: int, p: dict[str, Any]) -> None: ...

    def job_list(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        return {"runningIds": list(self.jobs)}

    def job_status(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        if p["jobid"] not in self.jobs:
            raise Refusal(500, "job not found")
        return {"finished": False, "group": self.jobs[p["jobid"]]}

    def job_stop(self, job: int, p: dict[str, Any]) -> None:
        self.stopped.add(p["jobid"])

    def operations_fsinfo(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        how = self.how()
        return {
            "Features": {"Move": True, "PartialUploads": True, **how.get("features", {})},
            "Hashes": how.get("hashes", ["md5"]),
            "Precision": 1_000_000_000,
            "Root": str(self.remote) if how.get("plain") else "",
            "String": f"Local file system at {self.remote}" if how.get("plain") else "fake root ''",
        }

    def operations_stat(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        how, path = self.how(), self.remote / p["remote"]
        if not path.is_file():
            return {"item": None}
        content = path.read_bytes()
        hashes = {
            name: digest(name, content)
            for name in (p.get("opt") or {}).get("hashTypes", ())
            if not how.get("hash_missing")
        }
        modified = how.get("modified") or str(int(path.stat().st_mtime))
        return {"item": {"Size": len(content), "ModTime": modified, "Hashes": hashes}}

    def operations_copyfile(self, job: int, p: dict[str, Any]) -> None:
        how = self.how()
        source = Path(p["srcFs"]) / p["srcRemote"]
        try:
            reader = source.open("rb")
        except FileNotFoundError:
            raise Refusal(404, "object not found") from None
        target = self.remote / p["dstRemote"]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        with reader, partial.open("wb") as writer:
            while piece := reader.read(PIECE):
                writer.write(bytes([piece[0] ^ 1]) + piece[1:] if how.get("corrupt") else piece)
                time.sleep(how.get("slow_s", 0))
                if job in self.stopped:
                    partial.unlink()
                    raise Refusal(500, "context canceled")
        partial.rename(target)

    def operations_hashsumfile(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        return {"hash": digest(p["hashType"], (Path(p["fs"]) / p["remote"]).read_bytes())}

    def operations_movefile(self, job: int, p: dict[str, Any]) -> None:
        target = self.remote / p["dstRemote"]
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.remote / p["srcRemote"]).rename(target)

    def operations_deletefile(self, job: int, p: dict[str, Any]) -> None:
        try:
            (self.remote / p["remote"]).unlink()
        except (FileNotFoundError, NotADirectoryError):
            raise Refusal(404, "object not found") from None

    def operations_list(self, job: int, p: dict[str, Any]) -> dict[str, Any]:
        try:
            entries = list(os.scandir(self.remote / p["remote"]))
        except FileNotFoundError:
            raise Refusal(404, "error in ListJSON: directory not found") from None
        folders = bool(p["opt"].get("dirsOnly"))
        return {"list": [{"Name": each.name} for each in entries if each.is_dir() == folders]}

    def upload(self, folder: str, body: bytes) -> None:
        self.note("operations/uploadfile", {"remote": folder})
        self.meddle("operations/uploadfile")
        head, _, rest = body.partition(b"\r\n\r\n")
        boundary = head.split(b"\r\n", 1)[0]
        name = head.split(b'filename="', 1)[1].split(b'"', 1)[0].decode()
        target = self.remote / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(rest[: rest.rindex(b"\r\n" + boundary)])
        partial.rename(target)


class Handler(http.server.BaseHTTPRequestHandler):
    rcd: Rcd

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        where = urlsplit(self.path)
        try:
            if where.path == "/operations/uploadfile":
                self.rcd.upload(parse_qs(where.query)["remote"][0], body)
                answer: dict[str, Any] = {}
            else:
                answer = self.rcd.run(where.path[1:], json.loads(body))
            self._say(200, json.dumps(answer).encode())
        except Refusal as error:
            self._say(error.status, json.dumps({"error": error.text}).encode())

    def do_GET(self) -> None:
        path = unquote(self.path).partition("]/")[2]
        self.rcd.note("GET", {"path": path})
        try:
            self.rcd.meddle("GET")
            content = (self.rcd.remote / path).read_bytes()
        except Refusal as error:
            self._say(error.status, json.dumps({"error": error.text}).encode())
        except (FileNotFoundError, NotADirectoryError):
            text = "failed to find object: object not found"
            self._say(404, json.dumps({"error": text}).encode())
        else:
            half = content[: len(content) // 2] if self.rcd.how().get("cut") else content
            self._say(200, half, length=len(content))

    def _say(self, status: int, body: bytes, *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # whoever asked has hung up


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main(folder: str) -> None:
    """`rclone version`, `rclone listremotes` and `rclone rcd`."""
    rcd = Rcd(Path(folder))
    if sys.argv[1] == "version":
        print(f"rclone v{rcd.how().get('version', '1.75.2')}\n- os/type: linux")
        return
    if sys.argv[1] == "listremotes":
        print("nas:\nhookdstore:")
        return
    assert sys.argv[1] == "rcd"
    rcd.note("start", {"argv": sys.argv[1:], "environ": dict(os.environ)})
    code, text = rcd.how().get("exit", (None, ""))
    if code is not None:
        print(text, file=sys.stderr)
        sys.exit(code)
    shutil.rmtree(rcd.remote / ".hookd" / "tmp", ignore_errors=True)
    place = sys.argv[sys.argv.index("--rc-addr") + 1].removeprefix("unix://")
    assert stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode) == 0o700
    Handler.rcd = rcd
    with Server(place, Handler) as server:
        server.serve_forever(0.05)
