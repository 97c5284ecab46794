"""Coverage of a diff: which of the lines that a commit changed its own tests run.

Works on what a run of watched files told (`TestRun.lines`). A line is changed where the commit's
side has it and the parent's has not; of a line that cannot run (a comment, a blank one, the middle
of a statement) nothing is asked.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence

from twin.coding.changed import Sides, lines_of
from twin.coding.paths import role_of
from twin.coding.testing.results import TestRun
from twin.records import DiffCoverage


def watchable(files: Sequence[Sides]) -> list[str]:
    """The changed sources whose lines Python can tell of."""
    return [
        side.change.path
        for side in files
        if side.after is not None
        and side.change.path.endswith(".py")
        and role_of(side.change.path) == "source"
    ]


def coverage_of(files: Sequence[Sides], run: TestRun) -> DiffCoverage:
    """What a run of the commit's tests with its sources watched says about the changed lines."""
    paths = set(watchable(files))
    changed: dict[str, tuple[int, ...]] = {}
    covered: dict[str, tuple[int, ...]] = {}
    for side in files:
        path = side.change.path
        if path not in paths:
            continue
        executable = run.executable.get(path, 0)
        lines = [line for line in changed_lines(side) if executable >> line & 1]
        ran = lines_run(path, run)
        if lines:
            changed[path] = tuple(lines)
            covered[path] = tuple(line for line in lines if ran >> line & 1)
    return DiffCoverage(changed=changed, covered=covered)


def changed_lines(side: Sides) -> list[int]:
    """Lines of the commit's side, from 1, that the parent's side has not."""
    if side.after is None:
        return []
    old, new = lines_of(side.before or b""), lines_of(side.after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        line + 1
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag != "equal"
        for line in range(start, end)
    ]


def lines_run(path: str, run: TestRun) -> int:
    """The lines of a watched file that ran at all, as bits."""
    found = 0
    for ran in run.lines.values():
        found |= ran.get(path, 0)
    return found


def reaching(path: str, lines: Iterable[int], run: TestRun) -> Iterator[str]:
    """The tests that ran any of these lines."""
    wanted = sum(1 << line for line in set(lines))
    return (test for test, ran in run.lines.items() if test and ran.get(path, 0) & wanted)
