"""The plan of a commit names what it changed, and what had to come first."""

from twin.coding.changed import Sides, changed_symbols, plan_of
from twin.coding.plan import Step
from twin.records import FileChange

BEFORE = b"""
import os

LIMIT = 1

def same(): return 1

def old(): return 2

class Thing:
    size = 1

    def method(self):
        return 1

    def other(self):
        return 2
"""
AFTER = b"""
import os

LIMIT = 1

def new(): return 3

def same(): return 1

class Thing:
    size = 1

    def method(self):
        return 10

    def other(self):
        return 2
"""


def test_added_changed_and_removed_symbols_are_named_and_no_other() -> None:
    assert sorted(changed_symbols("a.py", BEFORE, AFTER)) == ["Thing.method", "new", "old"]


def test_moving_a_definition_or_indenting_it_changes_nothing() -> None:
    one = b"def a():\n    return 1\n\ndef b():\n    return 2\n"
    two = b"def b():\n    return 2\n\n\ndef a():\n        return 1\n"
    assert changed_symbols("a.py", one, two) == []


def test_a_class_whose_own_text_changes_is_named_itself() -> None:
    assert changed_symbols("a.py", b"class A:\n    x = 1\n    def f(self): pass\n",
                           b"class A:\n    x = 2\n    def f(self): pass\n") == ["A"]  # fmt: skip


def test_the_second_definition_of_a_name_counts_too() -> None:
    getter = b"class A:\n    @property\n    def x(self): return 1\n"
    one = getter + b"    @x.setter\n    def x(self, v): pass\n"
    assert changed_symbols("a.py", one, one.replace(b"pass", b"self.y = v")) == ["A.x"]


def test_a_new_file_is_all_new_and_a_text_has_no_symbols() -> None:
    assert changed_symbols("a.py", None, b"def f(): pass\nclass B: pass\n") == ["f", "B"]
    assert changed_symbols("a.py", b"def f(): pass\n", None) == ["f"]
    assert changed_symbols("a.txt", b"x", b"y") == []


def side(path: str, before: bytes | None, after: bytes | None, status: str = "M") -> Sides:
    change = FileChange(path=path, status=status)  # type: ignore[arg-type]
    return Sides(change=change, before=before, after=after)


def test_a_file_depends_on_the_changed_files_it_imports() -> None:
    plan = plan_of([
        side("pkg/app.py", b"", b"from pkg.base import f\nimport os\ndef run(): f()\n"),
        side("pkg/base.py", None, b"def f(): pass\n", "A"),
        side("pkg/__init__.py", b"", b"# changed\n"),
    ])  # fmt: skip
    steps = {step.path: step for step in plan.steps}
    assert steps["pkg/app.py"] == Step(
        path="pkg/app.py", symbols=("run",), depends_on=steps["pkg/app.py"].depends_on
    )
    assert "pkg/base.py" in steps["pkg/app.py"].depends_on
    assert steps["pkg/base.py"].action == "add"
    order = [step.path for step in plan.ordered()]
    assert order.index("pkg/base.py") < order.index("pkg/app.py")


def test_circles_of_imports_are_opened() -> None:
    files = [
        side(f"p/m{n}.py", b"", f"from p import m{(n + 1) % 3}\nx = {n}\n".encode())
        for n in range(3)
    ]
    two = [side("p/a.py", b"", b"from p import b\n"), side("p/b.py", b"", b"from p import a\n")]
    assert len(plan_of([*files, side("p/__init__.py", b"", b"#")]).ordered()) == 4
    assert len(plan_of([*two, side("p/__init__.py", b"", b"#")]).ordered()) == 3
