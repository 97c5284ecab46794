"""Draws a report's plots as inline SVG on a light page.

Owns the drawing only: it is given numbers and titles and knows no gate. Text stays text, so that it
can be searched and keeps its size; every plot is a figure of its own, outside pyplot.
"""

import io
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RWKV, MAMBA, INK, FAINT = "#0b6bcb", "#c2560c", "#22262b", "#dfe3e7"
COLOURS = (RWKV, MAMBA, "#12733c", "#7b3fa0", "#6b7785", "#b3261e", "#85600a", "#0f7f8c")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4ae",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_WIDTH, _HEIGHT = 4.9, 3.1  # inches; near a phone's width, so that text keeps its size there
_MAX_NAME = 26


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    band: tuple[float, float] | None = None,
) -> str:
    """One line per name; empty where no series has a point. `band` shades the range that passes."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HEIGHT)
        if band:
            axes.axhspan(*band, color="#12733c", alpha=0.08, linewidth=0)
        for colour, (name, points) in zip(_cycled(len(drawn)), drawn.items(), strict=True):
            marker = "o" if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=_short(name), marker=marker,
                      markersize=4, linewidth=1.8)  # fmt: skip
        axes.set(xlabel=x, ylabel=y)
        if log_x:
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", integer=True)  # steps and layers
        if log_y:
            axes.set_yscale("log")
        if len(drawn) > 1:
            _plain(axes.legend())
        return svg(figure, title)


def bars(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, y: str
) -> str:
    """Bars side by side, one group per label; empty where there is nothing to show."""
    if not groups or not series:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HEIGHT)
        width = 0.8 / len(series)
        for place, (colour, (name, values)) in enumerate(
            zip(_cycled(len(series)), series.items(), strict=True)
        ):
            shift = (place - (len(series) - 1) / 2) * width
            axes.bar([i + shift for i in range(len(groups))], values, width, color=colour,
                     label=_short(name))  # fmt: skip
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set(ylabel=y)
        axes.grid(visible=False, axis="x")
        _plain(axes.legend())
        return svg(figure, title)


def stacked(
    title: str, rows: Sequence[str], series: Mapping[str, Sequence[float]], *, x: str
) -> str:
    """Bars from the left, one per row, their parts end to end; empty where all is nothing."""
    series = {name: values for name, values in series.items() if any(values)}
    if not series:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.9 + 0.28 * len(rows) + (0.5 if len(series) > 1 else 0))
        begin = [0.0] * len(rows)
        for colour, (name, values) in zip(_cycled(len(series)), series.items(), strict=True):
            axes.barh(range(len(rows)), values, 0.7, left=begin, color=colour, label=_short(name))
            begin = [left + value for left, value in zip(begin, values, strict=True)]
        axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a `$` in a name is no formula
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=x)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        if len(series) > 1:
            _plain(figure.legend(loc="outside lower center", ncols=3))
        return svg(figure, title)


def heat(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    x: str,
    y: str,
    low: float = 0.0,
    high: float = 1.0,
) -> str:
    """A table of coloured cells with their figures; empty where there is nothing to show."""
    if not rows or not columns:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.9 + 0.42 * len(rows))
        axes.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                dark = (value - low) > 0.6 * (high - low)
                axes.text(j, i, f"{value:.2f}", ha="center", va="center",
                          color="white" if dark else INK)  # fmt: skip
        axes.set_xticks(range(len(columns)), list(columns))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(xlabel=x, ylabel=y)
        axes.grid(visible=False)
        return svg(figure, title)


def ranked(
    panels: Sequence[tuple[str, Sequence[tuple[str, float, float, bool]]]], *, x: str
) -> str:
    """Panels under each other, each with a title and rows, best on top: (name, mean, half width,
    whether it is told apart from the best)."""
    heights = [0.9 + 0.3 * max(1, len(rows)) for _, rows in panels]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, sum(heights)), layout="constrained", facecolor="none")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
        for axes, (title, rows) in zip(grid[:, 0], panels, strict=True):
            for place, (_, mean, reach, apart) in enumerate(rows):
                axes.errorbar(
                    [mean],
                    [place],
                    xerr=[reach],
                    fmt="o",
                    capsize=3,
                    markersize=5,
                    linewidth=1.6,
                    color=MAMBA if apart else RWKV,
                )
            axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
            axes.set(ylim=(len(rows) - 0.4, -0.6))
            axes.set_title(title, fontsize=10, loc="left")
            axes.grid(visible=False, axis="y")
        grid[-1, 0].set_xlabel(x)
        return svg(figure, "; ".join(title for title, _ in panels))


def svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element that scales with its place in the page."""
    name = f"plot{zlib.crc32(title.encode('utf-8', 'replace')):x}"
    buffer = io.StringIO()
    # The salt keeps identifiers apart between the plots of a page, and equal between two runs.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    label = re.sub(r"[^\w ,.:()-]", "", title)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    text = re.sub(r'(id="|#|clip-path="url\(#)(?=[A-Za-z][\w.-]*_|p[0-9a-f]{8,}|m[0-9a-f]{8,})',
                  rf"\g<1>{name}-", text)  # fmt: skip
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    return figure, axes


def _plain(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(name: str) -> str:
    """A name that leaves room for the plot, without what XML cannot hold."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return name if len(name) <= _MAX_NAME else "\N{HORIZONTAL ELLIPSIS}" + name[1 - _MAX_NAME :]


def _cycled(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
