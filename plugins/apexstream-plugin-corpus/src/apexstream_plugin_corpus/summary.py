"""Adds reports up: running totals after every file, and the summary that ends a stream."""

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest

from apexstream_plugin_corpus.outline import Function
from apexstream_plugin_corpus.report import FileReport, Totals
from apexstream_plugin_corpus.walk import Skip

TOP = 10  # entries of each ranking in a summary
MODULES_MAX = 100_000  # different imported modules that are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTotals:
    """Sums over the analysed files of one language."""

    language: str
    files: int = 0
    bytes: int = 0
    lines: int = 0
    code: int = 0
    comment: int = 0
    blank: int = 0


@dataclass(frozen=True, slots=True)
class LargeFile:
    """A file of the ranking by size on disk."""

    path: str
    bytes: int
    lines: int


@dataclass(frozen=True, slots=True)
class LongFunction:
    """A file's longest function, in the ranking over all files."""

    path: str
    function: Function


@dataclass(frozen=True, slots=True)
class ImportedModule:
    """A module, and how many files import it; relative imports are left out, as each names another module."""

    module: str
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The last chunk. Rankings have at most ``TOP`` entries, largest first, and equals in the order of their names."""

    kind: str = "summary"
    totals: Totals
    languages: tuple[LanguageTotals, ...]
    skipped: dict[Skip, int]
    largest_files: tuple[LargeFile, ...]
    longest_functions: tuple[LongFunction, ...]
    most_imported: tuple[ImportedModule, ...]


@dataclass(slots=True)
class Tally:
    """What is kept of the reports seen so far: bounded by the languages and modules there are, not by the files."""

    totals: Totals = field(default_factory=Totals)
    _languages: dict[str, LanguageTotals] = field(default_factory=dict)
    _skipped: Counter[Skip] = field(default_factory=Counter)
    _largest: list[LargeFile] = field(default_factory=list)
    _longest: list[LongFunction] = field(default_factory=list)
    _modules: Counter[str] = field(default_factory=Counter)

    def add(self, report: FileReport) -> Totals:
        """Take one report, and return the totals with it."""
        before = self.totals
        self.totals = Totals(
            files=before.files + 1,
            skipped=before.skipped + (report.skipped is not None),
            bytes=before.bytes + report.bytes,
            lines=before.lines + report.lines,
            code=before.code + report.code,
            comment=before.comment + report.comment,
            blank=before.blank + report.blank,
        )
        self._rank(report)
        if report.skipped is not None:
            self._skipped[report.skipped] += 1
        elif report.language is not None:
            self._languages[report.language] = _with(self._languages.get(report.language), report, report.language)
        for module in report.imports:
            if not module.startswith(".") and (module in self._modules or len(self._modules) < MODULES_MAX):
                self._modules[module] += 1
        return self.totals

    def _rank(self, report: FileReport) -> None:
        self._largest.append(LargeFile(report.path, report.bytes, report.lines))
        if report.longest_function is not None:
            self._longest.append(LongFunction(report.path, report.longest_function))
        if len(self._largest) > 2 * TOP:
            self._largest = _largest(self._largest)
        if len(self._longest) > 2 * TOP:
            self._longest = _longest(self._longest)

    def summary(self) -> Summary:
        """The summary of all reports so far."""
        return Summary(
            totals=self.totals,
            languages=tuple(sorted(self._languages.values(), key=lambda of: (-of.code, of.language))),
            skipped=dict(sorted(self._skipped.items())),
            largest_files=tuple(_largest(self._largest)),
            longest_functions=tuple(_longest(self._longest)),
            most_imported=tuple(_most_imported(self._modules)),
        )


def _with(before: LanguageTotals | None, report: FileReport, language: str) -> LanguageTotals:
    before = before or LanguageTotals(language=language)
    return LanguageTotals(
        language=language,
        files=before.files + 1,
        bytes=before.bytes + report.bytes,
        lines=before.lines + report.lines,
        code=before.code + report.code,
        comment=before.comment + report.comment,
        blank=before.blank + report.blank,
    )


def _largest(files: list[LargeFile]) -> list[LargeFile]:
    return nsmallest(TOP, files, key=lambda file: (-file.bytes, file.path))


def _longest(functions: list[LongFunction]) -> list[LongFunction]:
    return nsmallest(TOP, functions, key=lambda long: (-long.function.lines, long.path))


def _most_imported(modules: Counter[str]) -> list[ImportedModule]:
    ranked = nsmallest(TOP, modules.items(), key=lambda counted: (-counted[1], counted[0]))
    return [ImportedModule(module, files) for module, files in ranked]
