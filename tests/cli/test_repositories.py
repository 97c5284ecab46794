"""Repositories of every kind: those that cannot be learnt from are told so in one sentence and left
as they were; odd ones are read."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from twin.cli.main import run
from twin.store.database import open_store

New = Callable[..., Path]
Git = Callable[..., str]
Shown = pytest.CaptureFixture[str]

SOURCE = "def retry(delay):\n    return delay\n"


def refused(shown: Shown, code: int, *arguments: object) -> str:
    """The one sentence with which a command refuses."""
    assert run([os.fspath(str(one)) for one in arguments]) == code
    out, err = shown.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("twin: ")
    return err


def answered(shown: Shown, *arguments: object) -> dict[str, object]:
    """What a command that works prints as JSON."""
    assert run([*map(str, arguments), "--json"]) == 0, shown.readouterr().out
    out, err = shown.readouterr()
    assert err == ""
    found: dict[str, object] = json.loads(out)
    return found


def works(shown: Shown, root: Path) -> list[str]:
    """Every command works there; gives the paths that `locate` finds."""
    answered(shown, "mine", root)
    answered(shown, "index", root)
    answered(shown, "improve", root)
    answered(shown, "--repo", root, "context", "change the retry delay")
    located = answered(shown, "--repo", root, "locate", "change the retry delay")
    return [file["path"] for file in located["answer"]["files"]]  # type: ignore[index]


# ------------------------------------------------------------------------- refused


@pytest.mark.parametrize("command", ["improve", "mine", "index"])
def test_a_path_that_is_no_repository_is_named_and_nothing_is_written(
    capsys: Shown, tmp_path: Path, command: str
) -> None:
    nowhere, plain, file = tmp_path / "nowhere", tmp_path / "plain", tmp_path / "file"
    plain.mkdir()
    file.write_text("")
    assert "There is no folder" in refused(capsys, 2, command, nowhere)
    assert "is not a git repository" in refused(capsys, 2, command, plain)
    assert "is a file" in refused(capsys, 2, command, file)
    assert "is not a git repository" in refused(capsys, 2, "--repo", plain, command)
    assert list(plain.iterdir()) == []
    assert not nowhere.exists()


@pytest.mark.parametrize("command", ["locate", "context"])
def test_a_question_about_no_repository_is_refused(
    capsys: Shown, tmp_path: Path, command: str
) -> None:
    assert "is not a git repository" in refused(capsys, 2, "--repo", tmp_path, command, "retry")
    assert list(tmp_path.iterdir()) == []


def test_a_bare_a_shallow_and_an_empty_repository_name_their_cure(
    capsys: Shown, new_repository: New, tmp_path: Path, run_git: Git
) -> None:
    root = new_repository(("Begin", {"a.py": SOURCE}), ("Go on", {"a.py": SOURCE * 2}))
    bare, shallow, empty = tmp_path / "bare", tmp_path / "shallow", tmp_path / "empty"
    run_git(tmp_path, "clone", "-q", "--bare", str(root), str(bare))
    run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", str(shallow))
    run_git(tmp_path, "init", "-q", str(empty))
    assert "`git clone" in refused(capsys, 2, "improve", bare)
    assert "fetch --unshallow`" in refused(capsys, 2, "improve", shallow)
    assert "Commit something" in refused(capsys, 2, "improve", empty)
    for place in (bare, shallow, empty):
        assert not (place / ".twin").exists()


@pytest.mark.parametrize(
    "command", [["improve"], ["index"], ["locate", "words"], ["context", "words"]]
)
def test_a_repository_without_source_is_told_so(
    capsys: Shown, new_repository: New, command: list[str]
) -> None:
    root = new_repository(("Begin", {"README.md": "Words.\n", "photo.png": b"\x89PNG\0"}))
    assert "has no source file" in refused(capsys, 2, "--repo", root, *command)
    assert not (root / ".twin").exists()


def test_a_task_without_a_word_is_told_so(capsys: Shown, new_repository: New) -> None:
    root = new_repository(("Begin", {"a.py": SOURCE}))
    assert "no word" in refused(capsys, 2, "--repo", root, "locate", " ... ")
    assert "no word" in refused(capsys, 2, "--repo", root, "context", "")


def test_a_budget_that_holds_nothing_is_told_so(capsys: Shown, new_repository: New) -> None:
    root = new_repository(("Begin", {"a.py": SOURCE}))
    told = refused(capsys, 2, "--repo", root, "context", "retry", "--budget", "3")
    assert "A budget of 3 tokens" in told


def test_a_store_that_is_damaged_newer_or_in_the_way_is_told_so(
    capsys: Shown, new_repository: New
) -> None:
    root = new_repository(("Begin", {"a.py": SOURCE}))
    open_store(root).close()
    database = root / ".twin" / "twin.db"
    whole = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in refused(capsys, 3, "improve", root)

    for path in (root / ".twin").glob("twin.db*"):
        path.unlink()
    database.write_bytes(b"no database at all " * 1000)
    assert "is damaged" in refused(capsys, 3, "improve", root)
    assert database.read_bytes().startswith(b"no database")

    database.write_bytes(whole[:5000] + os.urandom(len(whole) - 5000))
    assert "is damaged" in refused(capsys, 3, "--repo", root, "locate", "retry")

    shutil.rmtree(root / ".twin")
    (root / ".twin").write_text("mine")
    assert "a file is in its way" in refused(capsys, 3, "improve", root)
    assert (root / ".twin").read_text() == "mine"


@pytest.mark.slow  # the program waits half a minute before it gives up
def test_a_store_that_another_program_keeps_locked_is_told_so(
    capsys: Shown, new_repository: New
) -> None:
    root = new_repository(("Begin", {"a.py": SOURCE}))
    open_store(root).close()
    with closing(sqlite3.connect(root / ".twin" / "twin.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert "locked" in refused(capsys, 3, "improve", root)
        holder.execute("ROLLBACK")
    assert run(["improve", str(root), "--json"]) == 0


@pytest.fixture
def read_only(new_repository: New, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository that its owner may not write. Root may write everything, so a test that runs as
    root goes on as another user."""
    folder = Path(tempfile.mkdtemp(prefix="twin-"))
    root = Path(shutil.copytree(new_repository(("Begin", {"a.py": SOURCE})), folder / "world"))
    monkeypatch.setenv("HOME", str(folder))
    is_root = os.geteuid() == 0
    if is_root:
        subprocess.run(["chown", "-R", "65534", folder], check=True)
        os.seteuid(65_534)
    root.chmod(0o555)
    yield root
    if is_root:
        os.seteuid(0)
    root.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_told_so(capsys: Shown, read_only: Path) -> None:
    assert "cannot be written" in refused(capsys, 3, "improve", read_only)
    assert not (read_only / ".twin").exists()


