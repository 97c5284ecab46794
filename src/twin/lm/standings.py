"""What a tournament's runs mean: mean and spread, which differences are real, as text and picture.

Owns the table and how it is shown; `significance` owns the statistics, `tournament` the runs.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twin.lm.cells import Mode, Outcome
from twin.lm.report import finite, write_whole
from twin.lm.significance import Difference, compare
from twin.lm.tournament import Found
from twin.lm.variants import Variant

TITLES: dict[Mode, str] = {"tokens": "At equal tokens", "time": "At equal CPU time"}
MAX_APART = 0.05
"""Share by which CPU times that should be equal may differ unmentioned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant."""

    variant: str
    num_parameters: int
    num_seeds: int
    validation: float
    """Mean over the seeds, nats per token; NaN where a run diverged."""
    deviation: float
    """Standard deviation over the seeds; NaN for one seed."""
    validation_carried: float
    bits_per_byte: float
    tokens: int
    cpu_s: float
    tokens_per_cpu_s: float
    worse_than: tuple[str, ...]
    """Variants that are really better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One question's answer, best first."""

    mode: Mode
    title: str
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    summary: str


def standings(found: Found) -> tuple[Standing, ...]:
    """One table per mode."""
    return tuple(
        _standing(mode, found, outcomes)
        for mode, outcomes in found.outcomes.items()
        if mode in TITLES
    )


def _standing(mode: Mode, found: Found, outcomes: Sequence[Outcome]) -> Standing:
    own = {v.name: [one for one in outcomes if one.variant == v.name] for v in found.variants}
    losses = {
        name: {one.seed: math.nan if one.validation is None else one.validation for one in runs}
        for name, runs in own.items()
    }
    differences = compare(losses)
    rows = [_row(variant, own[variant.name], differences) for variant in found.variants]
    rows.sort(key=lambda row: (math.isnan(row.validation), row.validation))
    summary = _summary(rows, differences)
    if mode == "time" and (apart := _apart(rows)) > MAX_APART:
        summary += (
            f" Their CPU times differ by {100 * apart:.0f} %: the machine's speed changed between "
            "the runs; repeat it on a quiet one."
        )
    budget = f"{found.tokens:,} tokens" if mode == "tokens" else f"{found.cpu_s:,.0f} CPU seconds"
    return Standing(
        mode=mode,
        title=f"{TITLES[mode]}: {budget} a run",
        rows=tuple(rows),
        differences=tuple(differences),
        summary=summary,
    )


def _apart(rows: Sequence[Row]) -> float:
    """By how much the CPU times of the variants differ, as a share of the largest."""
    times = [row.cpu_s for row in rows]
    return 1 - min(times) / max(times) if times and max(times) > 0 else 0.0


def _row(variant: Variant, runs: Sequence[Outcome], differences: Sequence[Difference]) -> Row:
    def mean(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) and known else math.nan

    values = [one.validation for one in runs]
    known = [value for value in values if value is not None]
    better = []
    for one in differences:
        if one.is_real and variant.name in (one.left, one.right):
            winner = one.left if one.mean < 0 else one.right
            if winner != variant.name:
                better.append(winner)
    return Row(
        variant=variant.name,
        num_parameters=variant.num_parameters,
        num_seeds=len(runs),
        validation=mean(values),
        deviation=statistics.stdev(known) if len(known) > 1 else math.nan,
        validation_carried=mean([one.validation_carried for one in runs]),
        bits_per_byte=mean([one.bits_per_byte for one in runs]),
        tokens=round(statistics.fmean(one.tokens for one in runs)),
        cpu_s=statistics.fmean(one.cpu_s for one in runs),
        tokens_per_cpu_s=statistics.median(one.tokens_per_cpu_s for one in runs),
        worse_than=tuple(better),
    )


