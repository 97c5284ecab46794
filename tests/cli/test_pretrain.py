"""`twin pretrain` at the command line: text in, a model in `.twin/lm`, or a sentence that helps."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from twin.cli.main import run

Shown = pytest.CaptureFixture[str]
TINY = [
    "--preset", "3.5M", "--tokenizer", "char", "--kernels", "chunked", "--batch", "2",
    "--window", "16", "--steps", "3", "--threads", "1",
    *(f"--set=model.{setting}" for setting in (
        "d_model=32", "n_layers=1", "head_dim=16", "mamba_head_dim=16", "d_state=8",
        "decay_rank=16",
    )),
]  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "rhyme.txt"
    path.write_text("the cat sat on the mat and the dog sat on the log; " * 20)
    return path


def pretrain(repository: Path, *arguments: object) -> int:
    return run(["--repo", str(repository), "pretrain", *map(str, arguments)])


def test_a_text_becomes_a_model_under_its_name(repository: Path, text: Path, capsys: Shown) -> None:
    assert pretrain(repository, "--text", text, *TINY) == 0
    shown = capsys.readouterr().out
    assert "held out" in shown
    assert "The budget is spent." in shown
    folder = repository / ".twin" / "lm" / "rhyme"
    assert {"model.safetensors", "tokenizer.json", "card.json", "metrics.png"} <= {
        path.name for path in folder.iterdir()
    }


def test_json_holds_the_figures_and_resume_goes_on(
    repository: Path, text: Path, capsys: Shown
) -> None:
    assert pretrain(repository, "--text", text, *TINY, "--out", "x", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["step"] == 3
    assert pretrain(repository, "--text", text, "--out", "x", "--resume", "--steps", 5) == 0
    capsys.readouterr()
    card = json.loads((repository / ".twin" / "lm" / "x" / "card.json").read_text())
    assert card["recipe"]["steps"] == 5


def test_a_model_is_replaced_with_force_alone(repository: Path, text: Path, capsys: Shown) -> None:
    assert pretrain(repository, "--text", text, *TINY) == 0
    assert pretrain(repository, "--text", text, *TINY) == 2
    said = capsys.readouterr().err
    assert "--resume" in said
    assert "--force" in said
    assert pretrain(repository, "--text", text, *TINY, "--force", "--resume") == 2
    assert pretrain(repository, "--text", text, *TINY, "--force") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_the_last_step_and_names_how_to_go_on(
    number: signal.Signals, repository: Path, text: Path, capsys: Shown,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from twin.lm.pretrain import Run

    step = Run._one_step

    def interrupted(self: Run, progress: float) -> str:
        if self.step == 1:
            os.kill(os.getpid(), number)
        return step(self, progress)

    monkeypatch.setattr(Run, "_one_step", interrupted)
    assert pretrain(repository, "--text", text, *TINY) == 130
    said = capsys.readouterr().err
    assert "as of step 2" in said
    assert "`--resume`" in said
    monkeypatch.undo()
    assert pretrain(repository, "--text", text, *TINY, "--resume") == 0


def test_teachers_of_its_own_are_trained_first_and_an_interruption_keeps_them(
    repository: Path, text: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twin.lm.pretrain import Run

    step = Run._one_step

    def interrupted(self: Run, progress: float) -> str:
        if self.folder.name == "teacher-2":
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, progress)

    school = ["--text", text, *TINY, "--steps", "16", "--teachers", "2"]
    monkeypatch.setattr(Run, "_one_step", interrupted)
    assert pretrain(repository, *school) == 130
    shown = capsys.readouterr()
    assert "Teacher 1 of 2: " in shown.out
    assert "teacher-2 is kept as of step 1" in shown.err
    monkeypatch.undo()
    assert pretrain(repository, *school) == 2
    assert "--resume" in capsys.readouterr().err
    assert pretrain(repository, "--text", text, "--resume", "--teachers", 3) == 2
    assert "begun with 2 teachers" in capsys.readouterr().err
    assert pretrain(repository, "--text", text, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["step"] == 12


def test_a_run_without_teachers_is_not_gone_on_with_as_one_that_has_them(
    repository: Path, text: Path, capsys: Shown
) -> None:
    run = ["--text", text, *TINY, "--steps", 16]
    assert pretrain(repository, *run) == 0
    assert pretrain(repository, *run, "--teachers", 2, "--resume") == 2
    assert "begun without teachers" in capsys.readouterr().err
    assert pretrain(repository, *run, "--teachers", 2, "--force") == 0
    teachers = repository / ".twin" / "lm" / "rhyme" / "teachers"
    assert teachers.is_dir()
    assert pretrain(repository, *run, "--force") == 0
    assert not teachers.exists()


def test_who_goes_often_through_a_text_is_told_of_teachers(
    repository: Path, text: Path, capsys: Shown
) -> None:
    often = [*TINY, "--steps", 800, "--set=stop_early=false"]
    assert pretrain(repository, "--text", text, *often) == 0
    assert "`--teachers 3`" in capsys.readouterr().out
    assert pretrain(repository, "--text", text, *often, "--teachers", 1, "--out", "taught") == 0
    assert "`--teachers 3`" not in capsys.readouterr().out


def test_a_repository_is_learnt_from_as_committed(repository: Path, capsys: Shown) -> None:
    for number in range(12):
        (repository / f"part{number}.py").write_text(f"def f{number}():\n    return {number}\n" * 9)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for command in (("add", "."), (*who, "commit", "-q", "-m", "More")):
        subprocess.run(("git", *command), cwd=repository, check=True)
    assert pretrain(repository, "--git", repository, *TINY, "--set", "held_out=0.3") == 0
    assert "project: 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "one of `--text`, `--jsonl` and `--git`"),
        (["--text", "nowhere.txt"], 2, "does not exist"),
        (["--git", "nowhere"], 2, "no folder"),
        (["--text", "TEXT", "--out", "../x"], 2, "no name for a model"),
        (["--text", "TEXT", "--time-budget", "soon"], 2, "no duration"),
        (["--text", "TEXT", "--preset", "7M"], 2, "Use one of 3.5M"),
        (["--text", "TEXT", "--set", "droput=1"], 2, "not known in a recipe"),
        (["--text", "TEXT", "--set", "model.droput=0.1"], 2, "Did you mean `dropout`"),
        (["--text", "TEXT", "--tokenizer", "words"], 2, "not known"),
        (["--text", "TEXT", "--kernels", "magic", "--window", "8"], 3, "There are no kernels"),
        (["--text", "TEXT", "--resume"], 2, "to continue from"),
        (["--text", "TEXT", "--batch", "9999"], 2, "--window"),
        (["recipe.toml", "--text", "TEXT"], 2, "There is no recipe"),
        (["--text", "TEXT", "--time-budget", "10m", "--steps", "3"], 2, "one budget"),
        (["--text", "TEXT", "--time-budget", "10m", "--set", "tokens=3"], 2, "one budget"),
        (["--text", "TEXT", "--steps", "0"], 2, "x>=1"),
        (["--text", "TEXT", "--field", "body"], 2, "with `--jsonl` only"),
        (["--jsonl", "x.jsonl", "--suffix", ".py"], 2, "with `--text` or `--git` only"),
        (["--text", "TEXT", "--set", "model=3"], 2, "wrong type"),
        (["--text", "TEXT", "--seed", "9" * 30], 2, "too large"),
        (["--text", "TEXT", "--set", "stages=[[0.5,inf]]"], 2, "no pairs"),
        (["--text", "a" * 5000, "--out", "x"], 2, "shorter"),
        (["--jsonl", "a" * 5000, "--out", "x"], 2, "shorter"),
        (["--git", "a" * 5000, "--out", "x"], 2, "shorter"),
        (["a" * 5000, "--text", "TEXT"], 2, "no readable TOML"),
        (["--text", "TEXT", "--set", "validate_every_s=nan"], 2, "no time"),
        (["--text", "TEXT", "--teacher", "nobody"], 2, "nobody"),
        (["--text", "TEXT", "--set", "teachers=['x']", "--teachers", "2"], 2, "not both"),
        (["--text", "TEXT", "--teacher", "a" * 5000], 2, "shorter"),
        (["--text", "TEXT", "--set", "teachers=['x']"], 2, 'order = "windows"'),
        (["--text", "TEXT", "--teachers", "0"], 2, "Use 1 to 16"),
        (["--text", "TEXT", "--teachers", "9" * 30], 2, "Use 1 to 16"),
        (["--text", "TEXT", "--teachers", "3", "--steps", "2"], 2, "too few"),
        (["--text", "TEXT", "--teachers", "3", "--set", "order=handoff"], 2, 'order = "windows"'),
        (["--text", "TEXT", "--teachers", "3", "--resume"], 2, "to continue from"),
        (
            ["--text", "TEXT", "--teachers", "3", "--kernels", "magic", "--window", "8"],
            3,
            "no kernels",
        ),
        (["--text", "TEXT", "--teachers", "3", "--batch", "9999"], 2, "--window"),
    ],
)
def test_a_wrong_command_is_refused_with_its_cure(
    arguments: list[str], code: int, said: str, repository: Path, text: Path, capsys: Shown
) -> None:
    given = [str(text) if argument == "TEXT" else argument for argument in arguments]
    assert pretrain(repository, *given) == code
    assert said in capsys.readouterr().err
    assert not list(repository.glob(".twin/lm/[a-z]*"))


def test_help_needs_no_torch() -> None:
    script = (
        "import sys\nfrom twin.cli.main import run\n"
        "assert run(['pretrain', '--help']) == 0\nassert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": "src"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=True)


def test_what_is_missing_is_named_with_its_cure(
    repository: Path, text: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert pretrain(repository, "--text", text, *TINY) == 3
    assert 'pip install "cognitive-twin[lm]"' in capsys.readouterr().err
