"""Asks a model for a test file. What comes back is data from a stranger: read for its one block of
Python, put at a path that we choose, and run nowhere but in the sandbox."""

import difflib
import re
from collections.abc import Iterator
from typing import Final

from twin.observe.proposals import Case, Means, Proposal
from twin.observe.syntax import parsed

MAX_ANSWER: Final = 100_000
MAX_DIFF: Final = 20_000
MAX_CODE: Final = 30_000
QUESTION: Final = """\
A commit changed a Python project. Write a pytest file whose tests fail on the code before the
commit and pass on the code after it. Import inside the test functions; use only names that exist
on both sides; no network, no clock, no randomness. Answer with one
block of Python and nothing else.

Message: {subject}

Changed lines that no test runs: {missed}

The change:
{diff}

The changed files after it:
{code}
"""
BLOCK: Final = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Model:
    """Proposes what a model answers."""

    def __init__(self, means: Means) -> None:
        self._ask = means.ask

    def propose(self, case: Case) -> Iterator[Proposal]:
        if self._ask is None:
            return
        content = block_of(self._ask(question(case)))
        if content:
            yield Proposal(path=case.place("backend"), content=content, generator="backend")


def question(case: Case) -> str:
    """What the model is asked."""
    diffs: list[str] = []
    code: list[str] = []
    for side in case.files:
        path = side.change.path
        old, new = (
            (data or b"").decode("utf-8", "replace").splitlines(keepends=True)
            for data in (side.before, side.after)
        )
        diffs += difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
        code.append(f"# {path}\n{''.join(new)}")
    missed = [f"{path}: {lines}" for path, lines in case.coverage.missed.items()]
    return QUESTION.format(
        subject=case.commit.subject,
        missed="; ".join(missed) or "none",
        diff="".join(diffs)[:MAX_DIFF],
        code="\n\n".join(code)[:MAX_CODE],
    )


def block_of(answer: str) -> str:
    """The last block of Python in an answer, or the answer where all of it is Python; empty where
    there is none, or one that has no test."""
    if len(answer) > MAX_ANSWER:
        return ""
    found = BLOCK.findall(answer)
    text = found[-1] if found else answer
    return text if parsed(text) is not None and "def test" in text else ""
