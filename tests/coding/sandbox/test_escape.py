"""What a hostile or broken test suite tries, and what comes of it: nothing outside the sandbox."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.coding.sandbox.conftest import Runs, processes_with

from twin.coding.sandbox.cell import Sandbox

REACHED = b"reached"


@pytest.fixture
def server() -> Iterator[int]:
    """A server on this machine; the test ends if anybody talks to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


def tried(expression: str, before: str = "") -> str:
    return (
        f"{before}\ntry:\n    {expression}\n    print('reached')\nexcept OSError as e: print(e)\n"
    )


def test_no_server_of_this_machine_can_be_reached(run: Runs, server: int) -> None:
    expression = f"socket.create_connection(('127.0.0.1', {server}), 3)"
    assert REACHED not in run(tried(expression, "import socket")).output


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_no_network_can_be_reached(run: Runs, address: str) -> None:
    expression = f"socket.create_connection(({address!r}, 80), 3)"
    assert REACHED not in run(tried(expression, "import socket")).output


def test_a_socket_in_the_file_system_cannot_be_reached(run: Runs, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        expression = f"socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        assert REACHED not in run(tried(expression, "import socket")).output


def test_an_abstract_socket_cannot_be_reached(run: Runs) -> None:
    name = f"\0twin-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        expression = f"socket.socket(socket.AF_UNIX).connect({name!r})"
        assert REACHED not in run(tried(expression, "import socket")).output


def test_servers_and_clients_inside_meet(run: Runs, sandbox: Sandbox) -> None:
    """Test suites start servers. Without namespaces there are no sockets: such tests fail there."""
    program = """
import socket
with socket.create_server(('127.0.0.1', 0)) as server:
    socket.create_connection(server.getsockname(), 3)
    print('met')
"""
    ended = run(program)
    assert (ended.output == b"met\n") == (sandbox.level == "bubblewrap")


def test_an_event_loop_starts(run: Runs) -> None:
    assert run("import asyncio; asyncio.run(asyncio.sleep(0)); print('ok')").output == b"ok\n"


def test_the_home_folder_cannot_be_read(run: Runs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top")
    real_home = Path("~").expanduser()
    program = f"""
import os
for path in ({str(secret)!r}, {str(real_home)!r}, '/home', '/root', '/etc/shadow', '/var/log'):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path).read()
        found = [name for name in found if not name.startswith('.')] # a bound interpreter's way
        if found: print('reached', path, found)
    except OSError: pass
"""
    assert REACHED not in run(program).output


def test_the_repository_with_the_answer_cannot_be_found(run: Runs, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "answer-to-all").write_text("42")
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    program = f"""
import os
for folder in ('.', {str(tmp_path)!r}, {os.getcwd()!r}):
    try: print('reached', os.listdir(os.path.join(folder, '.git')))
    except OSError: pass
for place, folders, files in os.walk('/', onerror=None):
    if place.startswith(('/proc', '/sys', '/usr')): folders.clear(); continue
    if '.git' in folders or 'answer-to-all' in files: print('reached', place)
"""
    assert REACHED not in run(program).output


def test_links_do_not_lead_out(run: Runs, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("top")
    program = f"""
import os
os.symlink({str(tmp_path / "secret")!r}, 'link')
os.symlink({str(tmp_path)!r}, 'folder')
for path in ('link', 'folder/secret'):
    try: print('reached', open(path).read())
    except OSError: pass
for path in ('link', 'folder/new'):
    try: open(path, 'w').write('1'); print('reached')
    except OSError: pass
try: os.link({str(tmp_path / "secret")!r}, 'hard'); print('reached')
except OSError: pass
"""
    assert REACHED not in run(program).output
    assert (tmp_path / "secret").read_text() == "top"
    assert os.listdir(tmp_path) == ["secret"]


def test_an_archive_whose_paths_lead_out_writes_nothing_outside(run: Runs, tmp_path: Path) -> None:
    outside = tmp_path / "planted"
    tmp_path.chmod(0o777)
    files = {str(outside): "1", "../../../../../../" + str(outside): "1"}
    run("print('ran')", files=files)
    assert not outside.exists()


@pytest.mark.parametrize(
    "folder", ["/", "/usr", "/usr/lib", "/etc", "/dev", "/var/tmp/..", "/proc"]
)
def test_nothing_outside_its_box_can_be_written(run: Runs, folder: str) -> None:
    mark = f"twin-planted-{os.getpid()}"
    assert REACHED not in run(tried(f"open('{folder}/{mark}', 'w').write('1')")).output
    assert not Path(folder, mark).exists()


def test_this_program_gets_no_signal(run: Runs) -> None:
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        program = f"""
import os, signal
for pid in ({os.getpid()}, os.getppid(), -1, 1):
    for number in (signal.SIGUSR1,) if pid in (-1, 1) else (0, signal.SIGUSR1):
        try: os.kill(pid, number)
        except OSError: pass
print('tried')
"""
        ended = run(program)
        time.sleep(0.05)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.cause in ("exit", "signal")
    assert not heard


def test_it_sees_no_process_of_this_machine(run: Runs) -> None:
    os.environ["TWIN_TEST_SECRET"] = "top"
    with subprocess.Popen(["sleep", "60"]) as other:
        program = f"""
import os
for pid in ({other.pid}, {os.getpid()}, 1):
    try: seen = open(f'/proc/{{pid}}/environ', 'rb').read()
    except OSError: continue
    if b'TWIN_TEST_SECRET' in seen: print('reached')
"""
        output = run(program).output
        other.kill()
    del os.environ["TWIN_TEST_SECRET"]
    assert REACHED not in output


@pytest.mark.parametrize(
    "call",
    [
        "c.unshare(0x10000000)",
        "c.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
        "c.ptrace(16, 1, 0, 0)",
        "c.setuid(0)",
        "c.syscall(425, 8, ctypes.create_string_buffer(120))",
    ],
    ids=["namespaces", "mounts", "tracing", "root", "io_uring"],
)
def test_no_right_can_be_won(run: Runs, call: str) -> None:
    program = (
        f"import ctypes; c = ctypes.CDLL(None); print('reached' if {call} >= 0 else 'refused')"
    )
    assert run(program).output == b"refused\n"


@pytest.mark.slow
def test_a_fork_bomb_ends(run: Runs) -> None:
    mark = f"bomb-{os.getpid()}"
    program = (
        f"import os\nmark = '{mark}'\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    )
    ended = run(program, wall_s=3, num_processes=64)
    assert ended.cause in ("wall", "memory")
    assert not processes_with(mark)


def test_the_number_of_processes_is_limited(run: Runs) -> None:
    program = """
import os, time
made = 0
try:
    while True:
        if not os.fork(): time.sleep(60)
        made += 1
except OSError: print(made)
"""
    ended = run(program, num_processes=40)
    assert int(ended.output) <= 40


def test_a_memory_bomb_ends(run: Runs) -> None:
    ended = run(
        "x = []\nwhile len(x) < 64: x.append(b'x' * (16 << 20))\nprint('reached')",
        memory_bytes=256 << 20,
    )
    assert REACHED not in ended.output
    assert (ended.cause, ended.detail) == ("memory", "held more than 256 MiB in memory")


def test_what_is_reserved_and_not_used_is_no_memory(run: Runs) -> None:
    program = "import mmap; x = mmap.mmap(-1, 1 << 30); print('reached')"
    assert REACHED in run(program, memory_bytes=256 << 20).output
    ended = run(program, address_bytes=512 << 20)
    assert b"Cannot allocate memory" in ended.output


def test_memory_of_many_processes_counts_together(run: Runs) -> None:
    program = """
import os, time
for _ in range(8):
    if not os.fork():
        x = bytearray(60 << 20)
        time.sleep(60)
time.sleep(60)
"""
    ended = run(program, memory_bytes=200 << 20)
    assert (ended.cause, ended.detail) == ("memory", "held more than 200 MiB in memory")
    assert ended.peak_bytes > 200 << 20


@pytest.mark.parametrize("folder", [".", "~", "/tmp", "/dev/shm"])
def test_a_disk_filler_ends(run: Runs, folder: str, sandbox: Sandbox) -> None:
    program = f"""
import os
folder = os.environ['TMPDIR'] if {folder!r} == '/tmp' else os.path.expanduser({folder!r})
for number in range(1000):
    with open(f'{{folder}}/f{{number}}', 'wb') as f: f.write(bytes(1 << 20))
print('reached')
"""
    ended = run(program, disk_bytes=64 << 20)
    if sandbox.level == "bubblewrap":
        assert REACHED not in ended.output
    else:  # looked at every half second: it may have ended before, and its box with it
        assert ended.cause in ("disk", "exit")


def test_a_single_file_is_limited(run: Runs) -> None:
    program = "f = open('x', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))\nprint('reached')"
    assert REACHED not in run(program, file_bytes=8 << 20).output


@pytest.mark.slow
def test_a_million_files_end(run: Runs) -> None:
    program = """
import os
for number in range(10_000_000):
    os.mkdir(f'd{number}')
"""
    ended = run(program, num_files=5_000)
    assert (ended.cause, ended.detail) == ("disk", "made more than 5,000 files")


def test_endless_output_ends_and_only_its_end_is_kept(run: Runs) -> None:
    ended = run("while True: print('x' * 10_000)", output_bytes=1 << 20)
    assert (ended.cause, ended.detail) == ("output", "printed more than 1 MiB")
    assert len(ended.output) <= 1 << 16


def test_results_without_an_end_end(run: Runs) -> None:
    program = "import os\nwhile True: os.write(int(os.environ['TWIN_RESULTS']), b'x' * 10_000)"
    assert run(program, output_bytes=1 << 20).cause == "output"


def test_a_command_that_hangs_ends(run: Runs) -> None:
    ended = run("import signal, time\nsignal.signal(15, 1)\ntime.sleep(60)", wall_s=0.5)
    assert (ended.cause, ended.detail) == ("wall", "ran longer than 0.5 s")
    assert ended.wall_s < 10


def test_a_command_that_spins_ends(run: Runs) -> None:
    ended = run("while True: pass", cpu_s=1, wall_s=30)
    assert ended.cause == "signal"
    assert ended.code in (signal.SIGXCPU, signal.SIGKILL)


def test_a_tree_that_deletes_itself_is_no_harm(run: Runs) -> None:
    program = """
import os, shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
shutil.rmtree('/', ignore_errors=True)
print('done')
"""
    assert run(program).cause == "exit"
    assert Path(sys.executable).exists()
    assert Path("/usr/bin").exists()


def test_rights_taken_away_do_not_keep_its_files_alive(run: Runs, tmp_path: Path) -> None:
    program = "import os; os.makedirs('a/b'); open('a/b/c', 'w').write('1'); os.chmod('a', 0)"
    assert run(program).is_ok
    left = [p for p in Path(os.environ.get("TMPDIR", "/tmp")).glob("twin-box-*")]
    assert not [p for p in left if time.time() - p.stat().st_mtime < 1 and any(p.rglob("c"))]


def test_a_thread_of_ours_may_end_before_its_run_is_looked_at(run: Runs) -> None:
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run("print('ok')")))
    thread.start()
    thread.join()
    assert ended[0].output == b"ok\n"
