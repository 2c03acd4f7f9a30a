"""Which files an analysis takes: include and exclude patterns over relative paths."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

_ANY_DEPTH = "**"
_Pattern = tuple[re.Pattern[str] | None, ...]  # one matcher a path component; None stands for any number of components


@dataclass(frozen=True, slots=True)
class Selection:
    """Decides by relative path. Without ``include`` everything is taken; ``exclude`` wins over ``include``.

    A pattern without a slash matches any one component of the path (``*.py``, ``__pycache__``); one with a slash matches
    from the root on (``Lib/*.py``, ``docs/**/*.md``). What matches a directory holds for all that is in it.
    """

    include: tuple[_Pattern, ...] = ()
    exclude: tuple[_Pattern, ...] = ()

    @classmethod
    def of(cls, include: Iterable[str], exclude: Iterable[str]) -> "Selection":
        """Compile the patterns as users write them."""
        return cls(tuple(map(_compile, include)), tuple(map(_compile, exclude)))

    def takes(self, path: str) -> bool:
        """True if the file with this relative ``path`` (components joined by ``/``) is to be analysed."""
        return (not self.include or _matches(self.include, path)) and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        """True if an exclude pattern matches ``path`` or a directory above it; such a directory need not be entered."""
        return _matches(self.exclude, path)


def _compile(pattern: str) -> _Pattern:
    components = [component for component in pattern.split("/") if component not in {"", "."}]
    if "/" not in pattern.rstrip("/"):
        components.insert(0, _ANY_DEPTH)
    return tuple(None if component == _ANY_DEPTH else re.compile(translate(component)) for component in components)


def _matches(patterns: tuple[_Pattern, ...], path: str) -> bool:
    components = path.split("/")
    return any(_matches_from_root(pattern, components) for pattern in patterns)


def _matches_from_root(pattern: _Pattern, components: list[str]) -> bool:
    # A set of states instead of backtracking: the cost is bounded however many ** a pattern holds.
    states = _after_any_depth(pattern, {0})
    for component in components:
        if len(pattern) in states:
            return True
        stepped = {at for at in states if pattern[at] is None}
        stepped |= {at + 1 for at in states if (part := pattern[at]) is not None and part.match(component)}
        states = _after_any_depth(pattern, stepped)
    return len(pattern) in states


def _after_any_depth(pattern: _Pattern, states: set[int]) -> set[int]:
    reached = set(states)
    for at in sorted(states):
        following = at
        while following < len(pattern) and pattern[following] is None:
            following += 1
            reached.add(following)
    return reached
