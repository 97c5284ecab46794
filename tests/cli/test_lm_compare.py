"""`twin lm compare` at the command line."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("torch")

from twin.cli.door import Door
from twin.cli.lm_compare import command
from twin.cli.lm_door import amount, seconds
from twin.errors import UsageError

Shown = pytest.CaptureFixture[str]
SHAPE = ("--tokenizer", "char", "--batch", "2", "--window", "16", "--set", "kernels=chunked",
         "--set", "model.d_model=64", "--set", "model.n_layers=1", "--set", "model.decay_rank=8",
         "--set", "ema=0.0", "--set", "model.ffn_mult=8.0")  # fmt: skip


def compare(home: Path, *arguments: str) -> Any:
    text = home / "prose.txt"
    if not text.exists():
        text.write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    door = Door(repo=home, config_file=None)
    return command.main(["--text", str(text), *SHAPE, *arguments], standalone_mode=False, obj=door)


@pytest.mark.slow
def test_a_small_comparison_leaves_tables_and_a_plot_and_goes_on_where_it_was(
    tmp_path: Path, capsys: Shown
) -> None:
    arguments = ["--variants", "GF-MH,WS", "--seeds", "2", "--tokens", "96", "--only", "tokens"]
    assert compare(tmp_path, *arguments) == 0
    shown = capsys.readouterr().out
    assert "At equal tokens: 96 tokens a run" in shown
    folder = tmp_path / ".twin" / "lm" / ".compare"
    assert {path.name for path in folder.iterdir()} == {
        ".training.lock", "cells.jsonl", "standings.json", "standings.md", "standings.svg",
    }  # fmt: skip
    before = (folder / "cells.jsonl").read_bytes()
    assert compare(tmp_path, *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (folder / "cells.jsonl").read_bytes() == before
    assert [one["name"] for one in found["variants"]] == ["GF-MH", "WS"]
    assert len(found["runs"]["tokens"]) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--variants", "GF,XY"], "no variant `XY`"),
        (["--variants", ","], "No variant is named"),
        (["--variants", "GF+nothing"], "no option"),
        (["--set", "steps=5"], "what a comparison decides"),
        (["--set", "modle.d_model=5"], "not known"),
        (["--preset", "7M"], "no preset"),
    ],
)
def test_what_cannot_be_compared_is_wrong_use(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        compare(tmp_path, *arguments)


@pytest.mark.parametrize("text", ["", "aaaaaaaa"])
def test_a_text_that_teaches_nothing_is_wrong_use(tmp_path: Path, text: str) -> None:
    (tmp_path / "prose.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="text"):
        compare(tmp_path)


def parsed(callback: Any, value: str) -> Any:
    return callback(click.Context(command), command.params[0], value)


@pytest.mark.parametrize(
    ("value", "expected"), [("500k", 500_000), ("1.5M", 1_500_000), ("7", 7), ("2g", 2 * 10**9)]
)
def test_amounts_are_read(value: str, expected: int) -> None:
    assert parsed(amount, value) == expected


@pytest.mark.parametrize("value", ["0", "-5", "k", "1e6", "1 k", "", "9" * 50])
def test_no_amount_is_refused(value: str) -> None:
    with pytest.raises(click.BadParameter):
        parsed(amount, value)


@pytest.mark.parametrize(
    ("value", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5m", 90)]
)
def test_times_are_read(value: str, expected: float) -> None:
    assert parsed(seconds, value) == expected


@pytest.mark.parametrize("value", ["0", "0s", "m", "10d", "-1m", "", "1" * 50])
def test_no_time_is_refused(value: str) -> None:
    with pytest.raises(click.BadParameter):
        parsed(seconds, value)
