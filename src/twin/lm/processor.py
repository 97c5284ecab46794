"""What the processor says of itself: who made it, its name, its instruction sets.

Read once, from /proc/cpuinfo; where there is none (no Linux) nothing is known. An emulated ARM
shows the file of the x86 below it, so that only an x86 has instruction sets here.
"""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

X86_64: Final = "x86_64"


@cache
def told() -> Mapping[str, str]:
    """The first processor's lines."""
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = [line.partition(":") for line in said.splitlines()]
    return {key.strip(): value.strip() for key, _, value in reversed(lines)}


def vendor() -> str:
    """`AuthenticAMD`, `GenuineIntel`, or nothing."""
    return told().get("vendor_id", "")


@cache
def flags() -> frozenset[str]:
    """Instruction sets by Linux's names for them; none where it is no x86."""
    return frozenset(told().get("flags", "").split() if platform.machine() == X86_64 else ())


def name() -> str:
    """The model's; what Python knows of it where that is not told."""
    return told().get("model name") or f"{platform.machine()} {platform.processor()}"
