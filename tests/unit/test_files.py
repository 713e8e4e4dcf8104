"""Files: a path becomes a key or is refused, a key becomes the same path again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookd.errors import PathRefused
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key

namespaces = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))
keys = st.one_of(
    st.builds(index_key, namespaces, st.integers(0, 2**32 - 1)),
    st.builds(data_key, namespaces, st.integers(0, 2**32 - 1)),
    st.builds(namespace_key, namespaces),
)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Two roots with a namespace each, `ns`."""
    for root in ("index", "data"):
        (tmp_path / root / "ns").mkdir(parents=True)
    return Roots(tmp_path / "index", tmp_path / "data")


class TestFileKey:
    @given(keys)
    def test_text_and_back(self, key: FileKey) -> None:
        """The journal's text of a key is that key."""
        assert FileKey.parse(str(key)) == key
        assert hash(FileKey.parse(str(key))) == hash(key)

    @given(keys, keys)
    def test_text_tells_them_apart(self, one: FileKey, other: FileKey) -> None:
        """Two keys have one text only if they are the same file."""
        assert (str(one) == str(other)) == (one == other)

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            (index_key("ns", 0), "index/ns/i0"),
            (data_key("ns", 4294967295), "data/ns/d4294967295"),
            (namespace_key("a b"), "index/a b/zdb-namespace"),
        ],
    )
    def test_text(self, key: FileKey, text: str) -> None:
        """The text is what an administrator types and the directory store has as path."""
        assert str(key) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "i0",
            "index/i0",
            "index/ns/d0",
            "data/ns/i0",
            "data/ns/zdb-namespace",
            "index/ns/i01",
            "index/ns/i-1",
            "index/ns/i+1",
            "index/ns/i",
            "index/ns/i1 ",
            "index/ns/i1\n",
            "index/ns/i٣",
            "index/ns/i12345678901",
            "index/ns/I0",
            "other/ns/i0",
            "/index/ns/i0",
            "index/../i0",
            "index/./i0",
            "index//i0",
            "index/a/b/i0",
            "index/ns/i0/",
        ],
    )
    def test_what_is_no_key(self, text: str) -> None:
        """Nothing but zdb's own names is a key."""
        with pytest.raises(PathRefused) as refused:
            FileKey.parse(text)
        assert refused.value.reason

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", os.fsdecode(b"\xff")])
    def test_names_that_would_leave(self, name: str) -> None:
        """No namespace name leads out of the roots, nor is one that the journal cannot hold."""
        with pytest.raises(PathRefused):
            namespace_key(name)


