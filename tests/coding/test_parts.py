"""A change falls into the parts that hang together, and is proved by the tests that its classes
name."""

from twin.coding.parts import MetaPlan, Part, meta_plan_of, proof_of, steps_of
from twin.coding.plan import Plan, Step


def plan(*paths: str, **depends_on: str) -> Plan:
    return Plan(
        steps=tuple(
            Step(
                path=f"{path}.py",
                depends_on=(f"{depends_on[path]}.py",) if path in depends_on else (),
            )
            for path in paths
        )
    )


def among(**edges: str) -> dict[str, list[str]]:
    return {f"{path}.py": [f"{other}.py"] for path, other in edges.items()}


def parts(found: MetaPlan) -> list[tuple[str, tuple[int, ...]]]:
    assert [part.number for part in found.parts] == list(range(1, len(found.parts) + 1))
    return [
        (" ".join(path.removesuffix(".py") for path in part.paths), part.depends_on)
        for part in found.parts
    ]


def test_files_that_import_one_another_are_one_part() -> None:
    found = meta_plan_of(plan("a", "b", "c", "d", c="a", d="c"), among(c="a", d="c"))
    assert parts(found) == [("a c d", ()), ("b", ())]


def test_a_part_depends_on_another_through_files_that_stay_as_they_are() -> None:
    imports = among(a="x", x="y", y="b", b="z", z="c")
    assert parts(meta_plan_of(plan("a", "b", "c"), imports)) == [
        ("c", ()),
        ("b", (1,)),
        ("a", (2,)),
    ]


def test_parts_that_reach_each_other_have_an_order_all_the_same() -> None:
    imports = among(a="x", x="b", b="y", y="a")
    assert parts(meta_plan_of(plan("a", "b"), imports)) == [("b", ()), ("a", (1,))]


def test_what_is_no_code_is_the_last_part() -> None:
    steps = (Step(path="CHANGES.md"), *plan("a", "b").steps, Step(path="docs/a.rst"))
    assert parts(meta_plan_of(Plan(steps=steps), {})) == [
        ("a", ()),
        ("b", ()),
        ("CHANGES.md docs/a.rst", ()),
    ]


def test_no_steps_are_no_parts() -> None:
    assert meta_plan_of(Plan(), {}) == MetaPlan()


def test_a_part_s_steps_come_in_the_order_in_which_they_are_done() -> None:
    whole = plan("a", "b", "c", a="b")
    inside = steps_of(whole, Part(number=1, paths=("a.py", "b.py")))
    assert [step.path for step in inside.steps] == ["b.py", "a.py"]


def test_the_proof_names_each_test_once_and_by_file() -> None:
    found = proof_of(
        {
            "t/a.py::T::test_new[1]": "fail_to_pass",
            "t/a.py::T::test_new[2]": "fail_to_pass",
            "t/a.py::T::test_new[3]": "guard",
            "t/a.py::test_old": "pass_to_pass",
            "t/a.py::test_kept": "guard",
            "t/z.py::test_far": "fail_to_pass",
        },
        {"t/a.py": "modify", "t/conftest.py": "add"},
        {"t/a.py": ["T", "T.test_new", "test_old", "helper"]},
    )
    here, beside, far = found.tests
    assert (here.path, here.action) == ("t/a.py", "modify")
    assert (here.proves, here.guards, here.touches) == (
        ("T::test_new",),
        ("test_kept",),
        ("test_old",),
    )
    assert (beside.path, beside.action, beside.proves) == ("t/conftest.py", "add", ())
    assert (far.path, far.action, far.proves) == ("t/z.py", "run", ("test_far",))
