"""Metrics are whole lines, no step is told twice, and a picture is drawn of them."""

from pathlib import Path

from twin.lm import metrics


def line(step: int, **values: float | None) -> dict[str, object]:
    return {"step": step, "tokens": step * 100, "loss": 3.0 - step / 100, **values}


def test_lines_beyond_the_continued_step_are_dropped(tmp_path: Path) -> None:
    log = metrics.Log(tmp_path)
    for step in (10, 20, 30):
        log.write(line(step))
    metrics.Log(tmp_path, from_step=20).write(line(25))
    assert [found["step"] for found in metrics.read(tmp_path)] == [10, 20, 25]
    metrics.Log(tmp_path)
    assert metrics.read(tmp_path) == []


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    metrics.Log(tmp_path).write(line(10))
    with (tmp_path / metrics.LINES).open("a") as file:
        file.write('{"step": 20, "los\nnull\n[1]\n')
    assert [found["step"] for found in metrics.read(tmp_path)] == [10]


def test_a_picture_is_drawn_of_what_there_is(tmp_path: Path) -> None:
    assert metrics.draw(tmp_path, "none") is None
    log = metrics.Log(tmp_path)
    for step in range(10, 60, 10):
        log.write(line(step, gradient_ratio=0.5, gradient_norm=1.0, lr=0.5, tokens_per_s=1e4))
    log.write({"step": 60, "tokens": 6000, "val": 2.5, "state_entropy": None})
    path = metrics.draw(tmp_path, "model $x_ of_ 3 parameters")
    assert path is not None
    assert path.read_bytes()[:4] == b"\x89PNG"
