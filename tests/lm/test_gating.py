"""The gates of a stage on a whole checkpoint: what is run, what it rests on, and its report."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twin.lm import metrics
from twin.lm.checkpoint import save_model
from twin.lm.config import HybridConfig
from twin.lm.corpus import Wanted, prepare
from twin.lm.documents import TextFiles
from twin.lm.errors import BadCheckpoint, BadCorpus
from twin.lm.evidence import Subject, Text, file_text, learnt_text, load_subject
from twin.lm.gates_trained import TrainingPoint, ValidationPoint
from twin.lm.gating import Options, held_out_loss, judge
from twin.lm.model import HybridLM
from twin.lm.probe import train_briefly
from twin.lm.report import Report, as_dict, render_html, write_html
from twin.lm.tokenizer import ByteTokenizer, CharTokenizer

PROSE = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. "
TEXT = Text(train=(PROSE * 60).encode(), held_out=(PROSE * 8).encode())
TOKENIZER = CharTokenizer(PROSE)
CONFIG = HybridConfig(
    vocab_size=TOKENIZER.vocab_size, d_model=32, n_layers=2, head_dim=16, mamba_head_dim=16,
    d_state=16, decay_rank=8,
)  # fmt: skip
QUICK = Options(kernels="chunked", steps=0)


def subject(**known: object) -> Subject:
    model = HybridLM(CONFIG, kernels="chunked", seed=0)
    return Subject(name="fox", model=model, tokenizer=TOKENIZER, steps=0) if not known else replace(
        Subject(name="fox", model=model, tokenizer=TOKENIZER, steps=0), **known
    )  # fmt: skip


def gates_of(report: Report) -> list[str]:
    return sorted({one.gate for one in report.verdicts})


def grade_of(report: Report, gate: str, check: str = "") -> str:
    return next(
        one.grade for one in report.verdicts if one.gate == gate and one.check.startswith(check)
    )


@pytest.mark.parametrize(
    ("stage", "gates"),
    [
        ("build", ["G0", "G1"]),
        ("train", ["G0", "G1", "G2"]),
        ("long", ["G0", "G1", "G2", "G3", "G3.5", "G4"]),
        ("scale", ["G0", "G1", "G2", "G3", "G3.5", "G3.6", "G4", "G5"]),
    ],
)
def test_each_stage_adds_gates(stage: str, gates: list[str]) -> None:
    report = judge(subject(), TEXT, replace(QUICK, stage=stage))
    assert gates_of(report) == gates
    assert report.grade == "warn"  # the chunked kernels are a fallback
    assert report.headline.startswith("Nothing fails")


def test_an_untrained_model_is_not_yet_judged_on_training() -> None:
    report = judge(subject(), TEXT, QUICK)
    assert {grade_of(report, gate) for gate in ("G3", "G3.5", "G3.6", "G4", "G5")} == {"not yet"}


@pytest.mark.slow
def test_an_untrained_model_is_trained_on_the_side_and_left_alone() -> None:
    own = subject()
    before = {name: tensor.clone() for name, tensor in own.model.state_dict().items()}
    report = judge(own, TEXT, replace(QUICK, stage="long", steps=110, draw=True))
    assert grade_of(report, "G3", "loss falls") == "pass"
    assert "in 110 steps" in next(one.sentence for one in report.verdicts if one.gate == "G3")
    assert grade_of(report, "G4") != "not yet"
    assert grade_of(report, "G3.5") != "not yet"
    assert {plot.title for plot in report.plots} >= {"Loss over training", "Loss by position"}
    after = own.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def run(steps: int, loss: float = 0.0) -> tuple[TrainingPoint, ...]:
    return tuple(
        TrainingPoint(step=step, loss=loss or 3 - step / 500, gradient_norm=1.0, pathway_ratio=0.8)
        for step in range(10, steps + 1, 10)
    )


def test_known_metrics_are_read_instead_of_training_again() -> None:
    told: list[str] = []
    report = judge(subject(steps=1000, history=run(1000)), TEXT, Options(kernels="chunked"),
                   tell=lambda what, done, total: told.append(what))  # fmt: skip
    assert "Training on the side" not in told
    assert {grade_of(report, "G3", check) for check in ("loss falls", "gradient norm")} == {"pass"}


def test_a_dead_pathway_fails() -> None:
    own = subject(steps=1000, history=run(1000))
    for block in own.model.blocks:
        torch.nn.init.constant_(block.fuse.bias, -40.0)
    report = judge(own, TEXT, Options(kernels="chunked", stage="long"))
    assert report.grade == "fail"
    assert grade_of(report, "G4", "gradient ratio") == "fail"
    assert grade_of(report, "G4", "contribution") == "fail"
    assert grade_of(report, "G3.5", "gate saturation") == "fail"
    assert report.headline.startswith("G3.5, G4 fail: ")


def test_a_frozen_state_fails() -> None:
    own = subject(steps=1000, history=run(1000))
    for block in own.model.blocks:
        # Keeps everything, and what is written is always the same.
        torch.nn.init.constant_(block.rwkv.decay_base, -30.0)
        block.rwkv.in_proj.weight.data.zero_()
    report = judge(own, TEXT, Options(kernels="chunked", stage="long"))
    assert grade_of(report, "G3.5", "state cosine, rwkv") == "fail"


def test_nan_weights_fail_once_and_are_not_measured_further() -> None:
    own = subject(steps=1000, history=run(1000))
    own.model.blocks[0].ffn.up.weight.data[0, 0] = math.nan
    report = judge(own, TEXT, Options(kernels="chunked", target=1.0))
    assert report.grade == "fail"
    assert gates_of(report) == ["G0", "G1", "G2"]
    json.dumps(as_dict(report), allow_nan=False)


def test_a_target_is_reached_or_not() -> None:
    loss, per_byte = held_out_loss(subject(), TEXT.held_out)
    assert loss == pytest.approx(per_byte)  # one character, one byte here
    for target, grade in ((loss + 0.01, "pass"), (loss - 0.01, "fail")):
        report = judge(subject(), TEXT, replace(QUICK, target=target))
        assert grade_of(report, "G5") == grade


def valid(*points: tuple[int, float]) -> tuple[ValidationPoint, ...]:
    return tuple(ValidationPoint(step=step, loss=loss) for step, loss in points)


@pytest.mark.parametrize(
    ("theirs", "grade"),
    [(valid((500, 2.0), (1500, 1.0)), "pass"), (valid((500, 1.2), (1500, 0.8)), "fail")],
)
def test_versions_are_compared_at_the_last_step_both_know(
    theirs: tuple[ValidationPoint, ...], grade: str
) -> None:
    ours = subject(
        steps=1000, history=run(1000), validation=valid((500, 2.0), (1000, 1.6)), corpus_key="one"
    )
    other = replace(subject(), steps=1500, validation=theirs, corpus_key="one")
    assert grade_of(judge(ours, TEXT, QUICK, against=other), "G3.6") == grade
    for key in ("another", ""):  # losses on different texts say nothing about each other
        report = judge(ours, TEXT, QUICK, against=replace(other, corpus_key=key))
        (verdict,) = [one for one in report.verdicts if one.gate == "G3.6"]
        assert verdict.grade == "not yet"
        assert "may have learnt" in verdict.sentence


def test_versions_of_equal_length_are_measured_on_the_same_text() -> None:
    ours, other = subject(steps=100), subject(steps=100)
    assert grade_of(judge(ours, TEXT, QUICK, against=other), "G3.6") == "pass"
    spoilt = subject(steps=100)
    spoilt.model.embed.weight.data *= 100
    assert grade_of(judge(spoilt, TEXT, QUICK, against=other), "G3.6") == "fail"
    assert grade_of(judge(ours, TEXT, QUICK, against=subject(steps=7)), "G3.6") == "not yet"


def test_versions_with_other_tokenizers_are_compared_per_byte() -> None:
    model = HybridLM(replace(CONFIG, vocab_size=261), kernels="chunked", seed=0)
    other = Subject(name="bytes", model=model, tokenizer=ByteTokenizer(), steps=0)
    assert grade_of(judge(subject(), TEXT, QUICK, against=other), "G3.6") == "pass"


def test_a_wrong_tokenizer_fails() -> None:
    other = CharTokenizer(PROSE + "XYZ")
    report = judge(subject(tokenizer=other), TEXT, replace(QUICK, stage="build"))
    assert grade_of(report, "G0", "vocabulary") == "fail"


@pytest.mark.parametrize("held_out", [b"", b"short", b"a" * 129])
def test_too_little_text_is_refused(held_out: bytes) -> None:
    with pytest.raises(BadCorpus, match="Give more text"):
        judge(subject(), replace(TEXT, held_out=held_out), QUICK)


@pytest.mark.slow
def test_pure_networks_and_anchors_are_judged_too() -> None:
    for options in ({"pathways": "mamba"}, {"fusion": "HY", "attention_every": 2}):
        model = HybridLM(replace(CONFIG, **options), kernels="chunked", seed=0)
        report = judge(subject(model=model), TEXT, replace(QUICK, steps=12, stage="long"))
        assert report.grade in ("warn", "fail")


@pytest.mark.slow
def test_recall_is_reported_where_it_is_asked_for() -> None:
    options = Options(kernels="chunked", stage="build", recall=True, needle_lengths=(128, 256),
                      needle_seeds=2, recall_steps=2, draw=True)  # fmt: skip
    report = judge(subject(), TEXT, options)
    titles = [table.title for table in report.tables]
    assert titles == ["Needle in a haystack", "Many keys and values (MQAR)"]
    assert [row[:2] for row in report.tables[0].rows][:2] == [(128, 0.0), (128, 0.25)]
    assert len(report.plots) == 2


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    report = judge(subject(name="<script>alert(1)</script>"), TEXT,
                   replace(QUICK, stage="long", steps=12, draw=True))  # fmt: skip
    write_html(report, tmp_path / "gates.html")
    page = (tmp_path / "gates.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert not re.findall(r"url\((?!#)", page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == len(report.plots) >= 6
    ids = []
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.attrib["aria-label"]
        ids += [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids))


def test_a_page_without_plots_is_whole() -> None:
    page = render_html(judge(subject(), TEXT, replace(QUICK, stage="build")))
    assert "G1: the forward pass is right" in page
    assert page.rstrip().endswith("</html>")


def test_a_checkpoint_brings_its_steps_its_metrics_and_its_text(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text(PROSE * 40, encoding="utf-8")
    source = TextFiles(paths=[tmp_path / "prose.txt"])
    corpus = prepare(source, Wanted(kind="char"), tmp_path / ".corpora")
    model = HybridLM(CONFIG, kernels="chunked", seed=0)
    save_model(tmp_path / "fox", model, corpus.tokenizer,
               {"step": 40, "corpus": {"key": corpus.key}})  # fmt: skip
    log = metrics.Log(tmp_path / "fox")
    log.write({"step": 10, "loss": 2.5, "gradient_norm": 0.9, "gradient_ratio": None})
    log.write({"step": 20, "val": 2.4})
    with (tmp_path / "fox" / metrics.LINES).open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "lo')
    found = load_subject(tmp_path / "fox", "chunked")
    assert (found.name, found.steps) == ("fox", 40)
    assert found.history == (TrainingPoint(step=10, loss=2.5, gradient_norm=0.9),)
    assert found.validation == (ValidationPoint(step=20, loss=2.4),)
    text = learnt_text(found, tmp_path / ".corpora")
    assert (text.train + text.held_out).decode() == PROSE * 40
    assert len(text.held_out) == 272


def test_a_text_that_is_gone_or_unknown_says_how_to_give_one(tmp_path: Path) -> None:
    for key in ("", "0" * 32, "../../etc"):
        with pytest.raises(BadCorpus, match="Give `--text FILE`"):
            learnt_text(subject(corpus_key=key), tmp_path)


def test_files_are_read_with_their_end_held_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("äöü".encode() * 100)
    text = file_text([tmp_path / "a"])
    assert text.train.decode() + text.held_out.decode() == "äöü" * 100
    with pytest.raises(BadCorpus, match="cannot be read"):
        file_text([tmp_path / "none"])


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint):
        load_subject(tmp_path)


def test_a_run_on_the_side_stops_where_the_loss_is_no_number() -> None:
    model = HybridLM(CONFIG, kernels="chunked", seed=0)
    model.embed.weight.data[:] = math.nan
    tokens = TOKENIZER.encode(TEXT.train.decode())
    points = train_briefly(model, tokens, steps=5, batch=2, window=16)
    assert len(points) == 1
    assert math.isnan(points[0].loss)
