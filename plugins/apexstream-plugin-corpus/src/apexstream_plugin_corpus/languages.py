"""The languages that are told apart, and what is known of each: one table, looked up by file name or shebang.

Patterns are kept as text and compiled when a file of the language is met first; ``re`` caches them.
"""

import re
from dataclasses import dataclass

from apexstream_plugin_corpus.syntax import (
    block,
    long_quoted,
    nested_block,
    quoted,
    raw_quoted,
    to_line_end,
    tokens,
    whole_line,
)


@dataclass(frozen=True, slots=True)
class Language:
    """``tokens`` finds comments and strings (empty: the language has no comments, every line that is not blank is code).

    ``imports`` finds imported modules, in its last group that took part; a list of quoted names there is several of them.
    ``function`` finds a function's name (group 1) in what stands before the brace that opens its body. Both may be empty.
    """

    name: str
    suffixes: str = ""
    tokens: str = ""
    imports: str = ""
    function: str = ""
    file_names: str = ""
    interpreters: str = ""
    may_declare_encoding: bool = False


UNKNOWN = Language("Unknown")

_DOUBLE, _SINGLE = quoted('"'), quoted("'")
_C_COMMENTS = [to_line_end("//"), block("/*", "*/")]
_NESTED_COMMENTS = [to_line_end("//"), nested_block("/*", "*/")]
_C_TOKENS = tokens(_C_COMMENTS, [_DOUBLE, _SINGLE], starts="\"'/")
_TEXT_BLOCKS = [long_quoted('"""'), _DOUBLE, _SINGLE]
_PYTHON_TOKENS = tokens([to_line_end("#")], [long_quoted('"""'), long_quoted("'''"), _DOUBLE, _SINGLE], starts="\"'#")
_JS_TOKENS = tokens(_C_COMMENTS, [_DOUBLE, _SINGLE, long_quoted("`")], starts="\"'`/")
_GO_TOKENS = tokens(_C_COMMENTS, [_DOUBLE, _SINGLE, raw_quoted("`", "`")], starts="\"'`/")
_RUST_CHAR = r"'(?:\\[^\n']{1,10}|\\'|[^\\'\n])'"  # and not a lifetime, which has no closing quote
_RUST_TOKENS = tokens(
    _NESTED_COMMENTS,
    [raw_quoted(r"\bb?r(?P<hashes>#*+)\"", r"\"(?P=hashes)"), long_quoted('"'), _RUST_CHAR],
    starts="\"'/br",
)
_HASH_LINES = tokens([whole_line("#")])
_MARKUP_TOKENS = tokens([block("<!--", "-->")], starts="<")
# A here-document: << and a word in capitals or quotes, and no arithmetic shift. The rest of the line is still code.
_HEREDOC = r"(?<![\w)<])<<-?[ \t]*(?:(?P<quote>[\"'])(?P<quoted>\w+)(?P=quote)|(?P<bare>[A-Z_][A-Z0-9_]*))[^\n]*+\n"
_HEREDOC_END = r"^[ \t]*(?:(?P=quoted)|(?P=bare))(?=\n)"
_SHELL_TOKENS = tokens([whole_line("#")], [raw_quoted(_HEREDOC, _HEREDOC_END)])
_SQL_TOKENS = tokens(
    [to_line_end("--"), block("/*", "*/")], [raw_quoted("'", "'"), raw_quoted('"', '"')], starts="-/'\""
)
_LUA_TOKENS = tokens([block("--[[", "]]"), to_line_end("--")], [_DOUBLE, _SINGLE], starts="-\"'")

