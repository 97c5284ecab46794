"""Runs pytest inside the sandbox and says what each test came to, as it happens.

A script for the tested project's own Python and pytest, whatever their age: standard library of
Python 3.8, hooks of pytest 3. Reads what to run, as JSON, from the descriptor `TWIN_INPUT`; writes
one JSON line for every event to `TWIN_RESULTS`, so that a crash loses no result but its own test's.

One selection in this process; or, where none is told at first, `serving` runs as many as are asked
for with what is here.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import importlib.util
import json
import os
import random
import re
import sys
import threading
import time
from functools import partial
from types import CodeType
from typing import Any

REPEATED = 200
"""More tests than these are a whole new suite: they run once more, not several times."""
TEXT = 2_000
"""Characters of a failure that are passed on, from its end."""
PROPERTIES = 200
"""Properties of a test (`record_property`) that are passed on."""


class Stream:
    """A pytest plugin: selects, seeds, reports."""

    def __init__(self, told: dict[str, Any], results: int, collector: Any) -> None:
        self.told = told
        self.lines = Lines(told["watched"])
        self.results = results
        self.collector = collector
        self.broken: list[dict[str, str]] = []
        self.process = os.getpid()
        self.outcome = ""
        self.text = ""
        self.properties: list[tuple[str, str]] = []
        self.started = 0.0

    def say(self, kind: str, **facts: object) -> None:
        if os.getpid() != self.process:
            return  # a test has forked, and its child came back here
        line = json.dumps({"kind": kind, **facts}).encode() + b"\n"
        while line:
            line = line[os.write(self.results, line) :]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.collector is None:
            self.select(items)

    def select(self, items: list[Any]) -> None:
        only, without = self.told["only"], set(self.told["without"])
        if only is not None:
            wanted = set(only)
            items[:] = [item for item in items if item.nodeid in wanted]
        if self.told["named"]:
            named = naming(self.told["named"])
            items[:] = [item for item in items if named(item.nodeid.partition("::")[2])]
        items[:] = [item for item in items if item.nodeid not in without]
        if self.told["reverse"]:
            items.reverse()
        if len(items) <= REPEATED:
            once = list(items)
            for _ in range(self.told["num_repeats"]):
                items += [another(item) for item in once]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken.append({"id": report.nodeid, "text": text_of(report)})

    def tell_lines(self, nodeid: str) -> None:
        found = self.lines.taken()
        if found:
            self.say("lines", id=nodeid, lines=found)

    def pytest_runtestloop(self, session: Any) -> None:
        if self.collector is not None:
            self.told = self.collector.next_selection()  # comes back in a process of its own
            self.process = os.getpid()
            self.select(session.items)
            session.testscollected = len(session.items)
        self.tell_lines("")
        for broken in self.broken:
            self.say("broken", **broken)
        self.say("collected", ids=[item.nodeid for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.outcome = self.text = ""
        self.lines.begin()
        self.started = time.perf_counter()
        self.say("start", id=nodeid)

    def pytest_runtest_setup(self, item: Any) -> None:
        random.seed(self.told["seed"])
        numpy = sys.modules.get("numpy")
        if numpy is not None and hasattr(numpy, "random"):
            numpy.random.seed(self.told["seed"])

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.properties = properties_of(report)
        expected = hasattr(report, "wasxfail")
        if report.failed:
            found = "failed" if report.when == "call" else "error"
        elif report.skipped:
            found = "xfailed" if expected else "skipped"
        elif report.when == "call":
            found = "xpassed" if expected else "passed"
        else:
            return
        # The worst of set-up, call, subtests and tear-down.
        order = ("", "passed", "xpassed", "xfailed", "skipped", "failed", "error")
        if order.index(found) > order.index(self.outcome):
            self.outcome = found
            self.text = text_of(report) if report.failed else ""

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        seconds = time.perf_counter() - self.started
        self.tell_lines(nodeid)
        self.say(
            "end",
            id=nodeid,
            outcome=self.outcome,
            seconds=seconds,
            text=self.text,
            properties=self.properties,
        )


class Lines:
    """Which lines of a few files run. Every other file costs one look at each call, no more."""

    def __init__(self, paths: list[str]) -> None:
        here = os.getcwd()
        self.names = {os.path.join(here, path): path for path in paths}
        self.seen: dict[str, set[int]] = {path: set() for path in paths}

    def begin(self) -> None:
        """Again before each test, which may have a tracer of its own."""
        if self.names:
            threading.settrace(self.enter)
            sys.settrace(self.enter)

    def enter(self, frame: Any, event: str, argument: Any) -> Any:
        path = self.names.get(frame.f_code.co_filename)
        if path is None:
            return None
        seen = self.seen[path]

        def step(frame: Any, event: str, argument: Any) -> Any:
            if event == "line":
                seen.add(frame.f_lineno)
            return step

        return step

    def taken(self) -> dict[str, list[int]]:
        """What ran since the last time."""
        found = {path: sorted(seen) for path, seen in self.seen.items() if seen}
        for seen in self.seen.values():
            seen.clear()  # the same sets: generators that go on later hold them
        return found

    def executable(self) -> dict[str, list[int]]:
        """The lines of each file that can run at all; none of a file that does not compile."""
        found: dict[str, list[int]] = {}
        for full, path in self.names.items():
            try:
                with open(full, "rb") as file:
                    code = compile(file.read(), full, "exec", dont_inherit=True)
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                found[path] = []
            else:
                found[path] = sorted(lines_of(code))
        return found


def lines_of(code: CodeType) -> set[int]:
    lines = {line for _, line in dis.findlinestarts(code) if line}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            lines |= lines_of(inner)
    return lines


def naming(words: list[str]) -> Any:
    """Finds one of the words in a text, not as a part of a longer one."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)").search


