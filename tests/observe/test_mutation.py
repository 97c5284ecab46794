"""One fault at a time, where syntax says, and not a byte elsewhere."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.observe.mutation import Fault, faults_in, in_turn, is_different, with_fault

SOURCE = '''\
import os  # kept as it is


def first( values , limit=10, *, strict=False ):
    """Docstring with 1 < 2 and not True."""
    if not values:
        return None
    for value in range(0, len(values)):
        if value<limit and strict or value  not   in  values:
            return max(values [value+1], limit - 1)
    return { "a":open(values, limit, mode="é") }
'''


def made(source: str, operator: str) -> list[str]:
    """What a kind of fault does, as the lines that differ."""
    data = source.encode()
    found = []
    for fault in faults_in(data):
        if fault.operator == operator:
            text = with_fault(data, fault).decode()
            old, new = source.splitlines(), text.splitlines()
            found += [line.strip() for line in new if line not in old] or [
                f"-{line.strip()}" for line in old if line not in new
            ]
    return found


@pytest.mark.parametrize(
    ("operator", "lines"),
    [
        ("boundary", ["if value<=limit and strict or value  not   in  values:"]),
        ("comparison", ["if value<limit and strict or value  in  values:"]),
        ("boolean", [
            "if value<limit and strict and value  not   in  values:",
            "if value<limit or strict or value  not   in  values:",
        ]),
        ("dropped_not", ["if values:"]),
        ("arithmetic", [
            "return max(values [value-1], limit - 1)", "return max(values [value+1], limit + 1)",
        ]),
        ("confused_name", ["return min(values [value+1], limit - 1)"]),
        ("dropped_keyword", ['return { "a":open(values, limit) }']),
        ("wrong_default", [
            "def first( values , limit=11, *, strict=False ):",
            "def first( values , limit=10, *, strict=True ):",
        ]),
        ("early_return", ["-if not values:", "-return None"]),
    ],
)  # fmt: skip
def test_each_kind_of_fault_edits_its_own_place_only(operator: str, lines: list[str]) -> None:
    assert sorted(made(SOURCE, operator)) == sorted(lines)


def test_arguments_are_swapped_with_what_is_between_them() -> None:
    source = "def f(a, b):\n    return g( a,   # first\n        b )\n"
    assert with_fault(source.encode(), faults_in(source.encode())[0]).decode() == (
        "def f(a, b):\n    return g( b,   # first\n        a )\n"
    )


def test_an_await_can_be_forgotten() -> None:
    assert made("async def f(a):\n    return await a()\n", "missing_await") == ["return a()"]


def test_annotations_decorators_and_texts_are_left_alone() -> None:
    source = (
        "@d(1 < 2)\ndef f(a: 'x' == 1) -> (not b):\n"
        "    x: 3 > 2 = g(a)\n    return f'{a < 1}' + a\n"
    )
    assert faults_in(source.encode()) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"def (", b"\xff\xfe", b"\x00", b"def f():\r    return 1 < 2\r", b"(" * 10_000,
     b"def f():\n  return " + b"-" * 50_000 + b"1", b"x = 1" * 1_000_000],
    ids=["empty", "syntax", "binary", "zero", "old mac", "brackets", "deep", "huge"],
)  # fmt: skip
def test_what_is_no_plain_python_has_no_faults(data: bytes) -> None:
    assert faults_in(data) == []


@given(
    st.sampled_from(["<", "==", "not in", "is not", "and", "+", "%"]), st.text("(é #\t", max_size=3)
)
def test_a_fault_undone_is_the_file_as_it_was(operator: str, filling: str) -> None:
    data = f"def f(a, b):\n    '''{filling}'''; return (a {operator} (b))\n".encode()
    for fault in faults_in(data):
        broken = with_fault(data, fault)
        ast.parse(broken)
        back = Fault(
            operator="", symbol="", line=1, start=fault.start,
            end=fault.start + len(fault.new.encode()),
            new=data[fault.start : fault.end].decode(),
        )  # fmt: skip
        assert with_fault(broken, back) == data


def test_the_order_is_that_of_the_seed_and_takes_kinds_in_turn() -> None:
    faults = {"a.py": faults_in(SOURCE.encode())}
    first = list(in_turn(faults, 0))
    assert first == list(in_turn(faults, 0))
    assert first != list(in_turn(faults, 1))
    assert sorted(map(repr, first)) == sorted(map(repr, in_turn(faults, 1)))
    kinds = [fault.operator for _, fault in first[:3]]
    assert len(set(kinds)) == 3


def test_a_fault_that_changes_nothing_or_breaks_the_syntax_is_none() -> None:
    data = b"def f(a):\n    return a\n"
    same = Fault(operator="x", symbol="f", line=2, start=21, end=22, new=" a ")
    broken = Fault(operator="x", symbol="f", line=2, start=21, end=22, new="(")
    other = Fault(operator="x", symbol="f", line=2, start=21, end=22, new="b")
    assert [is_different(data, fault) for fault in (same, broken, other)] == [False, False, True]
