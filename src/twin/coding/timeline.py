"""A repository's past, answerable as of any moment: what changed when, with what, and why.

Built once from the list of commits, put into the order in which they were made, parents first. A
moment is a position in that list; every answer uses the commits before that position and nothing
else, by cutting each array at it. A file keeps its identity through renames (its line). Knows
nothing of contents: `corpus` does.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from twin.coding.languages import language_of
from twin.coding.lexical import Bag, Floats, Hits, Ints, Postings, View, weighted_counts
from twin.coding.text import clean_message, count_terms
from twin.records import Commit

MAX_FILES: Final = 30
"""A commit that changes more says nothing about which files belong together."""


class Timeline:
    """The past of one repository. Positions count commits; lines count files through renames."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        """`commits`: parents before children, in any such order."""
        commits = _by_time(commits)
        self.num_commits = len(commits)
        self.position = {commit.commit_id: at for at, commit in enumerate(commits)}
        self.times = np.array([commit.commit_time for commit in commits], np.int64)
        authors: dict[str, int] = {}
        self.authors = np.array(
            [authors.setdefault(c.author_email.lower(), len(authors)) for c in commits], np.int64
        )
        self._author_numbers = authors
        messages = [clean_message(f"{c.subject}\n\n{c.body}") for c in commits]
        self.messages = Postings([Bag.of(count_terms(message)) for message in messages])
        self.subjects = Postings(
            [Bag.of(count_terms(message.partition("\n")[0])) for message in messages]
        )
        self._lines: dict[str, list[tuple[int, int]]] = {}
        self._asked: tuple[Sequence[str], int, Ints] | None = None
        self._kept: tuple[int, dict[object, Floats]] = (-1, {})
        self._follow(commits)

    def _follow(self, commits: Sequence[Commit]) -> None:
        """Gives every file a line and notes which commit touched which lines."""
        current: dict[str, int] = {}
        created: list[int] = []
        changed: list[tuple[int, ...]] = []
        for at, commit in enumerate(commits):
            touched: list[int] = []
            for change in commit.changes if len(commit.parent_ids) < 2 else ():
                if language_of(change.path) is None:
                    continue
                line = current.get(change.path)
                if change.status == "R" and change.old_path in current:
                    line = current.pop(change.old_path)
                elif line is None or change.status == "A":
                    line = len(created)
                    created.append(at)
                if current.get(change.path) != line:
                    current[change.path] = line
                    self._lines.setdefault(change.path, []).append((at, line))
                touched.append(line)
            changed.append(tuple(touched))
        self.num_lines = len(created)
        self.created = np.array([*created, self.num_commits], np.int64)
        """Per line, the position of the commit that made it; one more entry for an unknown file."""
        self.changed = changed
        """Per commit, the lines that it touched."""
        kept = [lines if len(lines) <= MAX_FILES else () for lines in changed]
        self.touch_commits = np.repeat(np.arange(len(kept)), [len(lines) for lines in kept])
        self.touch_lines = np.array([line for lines in kept for line in lines], np.int64)
        self.num_files = np.maximum([len(lines) for lines in changed], 1).astype(np.float64)
        if not len(kept):
            self.touch_commits = np.empty(0, np.int64)

    def lines_at(self, paths: Sequence[str], moment: int) -> Ints:
        """The line of each path just before `moment`; `num_lines` for a file with no past."""
        known = self._asked
        if known is None or known[0] is not paths or known[1] != moment:
            lines = np.array([self._line_at(path, moment) for path in paths], np.int64)
            self._asked = known = paths, moment, lines
        return known[2]

    def _line_at(self, path: str, moment: int) -> int:
        events = self._lines.get(path, ())
        at = bisect_left(events, (moment, -1)) - 1
        return events[at][1] if at >= 0 else self.num_lines

    def author_number(self, email: str) -> int:
        """The number of an author, -1 for one who never committed."""
        return self._author_numbers.get(email.lower(), -1)

    def num_touches(self, moment: int) -> int:
        """How many entries of the touch arrays lie before `moment`."""
        return int(np.searchsorted(self.touch_commits, moment))

    def spread(self, weights: Floats, moment: int) -> Floats:
        """Per line, the sum of the weights of the commits before `moment` that touched it.

        `weights` has one entry per commit before `moment`. The result has `num_lines` + 1 entries;
        the last, for unknown files, is 0.
        """
        end = self.num_touches(moment)
        return weighted_counts(
            self.touch_lines[:end], weights[self.touch_commits[:end]], self.num_lines + 1
        )

    def decay(self, half_life: float, moment: int) -> Floats:
        """Per commit before `moment`, 0.5 to the power of its age in half-lives (in commits)."""
        return self._once(
            moment,
            ("decay", half_life),
            lambda: 0.5 ** ((moment - np.arange(moment)) / half_life),
        )

    def fading(self, half_life: float, dilution: float, moment: int) -> Floats:
        """`decay`, divided by the number of files that the commit changed to the power `dilution`:
        a wide commit says less about each of its files."""
        return self._once(
            moment,
            ("fading", half_life, dilution),
            lambda: self.decay(half_life, moment) / self.num_files[:moment] ** dilution,
        )

    def touches(self, half_life: float, moment: int) -> Floats:
        """Per line, its decayed number of touches before `moment`."""
        return self._once(
            moment,
            ("touches", half_life),
            lambda: self.spread(self.decay(half_life, moment), moment),
        )

    def _once(self, moment: int, key: object, make: Callable[[], Floats]) -> Floats:
        """Kept while the moment stays the same: a server asks many questions of one moment."""
        if self._kept[0] != moment:
            self._kept = (moment, {})
        kept = self._kept[1]
        if key not in kept:
            kept[key] = make()
        return kept[key]

    def last_touch(self, moment: int) -> Ints:
        """Per line, the position of the last commit before `moment` that touched it, or -1."""
        last = np.full(self.num_lines + 1, -1, np.int64)
        end = self.num_touches(moment)
        last[self.touch_lines[:end]] = self.touch_commits[:end]  # ascending: the last one stays
        return last

    def similar(self, postings: Postings, terms: Ints, moment: int) -> Hits:
        """How the messages before `moment` match a question; `postings` is one of this object's."""
        return postings.match(terms, View.first(moment, self.num_commits))


def _by_time(commits: Sequence[Commit]) -> list[Commit]:
    """In the order in which they were made, parents still before children.

    A history listed branch by branch holds commits of a side branch before earlier ones of the
    main line: a task would see what was written after it. A clock that went backwards counts as
    having stood still since the latest ancestor.
    """
    made: dict[str, int] = {}
    for commit in commits:
        since = [made[parent] for parent in commit.parent_ids if parent in made]
        made[commit.commit_id] = max([commit.commit_time, *since])
    return sorted(commits, key=lambda commit: made[commit.commit_id])
