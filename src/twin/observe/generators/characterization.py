"""Tests that pin down what changed functions give, for inputs on which the two sides differ.

Only functions at the top of a file that are there on both sides and pure on the commit's
(`purity`); inputs come from hypothesis (`inputs`), outputs are recorded in the sandbox on both
sides. A test says what the commit's side gives, so it proves what changed, not that it is right:
that the commit was accepted by its authors has to do for that.
"""

import ast
from collections.abc import Iterator
from typing import Final

from twin.coding.changed import Sides
from twin.coding.paths import role_of
from twin.coding.testing.calls import Call, Outcome
from twin.observe.generators.inputs import arguments_for, literals_at_calls
from twin.observe.proposals import Case, Means, Proposal
from twin.observe.purity import callees, pure_functions
from twin.observe.syntax import parsed

MAX_FUNCTIONS: Final = 20
MAX_TESTS: Final = 6
"""Of one function."""
MEANT: Final = frozenset(
    {"ValueError", "KeyError", "IndexError", "LookupError", "OverflowError", "ZeroDivisionError",
     "NotImplementedError"}
)  # fmt: skip
"""What functions raise on purpose; other exceptions come of arguments that make no sense."""


class Characterization:
    """Proposes what changed pure functions come to."""

    def __init__(self, means: Means) -> None:
        pass

    def propose(self, case: Case) -> Iterator[Proposal]:
        written: list[str] = []
        tests = [tree for text in case.tests.values() if (tree := parsed(text))]
        for side in case.files:
            module = case.module(side.change.path)
            if module is None or role_of(side.change.path) != "source":
                continue
            for node in changed_pure(side)[:MAX_FUNCTIONS]:
                found = arguments_for(node, literals_at_calls(node.name, tests))
                calls = [Call(module, node.name, arguments) for arguments in found]
                telling = [
                    (call, after)
                    for call, (before, after) in zip(calls, case.probe.outcomes(calls), strict=True)
                    if before and after and _tells(before, after)
                ]
                written += (
                    _test(f"test_{node.name}_{len(written) + number}", call, after)
                    for number, (call, after) in enumerate(telling[:MAX_TESTS])
                )
        if written:
            yield Proposal(
                path=case.place("characterization"),
                content="\n\n".join(['"""What changed functions give."""\n', *written]),
                generator="characterization",
            )


def changed_pure(side: Sides) -> list[ast.FunctionDef]:
    """The pure functions of a file, on the commit's side, that do not do what they did: their own
    text differs, or that of a function that they call."""
    if side.before is None or side.after is None:
        return []
    before = parsed(side.before.decode("utf-8", "replace"))
    after = parsed(side.after.decode("utf-8", "replace"))
    if before is None or after is None:
        return []
    old = {node.name: ast.dump(node) for node in before.body if isinstance(node, ast.FunctionDef)}
    pure = pure_functions(after)
    changed = {name for name, node in pure.items() if old.get(name) != ast.dump(node)}
    while True:
        more = {n for n, node in pure.items() if n not in changed and callees(node) & changed}
        if not more:
            return [node for name, node in pure.items() if name in changed and name in old]
        changed |= more


def _tells(before: Outcome, after: Outcome) -> bool:
    if after.kind == "gives":
        return before != after and before.kind != "other"
    return after.kind == "raises" and after.text in MEANT and before.kind == "gives"


def _test(name: str, call: Call, after: Outcome) -> str:
    said = f"{call.function}({', '.join(call.arguments)})"
    lines = [f"def {name}():", f"    from {call.module} import {call.function}", ""]
    if after.kind == "gives":
        return "\n".join([*lines, f"    assert {said} == {after.text}\n"])
    lines[1:1] = ["    import pytest"]
    return "\n".join([*lines, f"    with pytest.raises({after.text}):", f"        {said}\n"])
