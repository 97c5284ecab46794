"""`twin lm list`, `generate` and `score`: what they print, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from twin.cli.lm import SUBCOMMANDS
from twin.cli.main import run
from twin.lm.checkpoint import save_model
from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.tokenizer import PRINTABLE, CharTokenizer

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def home(repository: Path) -> Path:
    """A repository with a model `small` that knows what a keyboard writes."""
    tokenizer = CharTokenizer(PRINTABLE, control_tokens=False)
    config = HybridConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16,
        d_state=8, decay_rank=4, ffn_mult=1.0,
    )  # fmt: skip
    model = HybridLM(config, kernels="chunked", seed=3)
    save_model(repository / ".twin" / "lm" / "small", model, tokenizer,
               {"figures": {"validation": 1.5}})  # fmt: skip
    return repository


def asked(home: Path, printed: Printed, *arguments: str, code: int = 0) -> Any:
    """What a command prints with `--json`."""
    assert run(["--repo", str(home), "lm", *arguments, "--json"]) == code
    return json.loads(printed.readouterr().out)


def test_help_names_every_subcommand_and_loads_no_torch() -> None:
    program = (
        "import sys; from twin.cli.main import run; run(['lm', '--help']);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for name, (_, short) in SUBCOMMANDS.items():
        assert f"{name} " in done.stdout
        assert short.split(",")[0] in done.stdout


def test_the_models_are_listed_damaged_ones_with_their_fault(home: Path, capsys: Printed) -> None:
    (home / ".twin" / "lm" / "no-model").mkdir()
    broken = home / ".twin" / "lm" / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    found = asked(home, capsys, "list")["models"]
    assert [each["name"] for each in found] == ["broken", "small"]
    assert "not JSON" in found[0]["fault"]
    assert (found[1]["loss"], found[1]["fault"]) == (1.5, "")
    assert run(["--repo", str(home), "lm", "list"]) == 0
    assert "small" in capsys.readouterr().out


def test_where_there_are_none_the_way_to_one_is_named(repository: Path, capsys: Printed) -> None:
    assert run(["--repo", str(repository), "lm", "list"]) == 0
    assert "twin pretrain" in capsys.readouterr().out


def test_a_text_is_continued_as_it_comes_and_a_seed_repeats_it(home: Path, capsys: Printed) -> None:
    arguments = ["small", "def f", "--max-tokens", "20", "--seed", "4"]
    found = asked(home, capsys, "generate", *arguments)
    (answer,) = found["answers"]
    assert (answer["finish"], answer["num_tokens"], answer["num_prompt_tokens"]) == (
        "length", 20, 5,
    )  # fmt: skip
    assert found["tokens_per_s"] > 0
    assert run(["--repo", str(home), "lm", "generate", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.replace("\t", " ") == "def f" + answer["text"].replace("\t", " ") + "\n"
    assert "20 tokens" in printed.err
    assert "tok/s" in printed.err
    several = asked(home, capsys, "generate", *arguments, "--streams", "3")["answers"]
    assert several[0]["text"] == answer["text"]
    assert len({each["text"] for each in several}) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "twin lm list"),
        (["../../etc"], "checkpoint"),
        (["small", "Ü"], r"\xdc"),
        (["small", "x", "--temperature", "-1"], "temperature"),
        (["small", "x", "--top-p", "2"], "top_p"),
    ],
)
def test_what_cannot_be_continued_is_said_with_the_reason(
    home: Path, capsys: Printed, arguments: list[str], says: str
) -> None:
    error = asked(home, capsys, "generate", *arguments, code=2)["error"]
    assert says in error["message"]


def test_a_models_text_cannot_steer_the_terminal(home: Path, capsys: Printed) -> None:
    tokenizer = CharTokenizer("a\x1b", control_tokens=False)
    config = HybridConfig(vocab_size=2, d_model=16, n_layers=1, head_dim=16, mamba_head_dim=16,
                          d_state=8)  # fmt: skip
    save_model(home / ".twin" / "lm" / "bad", HybridLM(config, kernels="chunked", seed=0),
               tokenizer, {})  # fmt: skip
    assert run(["--repo", str(home), "lm", "generate", "bad", "a", "--max-tokens", "50"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_file_is_scored_line_by_line(home: Path, capsys: Printed, tmp_path: Path) -> None:
    file = tmp_path / "text.py"
    file.write_text("x = 1\n" * 30)
    page = tmp_path / "page.html"
    (found,) = asked(home, capsys, "score", "small", str(file), "--html", str(page))["files"]
    assert len(found["lines"]) == 30
    assert found["num_tokens"] == 180
    assert sum(line["bits"] for line in found["lines"]) == pytest.approx(
        found["bits_per_byte"] * 180
    )
    assert page.read_text().startswith("<!doctype html>")
    assert run(["--repo", str(home), "lm", "score", "small", str(file), "--worst", "3"]) == 0
    assert capsys.readouterr().out.count("x = 1") == 3


def commit(home: Path) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(("git", "add", "."), cwd=home, check=True)
    subprocess.run(("git", *who, "commit", "-q", "-m", "More"), cwd=home, check=True)


def test_a_difference_is_scored_where_lines_are_new(home: Path, capsys: Printed) -> None:
    (home / ".gitignore").write_text(".twin\n")
    hostile = "a <b>\n\x1b[31m \u202e.py"
    (home / hostile).write_text("one\ntwo\nthree\n" * 20)
    (home / "gone.py").write_text("x")
    (home / "data.bin").write_bytes(b"\0\1")
    commit(home)
    (home / hostile).write_text("zero\n" + "one\ntwo\nthree\n" * 20 + "four\n")
    (home / "gone.py").unlink()
    (home / "data.bin").write_bytes(b"\0\2")
    (home / "link.py").symlink_to("/etc/passwd")
    (home / "new.py").write_text("fresh\n")
    subprocess.run(("git", "add", "-N", "."), cwd=home, check=True)
    found = asked(home, capsys, "score", "small", "--diff")
    by_name = {each["file"]: each["lines"] for each in found["files"]}
    assert [(line["number"], line["text"]) for line in by_name[hostile]] == [
        (1, "zero"), (62, "four"),
    ]  # fmt: skip
    assert [line["text"] for line in by_name["new.py"]] == ["fresh"]
    assert by_name.keys() == {hostile, "new.py"}
    assert "binary" in found["left_out"]["data.bin"]
    page = home / "page.html"
    assert run(["--repo", str(home), "lm", "score", "small", "--diff", "--html", str(page)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert "a &lt;b&gt;" in page.read_text()


def test_a_difference_to_an_older_revision_and_none_at_all(home: Path, capsys: Printed) -> None:
    (home / ".gitignore").write_text(".twin\n")
    (home / "main.py").write_text("print('hello')\nprint('again')\n")
    commit(home)
    assert asked(home, capsys, "score", "small", "--diff")["files"] == []
    found = asked(home, capsys, "score", "small", "--diff", "HEAD~1")
    lines = {each["file"]: [line["text"] for line in each["lines"]] for each in found["files"]}
    assert lines["main.py"] == ["print('again')"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "one of the two"),
        (["main.py", "--diff", "HEAD"], "one of the two"),
        (["--diff", "no-such-thing"], "no commit named"),
        (["--diff=--output=x"], "No such option"),
        (["missing.py"], "no file"),
        (["/dev/zero"], "no file"),
    ],
)
def test_what_cannot_be_scored_is_said_with_the_reason(
    home: Path, capsys: Printed, arguments: list[str], says: str
) -> None:
    error = asked(home, capsys, "score", "small", *arguments, code=2)["error"]
    assert says in error["message"]


def test_without_torch_the_cure_is_named(
    home: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for arguments in (["generate", "small"], ["score", "small", "main.py"]):
        error = asked(home, capsys, *arguments, code=3)["error"]
        assert "cognitive-twin[lm]" in error["message"]
