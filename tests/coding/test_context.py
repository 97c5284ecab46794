"""A context package holds what matters most, in a stable order, and never more than its budget."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.coding.context import BYTES_PER_TOKEN, ContextPackage, num_tokens, pack_context
from twin.coding.precision import LocatedSymbol, Tier
from twin.coding.retrieve import Answer, LocatedFile


def symbol(name: str, tier: Tier, start: int = 1, end: int = 3, **facts: Any) -> LocatedSymbol:
    return LocatedSymbol(
        **{
            "name": name,
            "kind": "function",
            "start_line": start,
            "end_line": end,
            "signature": f"def {name}()",
            "tier": tier,
            "score": 1.0,
        }
        | facts
    )


def answer(files: dict[str, tuple[LocatedSymbol, ...]], task: str = "Take the lock") -> Answer:
    return Answer(
        task=task,
        commit_id="1" * 40,
        num_candidates=len(files),
        num_source_files=len(files),
        seconds=0.0,
        files=tuple(
            LocatedFile(path=path, score=0.0, share=0.1, reasons=(), symbols=symbols)
            for path, symbols in files.items()
        ),
    )


BODY = "def take():\n    wait()\n    return 1\n"
FILES = {
    "a.py": (symbol("helper", "supporting", 4, 6), symbol("Base", "type context", 8, 9)),
    "b.py": (symbol("take", "primary"), symbol("other", "supporting", 5, 9, score=0.5)),
    "c.py": (),
}
TEXTS = {"a.py": "\n" * 20, "b.py": BODY + "\n" * 20, "c.py": "x = 1\n"}


def shape(package: ContextPackage) -> list[tuple[str, str, str]]:
    return [(item.path, item.symbol, item.detail) for item in package.items]


def test_primaries_come_first_whole_then_signatures_then_types_then_names() -> None:
    package = pack_context(answer(FILES), TEXTS, budget_tokens=10_000)
    assert shape(package) == [
        ("b.py", "take", "whole"),
        ("a.py", "helper", "signature"),
        ("b.py", "other", "signature"),
        ("a.py", "Base", "signature"),
        ("c.py", "", "name"),
    ]
    assert package.items[0].text == BODY.rstrip("\n")
    assert package.num_left_out == 0


def test_symbols_of_one_tier_go_by_the_rank_of_their_file_then_their_own_score() -> None:
    files = {
        "first.py": (symbol("low", "primary", score=0.1), symbol("high", "primary", score=0.2)),
        "second.py": (symbol("best", "primary", score=9.0),),
    }
    package = pack_context(answer(files), dict.fromkeys(files, BODY), budget_tokens=10_000)
    assert [item.symbol for item in package.items] == ["high", "low", "best"]


def test_what_does_not_fit_whole_is_given_as_its_signature() -> None:
    long = "@cached\ndef take():\n" + "    wait()\n" * 1000
    files = {"b.py": (symbol("take", "primary", 1, 1002, signature="def take() -> int"),)}
    package = pack_context(answer(files), {"b.py": long}, budget_tokens=200)
    assert shape(package) == [("b.py", "take", "signature")]
    assert package.items[0].text == "def take() -> int"
    assert package.items[0].tier == "primary"
    assert package.num_left_out == 0


def test_what_does_not_fit_at_all_is_counted_and_smaller_things_after_it_still_enter() -> None:
    huge = symbol("huge", "primary", signature="x" * 5_000)
    files = {"a.py": (huge,), "b.py": (symbol("take", "primary"),)}
    package = pack_context(answer(files), {"a.py": "y" * 9_000, "b.py": BODY}, budget_tokens=100)
    assert shape(package) == [("b.py", "take", "whole")]
    assert package.num_left_out == 1


def test_a_symbol_whose_file_cannot_be_read_is_given_as_its_signature() -> None:
    package = pack_context(answer(FILES), {}, budget_tokens=10_000)
    assert ("b.py", "take", "signature") in shape(package)


@settings(max_examples=200, deadline=None)
@given(
    budget=st.integers(1, 600),
    bodies=st.lists(st.text(st.characters(codec=None), max_size=300), min_size=1, max_size=8),
    tiers=st.lists(st.sampled_from(["primary", "supporting", "type context"]), max_size=20),
    task=st.text(max_size=400),
)
def test_the_text_never_takes_more_than_the_budget(
    budget: int, bodies: list[str], tiers: list[Tier], task: str
) -> None:
    files: dict[str, tuple[LocatedSymbol, ...]] = {f"{n}.py": () for n in range(len(bodies))}
    for n, tier in enumerate(tiers):
        path = f"{n % len(bodies)}.py"
        files[path] = (*files[path], symbol(f"s{n}", tier, 1 + n % 3, 2 + n))
    texts = dict(zip(files, bodies, strict=True))
    package = pack_context(answer(files, task), texts, budget_tokens=budget)
    assert num_tokens(package.as_markdown()) <= package.num_tokens
    if package.num_tokens > budget:  # not even the title fits, and that is said
        assert package.items == ()
    assert len(package.items) + package.num_left_out == sum(len(s) or 1 for s in files.values())
    assert package == pack_context(answer(files, task), texts, budget_tokens=budget)


def test_more_budget_never_gives_fewer_tokens_of_primaries() -> None:
    def spent(budget: int) -> int:
        package = pack_context(answer(FILES), TEXTS, budget_tokens=budget)
        return sum(item.num_tokens for item in package.items if item.tier == "primary")

    assert [spent(n) for n in range(10, 200)] == sorted(spent(n) for n in range(10, 200))


def test_a_pasted_log_as_the_task_does_not_fill_the_budget() -> None:
    package = pack_context(answer(FILES, "lock " * 4_000_000), TEXTS, budget_tokens=300)
    assert len(package.items) == 5
    assert len(package.as_markdown()) < 300 * BYTES_PER_TOKEN


def test_code_that_holds_fences_cannot_leave_its_own() -> None:
    text = 'def take():\n    """\n    ```\n    take()\n    ```\n    """'
    files = {"a.py": (symbol("take", "primary", 1, 6),)}
    shown = pack_context(answer(files), {"a.py": text}, budget_tokens=1000).as_markdown()
    assert f"\n````\n{text}\n````\n" in shown


def test_markdown_says_where_each_piece_stands() -> None:
    shown = pack_context(answer(FILES), TEXTS, budget_tokens=10_000).as_markdown()
    assert shown.startswith(
        "# Context for: Take the lock\n\n## b.py take (lines 1-3)\n```\ndef take"
    )
    assert shown.endswith("\n\n## c.py\n")
    assert (
        "Take the lock\nand"
        not in pack_context(
            answer(FILES, "Take the lock\nand more"), TEXTS, budget_tokens=99
        ).as_markdown()
    )


@pytest.mark.parametrize(
    "text", ["", "a", "é" * 50, b"\xff\xfe".decode("utf-8", "surrogateescape"), "\ud800"]
)
def test_tokens_are_never_estimated_too_low_for_bytes(text: str) -> None:
    assert num_tokens(text) * BYTES_PER_TOKEN >= len(text.encode("utf-8", "surrogatepass"))


def test_an_answer_without_files_is_a_package_without_items() -> None:
    package = pack_context(answer({}), {}, budget_tokens=100)
    assert package.items == ()
    assert package.as_markdown() == "# Context for: Take the lock\n"
