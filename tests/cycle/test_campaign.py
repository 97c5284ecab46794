"""Tasks from proved commits: gold solves all, null none, and every finished step is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND

from twin.coding.git import GitRepository
from twin.config import Config
from twin.cycle import campaign
from twin.cycle.campaign import STEPS, Campaign, run_campaign
from twin.cycle.harness import pack_now
from twin.errors import UsageError
from twin.store.database import Store

pytestmark = pytest.mark.usefixtures("no_index")

TWICE = {
    "calc/__init__.py": "from calc.more import twice\ndef add(a, b): return a + b\n",
    "calc/more.py": "def twice(a):\n    return 2 * a\n",
    "tests/test_calc.py": SECOND["tests/test_calc.py"]
    + "\ndef test_twice():\n    from calc import twice\n    assert twice(2) == 4\n",
}


@pytest.fixture
def commits(tmp_path: Path, store: Store) -> list[str]:
    """A pack of two valid commits; their ids."""
    world = World(tmp_path / "world")
    messages = ("Begin", "Make add add its numbers instead", "Add twice to the calculator")
    world.grow(*zip(messages, (FIRST, SECOND, TWICE), strict=True))
    with GitRepository.open(world.root) as repository:
        packed = pack_now(repository, store, Config(), tmp_path / "world.pack")
    return [one.commit_id for one in packed.commits]


@pytest.fixture
def solve(tmp_path: Path, store: Store, commits: list[str]) -> Callable[..., Campaign]:
    def run(planner: str = "gold", executor: str = "gold", **how: object) -> Campaign:
        return run_campaign(
            tmp_path / "world.pack",
            store,
            Config(),
            planner=planner,
            executor=executor,
            **how,  # type: ignore[arg-type]
        )

    return run


def test_gold_solves_every_commit_and_null_none(solve: Callable[..., Campaign]) -> None:
    gold = solve()
    assert (gold.num_valid, gold.num_solved, len(gold.trials)) == (2, 2, 2)
    assert [trial.alignment for trial in gold.trials] == [1.0, 1.0]
    null = solve("null", "null")
    assert (null.num_solved, null.why) == (0, {"tests_fail": 2})
    assert all(trial.num_failed and trial.alignment == 0 for trial in null.trials)


@pytest.mark.slow
def test_scripted_plans_are_graded_by_what_they_say(
    solve: Callable[..., Campaign], commits: list[str], tmp_path: Path
) -> None:
    plan = {"steps": [{"path": "calc/__init__.py", "symbols": ["add"]}]}
    lines = [{"commit": commits[0], "plan": plan}, {"commit": commits[1][:8], "plan": plan}]
    script = tmp_path / "plans.jsonl"
    script.write_text("\n".join(map(json.dumps, lines)))
    found = solve("scripted", script=script)
    assert [trial.is_solved for trial in found.trials] == [True, False]
    assert found.trials[0].alignment > found.trials[1].alignment > 0


@pytest.mark.slow
def test_a_plan_that_cannot_be_read_is_an_outcome(
    solve: Callable[..., Campaign], commits: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "plans.jsonl"
    script.write_text(json.dumps({"commit": commits[0], "plan": {"steps": [{"path": "/etc"}]}}))
    found = solve("scripted", script=script)
    assert found.why == {"bad_plan": 2}
    assert "/etc" in found.trials[0].detail
    assert "no plan for" in found.trials[1].detail


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["{", "[]", '{"commit": 3}', '{"commit": "a", "x": 1, "plan": {}}']
)
def test_a_script_that_is_none_is_said_before_anything_runs(
    solve: Callable[..., Campaign], tmp_path: Path, text: str
) -> None:
    script = tmp_path / "plans.jsonl"
    script.write_text(text)
    with pytest.raises(UsageError, match="line 1"):
        solve("scripted", script=script)
    with pytest.raises(UsageError, match="--script"):
        solve("scripted")


@pytest.mark.slow
def test_a_campaign_goes_on_at_the_step_where_it_was(
    solve: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counting(step: str) -> None:
        work = getattr(campaign._Solving, f"_{step}")

        def counted(self: object, *rest: object) -> object:
            if step == "execute" and "stop" in done:
                raise KeyboardInterrupt
            done.append(step)
            return work(self, *rest)

        monkeypatch.setattr(campaign._Solving, f"_{step}", counted)

    for step in STEPS:
        counting(step)
    done.append("stop")
    with pytest.raises(KeyboardInterrupt):
        solve()
    assert done == ["stop", "retrieve", "plan"]
    done.clear()
    assert solve().num_solved == 2
    assert done == ["execute", "validate", *STEPS]
    done.clear()
    assert solve().num_solved == 2
    assert done == []


@pytest.mark.slow
def test_each_temperature_is_a_trial(solve: Callable[..., Campaign]) -> None:
    found = solve("null", "null", temperatures=[0.0, 0.5], newest=1)
    assert [(trial.number, trial.temperature) for trial in found.trials] == [(0, 0.0), (1, 0.5)]


def test_what_a_planner_is_told_comes_from_before_the_commit(
    solve: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch, commits: list[str]
) -> None:
    told = []
    monkeypatch.setattr(campaign.PLANNERS["null"], "plan", lambda self, given: told.append(given))
    with pytest.raises(AttributeError):  # nothing is no plan
        solve("null", "null", newest=1)
    (assignment,) = told
    assert assignment.parent_id == commits[0]
    assert assignment.query == "Add twice to the calculator"
    text = assignment.context.as_markdown()
    assert "add" in text
    assert "def twice" not in text
    assert "more.py" not in text