# ------------------------------------------------------------------------- read


def test_one_commit_is_enough_for_an_answer(capsys: Shown, new_repository: New) -> None:
    root = new_repository(("Begin", {"retry.py": SOURCE, "b.py": "x = 1\n"}))
    assert works(capsys, root)[0] == "retry.py"


def test_a_detached_head_a_submodule_and_a_loop_of_links_are_no_hindrance(
    capsys: Shown, new_repository: New, run_git: Git, tmp_path: Path
) -> None:
    inner = new_repository(("Begin", {"inner.py": SOURCE}), name="inner")
    root = new_repository(("Begin", {"retry.py": SOURCE}), ("Go on", {"b.py": "x = 1\n"}))
    allow = ("-c", "protocol.file.allow=always")
    run_git(root, *allow, "submodule", "--quiet", "add", str(inner), "inner")
    (root / "loop.py").symlink_to("loop.py")
    (root / "folder").symlink_to(".", target_is_directory=True)
    run_git(root, "add", "-A")
    run_git(root, "commit", "-q", "-m", "Add what is no file")
    run_git(root, "checkout", "-q", "--detach")
    assert sorted(works(capsys, root)) == ["b.py", "retry.py"]


def test_a_subfolder_and_a_linked_work_tree_are_the_repository(
    capsys: Shown, new_repository: New, run_git: Git, tmp_path: Path
) -> None:
    root = new_repository(("Begin", {"src/retry.py": SOURCE}))
    answered(capsys, "index", root / "src")
    assert (root / ".twin").is_dir()
    assert not (root / "src" / ".twin").exists()
    run_git(root, "worktree", "add", "-q", str(tmp_path / "linked"))
    assert works(capsys, tmp_path / "linked") == ["src/retry.py"]


@pytest.mark.slow
def test_names_and_contents_that_are_not_utf_8_are_read(capsys: Shown, new_repository: New) -> None:
    odd = os.fsdecode(b"src/caf\xe9_retry.py")
    latin = "# déjà vu: retry the delay\nx = 'é'\n".encode("latin-1")
    changes = [
        (os.fsdecode(b"Retry with a delay, d\xe9j\xe0 vu %d" % at), {odd: latin + b"y = %d\n" % at})
        for at in range(60)
    ]
    root = new_repository(*changes)
    assert works(capsys, root) == [odd]
    program = [sys.executable, "-c", "from twin.cli.main import main; main()"]
    for command in (["locate"], ["context"]):
        task = [*program, "--repo", root, *command, b"retry \xe9 \xff delay"]
        done = subprocess.run(task, capture_output=True, check=True)
        assert done.stderr == b""
        assert b"src/caf\\udce9_retry.py" in done.stdout


@pytest.mark.slow
def test_binary_empty_and_huge_files_are_no_hindrance(capsys: Shown, new_repository: New) -> None:
    root = new_repository(
        (
            "Begin",
            {
                "retry.py": SOURCE,
                "empty.py": "",
                "binary.py": b"\0\1\2" * 1000,
                "huge.py": b"x = 1\n" * 17_000_000,  # 100 MB
                "huge.bin": b"\0" * 1_000_000,
                "one_line.js": "var x = 1;" * 50_000,
            },
        )
    )
    assert works(capsys, root)[0] == "retry.py"


def test_settings_of_the_user_change_nothing(
    capsys: Shown, new_repository: New, run_git: Git
) -> None:
    root = new_repository(("Begin", {"retry.py": SOURCE}), ("Go on", {"retry.py": SOURCE * 2}))
    for key, value in (
        ("log.showSignature", "true"), ("color.ui", "always"), ("diff.renames", "false"),
        ("core.quotePath", "true"), ("log.date", "relative"), ("diff.noprefix", "true"),
    ):  # fmt: skip
        run_git(root, "config", key, value)
    assert works(capsys, root) == ["retry.py"]