def another(item: Any) -> Any:
    """The same test once more. Not the same object: pytest would not tear it down between."""
    made = copy.copy(item)
    if hasattr(made, "_initrequest"):
        made._initrequest()
    return made


def properties_of(report: Any) -> list[tuple[str, str]]:
    """As far as they are what pytest documents: a test can put anything there."""
    found: list[tuple[str, str]] = []
    with contextlib.suppress(Exception):
        for name, value in list(getattr(report, "user_properties", ()))[:PROPERTIES]:
            found.append((str(name)[:TEXT], str(value)[:TEXT]))
    return found


def text_of(report: Any) -> str:
    return str(getattr(report, "longreprtext", "") or report.longrepr or "")[-TEXT:]


def run_selection(told: dict[str, Any], results: int, collector: Any = None) -> int:
    """All of pytest, to its exit code. `collector.next_selection()` says, when the tests are
    collected, which of them to run; without one it is `told`."""
    import pytest

    stream = Stream(told, results, collector)
    # After whatever else would put them in another order.
    pytest.hookimpl(trylast=True)(Stream.pytest_collection_modifyitems)
    pytest.hookimpl(tryfirst=True)(Stream.pytest_runtest_setup)
    pytest.hookimpl(tryfirst=True)(Stream.pytest_runtestloop)
    if told["watched"]:
        stream.say("executable", lines=stream.lines.executable())
    stream.lines.begin()
    code = int(pytest.main(told["arguments"], plugins=[stream]))
    stream.say("done", code=code)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def module_at(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("twin_" + os.path.basename(path)[:-3], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def look_in(roots: list[str], last: list[str]) -> None:
    """Imports come from the tree, before everything else, and from `last`."""
    here = os.getcwd()
    places = [os.path.normpath(os.path.join(here, root)) for root in roots] + last
    sys.path[0:1] = places
    os.environ["PYTHONPATH"] = os.pathsep.join(places)


def main() -> None:
    asked = os.fdopen(int(os.environ.pop("TWIN_INPUT")), "rb")
    told = json.loads(asked.readline())
    results = int(os.environ.pop("TWIN_RESULTS"))
    os.set_inheritable(results, False)
    if told["selection"] is None:
        serving, confine = module_at(told["serving"]), module_at(told["confine"])
        run = partial(run_selection, results=results)
        serving.Server(confine, look_in, run).serve(asked, results)
        os._exit(0)
    asked.close()
    look_in(told["roots"], told["last"])
    os._exit(run_selection(told["selection"], results))  # threads that never end would hold it up


if __name__ == "__main__":
    main()
