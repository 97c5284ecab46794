"""How far a stage has come, told to whoever shows it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


def named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """A progress callback of one thing, from one of many."""
    return None if progress is None else lambda done, total: progress(what, done, total)
