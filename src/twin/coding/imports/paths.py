"""Paths inside a repository, and finding files by the end of their path."""

from collections.abc import Iterable


def joined(folder: str, relative: str) -> str | None:
    """`relative` seen from `folder`; None where it leaves the repository."""
    parts = folder.split("/") if folder else []
    for part in relative.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def nearness(one: str, other: str) -> int:
    """How many leading folders two paths share."""
    count = 0
    for left, right in zip(one.split("/"), other.split("/"), strict=False):
        if left != right:
            break
        count += 1
    return count


def nearest(paths: Iterable[str], seen_from: str) -> str | None:
    """The path that shares most folders with `seen_from`; ties go to the shorter, then by name."""
    return min(
        paths, key=lambda path: (-nearness(path, seen_from), path.count("/"), path), default=None
    )


class Endings:
    """Files by the end of their path: the file name narrows, the rest of the path decides."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def matching(self, ending: str) -> list[str]:
        """The paths that are `ending` or end with `/ending`."""
        tail = "/" + ending
        named = self._by_name.get(ending.rpartition("/")[2], ())
        return [path for path in named if path == ending or path.endswith(tail)]
