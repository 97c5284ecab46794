"""What a bench tells at its end: bars and what was got, versions, the machine, a line of JSON."""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from twin.lm import processor


def at_least(name: str, must: float, got: float | None, *, unit: str = "") -> dict[str, Any]:
    """A bar that could not be measured does not hold."""
    return _bar(name, f">= {must:g}{unit}", got, got is not None and got >= must)


def at_most(name: str, must: float, got: float | None, *, unit: str = "") -> dict[str, Any]:
    return _bar(name, f"<= {must:g}{unit}", got, got is not None and got <= must)


def below(name: str, must: float, got: float | None, *, unit: str = "") -> dict[str, Any]:
    return _bar(name, f"< {must:g}{unit}", got, got is not None and got < must)


def _bar(name: str, must: str, got: float | None, holds: bool) -> dict[str, Any]:
    return {"name": name, "must": must, "got": rounded(got), "holds": holds}


def rounded(value: float | None, places: int = 4) -> float | None:
    return None if value is None else round(value, places)


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 4), "sd": round(deviation, 4)}


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that are installed, of this one and of Python."""
    found = {"python": sys.version.split()[0]}
    for name in ("cognitive-twin", "torch", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, its matrix units, cores, and who else was there."""
    flags = processor.flags()
    return {
        "cpu": processor.name(),
        "amx": "amx_bf16" in flags,
        "avx512": "avx512f" in flags,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def tell(
    bench: str, known: dict[str, str], figures: dict[str, Any], bars: list[dict[str, Any]]
) -> int:
    """Prints the bars and the line; the exit status says whether all of them hold."""
    for one in bars:
        print(f"{'holds' if one['holds'] else 'FAILS'}  {one['must']:>12}  {one['got']!s:>10}  "
              f"{one['name']}")  # fmt: skip
    print(json.dumps({"bench": bench, "versions": known, "figures": figures, "bars": bars}))
    return 0 if all(one["holds"] for one in bars) else 1
