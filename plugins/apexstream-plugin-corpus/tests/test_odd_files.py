"""Every file gives exactly one report, whatever it is; what cannot be analysed says why."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import pytest
from apexstream_plugin_corpus import reading
from apexstream_plugin_corpus.analysis import analyse
from apexstream_plugin_corpus.report import FileReport
from apexstream_plugin_corpus.walk import Entry, Skip, Walk

Describe = Callable[..., FileReport]
AsNobody = Callable[[], AbstractContextManager[None]]


def _reports(root: Path, *, follow_symlinks: bool = False) -> dict[str, FileReport]:
    found = [
        analyse(root, entry, bytes_max=1 << 22, follow_symlinks=follow_symlinks)
        for entry in Walk(root, follow_symlinks=follow_symlinks)
    ]
    by_path = {report.path: report for report in found}
    assert len(by_path) == len(found), "a file has two reports"
    return by_path


@contextmanager
def _opened_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    opened: list[str] = []
    really_open = os.open

    def note_and_open(path: Path, flags: int) -> int:
        opened.append(Path(path).name)
        return really_open(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(reading.os, "open", note_and_open)
        yield opened


def test_a_file_without_read_permission_is_unreadable(tmp_path: Path, as_nobody: AsNobody) -> None:
    (tmp_path / "secret.py").write_text("x = 1\n")
    (tmp_path / "secret.py").chmod(0)

    with as_nobody():
        report = _reports(Path())["secret.py"]

    assert report.skipped is Skip.UNREADABLE
    assert report.note == "Permission denied"
    assert report.bytes == 6


def test_a_directory_that_cannot_be_listed_is_one_report(tmp_path: Path, as_nobody: AsNobody) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "a.py").write_text("x = 1\n")
    (tmp_path / "locked").chmod(0)

    with as_nobody():
        reports = _reports(Path())
    (tmp_path / "locked").chmod(0o755)

    assert list(reports) == ["locked"]
    assert reports["locked"].skipped is Skip.UNREADABLE
    assert reports["locked"].note == "directory cannot be listed: Permission denied"


def test_a_read_that_fails_in_the_middle_makes_the_file_unreadable(
    describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int, _count: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading.os, "read", fail)

    report = describe("broken_disk.py", "x = 1\n")

    assert (report.skipped, report.note) == (Skip.UNREADABLE, "Input/output error")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        ("no_suffix", b"\x7fELF\x02\x01\x01\0\0\0"),
        ("compressed.gz", b"\x1f\x8b\x08\x08\xff\xfe\xfd\xfc\x01\x02"),
        ("really_a_video.ts", b"\x47\x40\0\x10\0\xff\xf0\x80" * 100),
    ],
)
def test_a_binary_file_is_skipped_and_its_size_counted(describe: Describe, name: str, content: bytes) -> None:
    report = describe(name, content)

    assert report.skipped is Skip.BINARY
    assert report.bytes == len(content)
    assert report.lines == 0


def test_a_binary_file_costs_no_more_than_its_head(describe: Describe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    really_read = os.read

    def note_and_read(descriptor: int, count: int) -> bytes:
        asked.append(count)
        return really_read(descriptor, count)

    monkeypatch.setattr(reading.os, "read", note_and_read)

    describe("big.bin", b"\0" * 1_000_000)

    assert asked == [reading.HEAD_BYTES]


def test_a_huge_file_is_read_up_to_the_bound_and_to_the_end_of_a_line(describe: Describe) -> None:
    report = describe("huge.py", b"x = 1\n" * 10_000, bytes_max=1_000)

    assert report.skipped is None
    assert report.note == "partial: the first 996 of 60000 bytes"
    assert (report.bytes, report.lines) == (60_000, 166)


def test_a_huge_line_is_cut_within_it_and_within_a_character(describe: Describe) -> None:
    report = describe("one_line.md", "\u20ac" * 1_000, bytes_max=1_000)

    assert report.note == "partial: the first 1000 of 3000 bytes"
    assert report.lines == 1


def test_a_sparse_terabyte_costs_no_more_than_the_bound(tmp_path: Path) -> None:
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.write(b"text\n" * 2_000)
        file.truncate(1 << 40)

    report = _reports(tmp_path)["sparse.txt"]

    assert report.bytes == 1 << 40
    assert report.note is not None
    assert report.note.startswith("partial: the first ")


@pytest.mark.parametrize("content", [b"\n" * 10, b"a = 1\n" * 10])
def test_a_file_exactly_as_large_as_the_bound_is_whole(describe: Describe, content: bytes) -> None:
    assert describe("exact.py", content, bytes_max=len(content)).note is None


def test_a_declared_encoding_is_honoured(describe: Describe) -> None:
    report = describe("latin.py", "# coding: latin-1\ndef caf\u00e9():\n    return '\u00e9'\n".encode("latin-1"))

    assert report.note is None
    assert report.longest_function is not None
    assert report.longest_function.name == "caf\u00e9"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_honoured(describe: Describe, encoding: str) -> None:
    report = describe("marked.py", "import os\ndef \u00e9(): pass\n".encode(encoding))

    assert report.note is None
    assert (report.code, report.imports) == (2, ("os",))


@pytest.mark.parametrize(
    ("declared", "note"),
    [
        ("latin-9000", "unknown encoding: latin-9000"),
        ("punycode", "encoding punycode refused"),
        ("rot13", "not rot13"),
        ("zlib", "not zlib"),
    ],
)
def test_a_declaration_that_cannot_be_followed_is_noted_and_the_file_read_as_utf8(
    describe: Describe, declared: str, note: str
) -> None:
    report = describe("odd.py", f"# coding: {declared}\nx = '\u00e9'\n")

    assert report.note == note
    assert (report.code, report.comment) == (1, 1)


def test_undeclared_latin1_is_read_and_noted(describe: Describe) -> None:
    report = describe("old.c", "/* caf\u00e9 */\nint x;\n".encode("latin-1"))

    assert report.note == "not utf-8; read as latin-1"
    assert (report.code, report.comment) == (1, 1)


def test_a_syntax_error_is_noted_and_everything_else_still_known(describe: Describe) -> None:
    report = describe(
        "old.py", "import os, sys as s\nfrom a.b import c\n\ndef f():\n    print 'x'\n    return 1\n# end\n"
    )

    assert report.note is not None
    assert report.note.startswith("syntax error at line 5: ")
    assert report.imports == ("os", "sys", "a.b")
    assert report.longest_function is not None
    assert (report.longest_function.name, report.longest_function.lines) == ("f", 3)
    assert (report.code, report.comment, report.blank) == (5, 1, 1)


def test_null_bytes_in_source_are_noted(describe: Describe) -> None:
    report = describe("null.py", b"x = 1\n\0\ny = 2\n")

    assert report.skipped is None
    assert report.note is not None
    assert "null bytes" in report.note
    assert report.lines == 3


@pytest.mark.parametrize("content", ["(" * 50_000, "-" * 50_000 + "1", "x" + ".a" * 30_000, "9" * 10_000])
def test_source_that_no_parser_can_take_is_still_one_report(describe: Describe, content: str) -> None:
    report = describe("deep.py", content)

    assert report.skipped is None
    assert report.note is not None
    assert report.code == 1


def test_source_too_dense_to_be_parsed_at_once_is_read_by_lines(describe: Describe) -> None:
    report = describe("dense.py", "import os\n" + "def f():\n  a\n  b\n" * 30_000)

    assert report.note is not None
    assert report.note.startswith("too much code to parse at once")
    assert report.imports == ("os",)
    assert report.longest_function is not None
    assert report.longest_function.lines == 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_count_the_same(describe: Describe, end: str) -> None:
    report = describe(
        "ends.py", end.join(["# comment", "", "def f():", '    """Doc', "    string.", '    """', "    return 1"])
    )

    assert (report.code, report.comment, report.blank) == (2, 4, 1)


def test_an_empty_file_has_no_lines(describe: Describe) -> None:
    report = describe("empty.py")

    assert (report.lines, report.skipped, report.note) == (0, None, None)


def test_line_separators_that_only_python_strings_know_end_no_line(describe: Describe) -> None:
    assert describe("separators.txt", "a\x0bb\x0cc\x1cd\u2028e\x85f\n").lines == 1


def test_fifos_sockets_and_devices_are_reported_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 characters only
    os.mkfifo("fifo.py")
    (tmp_path / "device.py").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening, _opened_paths(monkeypatch) as opened:
        listening.bind("socket.py")

        reports = _reports(tmp_path, follow_symlinks=True)

    assert {path: report.note for path, report in reports.items()} == {
        "device.py": "character device, not opened",
        "fifo.py": "FIFO, not opened",
        "socket.py": "socket, not opened",
    }
    assert {report.skipped for report in reports.values()} == {Skip.SPECIAL}
    assert opened == []


def test_a_file_replaced_by_a_fifo_after_it_was_listed_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "was_a_file.py")

    report = analyse(tmp_path, Entry("was_a_file.py", 10), bytes_max=1 << 20)

    assert report.skipped is Skip.SPECIAL


def test_a_file_replaced_by_a_link_after_it_was_listed_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("x = 1\n")
    (tmp_path / "was_a_file.py").symlink_to("elsewhere.py")

    report = analyse(tmp_path, Entry("was_a_file.py", 10), bytes_max=1 << 20)

    assert report.skipped is Skip.UNREADABLE


@pytest.mark.parametrize("path", ["gone.py", "gone/too.py"])
def test_a_file_that_vanished_after_it_was_listed_is_one_report(tmp_path: Path, path: str) -> None:
    report = analyse(tmp_path, Entry(path, 10), bytes_max=1 << 20)

    assert (report.path, report.skipped) == (path, Skip.VANISHED)


def test_symbolic_links_are_reported_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.py").write_text("x = 1\n")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "link.py").symlink_to("real/a.py")

    reports = _reports(tmp_path)

    assert {path: report.skipped for path, report in reports.items()} == {
        "broken": Skip.SYMLINK,
        "link.py": Skip.SYMLINK,
        "real/a.py": None,
        "real/loop": Skip.SYMLINK,
    }


def test_followed_links_enter_no_directory_twice_and_no_loop(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.py").write_text("x = 1\n")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "xlink.py").symlink_to("real/a.py")
    (tmp_path / "zlink").symlink_to("real")

    reports = _reports(tmp_path, follow_symlinks=True)

    assert {path: report.skipped for path, report in reports.items()} == {
        "real/a.py": None,
        "real/up": Skip.SYMLINK,
        "self": Skip.SYMLINK,
        "xlink.py": None,
        "zlink": Skip.SYMLINK,
    }


def test_a_directory_behind_a_link_is_read_if_it_is_met_there_first(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "a.py").write_text("x = 1\n")
    (root / "link").symlink_to(outside)

    assert list(_reports(root, follow_symlinks=True)) == ["link/a.py"]


def test_a_file_name_that_is_no_utf8_stays_serialisable(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.py")
    (tmp_path / name).write_text("x = 1\n")

    report = _reports(tmp_path)["caf\\xe9.py"]

    assert report.note == "file name is not UTF-8"
    assert (report.code, report.language) == (1, "Python")
    assert json.loads(msgspec.json.encode(report))["path"] == "caf\\xe9.py"


def test_no_text_can_put_a_lone_surrogate_into_a_report(describe: Describe) -> None:
    report = describe("surrogate.py", b"# coding: utf-7\nimport +2AA-x\ny = 1 +\n")

    msgspec.json.encode(report)
    assert report.lines == 3


def test_deep_directories_are_walked_without_recursion(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 500)
    deep.mkdir(parents=True)
    (deep / "a.py").write_text("x = 1\n")

    reports = _reports(tmp_path)

    assert list(reports) == ["d/" * 500 + "a.py"]
    assert reports["d/" * 500 + "a.py"].code == 1


def test_a_path_longer_than_the_system_takes_is_one_report_that_says_so(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # 30 names of 200 characters: more than the 4096 of a path
        os.mkdir("n" * 200, dir_fd=descriptor)
        inner = os.open("n" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)

    (report,) = _reports(tmp_path).values()

    assert report.skipped is Skip.UNREADABLE
    assert report.note == "directory cannot be listed: File name too long"


def test_the_order_is_that_of_the_path_components(tmp_path: Path) -> None:
    for name in ["b.py", "a/z.py", "a.py", "a-b/c.py", "a/b/c.py", "A.py", "a b.py"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    found = list(_reports(tmp_path))

    assert found == sorted(found, key=lambda path: path.split("/"))
    assert len(found) == 7
