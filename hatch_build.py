"""Build hook: hookd/shim/*.c into the executable `hookd-shim`, shipped beside the script `hookd`.

A wheel's `shared_scripts` land in the folder of the console scripts, for an editable install too.
The shim is linked statically where libc allows: the start of a process is most of what a hook
costs, and a dynamic loader doubles it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SHIM = "hookd-shim"
_FLAGS = ("-std=c11", "-O2", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-s")
_LINKAGES = (("-static",), ())
_ADVICE = "install gcc (Debian: apt-get install gcc libc6-dev) or set CC"


class ShimBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # generic only for checkers
    """Adds the compiled shim to every wheel, standard and editable; the sdist ships its source."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is written. Ends the build with one line if that fails."""
        # Removed by `finalize`, or when the process ends because something failed before it.
        self._folder = tempfile.TemporaryDirectory(prefix="hookd-build-")
        shim = Path(self._folder.name, _SHIM)
        _compile(Path(self.root, "hookd", "shim"), shim, self.metadata.version)
        build_data["shared_scripts"][str(shim)] = _SHIM
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` left; the wheel has its own copy."""
        self._folder.cleanup()


def _platform() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _compiler() -> list[str]:
    """$CC, which may hold arguments (`ccache gcc`); without it the first usual name on PATH."""
    wanted = shlex.split(os.environ.get("CC", ""))
    for words in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(words[0]):
            return words
    raise SystemExit(f"hookd: no C compiler found: {_ADVICE}")


def _compile(sources: Path, target: Path, version: str) -> None:
    """Compile all of `sources` into `target`; run inside the folder, so that no path gets in."""
    command = [
        *_compiler(),
        *_FLAGS,
        f'-DHOOKD_VERSION="{version}"',
        *(source.name for source in sorted(sources.glob("*.c"))),
        "-o",
        str(target),
    ]
    for linkage in _LINKAGES:
        run = subprocess.run(
            [*command, *linkage], cwd=sources, capture_output=True, text=True, check=False
        )
        if run.returncode == 0:
            return
    reason = next((line for line in run.stderr.splitlines() if "error" in line), "no reason given")
    raise SystemExit(f"hookd: {command[0]} cannot compile the shim ({reason.strip()}): {_ADVICE}")
