"""Trains the router: examples from traffic or a file, fit, judgement on what came later, promotion.

Owns the split and the order of the steps; each is one call into a lower room. The earlier part is
all that `train` sees; the later part is scored once, by `gate`. The winner's bytes lie in the
store's artefacts under the registry's model name `router`, and `specialists.router.Router.load`
reads them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from twin import __version__
from twin.config import Config
from twin.curate.routing import Curated, from_calls, read_examples
from twin.errors import Refused, StoreCorrupt, UsageError
from twin.gate.promote import in_service, judge_and_promote
from twin.gate.route_verdict import MIN_HOLDOUT, Outcomes, Told, earlier_looks, judge, measure
from twin.records import Lineage, ModelVersion, RoutingExample
from twin.specialists.router import MODEL, Router
from twin.specialists.router_rules import VERSION as RULES
from twin.store.database import Store
from twin.store.stages import Progress, key_of, running
from twin.train.router import Folds, fit_router, shortage

STEPS: Final = ("examples", "fit", "judge")
COMMAND: Final = "twin train router"
HOLDOUT: Final = 0.2
MIN_SUBJECTS: Final = 10
"""Below this a fifth of the subjects would be one or two; rows are held out by position then."""

Split = Literal["time", "subject", "order", "rows"]
FOLDS: Final[dict[Split, Folds]] = {
    "time": "time",
    "subject": "group",
    "order": "row",
    "rows": "row",
}
"""Inner folds that ask what the outer split asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTraining:
    """What `twin train router` found, for people and programs."""

    decision: str
    """`better`, `worse` or `not enough data`, against the harder opponent."""
    reason: str
    promoted: bool
    candidate: str
    in_service: str
    """A version id, or `rules`."""
    split: Split
    num_examples: int
    num_train: int
    num_holdout: int
    num_holdout_both: int
    """Held-out requests where both tiers' answers are known: APGR is of these."""
    dropped: dict[str, int]
    recipe: str
    calibration: str
    figures: dict[str, dict[str, Any]]
    """Per router: apgr, cpt50, cpt80, ece, squared_error on the held-out part."""
    verdicts: tuple[dict[str, Any], ...]

    @property
    def refused(self) -> bool:
        """The gate said no. "Not enough data" is no refusal: nobody can know yet."""
        return self.decision == "worse"


def train_router(
    store: Store,
    config: Config,
    name: str,
    *,
    data: Path | None = None,
    split: Split | None = None,
    progress: Progress | None = None,
) -> RouterTraining:
    """Learns from recorded calls, or from the evaluation answers in `data`.

    `name` is what the run is recorded under; `split` how the held-out part is cut, None by what
    the examples say. Raises Refused where there is too little to learn from; it says how much is
    needed. UsageError where `data` cannot be read.
    """
    with running(store, "train router", name, config, redo=True, progress=progress) as run:
        curated = examples_of(store, config, data)
        if progress is not None:
            progress("examples", 1, 1)
        cut = split or usual_split(curated.examples)
        train, holdout = split_by(curated.examples, cut)
        missing = shortage(train) or _too_few_held_out(holdout)
        if not missing:
            version, router = _fitted(store, config, train, cut, progress)
            found = _judged(store, config, version, router, holdout, cut, progress)
        refused = missing or found["decision"] == "worse"
        run.status = "refused" if refused else "done"
    if missing:
        raise Refused(_refusal(missing, curated, data))
    card = router.card
    assert card is not None, "a fitted router has a card"
    return RouterTraining(
        split=cut,
        num_examples=len(curated.examples),
        num_train=len(train),
        num_holdout=len(holdout),
        num_holdout_both=sum(e.weak is not None and e.strong is not None for e in holdout),
        dropped=curated.dropped,
        recipe=card.recipe,
        calibration=card.calibration,
        **found,
    )


def examples_of(store: Store, config: Config, data: Path | None) -> Curated:
    """From the file, or from all recorded calls; the tiers are the configured models' roles."""
    if data is not None:
        return read_examples(data)
    roles = {name: model.role for name, model in config.models.items()}
    return from_calls(
        store.calls.each(),
        store.calls.feedback,
        small=frozenset(name for name, role in roles.items() if role == "triage"),
        big=frozenset(name for name, role in roles.items() if role in ("reasoning", "escalation")),
    )


def usual_split(examples: Sequence[RoutingExample]) -> Split:
    """By time where every example has one, else whole subjects, else by position."""
    if examples and all(example.at is not None for example in examples):
        return "time"
    subjects = {example.group for example in examples}
    return "subject" if "" not in subjects and len(subjects) >= MIN_SUBJECTS else "order"


def split_by(
    examples: Sequence[RoutingExample], split: Split
) -> tuple[list[RoutingExample], list[RoutingExample]]:
    """(train, held out), a fifth held out. Raises UsageError where the examples lack what it needs.

    `rows` draws single requests: fair only where the requests to come are like those there are.
    """
    if split == "subject":
        if not all(example.group for example in examples):
            raise UsageError("Not every line has a `subject`. Give another `--split`.")
        subjects = sorted({example.group for example in examples}, key=_shuffling)
        later = set(subjects[: max(round(len(subjects) * HOLDOUT), 1)])
        train = [example for example in examples if example.group not in later]
        return train, [example for example in examples if example.group in later]
    ordered = list(examples)
    if split == "time":
        if not all(example.at is not None for example in examples):
            raise UsageError("Not every line has a `time`. Give another `--split`.")
        ordered.sort(key=lambda example: example.at or 0.0)
    elif split == "rows":
        ordered.sort(key=lambda example: _shuffling(example.question.text))
    cut = round(len(ordered) * (1 - HOLDOUT))
    return ordered[:cut], ordered[cut:]


