"""A pack holds all that its tests need; made from local wheels, so no test asks the network."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.coding.conftest import World
from tests.observe.conftest import packing
from tests.observe.small_project import FIRST, PYPROJECT, SECOND, TESTS

from twin.coding.sandbox.cell import Sandbox
from twin.errors import EnvironmentFailed, MissingRequirement, PackDamaged, UsageError
from twin.observe import environments
from twin.observe.building import BuildFailed, Built
from twin.observe.environments import Lock, resolve
from twin.observe.interpreters import Interpreter, find_interpreter, own_interpreter
from twin.observe.manifest import MANIFEST, Manifest, read_manifest, sealed
from twin.observe.packs import find_packs, open_pack
from twin.observe.requirements import Needs

pytestmark = pytest.mark.usefixtures("no_index")
Pack = Callable[..., Manifest]


@pytest.fixture
def packed(world: World, sandbox: Sandbox, tmp_path: Path) -> Pack:
    """Packs the world to a folder."""

    def make(*commits: dict[str, str | None], pythons: tuple[Interpreter, ...] = ()) -> Manifest:
        return packing(world, sandbox, tmp_path / "world.pack", *commits, pythons=pythons)

    return make


def test_a_pack_holds_its_commits_with_an_environment_in_which_they_pass(
    folder: Path, tmp_path: Path
) -> None:
    made = read_manifest(folder)
    (commit,) = made.commits[-1:]
    (environment,) = made.environments
    assert environment.fault == environment.built == ""
    assert (environment.num_tests, environment.num_passing) == (2, 2)
    assert {"pytest", "packaging"} <= environment.packages.keys()
    assert commit.environment == environment.key
    assert read_manifest(folder) == made
    assert [(row.rule, row.remaining) for row in made.attrition] == [
        ("all", 2), ("merge", 2), ("bot", 2), ("no_source", 2), ("max_source_files", 2),
        ("max_source_lines", 2), ("no_parent", 1), ("no_tests", 1), ("chore", 1),
        ("no_code_change", 1), ("no_test_added", 1),
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "built", "locks", MANIFEST, "packages", "repo",
    ]  # fmt: skip


def test_an_opened_pack_makes_its_environments_without_an_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read_manifest(folder)
    monkeypatch.setenv("UV_FIND_LINKS", "/nowhere")
    opened = open_pack(folder, tmp_path / "environments")
    environment = opened.environment(made.environments[0].key)
    assert environment.python.exists()
    assert environment.files.keys() == {"calc/_version.py"}
    with opened.repository() as repository:
        assert repository.head() == made.head
        assert repository.name == made.name
    assert opened.environment(made.environments[0].key) == environment


def test_a_pack_moves_like_any_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    (folder).rename(tmp_path / "stick" / "moved")
    (found,) = find_packs(tmp_path / "stick")
    assert found[0] == tmp_path / "stick" / "moved"
    assert isinstance(found[1], Manifest)
    open_pack(tmp_path / "stick" / "moved", tmp_path / "environments")


@pytest.mark.parametrize("what", ["altered", "removed", "added"])
def test_a_damaged_pack_is_refused_with_the_file(folder: Path, tmp_path: Path, what: str) -> None:
    wheel = next((folder / "packages").glob("pytest-*"))
    if what == "altered":
        wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    elif what == "removed":
        wheel.unlink()
    else:
        wheel = folder / "packages" / "evil-1-py3-none-any.whl"
        wheel.write_bytes(b"x")
    with pytest.raises(PackDamaged, match=wheel.name):
        open_pack(folder, tmp_path / "environments")


def test_an_edited_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / MANIFEST
    told = json.loads(path.read_text())
    told["commits"][0]["labels"] = ["mine"]
    path.write_text(json.dumps(told))
    with pytest.raises(PackDamaged, match="edited"):
        read_manifest(path.parent)
    ((_, fault),) = find_packs(path.parent)
    assert isinstance(fault, str)


def test_a_pack_of_the_first_format_is_read_and_opened(folder: Path, tmp_path: Path) -> None:
    path = folder / MANIFEST
    told = json.loads(path.read_text()) | {"format": 1, "checksum": ""}
    del told["attrition"]
    version = told["environments"][0].pop("python")
    whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(told | {"checksum": whole}))
    opened = open_pack(folder, tmp_path / "environments")
    assert opened.manifest is not None
    (environment,) = opened.manifest.environments
    assert (environment.python, opened.manifest.attrition) == (version, [])
    assert opened.environment(environment.key).python.exists()
    path.write_text(json.dumps(told | {"checksum": whole, "head": "0"}))
    with pytest.raises(PackDamaged, match="edited"):
        read_manifest(folder)


def test_a_pack_for_an_interpreter_that_is_not_here_is_refused_with_the_cure(
    folder: Path, tmp_path: Path
) -> None:
    made = read_manifest(folder)
    other = msgspec.structs.replace(made.environments[0], python="3.99")
    (folder / MANIFEST).write_bytes(sealed(msgspec.structs.replace(made, environments=[other])))
    with pytest.raises(MissingRequirement, match="uv python install"):
        open_pack(folder, tmp_path / "environments")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "1" * 5000, '{"format": "one"}', "\x00", '{"format": 1e400}']
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PackDamaged):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no pack"):
        open_pack(tmp_path, tmp_path)
    assert list(find_packs(tmp_path)) == []


def test_a_pack_of_another_machine_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(PackDamaged, match="Pack the repository again"):
        open_pack(folder, tmp_path / "environments")


@pytest.mark.slow
def test_an_environment_in_which_tests_fail_is_kept_with_its_reason(packed: Pack) -> None:
    made = packed(FIRST, {**SECOND, "calc/__init__.py": "def add(a, b): return None\n"})
    assert made.environments[0].fault == ("only 1 of 2 tests pass, and 0 files cannot be collected")


@pytest.mark.slow
def test_a_project_that_cannot_be_built_runs_without_its_metadata(packed: Pack) -> None:
    broken = {**FIRST, "backend.py": "raise ValueError('no compiler here')"}
    made = packed(broken, {**SECOND, "tests/test_calc.py": TESTS.replace(", _version", "")})
    assert "no compiler here" in made.environments[0].built
    assert made.environments[0].num_passing == 1


@pytest.mark.slow
def test_needs_that_no_index_has_are_left_out_and_said(packed: Pack) -> None:
    wanted = PYPROJECT + "[dependency-groups]\ntest = ['no-such-package-anywhere', 'pytest']\n"
    made = packed({**FIRST, "pyproject.toml": wanted}, SECOND)
    assert "no-such-package-anywhere" in made.environments[0].left_out


@pytest.mark.slow
def test_a_commit_whose_own_needs_cannot_be_met_has_no_environment(packed: Pack) -> None:
    wanted = PYPROJECT.replace('"packaging"', '"no-such-package-anywhere"')
    made = packed({**FIRST, "pyproject.toml": wanted}, SECOND)
    assert made.environments == []
    assert "no-such-package-anywhere" in made.failed[made.commits[-1].commit_id]


def other_python() -> Interpreter:
    """A newer or older one than ours, new enough for our wheels."""
    for version in ("3.13", "3.12", "3.11"):
        with contextlib.suppress(MissingRequirement):
            found = find_interpreter(version)
            if found.version != own_interpreter().version:
                return found
    pytest.skip("there is no other Python here")


def requiring(requires: str) -> str:
    return PYPROJECT.replace("[project]", f"[project]\nrequires-python = '{requires}'")


@pytest.mark.slow
def test_each_commit_runs_on_the_first_interpreter_that_it_allows(
    packed: Pack, tmp_path: Path
) -> None:
    own, other = own_interpreter(), other_python()
    tests = (
        TESTS + f"\nimport sys\ndef test_python(): assert sys.version.startswith('{other.release}')"
    )
    made = packed(
        FIRST,
        {**SECOND, "tests/test_calc.py": TESTS},
        {
            "calc/__init__.py": "def add(a, b): return b + a\n",
            "tests/test_calc.py": tests,
            "pyproject.toml": requiring(f"=={other.version}.*"),
        },
        {
            "calc/__init__.py": "def add(a, b): return a + b + 0\n",
            "tests/test_calc.py": TESTS + "\ndef test_more(): pass\n",
            "pyproject.toml": requiring(">=3.99"),
        },
        pythons=(own, other),
    )
    first, second, third = made.commits
    pythons = {one.key: one.python for one in made.environments}
    assert [pythons[one.environment] for one in (first, second)] == [own.version, other.version]
    assert not any(one.fault for one in made.environments)
    assert third.environment == ""
    assert "needs Python >=3.99" in made.failed[third.commit_id]
    opened = open_pack(tmp_path / "world.pack", tmp_path / "environments")
    assert opened.environment(second.environment).python.exists()


@pytest.mark.slow
def test_a_suite_that_fails_on_one_interpreter_is_tried_on_the_next(packed: Pack) -> None:
    own, other = own_interpreter(), other_python()
    tests = TESTS + f"\nimport sys\nassert sys.version.startswith('{other.release}')"
    made = packed(FIRST, {**SECOND, "tests/test_calc.py": tests}, pythons=(own, other))
    first, second = made.environments
    assert (first.python, second.python) == (own.version, other.version)
    assert first.fault
    assert not second.fault
    assert made.commits[0].environment == second.key


def test_a_pack_is_there_whole_or_not_at_all(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("twin.observe.packing.build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(FIRST, SECOND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]


@pytest.mark.parametrize("program", ["uv", "pip"])
def test_a_full_disk_is_no_fault_of_the_environment(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """What uv or pip say of it must not be kept as what the project's needs came to."""
    python = own_interpreter()
    full = tmp_path / "full"
    full.write_text("#!/bin/sh\necho 'error: No space left on device (os error 28)' >&2; exit 2\n")
    full.chmod(0o755)
    if program == "uv":
        monkeypatch.setattr(environments, "uv_program", lambda: str(full))
    else:
        monkeypatch.setattr("sys.executable", str(full))
    with pytest.raises(OSError, match="No space left") as caught:
        packed(FIRST, SECOND, pythons=(python,))
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "world"]


