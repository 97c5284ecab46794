"""Runs pytest inside the sandbox and says what each test came to, as it happens.

A script for the tested project's own Python and pytest, whatever their age: standard library of
Python 3.8, hooks of pytest 3. Reads what to run, as JSON, from the descriptor `TWIN_INPUT`; writes
one JSON line for every event to `TWIN_RESULTS`, so that a crash loses no result but its own test's.

Either one selection in this process, or as many as are asked for, on one tree or on several: then
pytest is loaded once, a process for each tree collects its tests, and that one forks a process for
each selection (`Collector`). What a selection finds is what it would find alone: files like new,
no process of an earlier one, modules as they were when the tests were collected. Where collecting
leaves something behind that a fork would share, every selection collects for itself.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import gc
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import io
import json
import marshal
import os
import random
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable
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

    def __init__(self, told: dict[str, Any], results: int, collector: Collector | None) -> None:
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
        items[:] = [item for item in items if item.nodeid not in without]
        if self.told["reverse"]:
            items.reverse()
        settled = set(self.told["settled"])
        again = [item for item in items if item.nodeid not in settled]
        if len(again) > REPEATED:
            return
        for _ in range(self.told["num_repeats"]):
            items += [another(item) for item in again]

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


def run_selection(told: dict[str, Any], results: int, collector: Collector | None = None) -> int:
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


class Collector:
    """The process that has collected a tree's tests, and forks one for each selection."""

    def __init__(self, first: dict[str, Any], place: Place, asked: int, answers: int) -> None:
        self.first = first
        self.place = place
        self.asked = os.fdopen(asked, "rb")
        self.answers = answers
        self.opened = opened()

    def next_selection(self) -> dict[str, Any]:
        """Comes back once in each process that is to run a selection, with that selection."""
        told = self.first
        if self.is_repeatable():
            sys.stdout.flush()
            sys.stderr.flush()
            while True:
                child = os.fork()
                if not child:
                    break
                _, status, used = os.wait4(child, 0)
                self.place.confine.end_all()
                os.write(self.answers, ended(status, used))
                line = self.asked.readline()
                if not line:
                    os._exit(0)
                told = json.loads(line)
        self.asked.close()
        os.close(self.answers)
        gc.enable()
        os.chdir(self.place.here)  # it may have been made anew
        return told

    def is_repeatable(self) -> bool:
        """Whether collecting left nothing behind that several processes would share."""
        with contextlib.suppress(OSError):
            alone = len(os.listdir("/proc/self/task")) == 1
            alone = alone and not self.place.confine.children(os.getpid())
            return alone and opened() <= self.opened and self.place.is_new()
        return False


def opened() -> set[str]:
    """What this process has open, but for files that nobody else can open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink("/proc/self/fd/" + name)
            if not target.endswith(" (deleted)") and not target.startswith(("/dev/", "/proc/")):
                found.add(target)
    return found


def ended(status: int, used: Any) -> bytes:
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    told = {"code": code, "cpu_s": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss << 10}
    return json.dumps({"kind": "over", **told}).encode() + b"\n"


class Codes:
    """Compiled modules by what they were compiled from: two trees share most of their files, and
    pytest rewrites those of the tests, which takes longer than to import what they need."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def install(self) -> None:
        """From now on whatever this process compiles is kept, or was."""
        loader: Any = importlib.machinery.SourceFileLoader
        compiled = loader.source_to_code

        def source_to_code(self: Any, data: Any, path: Any, *rest: Any, **options: Any) -> CodeType:
            def make() -> CodeType:
                code: CodeType = compiled(self, data, path, *rest, **options)
                return code

            told = (type(self).__name__, path, rest, options)
            return codes.kept(data, told, make) if isinstance(data, bytes) else make()

        codes = self
        loader.source_to_code = source_to_code
        self.install_rewritten()

    def install_rewritten(self) -> None:
        """The same for pytest, as far as this version of it does it as others do."""
        rewrite: Any = sys.modules.get("_pytest.assertion.rewrite")
        rewritten = getattr(rewrite, "_rewrite_test", None)
        if not rewritten or list(inspect.signature(rewritten).parameters) != ["fn", "config"]:
            return

        def rewrite_test(path: Any, config: Any) -> tuple[os.stat_result, CodeType]:
            with open(str(path), "rb") as file:
                data = file.read()
            told = (str(path), config.getini("enable_assertion_pass_hook"))
            return os.stat(str(path)), self.kept(data, told, lambda: rewritten(path, config)[1])

        rewrite._rewrite_test = rewrite_test

    def kept(self, data: bytes, told: tuple[Any, ...], make: Callable[[], CodeType]) -> CodeType:
        name = hashlib.sha256(repr(told).encode() + b"\0" + data).hexdigest()
        path = os.path.join(self.folder, name)
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            with open(path, "rb") as file:
                found: CodeType = marshal.load(file)
            return found
        made = make()
        with contextlib.suppress(OSError, ValueError):
            with open(path + "+", "wb") as file:
                marshal.dump(made, file)
            os.replace(path + "+", path)
        return made