class TestRoots:
    @pytest.mark.parametrize(
        "key",
        [index_key("ns", 7), data_key("ns", 7), namespace_key("ns"), data_key("a b\n", 0)],
        ids=str,
    )
    def test_path_and_back(self, roots: Roots, key: FileKey) -> None:
        """A key's path is that key again, whether or not the file exists."""
        assert roots.key(str(roots.path(key))) == key
        assert roots.path(key).name == key.name

    def test_relative(self, roots: Roots, tmp_path: Path) -> None:
        """A relative path is relative to zdb's folder, not to the daemon's."""
        assert roots.key("data/ns/d1", cwd=str(tmp_path)) == data_key("ns", 1)
        assert roots.key("../data/ns/d1", cwd=f"{tmp_path}/index") == data_key("ns", 1)
        with pytest.raises(PathRefused):
            roots.key("data/ns/d1")

    def test_through_a_link_to_the_root(self, roots: Roots, tmp_path: Path) -> None:
        """zdb may be started with a link to the folder: the key is the same."""
        (tmp_path / "link").symlink_to(tmp_path / "data")
        assert roots.key(f"{tmp_path}/link/ns/d1") == data_key("ns", 1)

    @pytest.mark.parametrize(
        "path",
        [
            "{tmp}/data/d0",
            "{tmp}/data/ns/../d0",
            "{tmp}/data/ns/deep/d0",
            "{tmp}/data/../other/ns/d0",
            "{tmp}/data/ns/../../other/ns/d0",
            "{tmp}/data/ns/d0/",
            "{tmp}/data/ns/d0/.",
            "{tmp}/data/ns",
            "{tmp}/data/out/d0",
            "{tmp}/index/ns/d0",
            "{tmp}/data/ns/i0",
            "/etc/passwd",
            "/d0",
            "",
            "/",
            "{tmp}/data/ns/d0\0",
            "{tmp}/data/n\0s/d0",
        ],
    )
    def test_what_is_outside(self, roots: Roots, tmp_path: Path, path: str) -> None:
        """A path that is not directly in a namespace of a root is refused."""
        (tmp_path / "other" / "ns").mkdir(parents=True)
        (tmp_path / "data" / "out").symlink_to(tmp_path / "other" / "ns")
        with pytest.raises(PathRefused):
            roots.key(path.replace("{tmp}", str(tmp_path)))

    def test_the_root_of_the_disk(self, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
        """`/d0` is in `/`, wherever the daemon itself stands."""
        monkeypatch.chdir(roots.data / "ns")
        with pytest.raises(PathRefused):
            roots.key("/d0")

    def test_a_link_in_a_files_place(self, roots: Roots, tmp_path: Path) -> None:
        """A file that points elsewhere is not read: `length` refuses it, dangling or not."""
        (tmp_path / "secret").write_text("x")
        (roots.data / "ns" / "d1").symlink_to(tmp_path / "secret")
        (roots.data / "ns" / "d2").symlink_to(tmp_path / "nowhere")
        for number in (1, 2):
            with pytest.raises(PathRefused, match="symbolic link"):
                roots.length(data_key("ns", number))

    def test_length(self, roots: Roots) -> None:
        """Bytes of what is there, None for what is not."""
        assert roots.length(data_key("ns", 0)) is None
        assert roots.length(data_key("elsewhere", 0)) is None
        roots.path(data_key("ns", 0)).write_bytes(b"abc")
        assert roots.length(data_key("ns", 0)) == 3

    def test_namespaces(self, roots: Roots, tmp_path: Path) -> None:
        """Folders of either root; no files, no links, no hidden ones; none without the roots."""
        (roots.index / "only-index").mkdir()
        (roots.data / "only-data").mkdir()
        (roots.data / ".hidden").mkdir()
        (roots.data / ".lockfile").touch()
        (roots.data / "file").touch()
        (roots.data / "link").symlink_to(tmp_path)
        assert roots.namespaces() == ["ns", "only-data", "only-index"]
        assert Roots(tmp_path / "no", tmp_path / "where").namespaces() == []

    def test_hidden_namespaces(self, roots: Roots) -> None:
        """zdb takes a name that begins with a dot: one that has files is a namespace."""
        for base, name, file in (
            (roots.index, ".new", "zdb-namespace"),
            (roots.index, ".index", "i0"),
            (roots.data, ".data", "d7"),
            (roots.data, ".other", "file"),
        ):
            (base / name).mkdir()
            (base / name / file).touch()
        assert roots.namespaces() == [".data", ".index", ".new", "ns"]

    def test_nameless(self, roots: Roots) -> None:
        """Names that are no UTF-8 are kept apart, and only those with files of zdb."""
        for name in (b"caf\xe9", b"\xff\xfe", "café".encode()):
            (roots.index / os.fsdecode(name)).mkdir()
        (roots.index / os.fsdecode(b"caf\xe9") / "i0").touch()
        assert roots.namespaces() == ["café", "ns"]
        assert roots.nameless() == [os.fsdecode(b"caf\xe9")]

    def test_numbers(self, roots: Roots) -> None:
        """Ascending by number (i9 before i10), and only what zdb names so."""
        for name in ("i10", "i9", "i0", "i01", "i", "d3", "i5.tmp", "zdb-namespace", ".hookd-i7"):
            (roots.index / "ns" / name).touch()
        assert roots.numbers(Kind.INDEX, "ns") == [0, 9, 10]
        assert roots.numbers(Kind.DATA, "ns") == []
        assert roots.numbers(Kind.DATA, "nowhere") == []

    def test_newest_data(self, roots: Roots) -> None:
        """The newest data file on disk, with its length, or the one that is asked for."""
        assert roots.newest_data("ns") == (0, 0)
        assert roots.newest_data("ns", 4) == (4, 0)
        roots.path(data_key("ns", 2)).write_bytes(b"12")
        roots.path(data_key("ns", 10)).write_bytes(b"1234567890")
        assert roots.newest_data("ns", 2) == (10, 10)
        assert roots.newest_data("ns", 11) == (11, 0)
