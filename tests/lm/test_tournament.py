"""Which variant is better: the runs a comparison takes, and that it can be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twin.lm import cells, processor
from twin.lm.cells import LINES, Cell, Outcome, read_outcomes
from twin.lm.corpus import Corpus, Wanted, prepare
from twin.lm.documents import TextFiles
from twin.lm.errors import BadConfig, LmError
from twin.lm.place import claimed
from twin.lm.recipe import Recipe
from twin.lm.standings import as_dict, as_markdown, standings, write_all
from twin.lm.tournament import Found, Plan, run_tournament
from twin.lm.variants import Variant

SMALL = {"d_model": 32, "n_layers": 1, "head_dim": 16, "mamba_head_dim": 16, "d_state": 16,
         "decay_rank": 8, "ffn_mult": 8.0}  # fmt: skip
RECIPE = Recipe(model=SMALL, tokenizer="char", kernels="chunked", batch=2, window=16, ema=0.0)
PLAN = Plan(names=("GF-MH", "mamba"), recipe=RECIPE, num_seeds=2, tokens=96, tolerance=0.06)
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return prepare(TextFiles(paths=[tmp_path / "text.txt"]), Wanted(kind="char"), tmp_path / "c")


class Here(Executor):
    """Runs everything at once in this process, counting; `fake` stands for the training."""

    def __init__(self, fake: Callable[[Cell, str], Outcome] | None = None) -> None:
        self.cells: list[Cell] = []
        self.fake = fake

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.cells.append(args[0])
        try:
            future.set_result(self.fake(args[0], args[1]) if self.fake else fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future

    @contextmanager
    def __call__(self, jobs: int) -> Iterator[Executor]:
        yield self


def scripted(cell: Cell, key: str) -> Outcome:
    """Mamba learns twice as fast a second; the hybrid gets further in a token."""
    is_mamba = cell.variant.startswith("mamba")
    tokens = cell.recipe.tokens
    return Outcome(
        key=key, variant=cell.variant, seed=cell.seed, num_parameters=1000, tokens=tokens,
        cpu_s=tokens / (20.0 if is_mamba else 10.0), tokens_per_cpu_s=20.0 if is_mamba else 10.0,
        validation=(1.7 if is_mamba else 1.6) + 0.01 * cell.seed - tokens / 1e5,
        validation_carried=1.5, bits_per_byte=2.0, train_loss=1.4, verdict="", kernels="chunked",
        precision="fp32",
    )  # fmt: skip


@pytest.mark.slow
def test_a_real_comparison_trains_every_variant_and_seed_and_can_be_repeated(
    tmp_path: Path, corpus: Corpus
) -> None:
    told: list[tuple[str, int, int]] = []
    plan = replace(PLAN, names=("mamba", "GF"), modes=("tokens",))
    found = run_tournament(plan, corpus, tmp_path / "c", tmp_path / "out", pool=Here(),
                           tell=lambda *what: told.append(what))  # fmt: skip
    runs = found.outcomes["tokens"]
    assert [(one.variant, one.seed) for one in runs] == [
        ("mamba", 0), ("GF", 0), ("mamba", 1), ("GF", 1),
    ]  # fmt: skip
    assert {one.tokens for one in runs} == {96}
    assert all(one.validation and 1 < one.validation < 5 for one in runs)
    assert len({one.validation for one in runs}) == 4
    assert [one.num_parameters for one in runs[:2]] == [v.num_parameters for v in found.variants]
    assert ("Equal tokens", 4, 4) in told
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    plan = replace(plan, names=("mamba",), num_seeds=1)
    again = run_tournament(plan, corpus, tmp_path / "c", tmp_path / "again", pool=Here())
    assert again.outcomes["tokens"][0].validation == runs[0].validation


def test_equal_time_gives_each_the_tokens_its_own_speed_allows(
    tmp_path: Path, corpus: Corpus
) -> None:
    pool = Here(scripted)
    plan = replace(PLAN, tokens=960)
    found = run_tournament(plan, corpus, tmp_path / "c", tmp_path / "out", pool=pool)
    assert found.cpu_s == pytest.approx(96.0)
    assert {(one.variant, one.tokens) for one in found.outcomes["time"]} == {
        ("GF-MH", 960), ("mamba", 1920),
    }  # fmt: skip
    # The first variant's runs at equal time are those at equal tokens, and not run again.
    assert [(cell.variant, cell.mode) for cell in pool.cells].count(("GF-MH", "time")) == 0


def test_a_time_alone_is_turned_into_tokens_by_a_short_run(tmp_path: Path, corpus: Corpus) -> None:
    pool = Here(scripted)
    plan = replace(PLAN, tokens=0, cpu_s=64.0)
    found = run_tournament(plan, corpus, tmp_path / "c", tmp_path / "out", pool=pool)
    assert pool.cells[0].mode == "speed"
    assert found.tokens == 640
    assert {one.tokens for one in found.outcomes["time"]} == {640, 1280}


def test_finished_runs_are_kept_and_a_line_cut_short_is_run_again(
    tmp_path: Path, corpus: Corpus
) -> None:
    plan, out = replace(PLAN, modes=("tokens",)), tmp_path / "out"
    whole = run_tournament(plan, corpus, tmp_path / "c", out, pool=Here(scripted))
    lines = (out / LINES).read_bytes().splitlines()
    (out / LINES).write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:50])
    pool = Here(scripted)
    again = run_tournament(plan, corpus, tmp_path / "c", out, pool=pool)
    assert len(pool.cells) == 1
    assert again.outcomes == whole.outcomes
    assert len(read_outcomes(out)) == 4


def test_another_recipe_or_text_runs_anew(tmp_path: Path, corpus: Corpus) -> None:
    out = tmp_path / "out"
    run_tournament(PLAN, corpus, tmp_path / "c", out, pool=Here(scripted))
    pool = Here(scripted)
    other = replace(PLAN, recipe=replace(RECIPE, lr=0.001), modes=("tokens",))
    run_tournament(other, corpus, tmp_path / "c", out, pool=pool)
    assert len(pool.cells) == 4
    cell = Cell(variant="GF", seed=0, mode="tokens", recipe=RECIPE)
    assert cell.key("one text") != cell.key("another")
    assert cell.key("one text", ["this CPU"]) != cell.key("one text", ["another CPU"])


@pytest.mark.parametrize(("module", "name"), [(cells, "_version"), (processor, "name")])
def test_runs_of_another_version_or_machine_are_not_taken_for_ones_of_here(
    module: Any, name: str, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = tmp_path / "out", replace(PLAN, modes=("tokens",))
    run_tournament(plan, corpus, tmp_path / "c", out, pool=Here(scripted))
    monkeypatch.setattr(module, name, lambda: "another")
    pool = Here(scripted)
    run_tournament(plan, corpus, tmp_path / "c", out, pool=pool)
    assert len(pool.cells) == 4


def test_an_interruption_keeps_what_was_finished(tmp_path: Path, corpus: Corpus) -> None:
    def interrupted(cell: Cell, key: str) -> Outcome:
        if cell.seed == 1:
            raise KeyboardInterrupt
        return scripted(cell, key)

    with pytest.raises(KeyboardInterrupt):
        run_tournament(PLAN, corpus, tmp_path / "c", tmp_path / "out", pool=Here(interrupted))
    assert {one.seed for one in read_outcomes(tmp_path / "out").values()} <= {0}


def test_one_folder_takes_one_comparison_at_a_time(tmp_path: Path, corpus: Corpus) -> None:
    out, pool = tmp_path / "out", Here(scripted)
    with claimed(out), pytest.raises(BadConfig, match="Another process compares in out"):
        run_tournament(PLAN, corpus, tmp_path / "c", out, pool=pool)
    assert not pool.cells
    run_tournament(PLAN, corpus, tmp_path / "c", out, pool=pool)


def test_a_process_that_was_ended_from_outside_is_a_sentence(
    tmp_path: Path, corpus: Corpus
) -> None:
    def killed(cell: Cell, key: str) -> Outcome:
        raise BrokenProcessPool("gone")

    with pytest.raises(LmError, match="fewer `--jobs`"):
        run_tournament(PLAN, corpus, tmp_path / "c", tmp_path / "out", pool=Here(killed))


def test_unequal_or_unknown_variants_are_refused_before_anything_runs(
    tmp_path: Path, corpus: Corpus
) -> None:
    for plan in (replace(PLAN, tolerance=1e-6), replace(PLAN, names=("GF", "XX"))):
        pool = Here(scripted)
        with pytest.raises(BadConfig):
            run_tournament(plan, corpus, tmp_path / "c", tmp_path / "out", pool=pool)
        assert not pool.cells


def test_a_plan_without_a_length_is_refused() -> None:
    with pytest.raises(BadConfig, match="how long"):
        Plan(names=("GF",), recipe=RECIPE)
    with pytest.raises(BadConfig, match="at least 1"):
        replace(PLAN, jobs=0)


def compared(losses: dict[str, list[float | None]]) -> Found:
    config = RECIPE.shape(20)
    outcomes = tuple(
        replace(scripted(Cell(variant=name, seed=seed, mode="tokens", recipe=RECIPE), "key"),
                validation=loss, variant=name)
        for name, own in losses.items()
        for seed, loss in enumerate(own)
    )  # fmt: skip
    variants = tuple(Variant(name=name, config=config, num_parameters=1000) for name in losses)
    return Found(variants=variants, tokens=960, cpu_s=96.0, outcomes={"tokens": outcomes})


def test_the_table_is_best_first_and_says_what_is_told_apart() -> None:
    found = compared(
        {"CP": [1.71, 1.72, 1.70], "GF": [1.60, 1.61, 1.59], "HY": [1.602, 1.61, 1.59]}
    )
    (table,) = standings(found)
    assert [row.variant for row in table.rows] == ["GF", "HY", "CP"]
    assert table.rows[2].worse_than == ("GF", "HY")
    assert table.rows[1].worse_than == ()
    assert table.summary == "GF is lowest. Really worse: CP. Not told apart from it: HY."
    assert table.rows[0].deviation == pytest.approx(0.01)


def test_times_that_were_not_equal_are_told() -> None:
    found = compared({"GF": [1.6, 1.61], "HY": [1.5, 1.51]})
    runs = tuple(
        replace(one, cpu_s=96.0 if one.variant == "GF" else 72.0)
        for one in found.outcomes["tokens"]
    )
    (table,) = standings(replace(found, outcomes={"time": runs}))
    assert "CPU times differ by 25 %" in table.summary
    (table,) = standings(replace(found, outcomes={"tokens": runs}))
    assert "CPU times" not in table.summary


def test_one_seed_tells_nothing_apart() -> None:
    (table,) = standings(compared({"CP": [1.7], "GF": [1.1]}))
    assert "one seed" in table.summary
    assert table.differences == ()


def test_a_run_that_diverged_stands_last_and_the_others_are_compared() -> None:
    found = compared({"GF": [1.6, None], "HY": [1.5, 1.51], "CP": [1.9, 1.91]})
    (table,) = standings(found)
    assert [row.variant for row in table.rows] == ["HY", "CP", "GF"]
    assert table.summary == "HY is lowest. Really worse: CP."
    json.dumps(as_dict(found, (table,)), allow_nan=False)
    (nothing,) = standings(compared({"GF": [None]}))
    assert nothing.summary == "No run ended with a loss."


def test_tables_are_written_for_people_programs_and_documents(tmp_path: Path) -> None:
    found = compared({"GF-MH+shift": [1.6, 1.61], "$x^": [1.7, 1.72]})
    write_all(found, standings(found), tmp_path)
    shown = json.loads((tmp_path / "standings.json").read_text())
    assert shown["standings"][0]["rows"][0]["variant"] == "GF-MH+shift"
    assert shown["standings"][0]["differences"][0]["is_real"] in (True, False)
    picture = (tmp_path / "standings.svg").read_text()
    assert picture.startswith("<svg ")
    assert "GF-MH+shift" in picture
    text = as_markdown(found, standings(found))
    assert "| GF-MH+shift | 0.001M | 1.6050 | 0.0071 |" in text
    assert (tmp_path / "standings.md").read_text() == text


SCRIPT = """
import sys
from pathlib import Path
from tests.lm.test_tournament import PLAN, TextFiles, Wanted, prepare, replace, run_tournament

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    corpus = prepare(TextFiles(paths=[folder / "text.txt"]), Wanted(kind="char"), folder / "c")
    plan = replace(PLAN, num_seeds=3, modes=("tokens",), jobs=2)
    run_tournament(plan, corpus, folder / "c", folder / "out")
    print("done")
"""


@pytest.mark.slow
def test_after_kill_9_nothing_goes_on_and_the_same_command_continues(
    tmp_path: Path, corpus: Corpus
) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    lines = tmp_path / "out" / LINES
    deadline = time.monotonic() + 200
    while not (lines.exists() and lines.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = read_outcomes(tmp_path / "out")
    assert kept
    group = ["pgrep", "-g", str(first.pid)]
    while subprocess.run(group, capture_output=True).stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() < deadline, "a child outlived its parent"
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert second.stdout == "done\n", second.stderr
    found = read_outcomes(tmp_path / "out")
    assert len(found) == 6
    assert all(found[key] == one for key, one in kept.items())
