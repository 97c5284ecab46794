"""`twin lm score`: how surprising each line of a file, or of what is new in a repository, is."""

import difflib
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import checkpoint_folder, need_torch, sentences
from twin.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from twin.lm.score import ScoredLine, ScoredText

HEAD = "HEAD"
MAX_FILES = 500
MAX_EXACT_LINES = 2000


@click.command(name="score")
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--diff",
    is_flag=False,
    flag_value=HEAD,
    default=None,
    metavar="[REV]",
    help="Scores the lines that are new since REV (default: HEAD) in the context of their files.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="OUT",
    help="Also writes a heat map, one page without scripts.",
)
@click.option("--worst", type=click.IntRange(1, 1000), default=10, show_default=True)
@json_option
@pass_door
def command(
    door: Door, /, name: str, file: Path | None, diff: str | None, html: Path | None, worst: int,
    as_json: bool,
) -> None:  # fmt: skip
    """How surprising each line of FILE is to the model NAME, in bits.

    A line is unusual where it is more surprising than 95 in 100 of the file's other lines, by two
    robust standard deviations or more. With `--diff` only new lines are judged, against those that
    were there before, in this file and in the others of the difference.

    \b
    Example:
      twin lm score code src/app.py --html app.html
      twin lm score code --diff
      twin lm score code --diff main --json
    """
    if (file is None) == (diff is None):
        raise UsageError("Give a FILE or `--diff`, one of the two.")
    with sentences():
        need_torch("`twin lm score`")
        from twin.lm.checkpoint import load_model

        changes = _changes(door, diff) if diff is not None else None
        model, tokenizer, _ = load_model(checkpoint_folder(door, name))
        left_out: dict[str, str] = {}
        if changes is None:
            assert file is not None
            texts = [_one(model, tokenizer, file)]
        else:
            texts = _all(model, tokenizer, changes, left_out)
    if html is not None:
        from twin.lm.heatmap import page

        title = f"{name}: {file or f'new since {diff}'}"
        # A file name need not be Unicode; the page is.
        text = page(texts, title=title, is_difference=diff is not None)
        html.write_bytes(text.encode("utf-8", "replace"))
    _tell(texts, left_out, worst, is_difference=diff is not None, as_json=as_json)
    if html is not None and not as_json:
        show.say(f"Heat map: {html}")


def _one(model: Any, tokenizer: Any, file: Path) -> "ScoredText":
    from twin.lm.score import score_text

    return score_text(model, tokenizer, _read(file), str(file))


def _read(file: Path) -> bytes:
    from twin.lm.score import MAX_BYTES

    try:
        if not file.is_file():  # a pipe or device would not end
            raise UsageError(f"{file} is no file. Give a file of text.")
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}. Check the path.") from error


def _changes(door: Door, revision: str) -> list[tuple[str, bytes, set[int]]]:
    """(path, what is in the file now, numbers of its new lines) of each tracked file that differs
    from the revision."""
    from twin.coding.git import GitRepository
    from twin.coding.gitprocess import ask
    from twin.lm.score import MAX_BYTES

    with GitRepository.open(door.repo) as repository:
        commit = repository.resolve(revision)
        answer = ask(
            repository.root, "diff", "--name-only", "-z", "--no-ext-diff", "--no-textconv",
            "--no-renames", "--diff-filter=AMT", "--ignore-submodules", commit, "--",
        )  # fmt: skip
        if answer.returncode:
            raise RepositoryError(f"git cannot compare: {answer.stderr[:300]}. Check the revision.")
        # surrogateescape: a name need not be UTF-8.
        paths = [os.fsdecode(path) for path in answer.stdout.split(b"\0") if path]
        if len(paths) > MAX_FILES:
            raise UsageError(
                f"{len(paths):,} files differ, more than the {MAX_FILES} that are scored. Name a "
                "nearer revision."
            )
        tree = repository.tree(commit)
        known = [tree[path] for path in paths if path in tree]
        before = dict(repository.blobs(known, max_bytes=MAX_BYTES))
        return list(_new_lines(repository.root, paths, tree, before))


