"""A gate's report: one record with every figure, and one HTML page for people.

Owns what is shown and in which order; `plots` draws, `gates` judged before. The page loads nothing
from anywhere, so it can be mailed; names of folders and symbols of a vocabulary are escaped.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from twin.lm.verdict import Grade, Verdict, worst

MEANINGS = {
    "G0": "control tokens and kernels",
    "G1": "the forward pass is right",
    "G2": "the untrained model knows nothing yet",
    "G3": "it learns",
    "G3.5": "the states are alive",
    "G3.6": "against another version",
    "G4": "both pathways learn",
    "G5": "the target of this scale",
}
# Control characters, and the marks that make a text read as another one.
_STEERING = (*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F))
_CLEAN = dict.fromkeys((*_STEERING, *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}")
_SAID: dict[Grade, str] = {
    "pass": "Every check passes.",
    "warn": "Nothing fails; some checks deserve a look.",
    "fail": "A gate fails: do not go on before the cause is found.",
    "not yet": "Nothing could be judged yet.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One drawing with what it shows in a sentence."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Any further figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page shows, and everything `--json` prints but the drawings."""

    title: str
    made: str
    """When, on what and by which version, in one line."""
    stage: str
    grade: Grade
    headline: str
    facts: tuple[tuple[str, str], ...]
    verdicts: tuple[Verdict, ...]
    plots: tuple[Plot, ...]
    tables: tuple[Table, ...]


def build_report(
    *,
    title: str,
    made: str,
    stage: str,
    facts: Sequence[tuple[str, str]],
    verdicts: Sequence[Verdict],
    plots: Sequence[Plot] = (),
    tables: Sequence[Table] = (),
) -> Report:
    """Puts the parts together; plots that found nothing to draw are left out."""
    grade = worst(verdicts)
    bad = [one for one in verdicts if one.grade == "fail"]
    said = _SAID[grade]
    if bad:
        gates = sorted({one.gate for one in bad}, key=list(MEANINGS).index)
        said = f"{', '.join(gates)} {'fails' if len(gates) == 1 else 'fail'}: {bad[0].sentence}"
    return Report(
        title=title,
        made=made,
        stage=stage,
        grade=grade,
        headline=said,
        facts=tuple(facts),
        verdicts=tuple(verdicts),
        plots=tuple(plot for plot in plots if plot.svg),
        tables=tuple(table for table in tables if table.rows),
    )


def as_dict(report: Report) -> dict[str, Any]:
    """For JSON: no drawings, and None for what is not finite (JSON has no NaN)."""
    found = dataclasses.asdict(report)
    del found["plots"]
    plain: dict[str, Any] = finite(found)
    return plain


def finite(value: Any) -> Any:
    """The same value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render_html(report: Report) -> str:
    """The page, as one self-contained document."""
    gates: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        gates.setdefault(verdict.gate, []).append(verdict)
    page = environment().get_template("report.html.j2")
    return page.render(report=report, gates=list(gates.items()), meanings=MEANINGS)


def write_html(report: Report, path: Path) -> None:
    """Writes the page whole or not at all."""
    write_whole(path, render_html(report).encode("utf-8", errors="replace"))


def write_whole(path: Path, data: bytes) -> None:
    """The file has either its old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def environment(*packages: str) -> Environment:
    """What fills pages in; pages of other `packages` may extend the report's."""
    loaders = [PackageLoader(package, ".") for package in (*packages, "twin.lm")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    environment.filters["slug"] = lambda text: str(text).replace(" ", "-")
    return environment


def _figure(value: object) -> object:
    """Four digits that count; a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value


def _printable(value: object) -> object:
    """No control characters or half surrogates reach the page, whatever a name holds."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_CLEAN).encode("utf-8", "replace").decode()
    return value