_DOTTED_IMPORT = r"(?m)^[ \t]*import\s+(?:static\s+)?(\w+(?:\.\w+)*(?:\.\*)?)"
_C_INCLUDE = r"(?m)^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"\n]{1,200})[>\"]"
_JS_IMPORT = r"\b(?:from|import|require)\s*\(?\s*['\"]([^'\"\n]{1,200})['\"]"
_GO_IMPORT = r"(?m)^import\s+(?:\(([^()]*)\)|(?:[\w.]+\s+)?(\"[^\"\n]{1,200}\"))"
_RUST_USE = r"(?m)^[ \t]*(?:pub(?:\([^)\n]*\))?\s+)?(?:use|extern crate)\s+(\w+(?:::\w+)*)"
_RUBY_REQUIRE = r"(?m)^[ \t]*(?:require|require_relative|load)[ \t(]+['\"]([^'\"\n]{1,200})"

_CONTROL_WORDS = "if|for|while|switch|catch|return|sizeof|synchronized|using|lock|foreach"
_ARGUMENTS = r"\([^(){};]*(?:\([^(){};]*\)[^(){};]*)*+\)"
_CALLABLE = rf"\b(?<!new )(?!(?:{_CONTROL_WORDS})\b)([A-Za-z_]\w*+)\s*+{_ARGUMENTS}[\s\w:,<>]*+$"
_KEYWORD_FUNCTION = r"\b(?:func|fn|fun|function|def)\b[\s*&]*(?:\([^()]*\)\s*|<[^>]*>\s*)?(?:\w+\.)*(\w+)(?=\s*[\[(<])"
_ARROW = r"\b(?:const|let|var)\s+(?=\w+\s*(?::[^=]*)?=\s*(?:async\s*)?(?:\([^()]*\)|\w+)[^=]*=>\s*$)"
_JS_FUNCTION = rf"(?:\bfunction\b[\s*]*|{_ARROW})(\w+)"

LANGUAGES = (
    Language("Python", ".py .pyi .pyw", _PYTHON_TOKENS, interpreters="python pypy", may_declare_encoding=True),
    Language("C", ".c .h", _C_TOKENS, _C_INCLUDE, _CALLABLE),
    Language("C++", ".cc .cpp .cxx .hh .hpp .hxx", _C_TOKENS, _C_INCLUDE, _CALLABLE),
    Language("C#", ".cs", _C_TOKENS, r"(?m)^[ \t]*using\s+(?:static\s+)?([\w.]+)\s*;", _CALLABLE),
    Language("Java", ".java", tokens(_C_COMMENTS, _TEXT_BLOCKS, starts="\"'/"), _DOTTED_IMPORT, _CALLABLE),
    Language(
        "Kotlin", ".kt .kts", tokens(_NESTED_COMMENTS, _TEXT_BLOCKS, starts="\"'/"), _DOTTED_IMPORT, _KEYWORD_FUNCTION
    ),
    Language(
        "Scala", ".scala", tokens(_NESTED_COMMENTS, _TEXT_BLOCKS, starts="\"'/"), _DOTTED_IMPORT, _KEYWORD_FUNCTION
    ),
    Language(
        "Swift",
        ".swift",
        tokens(_NESTED_COMMENTS, [long_quoted('"""'), _DOUBLE], starts='"/'),
        _DOTTED_IMPORT,
        _KEYWORD_FUNCTION,
    ),
    Language("Go", ".go", _GO_TOKENS, _GO_IMPORT, _KEYWORD_FUNCTION),
    Language("Rust", ".rs", _RUST_TOKENS, _RUST_USE, _KEYWORD_FUNCTION),
    Language("JavaScript", ".js .mjs .cjs .jsx", _JS_TOKENS, _JS_IMPORT, _JS_FUNCTION, interpreters="node"),
    Language("TypeScript", ".ts .tsx .mts .cts", _JS_TOKENS, _JS_IMPORT, _JS_FUNCTION, interpreters="deno bun"),
    Language(
        "PHP",
        ".php",
        tokens([*_C_COMMENTS, r"#(?!\[)[^\n]*+"], [_DOUBLE, _SINGLE], starts="\"'/#"),
        r"(?m)^[ \t]*use\s+([\w\\]+)",
        _KEYWORD_FUNCTION,
        interpreters="php",
    ),
    Language(
        "Ruby",
        ".rb .rake",
        tokens([whole_line("#"), r"^=begin\b(?s:.*?)(?:^=end\b[^\n]*+|\Z)"]),
        _RUBY_REQUIRE,
        file_names="Rakefile Gemfile",
        interpreters="ruby",
        may_declare_encoding=True,
    ),
    Language(
        "Perl",
        ".pl .pm",
        tokens([whole_line("#"), r"^=[a-z]\w*+(?s:.*?)(?:^=cut\b[^\n]*+|\Z)"]),
        r"(?m)^[ \t]*(?:use|require)[ \t]+([A-Za-z][\w:]*)",
        interpreters="perl",
    ),
    Language("Lua", ".lua", _LUA_TOKENS, r"\brequire\b[ \t(]*['\"]([^'\"\n]{1,200})", interpreters="lua"),
    Language(
        "Shell",
        ".sh .bash .zsh .ksh",
        _SHELL_TOKENS,
        r"(?m)^[ \t]*(?:source|\.)[ \t]+([^\s;&|]{1,200})",
        interpreters="sh bash dash zsh ksh ash",
        may_declare_encoding=True,
    ),
    Language("PowerShell", ".ps1 .psm1 .psd1", tokens([block("<#", "#>"), whole_line("#")])),
    Language("Batch", ".bat .cmd", tokens([whole_line(r"@?(?i:rem)\b|::")])),
    Language("SQL", ".sql", _SQL_TOKENS),
    Language("R", ".r", _HASH_LINES, r"(?m)^[ \t]*(?:library|require)\(['\"]?([\w.]+)", interpreters="Rscript"),
    Language("Tcl", ".tcl", _HASH_LINES, interpreters="tclsh wish"),
    Language("TeX", ".tex .sty", tokens([whole_line("%")])),
    Language("decTest", ".dectest", tokens([whole_line("--")])),
    Language("HTML", ".html .htm .xhtml", _MARKUP_TOKENS),
    Language("XML", ".xml .xsl .xslt .xsd .svg", _MARKUP_TOKENS),
    Language("CSS", ".css", tokens([block("/*", "*/")], [_DOUBLE, _SINGLE], starts="\"'/")),
    Language("SCSS", ".scss .less", _C_TOKENS),
    Language("Markdown", ".md .markdown", _MARKUP_TOKENS),
    Language("reStructuredText", ".rst"),
    Language("Text", ".txt", file_names="README LICENSE COPYING CHANGES NEWS AUTHORS"),
    Language("JSON", ".json .jsonl .ipynb .avsc"),
    Language("YAML", ".yaml .yml", _HASH_LINES),
    Language(
        "TOML", ".toml", tokens([whole_line("#")], [long_quoted('"""'), raw_quoted("'''", "'''")]), file_names="Pipfile"
    ),
    Language("INI", ".ini .cfg .conf .properties", tokens([whole_line("[#;]")])),
    Language("Make", ".mk .mak", _HASH_LINES, file_names="Makefile makefile GNUmakefile", interpreters="make"),
    Language("Dockerfile", ".dockerfile", _HASH_LINES, file_names="Dockerfile Containerfile"),
    Language("CMake", ".cmake", _HASH_LINES, file_names="CMakeLists.txt"),
)

_BY_SUFFIX = {suffix: language for language in LANGUAGES for suffix in language.suffixes.split()}
_BY_FILE_NAME = {name: language for language in LANGUAGES for name in language.file_names.split()}
_BY_INTERPRETER = {name: language for language in LANGUAGES for name in language.interpreters.split()}

_SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?(\S+)([^\n]{0,200})")
_VERSION = re.compile(r"[\d.]+$")


def language_by_name(path: str) -> Language:
    """The language that the last component of ``path`` promises, or ``UNKNOWN``."""
    name = path.rpartition("/")[2]
    by_name = _BY_FILE_NAME.get(name)
    if by_name is not None:
        return by_name
    stem, dot, suffix = name.rpartition(".")
    return _BY_SUFFIX.get(f".{suffix.lower()}", UNKNOWN) if dot and stem else UNKNOWN


def language_by_shebang(head: bytes) -> Language:
    """The language of the interpreter that the first line names, or ``UNKNOWN``."""
    found = _SHEBANG.match(head)
    if found is None:
        return UNKNOWN
    program, rest = (group.decode("ascii", "replace") for group in found.groups())
    if program == "env":  # options and assignments come before the program: env -S LANG=C python3 -u
        words = [word for word in rest.split() if not word.startswith("-") and "=" not in word]
        program = words[0].rpartition("/")[2] if words else ""
    return _BY_INTERPRETER.get(_VERSION.sub("", program), UNKNOWN)
