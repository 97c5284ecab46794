"""What a run looked like: one JSON line per report, and a picture of them.

Owns `metrics.jsonl` and `metrics.png` in the model's folder. After an interruption the lines beyond
the continued step are dropped, so that no step is told twice.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

LINES: Final = "metrics.jsonl"
PICTURE: Final = "metrics.png"

Line = dict[str, Any]


class Log:
    """Appends lines; a line is on disk once `write` returns, as far as a killed process goes."""

    def __init__(self, folder: Path, *, from_step: int = 0) -> None:
        """Keeps what is there up to `from_step`, and nothing at 0."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LINES
        kept = [line for line in read(folder) if line["step"] <= from_step] if from_step else []
        beside = folder / f".{LINES}.new"
        beside.write_text("".join(_line(line) for line in kept), encoding="utf-8")
        os.replace(beside, self._path)

    def write(self, values: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(values))


def read(folder: Path) -> list[Line]:
    """All whole lines; one that was cut short by a kill is left out."""
    try:
        text = (folder / LINES).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def draw(folder: Path, title: str) -> Path | None:
    """The picture of the lines; None where there is nothing to draw."""
    lines = read(folder)
    if not lines:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flat
    _plot(axes[0], lines, {"loss": "training", "val": "validation"}, "Loss (nats per token)")
    _plot(axes[1], lines, {"lr": ""}, "Learning rate (times its highest)")
    _plot(axes[2], lines, {"gradient_norm": ""}, "Gradient norm", log=True)
    _plot(axes[3], lines, {"tokens_per_s": ""}, "Tokens per second")
    _plot(axes[4], lines, {"gradient_ratio": ""}, "Gradient of RWKV / Mamba", log=True)
    _plot(axes[5], lines, {"state_entropy": ""}, "Entropy of the state (1: all directions)")
    figure.suptitle(title, parse_math=False)
    path = folder / PICTURE
    figure.savefig(path, dpi=110)
    return path


def _plot(
    axis: Any, lines: list[Line], names: Mapping[str, str], title: str, *, log: bool = False
) -> None:
    for name, label in names.items():
        points = [(line["tokens"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            marker = "o" if len(points) < 3 else None
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1.4, marker=marker)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("tokens", fontsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if log and axis.lines:
        axis.set_yscale("log")
    if any(names.values()) and axis.lines:
        axis.legend(frameon=False)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """None in place of what is no finite number: JSON has no word for it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(without_nan(values), allow_nan=False) + "\n"
