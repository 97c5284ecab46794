"""The sandbox does what a test suite needs: a fresh tree, a home, an exit code, lines in order."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.coding.sandbox.conftest import Runs, archive, processes_with

from twin.coding.sandbox import cell
from twin.coding.sandbox.cell import Sandbox, open_sandbox
from twin.coding.sandbox.limits import LEVELS, Job, Limits
from twin.errors import MissingRequirement


class Heard:
    """A listener that keeps what it hears, and gives up after the line `enough`."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def hear(self, line: bytes) -> None:
        self.lines.append(line)

    def deadline(self) -> float:
        return 0.0 if self.lines[-1:] == [b"enough"] else float("inf")


def test_a_command_starts_in_its_tree_and_its_output_and_code_come_back(run: Runs) -> None:
    program = (
        "import sys; print(open('a/b.txt').read()); print('err', file=sys.stderr); sys.exit(3)"
    )
    ended = run(program, files={"a/b.txt": "content"})
    assert (ended.cause, ended.code, ended.detail) == ("exit", 3, "")
    assert sorted(ended.output.split()) == [b"content", b"err"]
    assert not ended.is_ok


def test_each_run_begins_with_the_tree_as_it_was(run: Runs) -> None:
    program = "import os; print(os.listdir()); os.remove('x'); open('y', 'w').write('1')"
    first, second = (run(program, files={"x": "1"}) for _ in range(2))
    assert first.output == second.output == b"['x']\n"


