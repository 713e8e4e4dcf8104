"""Who is told what of the life of a mount: all at once, and ready only while it is."""

from __future__ import annotations

from pathlib import Path

from hookd.mount.herald import Herald
from hookd.mount.state import Phase, State
from hookd.notify import Notify


class Told:
    """A herald, and everything that it says."""

    def __init__(self, ready_file: Path | None) -> None:
        self.lines: list[str] = []
        self.state = State(
            target="x:/", mountpoint="/m", cache="/c", min_free_bytes=0, read_only=False
        )
        self.herald = Herald(
            self.state,
            notify=Notify.from_environment({}),
            announce=self.lines.append,
            ready_file=ready_file,
        )


def test_ready_and_no_longer(tmp_path: Path) -> None:
    """The ready file exists exactly while the state says running; the first ready is what is timed."""
    path = tmp_path / "run" / "ready"
    told = Told(path)
    told.herald.ready()
    assert (told.state.phase, path.read_text()) == (Phase.RUNNING, "/m\n")
    first = told.state.ready_after_s
    assert told.lines == ["hookd mount is ready: x:/ is mounted at /m"]
    told.herald.remounting("it died\nof that", 1)
    assert (told.state.phase, path.exists()) == (Phase.REMOUNTING, False)
    assert (told.state.remounts, told.state.last_remount) == (1, "it died\nof that")
    assert told.lines[1:] == ["it died\\nof that; mounting again"]
    told.herald.ready()
    assert path.exists()
    assert told.state.ready_after_s == first
    told.herald.draining(3.0)
    assert told.state.phase is Phase.DRAINING


def test_a_ready_file_that_cannot_be_written_is_a_notice(
    tmp_path: Path,
) -> None:
    """The mount is ready all the same."""
    (tmp_path / "file").write_text("")
    told = Told(tmp_path / "file" / "ready")
    told.herald.ready()
    assert told.state.phase is Phase.RUNNING
    assert [text.split(":")[0] for text in told.state.notices] == ["mount.ready_file"]
