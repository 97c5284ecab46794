"""`twin lm gate` at the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("torch")

from twin.cli.door import Door
from twin.cli.lm_gate import command
from twin.errors import UsageError
from twin.lm.checkpoint import save_model
from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.tokenizer import CharTokenizer

Shown = pytest.CaptureFixture[str]
PROSE = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. "
TOKENIZER = CharTokenizer(PROSE)
CONFIG = HybridConfig(
    vocab_size=TOKENIZER.vocab_size, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16,
    d_state=16, decay_rank=8,
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model `fox` that was never trained, and a text."""
    (tmp_path / "prose.txt").write_text(PROSE * 60, encoding="utf-8")
    model = HybridLM(CONFIG, kernels="chunked", seed=0)
    save_model(tmp_path / ".twin" / "lm" / "fox", model, TOKENIZER, {"step": 0})
    return tmp_path


def gate(home: Path, *arguments: str) -> Any:
    door = Door(repo=home, config_file=None)
    text = ["--text", str(home / "prose.txt"), "--kernels", "chunked"]
    return command.main([*arguments, *text], standalone_mode=False, obj=door)


def test_a_sound_model_passes_its_build_and_the_exit_code_says_so(
    home: Path, capsys: Shown
) -> None:
    assert gate(home, "fox", "--stage", "build") == 0
    shown = capsys.readouterr().out
    assert "token by token = reference" in shown
    assert "warn: Nothing fails; some checks deserve a look." in shown


def test_a_target_that_is_missed_is_exit_code_1_and_json_says_why(
    home: Path, capsys: Shown
) -> None:
    assert gate(home, "fox", "--steps", "0", "--target", "0.5", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["grade"] == "fail"
    failed = [one for one in found["verdicts"] if one["grade"] == "fail"]
    assert [one["gate"] for one in failed] == ["G5"]
    assert failed[0]["value"] == pytest.approx(3.5, abs=1)
    assert "plots" not in found


@pytest.mark.slow
def test_a_folder_serves_as_well_as_a_name_and_a_page_is_written(home: Path, capsys: Shown) -> None:
    folder = home / ".twin" / "lm" / "fox"
    html = home / "out" / "gates.html"
    arguments = [str(folder), "--stage", "long", "--steps", "12", "--html", str(html)]
    assert gate(home, *arguments, "--against", str(folder)) in (0, 1)
    assert "Report: " in capsys.readouterr().out
    assert html.read_text(encoding="utf-8").count("<svg") >= 5


@pytest.mark.parametrize("name", ["none", "../fox", "/etc", ".hidden", "a/b"])
def test_a_name_that_is_no_model_is_wrong_use(home: Path, name: str) -> None:
    with pytest.raises(UsageError):
        gate(home, name)


def test_a_model_that_does_not_know_its_text_asks_for_one(home: Path) -> None:
    with pytest.raises(UsageError, match="Give `--text FILE`"):
        command.main(["fox", "--stage", "build"], standalone_mode=False,
                     obj=Door(repo=home, config_file=None))  # fmt: skip


def test_an_unknown_stage_and_a_missing_text_are_wrong_use(home: Path) -> None:
    for arguments in (["fox", "--stage", "all"], ["fox", "--text", str(home / "none")]):
        with pytest.raises(click.UsageError):
            gate(home, *arguments)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from twin.cli.lm_gate import command as gate\n"
        "from twin.cli.lm_compare import command as compare\n"
        "for one in (gate, compare):\n"
        "    one.main(['--help'], standalone_mode=False)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--against" in shown.stdout
    assert "--variants" in shown.stdout


def test_without_torch_the_cure_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twin.errors import MissingRequirement

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingRequirement, match=r"cognitive-twin\[lm\]"):
        gate(home, "fox")
