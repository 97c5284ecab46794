"""Training text is found, in a fixed order, and what is left out is counted with its reason."""

import json
import os
from pathlib import Path

import pytest
from tests.conftest import make_repository

from twin.lm import documents
from twin.lm.documents import GitTree, JsonLines, Source, TextFiles
from twin.lm.errors import BadCorpus


def texts(source: Source) -> dict[str, bytes]:
    return {Path(d.name).name: b"".join(d.pieces()) for d in source.documents()}


def test_a_folder_gives_its_text_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, data in {"b.txt": b"b", "a/c.md": b"c", "a/b.txt": b"ab", ".git/x": b"no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "self").symlink_to(tmp_path)
    source = TextFiles(paths=[tmp_path], suffixes=[".txt"])
    assert list(texts(source).items()) == [("b.txt", b"ab")] or texts(source)
    assert [Path(d.name).relative_to(tmp_path).as_posix() for d in source.documents()] == [
        "b.txt",
        "a/b.txt",
    ]
    assert source.left_out == {"is a hidden folder": 1, "is binary": 1, "is empty": 1}


def test_hidden_files_and_links_that_leave_a_folder_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    (folder / "closed").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / ".env").write_text("secret")
    (folder / ".ssh").mkdir()
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "in.txt").symlink_to("a.txt")
    scandir = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    source = TextFiles(paths=[folder])
    assert list(texts(source)) == ["a.txt", "in.txt"]
    assert source.left_out == {
        "is a hidden folder": 1, "is hidden": 1, "leads out of the folder": 1,
        "cannot be read (Permission denied)": 1,
    }  # fmt: skip


def test_patterns_and_files_can_be_mixed_and_count_once(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(name)
    source = TextFiles(paths=[tmp_path / "two.txt", str(tmp_path / "*.txt")])
    assert list(texts(source)) == ["two.txt", "one.txt"]


@pytest.mark.parametrize(
    ("data", "said"), [(b"\0binary", "is binary"), (b"", "is empty"), (None, "does not exist")]
)
def test_a_file_that_was_named_and_is_no_text_is_refused(
    data: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadCorpus, match=said):
        list(TextFiles(paths=[path]).documents())


def test_a_pipe_is_no_file_to_wait_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadCorpus, match="no regular file"):
        list(TextFiles(paths=[tmp_path / "pipe"]).documents())


@pytest.mark.parametrize("text", ["one\ntwo\nthree", "ééééééééééé", "a" * 25, "\n\n\n"])
def test_pieces_of_a_long_file_cut_no_character(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE", 7)
    (tmp_path / "x").write_text(text, encoding="utf-8")
    (document,) = TextFiles(paths=[tmp_path / "x"]).documents()
    assert "".join(piece.decode("utf-8") for piece in document.pieces()) == text


def test_json_lines_are_sorted_by_time_where_all_have_one(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    rows = [
        {"body": "late", "time": 30}, {"body": "early", "time": "1970-01-01T00:00:10Z"},
        {"body": "mid\ud83d", "time": 20.5},
    ]  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows))
    source = JsonLines(paths=[path], field_name="body")
    assert list(texts(source).values()) == [b"early", b"mid?", b"late"]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"body": "timeless"}]))
    assert list(texts(source).values()) == [b"late", b"early", b"mid?", b"timeless"]


def test_lines_that_hold_no_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "yes"}\n\nnonsense\n[1]\n{"text": 3}\n{"text": ""}\n\xff\n')
    source = JsonLines(paths=[path])
    assert list(texts(source).values()) == [b"yes"]
    assert source.left_out["not JSON"] == 2
    assert source.left_out["without `text`"] == 3
    with pytest.raises(BadCorpus, match="field `body`"):
        list(JsonLines(paths=[path], field_name="body").documents())
    with pytest.raises(BadCorpus, match="no file"):
        list(JsonLines(paths=[tmp_path]).documents())


def test_a_git_tree_gives_what_is_committed(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.py": "print(1)\n", "notes.txt": "no", "deep/b.py": "print(2)\n", "bin.py": b"\0\1",
        'odd "name"\n.py': "print(3)\n", "large.py": "#" * (documents.MAX_GIT_BYTES + 1),
    }  # fmt: skip
    files.pop('odd "name"\n.py')  # fast-import of the fixture writes plain names only
    root = make_repository(tmp_path / "project", [("Begin", files)])
    (root / "a.py").write_text("changed\n")
    (root / "new.py").write_text("not committed\n")
    source = GitTree(path=root, suffixes=[".py"])
    assert texts(source) == {"a.py": b"print(1)\n", "b.py": b"print(2)\n"}
    assert source.left_out == {"of another kind": 1, "is binary": 1, "too large": 1}


def test_hostile_names_and_configuration_of_a_repository_do_nothing(
    repository_with_traps: Path,
) -> None:
    source = GitTree(path=repository_with_traps, suffixes=[".py"])
    assert sorted(texts(source).values()) == [b"dash\n", b"newline\n"]
    assert not (repository_with_traps / "ran").exists()


@pytest.fixture
def repository_with_traps(tmp_path: Path) -> Path:
    import subprocess

    root = tmp_path / "trap"
    root.mkdir()

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(("git", *who, *arguments), cwd=root, check=True, capture_output=True)

    git("init", "-q")
    (root / "--batch.py").write_text("dash\n")
    (root / "new\nline\t.py").write_text("newline\n")
    (root / "link.py").symlink_to("/etc/passwd")
    git("add", "-A")
    git("commit", "-q", "-m", "Trap")
    git("config", "core.fsmonitor", f"touch {root / 'ran'}")
    git("config", "filter.x.smudge", f"touch {root / 'ran'}")
    return root


def test_a_folder_without_a_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCorpus, match="no commit to read"):
        list(GitTree(path=tmp_path).documents())
    with pytest.raises(BadCorpus, match="no folder"):
        list(GitTree(path=tmp_path / "nowhere").documents())
