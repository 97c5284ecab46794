"""The filter's numbers are the kernel's own."""

import re
from pathlib import Path

import pytest

from twin.coding.sandbox import syscalls

HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    header = HEADERS[column]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    listed = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    ours = {name: numbers[column] for name, numbers in syscalls._NUMBERS.items()}
    known = {name: int(listed[name]) for name in ours if name in listed}
    assert len(known) > len(ours) - 5
    assert known == {name: ours[name] for name in known}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_filter_is_short_enough_for_the_kernel(machine: str, is_alone: bool) -> None:
    for confines in (True, False):
        code = syscalls.program(is_alone=is_alone, confines_signals=confines, machine=machine)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096


def test_an_unknown_processor_has_no_filter() -> None:
    assert not syscalls.is_supported("riscv64")
