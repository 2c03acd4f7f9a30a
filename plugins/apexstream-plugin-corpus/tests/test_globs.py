"""Which paths the include and exclude patterns take."""

import pytest
from apexstream_plugin_corpus.globs import Selection


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "deep/down/a.py", True),
        ("*.py", "a.pyc", False),
        ("*.py", "A.PY", False),
        ("tests", "pkg/tests/data/x.txt", True),
        ("tests/", "tests/x.py", True),
        ("tests/", "pkg/tests/x.py", True),
        ("Lib/*.py", "Lib/a.py", True),
        ("Lib/*.py", "Lib/sub/a.py", False),
        ("Lib/*.py", "x/Lib/a.py", False),
        ("/Lib", "Lib/a.py", True),
        ("/Lib", "x/Lib/a.py", False),
        ("./Lib/a.py", "Lib/a.py", True),
        ("docs/**/*.md", "docs/x.md", True),
        ("docs/**/*.md", "docs/a/b/c/x.md", True),
        ("docs/**", "docs/a/b", True),
        ("**/x", "x", True),
        ("a/**/b/**/c", "a/b/c", True),
        ("a/**/b/**/c", "a/1/b/2/3/c", True),
        ("a/**/b/**/c", "a/1/c", False),
        ("[ab]?.txt", "b1.txt", True),
        ("[!ab]*", "abc", False),
    ],
)
def test_a_pattern_matches_components_from_anywhere_and_paths_from_the_root(
    pattern: str, path: str, matches: bool
) -> None:
    assert Selection.of([pattern], []).takes(path) is matches


def test_without_include_everything_is_taken() -> None:
    assert Selection.of([], []).takes("any/thing")


def test_exclude_wins_over_include() -> None:
    selection = Selection.of(["*.py"], ["build"])

    assert selection.takes("src/a.py")
    assert not selection.takes("build/a.py")


def test_an_excluded_directory_is_known_as_such_before_it_is_entered() -> None:
    assert Selection.of([], ["node_modules"]).excludes("web/node_modules")


def test_many_wildcards_cost_no_exponential_time() -> None:
    selection = Selection.of(["**/a/" * 20 + "b", "*a" * 40 + "b"], [])

    assert not selection.takes("/".join(["a" * 60] * 60))
