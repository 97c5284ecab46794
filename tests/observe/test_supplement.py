"""Tests that nobody wrote count only if they tell the commit from its parent, every time."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.coding.conftest import World

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.sandbox.cell import Sandbox
from twin.coding.testing.results import TestEnvironment
from twin.cycle.harness import sides_of
from twin.errors import BackendTimeout
from twin.observe.generators import GENERATORS
from twin.observe.proposals import Case, Means, Proposal
from twin.observe.supplement import Supplemented, Supplementer
from twin.observe.validate import Validator

Supplement = Callable[..., Supplemented]

OLD = '''def shorten(text, limit=3):
    """Cuts.

    >>> shorten("abcdef")
    'abcd'
    """
    return text[: limit + 1]
'''
NEW = OLD.replace("'abcd'", "'abc'").replace("limit + 1", "limit")
GUARD = "from calc import shorten\n\ndef test_short():\n    assert 'a' in shorten('a')\n"


@pytest.fixture
def supplement(world: World, sandbox: Sandbox, small_environment: TestEnvironment) -> Supplement:
    """Supplements the newest commit of the world."""

    def run(*names: str, fixed: Sequence[str] = (), **means: object) -> Supplemented:
        generators = [GENERATORS[name](Means(**means)) for name in names]  # type: ignore[arg-type]
        if fixed:
            generators.append(Fixed(fixed))
        with GitRepository.open(world.root) as repository:
            *_, commit = read_history(repository)
            natural = Validator(repository, sandbox, small_environment).validate(commit)
            return Supplementer(repository, sandbox, small_environment, generators).supplement(
                commit, sides_of(repository, commit), natural
            )

    return run


class Fixed:
    """Proposes these files, whatever the commit."""

    def __init__(self, contents: Sequence[str]) -> None:
        self._contents = contents

    def propose(self, case: Case) -> Iterator[Proposal]:
        for number, content in enumerate(self._contents):
            yield Proposal(path=case.place(f"fixed_{number}"), content=content, generator="fixed")


def shortened(world: World, **more: str) -> None:
    """A commit that mends a function, whose own test only guards."""
    world.grow(
        ("begin", {"calc.py": OLD, "tests/test_calc.py": "from calc import shorten\n"}),
        ("mend", {"calc.py": NEW, "tests/test_calc.py": GUARD, **more}),
    )


@pytest.mark.slow
def test_examples_of_a_changed_docstring_prove_a_commit_that_its_own_test_only_guards(
    world: World, supplement: Supplement
) -> None:
    shortened(world)
    found = supplement("examples")
    record = found.record
    assert (record.natural, record.why) == ("nothing_fails", "")
    assert record.proof is not None
    assert record.proof.is_valid
    assert record.proof.classes == {
        "tests/test_calc.py::test_short": "guard",
        "tests/test_twin_examples.py::test_example_0": "fail_to_pass",
    }
    (proposal,) = record.proposals
    assert record.proof.generated == {"tests/test_twin_examples.py": proposal.artifact}
    assert b"def test_example_0" in found.contents[proposal.artifact]
    assert record.coverage is not None
    assert (record.coverage.num_covered, record.coverage.num_changed) == (1, 1)


@pytest.mark.slow
def test_what_a_changed_pure_function_gives_is_pinned_down(
    world: World, supplement: Supplement
) -> None:
    shortened(world)
    found = supplement("characterization")
    assert found.record.proof is not None
    assert found.record.proof.is_valid
    (content,) = found.contents.values()
    assert b"from calc import shorten" in content
    again = supplement("characterization")
    assert again.contents == found.contents


@pytest.mark.slow
def test_a_guard_is_promoted_by_the_value_that_its_weak_assertion_looks_at(
    world: World, supplement: Supplement
) -> None:
    test = "from calc import shorten\n\ndef test_a():\n    got = shorten('abcdef')\n"
    shortened(world, **{"tests/test_calc.py": test + "    assert 'a' in got  # first\n"})
    found = supplement("guards")
    accepted = [one for one in found.record.proposals if not one.why]
    assert [one.path for one in accepted] == ["tests/test_twin_values_test_calc.py"]
    content = found.contents[accepted[0].artifact].decode()
    assert content.endswith("    assert 'a' in got  # first\n    assert got == 'abc'\n")


@pytest.mark.slow
def test_a_test_that_proves_the_commit_as_it_is_wins_nothing_by_being_stricter(
    world: World, supplement: Supplement
) -> None:
    """In the same file stands a guard; nothing of the changed function but one line was run."""
    proof = GUARD + "class TestB:\n    def test_b(self): assert shorten('abcdef') == 'abc'\n"
    missed = NEW + "def missed():\n    return 1\n"
    shortened(world, **{"calc.py": missed, "tests/test_calc.py": proof})
    found = supplement("guards")
    assert found.record.natural == ""
    assert {one.why for one in found.record.proposals} == {"passes_before"}
    assert not any(b"test_b" in content for content in found.contents.values())


@pytest.mark.slow
def test_a_guard_is_promoted_where_only_the_parent_warns(
    world: World, supplement: Supplement
) -> None:
    warns = "import warnings\ndef f():\n    warnings.warn('old')\n    return 1\n"
    test = "from calc import f\npytestmark = []\ndef test_a(): assert f() == 1\n"
    world.grow(
        ("begin", {"calc.py": warns, "tests/test_calc.py": test}),
        ("mend", {"calc.py": "def f():\n    return 1\n", "tests/test_calc.py": test + "#\n"}),
    )
    found = supplement("guards")
    assert found.record.natural == "nothing_fails"
    assert [one.path for one in found.record.proposals if not one.why] == [
        "tests/test_twin_warnings_test_calc.py"
    ]


BAD = {
    "passes_before": "def test_a(): assert 1\n",
    "fails_after": "from calc import shorten\ndef test_a(): assert shorten('abcdef') == 'x'\n",
    "flaky": "from calc import shorten\nran = []\ndef test_a():\n"
    "    ran.append(1)\n    assert shorten('abcdef') == 'abc' and len(ran) < 3\n",
    "nothing_runs": "import os\nos._exit(0)\n",
}


@pytest.mark.slow
def test_what_proves_nothing_is_kept_with_its_reason(world: World, supplement: Supplement) -> None:
    """Stable failures, passes, what changes from run to run, exits: none makes a commit valid."""
    shortened(world)
    found = supplement(fixed=list(BAD.values()))
    why = [one.why for one in found.record.proposals]
    assert why == list(BAD)
    assert (found.record.why, found.record.proof) == ("nothing_accepted", None)


@pytest.mark.slow
def test_a_name_that_only_the_commit_has_proves_nothing_by_itself(
    world: World, supplement: Supplement
) -> None:
    """Neither in the file's head, where it is never collected before, nor within the test."""
    world.grow(
        ("begin", {"calc.py": OLD, "tests/test_calc.py": "from calc import shorten\n"}),
        ("add", {"calc.py": OLD + "def twice(a): return a * 2\n", "tests/test_calc.py": GUARD}),
    )
    found = supplement(
        fixed=[
            "from calc import twice\ndef test_a(): assert 1\n",
            "import calc\ndef test_a(): assert calc.twice(1) == 2\n",
        ]
    )
    assert [one.why for one in found.record.proposals] == ["unreached", "unreached"]