@pytest.mark.slow
def test_of_two_packs_at_once_one_wins_and_the_other_says_so(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(*_: object) -> None:
        (tmp_path / "world.pack").mkdir()
        (tmp_path / "world.pack" / "theirs").touch()
        raise BuildFailed("it is late")

    monkeypatch.setattr("twin.observe.packing.build", faster)
    with pytest.raises(UsageError, match="is there already"):
        packed(FIRST, SECOND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world", "world.pack"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("built", "said"),
    [
        ({"x" * 300: b""}, "File name too long"),
        ({"a": b"", "a/b": b""}, "cannot be kept"),
    ],
)
def test_a_build_with_names_that_no_disk_takes_is_left_out(
    packed: Pack, monkeypatch: pytest.MonkeyPatch, built: dict[str, bytes], said: str
) -> None:
    monkeypatch.setattr(
        "twin.observe.packing.build", lambda *_: Built(beside=built, within={"calc/_x.py": b""})
    )
    made = packed(FIRST, {**SECOND, "tests/test_calc.py": "def test_a(): pass"})
    assert said in made.environments[0].built
    assert made.environments[0].fault == ""
    assert [path for path in made.files if path.startswith("built/")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("while True: print('x' * 100_000)", "printed more than"),
        ("import os; os._exit(3)", "ended with code 3"),
        ("import time; time.sleep(99)", "ran longer than"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 1)", "no test ran"),
        ("import shutil; shutil.rmtree('.'); import nowhere", "no test ran"),
    ],
    ids=["prints", "exits", "hangs", "network", "deletes"],
)
def test_a_rude_suite_is_a_fault_of_its_environment(
    packed: Pack, monkeypatch: pytest.MonkeyPatch, suite: str, said: str
) -> None:
    monkeypatch.setattr("twin.observe.packing.SUITE_S", 10)
    made = packed(FIRST, {**SECOND, "tests/test_calc.py": suite})
    assert said in made.environments[0].fault


