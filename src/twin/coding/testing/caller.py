"""Calls functions of a tree inside the sandbox and says what each call came to, as it happens.

A script for the tested project's own Python: standard library of Python 3.8. Reads the calls, as
JSON, from the descriptor `TWIN_INPUT`; writes one JSON line for each to `TWIN_RESULTS`. Only what
is a literal comes back: a value whose text is the value.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import random
import sys
from typing import Any

LONGEST = 500
"""Characters of an outcome: nobody reads longer ones in a test."""


def outcome_of(module: str, name: str, arguments: list[str]) -> tuple[str, str]:
    random.seed(0)
    function = getattr(importlib.import_module(module), name)
    try:
        value = function(*map(ast.literal_eval, arguments))
    except Exception as error:
        return "raises", type(error).__name__
    text = repr(value)
    if len(text) > LONGEST or not is_literal(text, value):
        return "other", ""
    return "gives", text


def is_literal(text: str, value: Any) -> bool:
    try:
        again = ast.literal_eval(text)
        return type(again) is type(value) and bool(again == value)
    except Exception:
        return False


def main() -> None:
    with os.fdopen(int(os.environ.pop("TWIN_INPUT")), "rb") as given:
        told = json.load(given)
    results = int(os.environ.pop("TWIN_RESULTS"))
    os.set_inheritable(results, False)
    here = os.getcwd()
    roots = [os.path.normpath(os.path.join(here, root)) for root in told["roots"]] + told["last"]
    sys.path[0:1] = roots
    numbered = list(enumerate(told["calls"]))
    # The second time backwards: what remembers earlier calls shows.
    for order in (numbered, numbered[::-1]):
        for number, (module, name, arguments) in order:
            try:
                kind, text = outcome_of(module, name, arguments)
            except Exception:  # it cannot be imported, or its value cannot be shown
                kind, text = "other", ""
            line = json.dumps({"number": number, "kind": kind, "text": text}).encode() + b"\n"
            while line:
                line = line[os.write(results, line) :]
    os._exit(0)


if __name__ == "__main__":
    main()