def _shuffling(text: str) -> str:
    """An order that has nothing to do with what is ordered, and is the same everywhere."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _too_few_held_out(holdout: Sequence[RoutingExample]) -> str:
    known = sum(example.weak is not None for example in holdout)
    if known >= MIN_HOLDOUT:
        return ""
    return (
        f"Only {known} later requests have a known outcome of the small model; {MIN_HOLDOUT} are "
        "needed to judge what was learnt."
    )


def _refusal(missing: str, curated: Curated, data: Path | None) -> str:
    left_out = ", ".join(f"{count} {why}" for why, count in sorted(curated.dropped.items()))
    told = f" Left out: {left_out}." if left_out else ""
    if data is not None:
        return f"{missing}{told} Give a longer file; the last fifth of it is held out."
    return (
        f"{missing}{told} Record more calls through `twin serve` with a model of role `triage`, "
        "and say what was good with `POST /v1/feedback`; or give evaluation answers with `--data`."
    )


def _fitted(
    store: Store,
    config: Config,
    train: Sequence[RoutingExample],
    cut: Split,
    progress: Progress | None,
) -> tuple[ModelVersion, Router]:
    seed = config.fit.seed
    learnt = fit_router(train, folds=FOLDS[cut], seed=seed, progress=progress)
    artifact = store.artifacts.put(learnt.to_bytes())
    lineage = Lineage(
        code_version=__version__,
        dataset_hash=key_of([[one.question.text, one.weak, one.strong] for one in train]),
        config={"recipe": learnt.card.recipe, "split": cut},
        seed=seed,
        parent_version=in_service(store.registry, MODEL, RULES),
    )
    version = _registered(store, artifact, lineage, {"inner": learnt.card.inner})
    if progress is not None:
        progress("fit", 1, 1)
    return version, Router.load(learnt.to_bytes(), version.version_id)


def _registered(
    store: Store, artifact: str, lineage: Lineage, metrics: dict[str, object]
) -> ModelVersion:
    """A new version, or the one that an interrupted (or repeated) run made of the same."""
    for version in store.registry.versions(MODEL):
        unfinished = version.status in ("candidate", "passed") and version.lineage == lineage
        if version.artifact == artifact and (unfinished or version.status == "live"):
            return version
    return store.registry.add(model=MODEL, artifact=artifact, lineage=lineage, metrics=metrics)


def _judged(
    store: Store,
    config: Config,
    version: ModelVersion,
    router: Router,
    holdout: Sequence[RoutingExample],
    cut: Split,
    progress: Progress | None,
) -> dict[str, Any]:
    outcomes = Outcomes.of(holdout, by_row=cut == "rows")
    current = in_service(store.registry, MODEL, RULES)
    routers = {version.version_id: router, RULES: Router.rules()}
    if current not in routers:
        routers[current] = router_version(store, current)
    told = {name: told_by(one, holdout) for name, one in routers.items()}
    looks = earlier_looks(
        (one for one in store.registry.versions(MODEL) if one.version_id != version.version_id),
        holdout,
    )
    verdicts = [
        judge(
            version.version_id,
            opponent,
            told[version.version_id],
            told[opponent],
            outcomes,
            fit=config.fit,
            earlier_looks=looks,
        )
        for opponent in routers
        if opponent != version.version_id
    ]
    outcome = judge_and_promote(
        store.registry, version, verdicts, baseline=RULES, default=RULES, command=COMMAND
    )
    worst = min(
        (verdict.decision for verdict in verdicts),
        key=("worse", "not enough data", "better").index,
    )
    figures = {name: measure(one, outcomes, config.fit) for name, one in told.items()}
    if progress is not None:
        progress("judge", 1, 1)
    return {
        "decision": "better" if outcome.promoted else worst,
        "reason": outcome.reason,
        "promoted": outcome.promoted,
        "candidate": version.version_id,
        "in_service": outcome.in_service,
        "figures": figures,
        "verdicts": tuple(asdict(verdict) for verdict in outcome.verdicts),
    }


def told_by(router: Router, examples: Sequence[RoutingExample]) -> Told:
    """What a router says of each request, as it would in service: one at a time."""
    said = [router.classify(example.question) for example in examples]
    return Told(
        gain=np.array([one.gain for one in said], np.float64),
        confidence=np.array([one.confidence for one in said], np.float64),
    )


def router_version(store: Store, version_id: str) -> Router:
    """That version, from the registry. Raises UnknownVersion, StoreCorrupt, StoreTooNew."""
    version = store.registry.get(version_id)
    return Router.load(store.artifacts.get(version.artifact), version_id)


def router_in_service(store: Store) -> Router:
    """The live version; the rules where there is none, or where its artefact cannot be read: a
    router that errs towards the bigger model is better than no gateway."""
    live = store.registry.live(MODEL)
    if live is None:
        return Router.rules()
    try:
        return router_version(store, live.version_id)
    except StoreCorrupt:
        return Router.rules()
