"""Supplements and mutants of a pack: each answered once, kept with its files, by any number of
workers."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND, TESTS

from twin.coding.git import GitRepository
from twin.config import Config, ModelConfig
from twin.cycle.campaign import run_campaign
from twin.cycle.harness import pack_now
from twin.cycle.mutate import MutatedPack, mutate_pack
from twin.cycle.supplement import SupplementedPack, supplement_pack
from twin.errors import ConfigError
from twin.store.database import Store, open_store

pytestmark = pytest.mark.usefixtures("no_index")

MENDED = {
    "calc/__init__.py": "def add(a, b):\n    if a > 9:\n        return 0\n    return a + b\n",
    "tests/test_calc.py": TESTS + "def test_more(): assert add(1, 1)\n",
}
ANSWER = """```python
def test_ten():
    from calc import add
    assert add(10, 1) == 0
```"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "here").mkdir()
    with open_store(tmp_path / "here") as store:
        yield store


@pytest.fixture
def pack(tmp_path: Path, store: Store) -> Path:
    """Two commits: one proves itself, the other's tests only guard."""
    world = World(tmp_path / "world")
    messages = ("Begin", "Make add add its numbers instead", "Give nothing for numbers above nine")
    world.grow(*zip(messages, (FIRST, SECOND, MENDED), strict=True))
    with GitRepository.open(world.root) as repository:
        pack_now(repository, store, Config(), tmp_path / "world.pack")
    return tmp_path / "world.pack"


def supplement(pack: Path, store: Store, tmp_path: Path, **how: object) -> SupplementedPack:
    """By a model that says what its script says."""
    (tmp_path / "here" / "script.jsonl").write_text(json.dumps({"answer": ANSWER}))
    model = ModelConfig(provider="scripted", script="script.jsonl")
    config = Config(models={"big": model})
    return supplement_pack(pack, store, config, generators=["backend"], model="big", **how)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_commit_that_only_guards_is_won_once_and_kept_with_its_test(
    pack: Path, store: Store, tmp_path: Path
) -> None:
    found = supplement(pack, store, tmp_path)
    assert (found.num_commits, found.num_natural, found.num_won) == (2, 1, 1)
    assert (found.proposed, found.accepted) == ({"backend": 1}, {"backend": 1})
    (won,) = [one for one in found.supplements if one.natural]
    assert won.proof is not None
    (digest,) = won.proof.generated.values()
    assert b"def test_ten" in store.artifacts.get(digest)
    assert won.proof.tests("fail_to_pass") == ["tests/test_twin_backend.py::test_ten"]
    again = supplement(pack, store, tmp_path)
    assert again.num_known == 2
    assert again.supplements == found.supplements
    solved = partial(run_campaign, pack, store, Config(), planner="gold")
    campaign = solved(executor="gold", supplemented=True)
    assert (campaign.num_valid, campaign.num_won, campaign.num_solved) == (1, 1, 2)
    assert solved(executor="gold").num_won == 0
    campaign = solved(executor="null", supplemented=True)
    assert [trial.num_failed for trial in campaign.trials] == [1, 1]


def test_a_model_that_is_not_configured_is_said_before_anything_runs(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"There is no \[models.huge\]; known: none"):
        supplement_pack(tmp_path, store, Config(), generators=["backend"], model="huge")


@pytest.mark.slow
def test_faults_that_tests_see_become_tasks_and_none_is_tried_twice(
    pack: Path, store: Store
) -> None:
    found = mutate_pack(pack, store, count=50)
    why = {one.operator: one.why for one in found.mutants}
    # Nothing of the tests reaches ten; that sums are sums they see.
    seen = why.pop("arithmetic")
    assert not seen
    assert why == dict.fromkeys(["boundary", "early_return", "off_by_one"], "survives")
    (task,) = [one for one in found.mutants if not one.why]
    assert (task.path, task.line, task.before, task.after) == ("calc/__init__.py", 4, "+", "-")
    assert b"return a - b" in store.artifacts.get(task.artifact)
    assert task.proof is not None
    assert task.proof.tests("fail_to_pass") == [
        "tests/test_calc.py::test_sum",
        "tests/test_calc.py::test_more",
    ]
    again = mutate_pack(pack, store, count=50)
    assert (again.num_known, again.mutants) == (4, found.mutants)
    assert mutate_pack(pack, store, count=1).num_known == 1


@pytest.mark.slow
def test_several_workers_plant_the_same_faults(pack: Path, store: Store, tmp_path: Path) -> None:
    def plain(found: MutatedPack) -> list[tuple[str, int, str]]:
        return [(one.operator, one.line, one.why) for one in found.mutants]

    (tmp_path / "elsewhere").mkdir()
    with open_store(tmp_path / "elsewhere") as other:
        assert plain(mutate_pack(pack, store, count=3)) == plain(
            mutate_pack(pack, other, count=3, workers=2)
        )