def _summary(rows: Sequence[Row], differences: Sequence[Difference]) -> str:
    """What may be said of the best."""
    if not rows or math.isnan(rows[0].validation):
        return "No run ended with a loss."
    best = rows[0]
    if not differences:
        return f"{best.variant} is lowest; with one seed or one variant nothing is told apart."
    told = [row.variant for row in rows if best.variant in row.worse_than]
    level = [
        row.variant
        for row in rows[1:]
        if row.variant not in told and not math.isnan(row.validation)
    ]
    text = f"{best.variant} is lowest."
    if told:
        text += f" Really worse: {', '.join(told)}."
    if level:
        text += f" Not told apart from it: {', '.join(level)}."
    return text


def as_markdown(found: Found, tables: Sequence[Standing], about: str = "") -> str:
    """For documents: the tables, what is told apart and the statistics in a sentence."""
    parts = [about] if about else []
    for table in tables:
        parts.append(f"### {table.title}\n")
        parts.append(
            "| variant | parameters | validation | sd | carried | bits/byte | tokens | CPU s | "
            "tok/CPU s | really worse than |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        parts += [_markdown_row(row) for row in table.rows]
        parts.append(f"\n{table.summary}\n")
    counts = [variant.num_parameters for variant in found.variants]
    spread = (max(counts) - min(counts)) / max(counts)
    seeds = max((row.num_seeds for table in tables for row in table.rows), default=0)
    parts.append(
        f"{seeds} seeds; parameters within {100 * spread:.2f} % of each other. Same order of data "
        "in a seed. `Really worse` is a t test paired by seed with the scatter pooled over the "
        "variants, at 5 % over all pairs (Holm). Networks with attention see the same text in "
        "windows drawn by chance, the others with the state handed on."
    )
    return "\n".join(parts) + "\n"


def write_all(found: Found, tables: Sequence[Standing], folder: Path, about: str = "") -> None:
    """`standings.json`, `standings.md` and `standings.svg`, each whole or not at all."""
    shown = json.dumps(as_dict(found, tables), indent=1, allow_nan=False)
    write_whole(folder / "standings.json", shown.encode())
    write_whole(folder / "standings.md", as_markdown(found, tables, about).encode())
    picture = _picture(tables)
    if picture:
        write_whole(folder / "standings.svg", picture.encode())


def as_dict(found: Found, tables: Sequence[Standing]) -> dict[str, Any]:
    """JSON-ready."""
    shown: dict[str, Any] = finite(
        {
            "tokens": found.tokens,
            "cpu_s": found.cpu_s,
            "variants": [
                {"name": one.name, "num_parameters": one.num_parameters,
                 "config": one.config.to_dict()}
                for one in found.variants
            ],
            "standings": [_with_reality(table) for table in tables],
            "runs": {
                mode: [asdict(one) for one in outcomes] for mode, outcomes in found.outcomes.items()
            },
        }
    )  # fmt: skip
    return shown


def _with_reality(table: Standing) -> dict[str, Any]:
    plain = asdict(table)
    for own, one in zip(plain["differences"], table.differences, strict=True):
        own["is_real"] = one.is_real
    return plain


def _markdown_row(row: Row) -> str:
    apart = ", ".join(row.worse_than) or "-"
    return (
        f"| {row.variant} | {row.num_parameters / 1e6:.3f}M | {row.validation:.4f} | "
        f"{row.deviation:.4f} | {row.validation_carried:.4f} | {row.bits_per_byte:.4f} | "
        f"{row.tokens:,} | {row.cpu_s:.0f} | {row.tokens_per_cpu_s:,.0f} | {apart} |"
    )


def _picture(tables: Sequence[Standing]) -> str:
    """One panel a table, under each other."""
    drawn = [table for table in tables if table.rows and not math.isnan(table.rows[0].validation)]
    if not drawn:
        return ""
    from twin.lm import plots

    return plots.ranked(
        [
            (table.title, [_mark(table, row) for row in table.rows if row.validation > 0])
            for table in drawn
        ],
        x="nats per token held out; bars: one deviation; orange: really worse than the best",
    )


def _mark(table: Standing, row: Row) -> tuple[str, float, float, bool]:
    spread = 0.0 if math.isnan(row.deviation) else row.deviation
    return row.variant, row.validation, spread, table.rows[0].variant in row.worse_than
