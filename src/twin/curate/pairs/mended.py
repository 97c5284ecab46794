"""Pairs from planted faults: the tests that fail with a fault and its file -> blocks that mend it.

Everything is of one moment, that of the commit whose code holds the fault: the file as it was is
the answer, with the fault it stands in the question.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from twin.coding.plan import Step
from twin.coding.retrieved import encodable
from twin.curate.pairs.edited import asked
from twin.curate.pairs.facts import Facts, PlantedFault
from twin.records import Pair

SHOWN_TESTS: Final = 10


def mended(facts: Facts) -> Iterator[Pair | str]:
    """A pair for each fault that is a task."""
    for fault in facts.faults:
        task = _task(fault)
        step = Step(path=fault.mutant.path, symbols=(fault.mutant.symbol,))
        found = asked(task, step, fault.faulty, fault.whole)
        if isinstance(found, str):
            yield found
        else:
            pair = facts.pair("edit", *found)
            origin = replace(pair.origin, source="generated", validity="valid", context_id="")
            yield replace(pair, task=encodable(task), origin=origin)


def _task(fault: PlantedFault) -> str:
    proof = fault.mutant.proof
    failing = sorted(proof.tests("fail_to_pass")) if proof else []
    more = len(failing) - SHOWN_TESTS
    named = "\n".join(f"- {test}" for test in failing[:SHOWN_TESTS])
    return f"Make these tests pass again:\n{named}" + (f"\n- and {more} more" if more > 0 else "")
