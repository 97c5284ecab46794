"""Puts a candidate into service, or keeps what is there: the only door to `live`.

Owns the rule "better than BM25 *and* better than the version in service". Judges nothing itself
(`gate.verdict` did) and never imports `train`: the judge does not share the pupil's bugs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twin.errors import Refused
from twin.records import ModelVersion, Verdict, VersionStatus

BASELINE = "bm25"
SHIPPED_DEFAULT = "default"
"""The opponent's name where this store has no version in service: the model in the package is."""


class Registry(Protocol):
    """What promotion needs of `store.Registry`."""

    def move(self, version_id: str, to: VersionStatus, reason: str) -> ModelVersion: ...
    def promote(self, version_id: str, reason: str) -> ModelVersion: ...
    def live(self, model: str) -> ModelVersion | None: ...
    def get(self, version_id: str) -> ModelVersion: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What became of a candidate."""

    version: ModelVersion
    promoted: bool
    in_service: str
    """The version that answers from now on: a version id, or `default` for the shipped model."""
    reason: str
    verdicts: tuple[Verdict, ...]


def in_service(registry: Registry, model: str, default: str = SHIPPED_DEFAULT) -> str:
    """Whom a candidate must beat besides the baseline."""
    live = registry.live(model)
    return live.version_id if live else default


def judge_and_promote(
    registry: Registry,
    version: ModelVersion,
    verdicts: Sequence[Verdict],
    *,
    baseline: str = BASELINE,
    default: str = SHIPPED_DEFAULT,
    command: str = "twin improve",
) -> Judgement:
    """Moves a candidate to `passed` and `live`, or to `failed`, by its verdicts.

    Safe to repeat after an interruption: a version that is already live, passed or failed goes on
    from there. `default` is what serves where no version does; it may be the baseline itself.
    Raises ValueError where a needed verdict is missing, Refused where another run put a version
    into service that this candidate was never compared with.
    """
    version = registry.get(version.version_id)
    if version.status == "live":
        reason = f"{version.version_id} is already in service."
        return _judgement(version, True, version.version_id, reason, verdicts)
    current = in_service(registry, version.model, default)
    by_opponent = {v.opponent: v for v in verdicts if v.candidate == version.version_id}
    if baseline not in by_opponent:
        raise ValueError(f"{version.version_id} has no verdict against {baseline}.")
    if current not in by_opponent:
        raise Refused(
            f"{version.version_id} was not compared with {current}, which is in service now. "
            f"Run `{command}` again."
        )
    deciding = [by_opponent[name] for name in dict.fromkeys((baseline, current))]
    lost = [verdict for verdict in deciding if verdict.decision != "better"]
    reason = " ".join(verdict.reason for verdict in lost or deciding)
    if lost:
        if version.status == "candidate":
            version = registry.move(version.version_id, "failed", reason)
        return _judgement(version, False, current, reason, verdicts)
    if version.status == "candidate":
        version = registry.move(version.version_id, "passed", reason)
    version = registry.promote(version.version_id, reason)
    return _judgement(version, True, version.version_id, reason, verdicts)


def _judgement(
    version: ModelVersion,
    promoted: bool,
    serving: str,
    reason: str,
    verdicts: Sequence[Verdict],
) -> Judgement:
    return Judgement(
        version=version,
        promoted=promoted,
        in_service=serving,
        reason=reason,
        verdicts=tuple(verdicts),
    )
