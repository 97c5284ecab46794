"""A small world to route in: the small model fails at sums and at chemistry."""

from collections.abc import Callable

import numpy as np
import pytest

from twin.records import Question, RoutingExample
from twin.specialists.router_model import Learnt
from twin.train.router import fit_router


def world(count: int, seed: int = 0) -> list[RoutingExample]:
    rng = np.random.default_rng(seed)
    topics = {
        "sum": "What is {} plus {} times {} ?",
        "chemistry": "Which compound of number {} reacts with {} in {} steps?",
        "history": "Who ruled the kingdom {} years after the treaty {} of {}?",
        "letters": "Please write a short letter about holiday {} and {} and {}.",
    }
    found = []
    for number in range(count):
        name = list(topics)[int(rng.integers(len(topics)))]
        text = topics[name].format(*rng.integers(10, 999, 3))
        weak = float(rng.random() < (0.35 if name in ("sum", "chemistry") else 0.92))
        found.append(
            RoutingExample(
                question=Question(text=text, num_chars=len(text), num_prompt_tokens=len(text) // 4),
                weak=weak,
                strong=float(rng.random() < 0.95),
                at=1_700_000_000.0 + 3_000.0 * number,
                group=name,
                source=f"world:{number}",
                reason="measured",
            )
        )
    return found


@pytest.fixture(scope="session")
def make_world() -> Callable[..., list[RoutingExample]]:
    return world


@pytest.fixture(scope="session")
def learnt() -> Learnt:
    return fit_router(world(600), folds="row")