class Place:
    """Where the trees stand, one at a time. Each is unpacked once and again when it has changed."""

    def __init__(self, confine: Any) -> None:
        self.confine = confine
        self.here = os.getcwd()
        self.box = os.path.dirname(self.here)
        self.passing = [os.environ["HOME"], os.environ["TMPDIR"]]
        self.found = {os.path.join(self.box, name) for name in os.listdir(self.box)}
        self.archives: dict[int, bytes] = {}
        self.as_new: dict[int, dict[str, tuple[int, ...]]] = {}
        self.current = -1

    def put(self, number: int) -> None:
        """A tree as it was sent, and nothing else in the box."""
        os.chdir("/")
        if number != self.current:
            aside = self.here + "-"
            if os.path.isdir(self.here):
                os.rename(self.here, aside + str(self.current))
            self.current = number
            if os.path.isdir(aside + str(number)):
                os.rename(aside + str(number), self.here)
        self.clear()
        if self.as_new.get(number) != files_of(self.here):
            remove(self.here)
            os.makedirs(self.here)
            self.confine.unpack(io.BytesIO(self.archives[number]), self.here)
            self.as_new[number] = files_of(self.here)
        os.chdir(self.here)

    def clear(self) -> None:
        """Removes what no tree and no part of the sandbox is."""
        for path in self.added():
            remove(path)
        for path in self.passing:
            remove(path)
            os.makedirs(path, exist_ok=True)

    def added(self) -> set[str]:
        trees = {self.here + "-" + str(number) for number in self.archives}
        present = {os.path.join(self.box, name) for name in os.listdir(self.box)}
        return present - self.found - trees

    def is_new(self) -> bool:
        """Whether nothing in the box has changed since the tree was put there."""
        if self.added() or any(map(os.listdir, self.passing)):
            return False
        return self.as_new[self.current] == files_of(self.here)


def files_of(folder: str) -> dict[str, tuple[int, ...]]:
    """What tells a file that was touched from one that was not; of a folder, its rights."""
    found: dict[str, tuple[int, ...]] = {}
    for at, folders, files in os.walk(folder):
        for name in files + folders:
            path = os.path.join(at, name)
            known = os.lstat(path)
            found[path] = (known.st_mode,)
            if not stat.S_ISDIR(known.st_mode):
                found[path] += (known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)
    return found


def remove(path: str) -> None:
    """Whatever it is; what resists stays."""
    with contextlib.suppress(OSError):
        if os.path.islink(path) or not os.path.isdir(path):
            os.remove(path)
        else:
            shutil.rmtree(path, ignore_errors=True)


class Server:
    """Runs selections as they are asked for, until nobody asks any more."""

    def __init__(self, told: dict[str, Any], results: int) -> None:
        self.results = results
        self.confine = module_at(told["confine"])
        codes = os.path.join(os.path.dirname(os.getcwd()), "codes")
        os.mkdir(codes)
        self.codes = Codes(codes)
        self.place = Place(self.confine)
        self.collectors: dict[str, tuple[int, int, Any]] = {}

    def serve(self, asked: Any) -> None:
        self.confine.adopt()
        gc.disable()  # until there are tests to run
        load()
        for line in asked:
            command = json.loads(line)
            if command["size"] is not None:
                self.place.archives[command["tree"]] = asked.read(command["size"])
            for selection in command["selections"]:
                self.place.put(command["tree"])
                os.write(self.results, self.run(command, selection))
                self.confine.end_all({pid for pid, _, _ in self.collectors.values()})

    def run(self, command: dict[str, Any], selection: dict[str, Any]) -> bytes:
        """One selection; how its process ended."""
        which = json.dumps([command["tree"], selection["arguments"]])
        if which in self.collectors:
            _, questions, _ = self.collectors[which]
            with contextlib.suppress(BrokenPipeError):
                os.write(questions, json.dumps(selection).encode() + b"\n")
        else:
            self.collectors[which] = self.begun(command, selection)
        pid, questions, answers = self.collectors[which]
        line: bytes = answers.readline()
        if line:
            return line
        # It ran the selection itself, or died of it.
        del self.collectors[which]
        os.close(questions)
        answers.close()
        _, status, used = os.wait4(pid, 0)
        return ended(status, used)

    def begun(self, command: dict[str, Any], selection: dict[str, Any]) -> tuple[int, int, Any]:
        """A process that collects, and what to speak to it by."""
        (asked, questions), (answers, answering) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(questions)
            os.close(answers)
            for _, other, others_answers in self.collectors.values():
                os.close(other)
                others_answers.close()
            self.confine.adopt()
            self.codes.install()
            look_in(command["roots"], command["last"])
            collector = Collector(selection, self.place, asked, answering)
            os._exit(run_selection(selection, self.results, collector))
        os.close(asked)
        os.close(answering)
        return pid, questions, os.fdopen(answers, "rb")


def module_at(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("twin_confine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load() -> None:
    """Imports what every collector would import for itself."""
    import _pytest.config

    for name in getattr(_pytest.config, "default_plugins", ()):
        with contextlib.suppress(ImportError):
            importlib.import_module("_pytest." + name)


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
        Server(told, results).serve(asked)
        os._exit(0)
    asked.close()
    look_in(told["roots"], told["last"])
    os._exit(run_selection(told["selection"], results))  # threads that never end would hold it up


if __name__ == "__main__":
    main()