def _new_lines(
    root: Path, paths: list[str], tree: dict[str, str], before: dict[str, bytes | None]
) -> Iterator[tuple[str, bytes, set[int]]]:
    from twin.lm.score import is_text

    for path in paths:
        place = root / path
        if place.is_symlink():  # it may lead out of the repository
            continue
        now = _read(place)
        old = before.get(tree.get(path, "")) or b""
        # What is no text is named as left out further on; its "lines" could take minutes.
        yield path, now, _added(old, now) if is_text(now) and is_text(old) else set()


def _added(old: bytes, new: bytes) -> set[int]:
    """Numbers of the lines that are not in `old`, counted from 1."""
    before, now = (data.replace(b"\r\n", b"\n").split(b"\n") for data in (old, new))
    if not old:
        return set(range(1, len(now) + 1))
    same = _num_common(before, now)
    before, now = before[same:], now[same:]
    tail = _num_common(before[::-1], now[::-1])
    before, now = before[: len(before) - tail], now[: len(now) - tail]
    # Without popular lines, comparing is linear in practice; with them it is quadratic.
    matcher = difflib.SequenceMatcher(a=before, b=now, autojunk=len(now) > MAX_EXACT_LINES)
    return {
        same + number + 1
        for kind, _, _, begin, end in matcher.get_opcodes()
        if kind in ("replace", "insert")
        for number in range(begin, end)
    }


def _num_common(first: list[bytes], second: list[bytes]) -> int:
    """How many lines both begin with."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _all(
    model: Any, tokenizer: Any, changes: list[tuple[str, bytes, set[int]]], left_out: dict[str, str]
) -> "list[ScoredText]":
    """Twice over the lines, once over the network: what is usual is known only when all files are
    scored."""
    from twin.lm.errors import BadTokens
    from twin.lm.score import compare_again, line_surprisals, score_text

    scored = []
    for path, data, added in changes:
        try:
            scored.append(score_text(model, tokenizer, data, path, added))
        except BadTokens as error:
            left_out[path] = str(error)
    usual = [line_surprisals(text) for text in scored]
    return [
        compare_again(text, list(chain.from_iterable(usual[:place] + usual[place + 1 :])))
        for place, text in enumerate(scored)
    ]


def _tell(
    texts: "list[ScoredText]", left_out: dict[str, str], worst: int, *, is_difference: bool,
    as_json: bool,
) -> None:  # fmt: skip
    if as_json:
        show.as_json(
            {
                "files": [_as_dict(text, is_difference=is_difference) for text in texts],
                "left_out": left_out,
            }
        )
        return
    for text in texts:
        rows = [
            (line.number, line.bits_per_byte, line.z, "unusual" if line.is_unusual else "",
             line.text.strip()[:120])
            for line in text.worst(worst, added_only=is_difference)
        ]  # fmt: skip
        unknown = f", {text.num_unknown} unknown symbols" if text.num_unknown else ""
        title = f"{text.name}: {text.bits_per_byte:.3f} bits per byte{unknown}"
        note = "" if rows else "No lines to judge."
        show.table(title, ("line", "bits/byte", "z", "", "text"), rows, note=note)
    if not texts:
        show.say("No tracked file differs.")
    for path, why in left_out.items():
        show.say(f"Left out: {path}: {why}")


def _as_dict(text: "ScoredText", *, is_difference: bool) -> dict[str, Any]:
    lines = [line for line in text.lines if line.is_added or not is_difference]
    return {
        "file": text.name, "num_tokens": text.num_tokens, "num_bytes": text.num_bytes,
        "bits_per_byte": text.bits_per_byte, "num_unknown": text.num_unknown,
        "lines": [_line(line) for line in lines],
    }  # fmt: skip


def _line(line: "ScoredLine") -> dict[str, Any]:
    return {
        "number": line.number, "text": line.text, "bits": line.bits,
        "bits_per_byte": line.bits_per_byte, "z": line.z, "percentile": line.percentile,
        "is_unusual": line.is_unusual, "is_added": line.is_added,
        "tokens": [{"text": token.text, "bits": round(token.bits, 3)} for token in line.tokens],
    }  # fmt: skip
