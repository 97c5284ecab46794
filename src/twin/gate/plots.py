"""Draws the report's plots as inline SVG that follows the page's light and dark colours.

Owns the drawing only. Colours are placeholders that become CSS variables, text stays text (small,
selectable, in the page's own font), and legends are the page's business.
"""

import io
import re
import warnings
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import dates as untyped_dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from twin.gate.report import Difference, Ranker

dates: Any = untyped_dates  # matplotlib publishes no types for this module's functions

# Colours nobody would choose: each stands for a variable of the page's style sheet.
_VARIABLES = {
    "#010203": "--ink",
    "#010204": "--faint",
    "#010205": "--candidate",
    "#010206": "--in-service",
    "#010207": "--baseline",
    "#010208": "--chance",
    "#010209": "--page",
}
_COLOUR = {name: colour for colour, name in _VARIABLES.items()}
_ROLE_STYLE: dict[str, tuple[str, float, str]] = {
    "candidate": (_COLOUR["--candidate"], 2.6, "-"),
    "in service": (_COLOUR["--in-service"], 1.8, "-"),
    "baseline": (_COLOUR["--baseline"], 1.8, "--"),
    "chance": (_COLOUR["--chance"], 1.4, ":"),
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOUR["--faint"],
    "axes.labelcolor": _COLOUR["--ink"],
    "text.color": _COLOUR["--ink"],
    "xtick.color": _COLOUR["--ink"],
    "ytick.color": _COLOUR["--ink"],
    "axes.grid": True,
    "grid.color": _COLOUR["--faint"],
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
}
_WIDTH, _HEIGHT = 4.9, 3.3  # inches; near a phone's width, so that text keeps its size there
_MAX_NAME = 26


def recall_by_k(rankers: Sequence["Ranker"]) -> str:
    """Recall@k over k, one line per ranker."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HEIGHT)
        for ranker in reversed(rankers):  # the candidate is drawn last, on top
            colour, width, dash = _ROLE_STYLE[ranker.role]
            ks = range(1, len(ranker.curve) + 1)
            axes.plot(ks, [100 * y for y in ranker.curve], dash, color=colour, linewidth=width)
        axes.set(xlabel="files looked at (k)", ylabel="targets found, %", ylim=(0, 101))
        axes.set_xlim(1, max((len(ranker.curve) for ranker in rankers), default=2))
        axes.set_xticks([1, 5, 10, 15, 20])
        return _svg(figure, "recall", "Share of the targets among the first k files")


def over_time(rankers: Sequence["Ranker"]) -> str:
    """The moving mean over the held-out tasks; empty where there are too few."""
    lines = [ranker for ranker in reversed(rankers) if ranker.rolling]
    if not lines:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HEIGHT)
        for ranker in lines:
            colour, width, dash = _ROLE_STYLE[ranker.role]
            moments = dates.date2num([datetime.fromtimestamp(t, tz=UTC) for t, _ in ranker.rolling])
            values = [100 * value for _, value in ranker.rolling]
            axes.plot(moments, values, dash, color=colour, linewidth=width)
        # With three or more, 31 to 35 months have no interval of months that is wide enough.
        locator = dates.AutoDateLocator(minticks=2, maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        axes.set(ylabel="mean recall, %", ylim=(0, 101))
        return _svg(figure, "rolling", "Moving mean of recall over the held-out tasks")


def forest(differences: Sequence["Difference"]) -> str:
    """Candidate minus one opponent, with 95 % intervals; empty where there is nothing to show."""
    if not differences:
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.8 + 0.28 * len(differences))
        for position, row in enumerate(differences):
            _interval(axes, position, row)
        axes.axvline(0, color=_COLOUR["--ink"], linewidth=1)
        axes.set_yticks(range(len(differences)), [_short(row.label) for row in differences])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a `$` in a name is no formula
        axes.set(ylim=(len(differences) - 0.4, -0.6), xlabel="difference, points")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        # Identifiers must differ between the page's forests.
        name = f"forest{zlib.crc32(differences[0].opponent.encode('utf-8', 'replace')):x}"
        return _svg(figure, name, "Differences with 95 % intervals")


def _interval(axes: Axes, position: int, row: "Difference") -> None:
    low, value, high = (100 * x for x in (row.interval.low, row.interval.value, row.interval.high))
    sure = row.interval.low > 0 or row.interval.high < 0
    colour = _COLOUR["--candidate"] if sure else _COLOUR["--baseline"]
    axes.plot([low, high], [position, position], color=colour, linewidth=2, clip_on=True)
    axes.plot(
        [value],
        [position],
        "o",
        color=colour,
        markersize=6.5,
        markerfacecolor=colour if sure else _COLOUR["--page"],
    )


def _figure(height: float) -> tuple[Figure, Axes]:
    """A figure of its own, outside pyplot: nothing global, nothing to close."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    return figure, axes


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element that scales with its place in the page."""
    buffer = io.StringIO()
    # The salt keeps identifiers apart between the plots of a page, and equal between two runs.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # Identifiers of matplotlib (figure_1, axes_1 ...) repeat in every plot; a page wants them once.
    svg = re.sub(r'(id="|#|clip-path="url\(#)(?=[A-Za-z])', rf"\g<1>{name}-", svg)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)


def _short(name: str) -> str:
    """A name that leaves room for the plot, without what XML cannot hold."""
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return name if len(name) <= _MAX_NAME else "…" + name[-(_MAX_NAME - 1) :]