@pytest.mark.slow
def test_a_wheel_that_unpacks_to_more_than_memory_holds_is_not_unpacked(packed: Pack) -> None:
    bomb = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "c.whl"), "w", zipfile.ZIP_DEFLATED) as wheel:
        for number in range(5):
            wheel.writestr(f"calc/data{number}.txt", bytes(60 << 20))
    return "c.whl"
"""
    made = packed({**FIRST, "backend.py": bomb}, SECOND)
    assert "314,572,800 bytes" in made.environments[0].built


def test_a_link_in_a_pack_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "built" / "link").symlink_to("/etc/hostname")
    with pytest.raises(PackDamaged, match="is a link"):
        open_pack(folder, tmp_path / "environments")


def test_what_is_there_is_not_overwritten(packed: Pack, tmp_path: Path) -> None:
    (tmp_path / "world.pack").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        packed(FIRST, SECOND)


# --- environments


PYTHON = environments.own_python()


def test_a_missing_wheel_is_a_reason(tmp_path: Path) -> None:
    lock = Lock(text="pytest==9 --hash=sha256:" + "0" * 64, until="")
    (tmp_path / "wheels").mkdir()
    with pytest.raises(EnvironmentFailed, match="pytest"):
        environments.make(lock, tmp_path / "wheels", tmp_path / "place", PYTHON)
    assert not [path for path in (tmp_path / "place").iterdir() if not path.name.startswith(".")]


def test_a_download_that_does_not_end_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "DOWNLOAD_S", 0.01)
    lock = Lock(text="pytest==9 --hash=sha256:" + "0" * 64, until="")
    with pytest.raises(EnvironmentFailed, match=r"downloading its packages took over 0\.01 s"):
        environments.download(lock, tmp_path / "wheels")


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, wheels: Path) -> None:
    version = importlib.metadata.version("iniconfig")
    lock = Lock(text=f"iniconfig=={version} --hash=sha256:{'0' * 64}", until="")
    with pytest.raises(EnvironmentFailed):
        environments.make(lock, wheels, tmp_path / "place", PYTHON)


def test_an_environment_does_not_change_with_the_wheels_it_was_made_from(
    tmp_path: Path, wheels: Path
) -> None:
    lock = resolve(Needs(name="", runtime=("iniconfig",)), 0.0, PYTHON)
    one = environments.make(lock, wheels, tmp_path / "place", PYTHON)
    assert environments.make(lock, Path("/nowhere"), tmp_path / "place", PYTHON) == one


def test_needs_are_resolved_as_of_their_day_but_not_before_this_python_was_settled() -> None:
    settled = environments.SETTLED.get(sys.version_info[:2])
    lock = resolve(Needs(name="", runtime=("iniconfig",), tests=("pytest",)), 0.0, PYTHON)
    # Local wheels have no date, so here the second attempt, as of today, is the one that works.
    assert lock.until in ("", str(settled))
    assert lock.packages.keys() == {"iniconfig", "pytest", "pluggy", "packaging", "pygments"}
