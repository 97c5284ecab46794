import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lm_code
import lm_decode
import lm_gpu
import lm_quality
import lm_train
import verdict
from lm_peers.workers import Worker, WorkerFailed

CHILD = """
import os, sys
sys.path.insert(0, {bench!r})
from lm_peers.workers import serve

def build(spec):
    print("libraries print what they like")
    if "fails" in spec:
        raise ValueError("it cannot be built")
    return {{"threads": os.environ["OMP_NUM_THREADS"]}}, measure

def measure(question):
    if question["number"] == 0:
        raise ZeroDivisionError("nothing to divide")
    if question["number"] < 0:
        os._exit(3)
    return {{"half": question["number"] / 2}}

sys.exit(serve(build))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "child.py"
    path.write_text(CHILD.format(bench=str(Path(__file__).parents[2] / "bench")))
    return path


@pytest.fixture
def worker(script: Path) -> Iterator[Worker]:
    worker = Worker(script, {}, threads=3)
    yield worker
    worker.stop()


def test_a_worker_has_its_threads_before_it_starts(worker: Worker) -> None:
    assert worker.ready == {"threads": "3"}


def test_a_worker_answers_again_after_a_measurement_that_failed(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="ZeroDivisionError: nothing to divide"):
        worker.ask(number=0)
    assert worker.ask(number=7) == {"half": 3.5}


def test_a_worker_that_dies_is_told_from_one_that_answers(worker: Worker) -> None:
    with pytest.raises(WorkerFailed, match="status 3"):
        worker.ask(number=-1)


def test_a_worker_that_cannot_be_built_says_why(script: Path) -> None:
    with pytest.raises(WorkerFailed, match="it cannot be built"):
        Worker(script, {"fails": True}, threads=1)


def test_a_bar_that_was_not_measured_does_not_hold() -> None:
    assert not any(
        bar("x", 1.0, None)["holds"] for bar in (verdict.at_least, verdict.at_most, verdict.below)
    )


@pytest.mark.parametrize(
    ("bar", "holds"),
    [(verdict.at_least, True), (verdict.at_most, True), (verdict.below, False)],
)
def test_a_bar_that_is_just_met(bar: Any, holds: bool) -> None:
    assert bar("x", 2.0, 2.0)["holds"] is holds


def train_run(target: str, number: int, speed: float, cell: str = "T256-1") -> dict[str, Any]:
    return {"cell": cell, "target": target, "round": number, "tok_s_core": speed, "tok_s": speed}


def test_training_is_compared_within_rounds_and_with_the_faster_transformer() -> None:
    runs = [
        *(train_run("hybrid", number, speed) for number, speed in enumerate([10, 20, 40])),
        *(train_run("transformer", number, speed) for number, speed in enumerate([5, 20, 20])),
        *(train_run("transformer-compiled", number, 1.0) for number in range(3)),
        *(train_run("hybrid", number, 30.0, "T256-2") for number in range(3)),
    ]
    figures = lm_train.Figures(runs)
    assert figures.best("T256-1", lm_train.TRANSFORMERS) == "transformer"
    assert figures.ratio("T256-1", lm_train.TRANSFORMERS) == 2.0
    assert figures.ratio("T2048-1", lm_train.TRANSFORMERS) is None
    assert figures.speedup(256) == 1.5


def test_decoding_is_flat_only_if_every_context_was_measured() -> None:
    def run(number: int, context: int, speed: float) -> dict[str, Any]:
        about = {"target": "hybrid", "how": "run", "context": context}
        return {**about, "round": number, "tok_s": speed}

    figures = lm_decode.Figures(
        [run(0, 1024, 100.0), run(0, 4096, 96.0), run(1, 1024, 50.0), run(1, 4096, 48.0)]
    )
    assert figures.not_flat([1024, 4096]) == pytest.approx(4.0)
    assert figures.slowest("hybrid", [1024, 4096]) == 72.0
    for found in (figures.not_flat, lambda contexts: figures.slowest("hybrid", contexts)):
        assert found([1024, 4096, 16384]) is None


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 50)
    return path


def quality_cells(text: Path, *options: str) -> list[dict[str, Any]]:
    return lm_quality.cells(lm_quality.arguments([str(text), *options]))


def test_the_networks_take_turns_seed_after_seed_on_the_same_budget(text: Path) -> None:
    cells = quality_cells(text)
    assert [(cell["model"], cell["recipe"]["seed"]) for cell in cells] == [
        (model, seed) for seed in range(3) for model in ("hybrid", "transformer")
    ]
    assert {cell["recipe"]["time_budget_s"] for cell in cells} == {600.0}
    assert {cell["recipe"]["validate_every_s"] for cell in cells} == {-1.0}


def test_an_hour_of_the_hybrid_is_its_teachers_and_its_own(text: Path) -> None:
    cells = quality_cells(text, "--long", "--seeds", "2")
    assert [(cell["model"], cell["recipe"]["seed"]) for cell in cells] == [
        *(("teacher", seed) for seed in range(1, 4)), ("hybrid", 0), ("transformer", 0),
        *(("teacher", seed) for seed in range(4, 7)), ("hybrid", 1), ("transformer", 1),
    ]  # fmt: skip
    seconds = [cell["recipe"]["time_budget_s"] for cell in cells]
    assert seconds == [450, 450, 450, 2250, 3600] * 2
    (short, _) = quality_cells(text, "--seeds", "1")
    as_measured = cells[0]["recipe"] | {"time_budget_s": 600.0, "seed": 0}
    assert as_measured == short["recipe"], "what ten minutes are spent best on"
    assert cells[3]["teachers"] == [lm_quality._folder(cell) for cell in cells[:3]]
    assert not cells[4]["teachers"]


def test_a_finished_run_is_known_again_only_if_nothing_differs(text: Path) -> None:
    def key(*options: str) -> list[str]:
        return [cell["key"] for cell in quality_cells(text, *options)]

    assert key() == key()
    assert not set(key()) & set(key("--set", "matrix_lr=0.03"))
    assert not set(key()) & set(key("--minutes", "5"))
    changed = key("--set-transformer", "shape.qk_norm=false")
    assert [a == b for a, b in zip(key(), changed, strict=True)] == [True, False] * 3
    text.write_text("something else")
    assert not set(key("--seeds", "1")) & set(changed)


@pytest.mark.parametrize("setting", ["short", "long", "spec"])
def test_every_setting_is_within_its_parameters(setting: str, text: Path) -> None:
    from twin.lm.config import num_parameters
    from twin.lm.recipe import Recipe

    options = () if setting == "short" else (f"--{setting}",)
    for cell in quality_cells(text, *options):
        shape = Recipe.from_dict(cell["recipe"]).shape(97 if setting == "spec" else 65)
        assert num_parameters(shape) <= lm_quality.MOST_PARAMETERS[setting]


def test_modules_are_what_stands_between_end_tokens() -> None:
    tokens = np.array([*b"one", 256, *b"two", 256, 0, 255], np.uint16)
    assert lm_code.modules(tokens, 256) == [b"one", b"two", b"\x00\xff"]


def test_the_library_is_read_without_tests_and_what_was_installed(tmp_path: Path) -> None:
    for name in ("a.py", "json/decoder.py", "test/test_a.py", "site-packages/x.py", "b.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("pass\n")
    (tmp_path / "empty.py").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    source = lm_code.Library(tmp_path, with_tests=False, most_bytes=0)
    assert [document.name for document in source.documents()] == ["a.py", "json/decoder.py"]
    assert source.left_out == {"tests": 1, "installed": 1, "empty": 1, "generated": 1}
    with_tests = lm_code.Library(tmp_path, with_tests=True, most_bytes=0)
    assert "test/test_a.py" in [document.name for document in with_tests.documents()]


def test_without_zstd_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install zstd"):
        lm_code.main(["--quick"])


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
def test_zstd_finds_in_the_training_text_what_it_is_to_compress() -> None:
    known = np.random.default_rng(0).bytes(4_000)
    bits = lm_code.zstd_bits(b"before" + known + b"after", [known], jobs=1)
    assert bits["files"] < 0.1
    assert bits["plain_files"] > 8


def test_without_a_gpu_the_gpu_bench_refuses() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="sees no GPU"):
        lm_gpu.main(["--quick"])


def test_bits_of_a_module_do_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from lm_peers.transformer import Transformer, TransformerConfig

    model = Transformer(
        TransformerConfig(
            vocab_size=257, d_model=32, n_layers=1, n_heads=1, mlp_width=32, context=8
        ),
        seed=0,
    ).eval()
    module = bytes(range(40))
    whole = lm_code.score(model, [module, module], 256, "fp32")
    monkeypatch.setattr(lm_code, "SCORED_AT_ONCE", 7)
    parts = lm_code.score(model, [module, module], 256, "fp32")
    assert parts == pytest.approx(whole, rel=1e-5)


def test_the_recipe_that_ships_for_code_is_the_one_that_was_measured() -> None:
    from twin.lm.recipe import Recipe, changed, load_recipe

    ours = load_recipe(Path(__file__).parents[2] / "recipes" / "code.toml")
    measured = changed(Recipe.from_dict(lm_code.RECIPE), lm_code.HYBRID)
    as_measured = {"validate_every_s": measured.validate_every_s, "stop_early": False}
    assert changed(ours, as_measured).to_dict() == measured.to_dict()
