"""The digest tree says what a directory contains, the same however often it was interrupted."""

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from apexstream_plugin_longrun.digest import DigestTree, Finding, Position
from apexstream_plugin_longrun.listing import DEPTH_MAX
from apexstream_plugin_longrun.merkle import MerkleTree


def ignore(_: int) -> None:
    """Whatever was read."""


def digest(root: Path, position: Position | None = None) -> DigestTree:
    return DigestTree(os.fsencode(root), position, ignore)


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


@pytest.mark.parametrize("count", [*range(20), 63, 64, 65, 1000])
def test_the_tree_is_the_one_of_the_rfc(count: int):
    leaves = [str(number).encode() for number in range(count)]
    tree = MerkleTree()
    for leaf in leaves:
        tree.add(leaf)
    assert tree.root() == reference_root(leaves)
    assert len(tree.peaks) == count.bit_count()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    root = tmp_path / "sample"
    for path, content in {
        "b.txt": b"b" * 3_000_000,
        "a/one": b"1",
        "a/two": b"",
        "a/deep/er/file": b"x",
        "a.txt": b"a",
        "z/last": b"z",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "empty").mkdir()
    (root / "link").symlink_to("a/one")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"odd \xff")).write_bytes(b"o")
    return root


def test_files_have_the_digest_that_everyone_knows(sample: Path):
    found = {finding.path: finding for finding in digest(sample)}
    printed = subprocess.run(["sha256sum", "b.txt", "a/one"], cwd=sample, capture_output=True, check=True, text=True)
    expected = {line.split()[1]: line.split()[0] for line in printed.stdout.splitlines()}
    assert {path: found[path].digest for path in expected} == expected
    assert found["b.txt"].bytes == 3_000_000


def test_entries_come_in_the_order_of_their_bytes_and_directories_after_what_is_in_them(sample: Path):
    assert [(finding.kind, finding.path) for finding in digest(sample)] == [
        ("file", "a/deep/er/file"),
        ("directory", "a/deep/er"),
        ("directory", "a/deep"),
        ("file", "a/one"),
        ("file", "a/two"),
        ("directory", "a"),
        ("file", "a.txt"),
        ("file", "b.txt"),
        ("directory", "empty"),
        ("link", "link"),
        ("link", "loop"),
        ("file", "odd \\xff"),
        ("other", "pipe"),
        ("file", "z/last"),
        ("directory", "z"),
        ("tree", "."),
    ]


def test_the_root_adds_up(sample: Path):
    *_, tree = digest(sample)
    assert (tree.files, tree.bytes) == (7, 3_000_005)
    leaves = [
        b"\x00".join((kind, name, value))
        for kind, name, value in [
            (b"file", b"one", sha256(b"1").digest()),
            (b"file", b"two", sha256(b"").digest()),
        ]
    ]
    (sample / "a" / "deep" / "er" / "file").unlink()
    (sample / "a" / "deep" / "er").rmdir()
    (sample / "a" / "deep").rmdir()
    directory = next(finding for finding in digest(sample) if finding.path == "a")
    assert directory.digest == reference_root(leaves).hex()


@pytest.mark.parametrize("change", ["content", "name", "kind", "missing", "added"])
def test_every_change_changes_the_root(sample: Path, change: str):
    *_, before = digest(sample)
    target = sample / "a" / "one"
    if change == "content":
        target.write_bytes(b"2")
    elif change == "name":
        target.rename(sample / "a" / "uno")
    elif change == "kind":
        target.unlink()
        target.mkdir()
    elif change == "missing":
        target.unlink()
    else:
        (sample / "a" / "three").write_bytes(b"")
    *_, after = digest(sample)
    assert before.digest != after.digest


def test_resumed_after_every_single_finding_it_gives_the_same(sample: Path):
    whole = list(digest(sample))
    for cut in range(len(whole)):
        first = digest(sample)
        found = [next(first) for _ in range(cut)]
        state = msgspec.msgpack.encode(first.position())
        assert len(state) < 2000
        assert found + list(digest(sample, msgspec.msgpack.decode(state, type=Position))) == whole


def test_resumed_after_the_root_there_is_nothing_more(sample: Path):
    tree = digest(sample)
    assert len(list(tree)) == 16
    assert tree.position() == Position([])


def test_a_directory_that_vanished_while_it_was_away_ends_with_what_was_found(sample: Path):
    first = digest(sample)
    next(first)
    position = first.position()
    for path in ("a/deep/er/file", "a/deep/er", "a/deep"):
        (sample / path).unlink() if (sample / path).is_file() else (sample / path).rmdir()
    rest = list(digest(sample, position))
    assert [finding.path for finding in rest[:3]] == ["a/deep/er", "a/deep", "a/one"]


def test_what_cannot_be_read_has_a_note(tmp_path: Path):
    deep = tmp_path
    for _ in range(DEPTH_MAX + 5):
        deep = deep / "d"
    deep.mkdir(parents=True)
    notes = [finding for finding in digest(tmp_path) if finding.note]
    assert [finding.note for finding in notes] == [f"more than {DEPTH_MAX} directories deep, not entered"]
    assert notes[0].digest is None


def test_a_state_of_the_deepest_tree_fits(tmp_path: Path):
    deep = tmp_path
    for _ in range(DEPTH_MAX - 2):
        deep = deep / "directory"
        deep.mkdir()
        for number in range(7):
            (deep / f"a{number}").write_bytes(b"")
    tree = digest(tmp_path)
    sizes = [len(msgspec.msgpack.encode(tree.position())) for _ in tree]
    assert max(sizes) < 100_000


def test_no_directory_is_an_error_at_once(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(OSError, match="directory"):
            digest(path)


def test_an_empty_directory_has_a_root(tmp_path: Path):
    assert list(digest(tmp_path)) == [Finding(kind="tree", path=".", digest=sha256().hexdigest())]