@pytest.mark.slow
def test_a_model_is_asked_and_what_it_says_is_tried_like_the_rest(
    world: World, supplement: Supplement
) -> None:
    shortened(world)
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        test = "def test_a():\n    from calc import shorten\n    assert shorten('abcde') == 'abc'\n"
        return f"Sure!\n```python\n{test}```\n"

    found = supplement("backend", ask=ask)
    assert found.record.proof is not None
    assert "-    return text[: limit + 1]" in asked[0]


def test_a_model_that_does_not_answer_costs_its_own_proposals_only(
    world: World, supplement: Supplement
) -> None:
    shortened(world)

    def ask(question: str) -> str:
        raise BackendTimeout("It took too long.")

    found = supplement("backend", ask=ask)
    assert (found.record.why, found.record.detail) == ("nothing_proposed", "It took too long.")


def test_a_commit_that_its_tests_prove_and_cover_wants_no_more(
    world: World, supplement: Supplement
) -> None:
    proof = GUARD + "def test_b(): assert shorten('abcdef') == 'abc'\n"
    shortened(world, **{"tests/test_calc.py": proof})
    found = supplement("examples")
    assert (found.record.why, found.record.proposals) == ("covered", ())


def test_a_commit_whose_tests_do_not_run_is_not_touched(
    world: World, supplement: Supplement
) -> None:
    shortened(world, **{"tests/test_calc.py": "import nowhere\n"})
    assert supplement("examples").record.why == "not_run"
