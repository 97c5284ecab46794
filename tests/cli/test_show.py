"""What a terminal is given: whole rows, nothing that steers it, progress where someone looks."""

import io
import json
import sys
from pathlib import Path

import pytest

from twin.cli import show
from twin.records import Interval


def test_a_table_keeps_whole_rows_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.table("Files", ("path", "score"), [("a" * 120, 0.5), ("b", None)], note="Two.")
    lines = capsys.readouterr().out.splitlines()
    assert any("a" * 120 in line and "0.500" in line for line in lines)
    assert lines[-1] == "Two."


def test_nothing_in_a_cell_is_markup_or_steers_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.table("[red]x", ("what",), [("[bold]a[/bold] \x1b[31mred\x07\r\n\u202eabc",)])
    shown = capsys.readouterr().out
    assert "[bold]a[/bold]" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)


def test_a_table_without_rows_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    show.table("Runs", ("run", "status"), [], note="None yet.")
    assert "None yet." in capsys.readouterr().out


def test_json_knows_records_paths_sets_and_broken_unicode(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.as_json(
        {"i": Interval(value=0, low=-1, high=1), "p": Path("a"), "s": {2, 1}, "u": "\udcff"}
    )
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {
        "i": {"value": 0, "low": -1, "high": 1},
        "p": "a",
        "s": [1, 2],
        "u": "\udcff",
    }


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress("Reading") as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_stderr_on_a_terminal_and_not_with_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(sys, "stdout", output := Terminal())
    with show.progress("Reading", quiet=True) as advance:
        advance(1, 2)
    assert terminal.getvalue() == ""
    with show.progress("Reading [x]", quiet=False) as advance:
        advance(2, 2)
    assert "Reading [x]" in terminal.getvalue()
    assert output.getvalue() == ""


def test_times_are_utc() -> None:
    assert show.when(1_795_227_568) == "2026-11-21 02:19"
    assert show.when(None) == "-"