def test_links_and_executable_files_of_the_tree_stay_what_they_are(
    sandbox: Sandbox, python: str, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "do").write_text("#!/bin/sh\necho done\n")
    (tmp_path / "do").chmod(0o755)
    (tmp_path / "link").symlink_to("do")
    for arguments in (
        ["add", "-A"],
        ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "1"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    tree = subprocess.run(
        ["git", "-C", str(tmp_path), "archive", "HEAD"], check=True, capture_output=True
    ).stdout
    program = "import os; print(os.readlink('link'), flush=True); os.system('./link')"
    ended = sandbox.run(Job(command=(python, "-c", program), tree=tree))
    assert ended.output == b"do\ndone\n"


def test_home_and_temporary_files_have_a_place_and_nothing_of_our_environment_is_there(
    run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    program = """
import json, os, tempfile
from pathlib import Path
(Path.home() / 'x').write_text('1')
with tempfile.NamedTemporaryFile() as f: f.write(b'1')
print(json.dumps(dict(os.environ)))
"""
    ended = run(program, environment={"ADDED": "1"})
    seen = json.loads(ended.output)
    assert seen["ADDED"] == "1"
    assert (seen["TZ"], seen["LC_ALL"], seen["PYTHONHASHSEED"]) == ("UTC", "C.UTF-8", "0")
    assert "secret" not in seen.values()
    assert not {name for name in seen if name.startswith(("GIT_DIR", "SSH", "AWS"))}


def test_what_was_made_visible_can_be_read_but_not_written(run: Runs, tmp_path: Path) -> None:
    place = tmp_path / "given"
    place.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)  # pytest's own are for their owner alone
    (place / "x").write_text("given")
    (place / "x").chmod(0o666)
    place.chmod(0o777)
    program = f"""
from pathlib import Path
print(Path({str(place / "x")!r}).read_text())
for path in ("x", "new"):
    try:
        Path({str(place)!r}, path).write_text('changed')
    except OSError as error:
        print(type(error).__name__)
"""
    ended = run(program, visible=(place,))
    assert ended.output.split()[0] == b"given"
    assert len(ended.output.split()) == 3
    assert (place / "x").read_text() == "given"
    assert os.listdir(place) == ["x"]


def test_results_are_heard_line_by_line_while_it_runs(run: Runs) -> None:
    heard = Heard()
    program = """
import os
results = open(int(os.environ['TWIN_RESULTS']), 'w')
for number in range(2000): print('line', number, file=results)
"""
    assert run(program, listener=heard).is_ok
    assert heard.lines == [f"line {number}".encode() for number in range(2000)]


def test_a_listener_can_give_a_run_up(run: Runs) -> None:
    heard = Heard()
    program = """
import os, time
os.write(int(os.environ['TWIN_RESULTS']), b'one\\nenough\\n')
time.sleep(60)
"""
    ended = run(program, listener=heard)
    assert ended.cause == "stopped"
    assert heard.lines == [b"one", b"enough"]
    assert ended.wall_s < 20


def test_what_was_said_before_a_crash_is_heard(run: Runs) -> None:
    heard = Heard()
    program = """
import os
os.write(int(os.environ['TWIN_RESULTS']), b'one\\ntwo\\nhalf a li')
os._exit(9)
"""
    ended = run(program, listener=heard)
    assert (ended.cause, ended.code) == ("exit", 9)
    assert heard.lines == [b"one", b"two"]


def test_a_signal_that_ends_it_is_told_apart_from_an_exit_code(run: Runs) -> None:
    ended = run("import ctypes; ctypes.string_at(0)")
    assert (ended.cause, ended.code) == ("signal", signal.SIGSEGV)


def test_a_command_that_cannot_start_is_told_apart_from_one_that_fails(
    sandbox: Sandbox, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    ended = sandbox.run(Job(command=("/no/such/program",), tree=b""))
    assert ended.cause == "setup"
    assert "/no/such/program" in ended.detail


@pytest.mark.parametrize("tree", [b"no archive at all" * 100, archive({"x": "y" * 10_000})[:3000]])
def test_a_damaged_tree_is_a_failed_set_up(sandbox: Sandbox, python: str, tree: bytes) -> None:
    ended = sandbox.run(Job(command=(python, "-c", "print('began')"), tree=tree))
    assert ended.cause == "setup"
    assert b"began" not in ended.output


def test_a_tree_that_does_not_fit_says_so(run: Runs, sandbox: Sandbox) -> None:
    ended = run("print('began')", files={"x": bytes(3 << 20)}, disk_bytes=1 << 20)
    if sandbox.level == "bubblewrap":
        assert (ended.cause, ended.detail) == ("disk", "has a tree that does not fit in 1 MiB")
    else:  # looked at from outside, every half second
        assert ended.cause in ("disk", "exit")


def test_many_runs_at_once_do_not_meet(run: Runs) -> None:
    outputs: list[bytes] = []
    program = "import os; open('x', 'x').write('1'); print(len(os.listdir()))"
    threads = [
        threading.Thread(target=lambda: outputs.append(run(program).output)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [b"1\n"] * 6


def test_children_that_it_leaves_behind_end_with_it(run: Runs) -> None:
    mark = f"left-behind-{os.getpid()}-{time.time_ns()}"
    program = f"""
import os, subprocess, sys
for _ in range(3):
    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', '{mark}'],
                     start_new_session=True)
if not os.fork():  # a daemon: parent gone, its own session
    os.setsid()
    if not os.fork():
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(300)', '{mark}'])
    os._exit(0)
"""
    assert run(program).is_ok
    assert not processes_with(mark)


def test_killing_this_program_ends_the_run(sandbox: Sandbox, python: str, tmp_path: Path) -> None:
    mark = f"orphan-{os.getpid()}-{time.time_ns()}"
    inside = f"""
import subprocess, sys, time
sleep = [sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']
subprocess.Popen(sleep, start_new_session=True)
time.sleep(300)
"""
    ours = f"""
from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Job
command = ({python!r}, "-c", {inside!r}, {mark!r})
Sandbox({sandbox.level!r}).run(Job(command=command, tree=b""))
"""
    with subprocess.Popen([sys.executable, "-c", ours]) as process:
        until(lambda: len(processes_with(mark)) >= 3)
        process.send_signal(signal.SIGKILL)
    until(lambda: not processes_with(mark))


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something that another process does."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.05)


def test_the_strongest_level_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "fault_of", lambda level: None)
    assert open_sandbox().level == LEVELS[0]
    monkeypatch.setattr(cell, "fault_of", lambda level: "no" if level == LEVELS[0] else None)
    assert open_sandbox().level == LEVELS[1]


def test_with_no_level_nothing_is_run_and_the_error_names_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell, "fault_of", lambda level: "is not installed")
    with pytest.raises(MissingRequirement, match=r"bubblewrap is not installed.*apt install"):
        open_sandbox()
    with pytest.raises(MissingRequirement, match="landlock is not installed"):
        open_sandbox("landlock")


def test_bubblewrap_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    cell.fault_of.cache_clear()
    try:
        assert cell.fault_of("bubblewrap") == "is not installed"
    finally:
        cell.fault_of.cache_clear()


def test_limits_are_positive_by_default() -> None:
    limits = Limits()
    assert all(getattr(limits, name) > 0 for name in Limits.__dataclass_fields__)
