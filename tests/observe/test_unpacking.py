"""What is unpacked is a place to work in, with the versions and paths of the runs."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from tests.coding.conftest import World
from tests.observe.conftest import packing
from tests.observe.small_project import FIRST, SECOND

from twin.cli.main import run
from twin.coding.sandbox.cell import Sandbox
from twin.errors import EnvironmentFailed, PackDamaged, RepositoryError, UsageError
from twin.observe import environments
from twin.observe.manifest import MANIFEST, digests, read_manifest, sealed
from twin.observe.unpacking import unpack

pytestmark = pytest.mark.usefixtures("no_index")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


def test_the_printed_command_runs_the_commits_tests(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, tmp_path / "a b")
    assert made.tests == ("tests/test_calc.py",)
    assert made.is_own
    done = shell(made.command)
    assert "2 passed" in done.stdout, done
    (tmp_path / "a b").rename(tmp_path / "moved")
    told = "import calc, packaging; print(calc.__file__)"
    python = tmp_path / "moved" / ".venv" / "bin" / "python"
    assert str(tmp_path / "moved" / "calc") in shell(f"cd / && '{python}' -c '{told}'").stdout


def test_git_sees_the_commit_and_nothing_that_was_added(folder: Path, tmp_path: Path) -> None:
    made = unpack(folder, tmp_path / "work")
    assert (made.folder / "calc" / "_version.py").exists()
    assert shell(f"cd {made.folder} && git status --porcelain").stdout == ""
    assert shell(f"cd {made.folder} && git rev-parse HEAD").stdout.strip() == made.commit_id


@pytest.mark.slow
def test_any_commit_can_be_unpacked_with_the_nearest_environment(
    folder: Path, tmp_path: Path
) -> None:
    parent = read_manifest(folder).commits[0].parent_id
    made = unpack(folder, tmp_path / "work", at=parent[:12])
    assert (made.commit_id, made.is_own, made.tests) == (parent, False, ())
    assert "1 passed" in shell(made.command).stdout or "2 passed" in shell(made.command).stdout


@pytest.mark.slow
def test_what_is_installed_is_nobody_elses(folder: Path, tmp_path: Path) -> None:
    """uv's own copies are linked where runs share them; here one may try a change."""
    made = unpack(folder, tmp_path / "work")
    (module,) = (made.folder / ".venv").glob("lib/*/site-packages/iniconfig/__init__.py")
    assert module.stat().st_nlink == 1


@pytest.mark.slow
def test_nothing_of_the_project_is_run(sandbox: Sandbox, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    # In the sandbox, where it is built and tested, this file cannot be written.
    rude = f"try: open({str(mark)!r}, 'w')\nexcept OSError: pass\n"
    first = {name: rude + text if name.endswith(".py") else text for name, text in FIRST.items()}
    second = {name: rude + text for name, text in SECOND.items()}
    packing(World(tmp_path / "world"), sandbox, tmp_path / "world.pack", first, second)
    made = unpack(tmp_path / "world.pack", tmp_path / "work")
    assert not mark.exists()
    shell(made.command)
    assert mark.exists()


def test_what_is_there_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        unpack(folder, tmp_path / "work")
    (tmp_path / "link").symlink_to("/nowhere")
    with pytest.raises(UsageError, match="is there already"):
        unpack(folder, tmp_path / "link")


def test_a_damaged_pack_is_not_unpacked(folder: Path, tmp_path: Path) -> None:
    next((folder / "packages").iterdir()).write_bytes(b"x")
    with pytest.raises(PackDamaged):
        unpack(folder, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_folder_is_there_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(environments, "install", stopped)
    with pytest.raises((KeyboardInterrupt, OSError)):
        unpack(folder, tmp_path / "work")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world.pack"]


def test_of_two_at_once_one_wins_and_the_other_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(*_: object, **__: object) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "theirs").touch()
        (tmp_path / f".work.making-{os.getpid()}" / ".venv/lib/python3/site-packages").mkdir(
            parents=True
        )

    monkeypatch.setattr(environments, "install", faster)
    with pytest.raises(UsageError, match="is there already"):
        unpack(folder, tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["theirs"]


def test_a_commit_that_is_not_in_it_is_said(folder: Path, tmp_path: Path) -> None:
    for revision in ("0" * 40, "nothing", "--upload-pack=x", ""):
        with pytest.raises(RepositoryError, match="no commit named"):
            unpack(folder, tmp_path / "work", at=revision)


def test_a_pack_without_an_environment_says_why(folder: Path, tmp_path: Path) -> None:
    made = read_manifest(folder)
    bare = msgspec.structs.replace(made, environments=[], failed={"x": "no such package"})
    (folder / MANIFEST).write_bytes(sealed(bare))
    with pytest.raises(EnvironmentFailed, match="no such package"):
        unpack(folder, tmp_path / "work")


def hostile(world: World, folder: Path, path: str, target: str) -> None:
    """Puts a commit with a link into the pack's repository, as a stranger's pack might have it."""
    os.symlink(target, world.root / path)
    world.git("add", "-f", path)
    world.git("commit", "-q", "-m", "A link")
    shutil.rmtree(folder / "repo")
    world.git("clone", "-q", "--bare", str(world.root), str(folder / "repo"))
    made = msgspec.structs.replace(
        read_manifest(folder), files={str(p): d for p, d in digests(folder)}
    )
    (folder / MANIFEST).write_bytes(sealed(made))


def test_a_tree_with_an_environment_of_its_own_is_refused(
    folder: Path, tmp_path: Path, world: World
) -> None:
    """A link of that name would lead what is installed to another place."""
    world.grow(("Begin", FIRST), ("Next", SECOND))
    (tmp_path / "outside").mkdir()
    hostile(world, folder, ".venv", str(tmp_path / "outside"))
    with pytest.raises(UsageError, match="of its own"):
        unpack(folder, tmp_path / "work")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.slow
def test_what_a_build_adds_does_not_follow_links_out(
    folder: Path, tmp_path: Path, world: World
) -> None:
    (tmp_path / "outside").mkdir()
    world.grow(("Begin", {"README": "x"}))
    hostile(world, folder, "calc", str(tmp_path / "outside"))
    with pytest.raises(PackDamaged, match="leads out"):
        unpack(folder, tmp_path / "work")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.slow
def test_a_user_is_told_what_runs_the_tests(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["unpack", str(folder), "--into", "work"]) == 0
    shown = capsys.readouterr().out
    assert "Nothing of the project was run" in shown
    assert ".venv/bin/pytest" in shown
    assert run(["unpack", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "world")
    assert run(["unpack", str(tmp_path / "nothing")]) == 2
