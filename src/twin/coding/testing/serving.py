"""Runs selections of tests inside the sandbox as they are asked for, on one tree or on several.

Loaded by `inside`, in the tested project's own Python: standard library of Python 3.8. Pytest is
loaded once, a process for each tree collects its tests, and that one forks a process for each
selection (`Collector`); a selection may ask for a process of its own that collects afresh. What a
selection finds is what it would find alone: files like new, no process of an earlier one, modules
as they were when the tests were collected. Where collecting leaves something behind that a fork
would share, every selection collects for itself.

A command is a JSON line: a number for the tree, its archive's `size` where it follows, where to
import from, the selection.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import importlib.machinery
import inspect
import io
import json
import marshal
import os
import shutil
import stat
import sys
from collections.abc import Callable
from types import CodeType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    Look = Callable[[list[str], list[str]], None]
    Run = Callable[..., int]


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

    def __init__(self, confine: Any, look_in: Look, run_selection: Run) -> None:
        self.confine = confine
        self.look_in = look_in
        self.run_selection = run_selection
        codes = os.path.join(os.path.dirname(os.getcwd()), "codes")
        os.mkdir(codes)
        self.codes = Codes(codes)
        self.place = Place(confine)
        self.collectors: dict[str, tuple[int, int, Any]] = {}

    def serve(self, asked: IO[bytes], results: int) -> None:
        self.confine.adopt()
        gc.disable()  # until there are tests to run
        load()
        for line in asked:
            command = json.loads(line)
            if command["size"] is not None:
                self.place.archives[command["tree"]] = asked.read(command["size"])
            self.place.put(command["tree"])
            os.write(results, self.run(command))
            self.confine.end_all({pid for pid, _, _ in self.collectors.values()})

    def run(self, command: dict[str, Any]) -> bytes:
        """One selection; how its process ended."""
        selection = command["selection"]
        which = json.dumps([command["tree"], selection["arguments"], selection["afresh"]])
        if which in self.collectors:
            _, questions, _ = self.collectors[which]
            with contextlib.suppress(BrokenPipeError):
                os.write(questions, json.dumps(selection).encode() + b"\n")
        else:
            self.collectors[which] = self.begun(command)
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

    def begun(self, command: dict[str, Any]) -> tuple[int, int, Any]:
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
            self.look_in(command["roots"], command["last"])
            selection = command["selection"]
            collector = Collector(selection, self.place, asked, answering)
            os._exit(self.run_selection(selection, collector=collector))
        os.close(asked)
        os.close(answering)
        return pid, questions, os.fdopen(answers, "rb")


def load() -> None:
    """Imports what every collector would import for itself."""
    import _pytest.config

    for name in getattr(_pytest.config, "default_plugins", ()):
        with contextlib.suppress(ImportError):
            importlib.import_module("_pytest." + name)
