"""Which documents are read, how they are found again, and which never leave the disk."""

import os
from pathlib import Path

import pytest

from twin.coding.documents import MAX_BYTES, MAX_DOCUMENTS, MAX_TOTAL_BYTES, Documents, is_secret
from twin.coding.evidence import FLOOR, Words

RETRIES = "# Retries\nThe upload client doubles its retry delay up to a minute.\n"
SESSIONS = "# Sessions\nA session token is valid for an hour after the password was given.\n"


def write(root: Path, path: str, text: str | bytes) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def found(root: Path, request: str, *globs: str) -> list[str]:
    documents = Documents(root, globs)
    documents.refresh()
    return [one.section.path for one in documents.search(Words.of(request))]


def test_the_section_that_a_request_is_about_is_found_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, "AGENTS.md", RETRIES + SESSIONS)
    documents = Documents(tmp_path, ["AGENTS.md"])
    assert documents.refresh()
    (one,) = documents.search(Words.of("make the retry delay configurable"))
    assert one.section.trail == ("Retries",)
    assert FLOOR <= one.relevance <= 1


@pytest.mark.parametrize("request_", ["hello", "how are you?", "", "   ", "🙂"])
def test_small_talk_finds_no_section(tmp_path: Path, request_: str) -> None:
    write(tmp_path, "AGENTS.md", "# Hello\nhello hello, how are you?\n" + RETRIES)
    assert found(tmp_path, request_, "AGENTS.md") == []


def test_globs_name_files_in_folders_at_one_or_any_depth(tmp_path: Path) -> None:
    for path in ("memory/a.md", "memory/deep/b.md", "docs/c.md", "memory/d.txt"):
        write(tmp_path, path, RETRIES)
    assert found(tmp_path, "retry delay", "memory/*.md") == ["memory/a.md"]
    assert found(tmp_path, "retry delay", "memory/**/*.md") == ["memory/a.md", "memory/deep/b.md"]
    request = "the retry delay of the upload client doubles up to a minute"
    assert sorted(found(tmp_path, request, "**/*.md")) == [
        "docs/c.md", "memory/a.md", "memory/deep/b.md",
    ]  # fmt: skip
    assert found(tmp_path, request, "memory/**") == [
        "memory/a.md", "memory/d.txt", "memory/deep/b.md",
    ]  # fmt: skip


def test_what_was_changed_added_or_removed_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, "memory/a.md", RETRIES)
    documents = Documents(tmp_path, ["memory/*.md"])
    assert documents.refresh()
    assert not documents.refresh()
    write(tmp_path, "memory/a.md", SESSIONS)
    assert documents.refresh()
    assert documents.search(Words.of("retry delay")) == []
    write(tmp_path, "memory/b.md", RETRIES)
    assert documents.refresh()
    assert [one.section.path for one in documents.search(Words.of("retry delay"))] == [
        "memory/b.md"
    ]
    (tmp_path / "memory/b.md").unlink()
    assert documents.refresh()
    assert documents.search(Words.of("retry delay")) == []


@pytest.mark.parametrize("glob", ["../outside.md", "memory/../../outside.md", "", "/", ".", "a//"])
def test_a_glob_cannot_point_out_of_the_repository(tmp_path: Path, glob: str) -> None:
    write(tmp_path, "outside.md", RETRIES)
    root = tmp_path / "world"
    root.mkdir()
    assert found(root, "retry delay", glob) == []
    assert found(root, "retry delay", str(tmp_path / "outside.md")) == []


def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside/secret.md", RETRIES)
    root = tmp_path / "world"
    root.mkdir()
    (root / "AGENTS.md").symlink_to(tmp_path / "outside/secret.md")
    (root / "memory").symlink_to(tmp_path / "outside")
    (root / "loop.md").symlink_to("loop.md")
    assert found(root, "retry delay", "AGENTS.md", "memory/*.md", "**/*.md", "loop.md") == []


def test_a_link_within_the_repository_counts_as_what_it_points_to(tmp_path: Path) -> None:
    write(tmp_path, "AGENTS.md", RETRIES)
    (tmp_path / "CLAUDE.md").symlink_to("AGENTS.md")
    assert found(tmp_path, "retry delay", "CLAUDE.md", "AGENTS.md") == ["AGENTS.md"]


@pytest.mark.parametrize(
    "path",
    [".env", ".env.local", "prod.env", "server.pem", "id_rsa", "id_ed25519.bak", "a/.netrc",
     "secrets.yaml", "SECRETS.md", "aws-credentials.json", "terraform.tfvars", "key.p12"],
)  # fmt: skip
def test_files_that_keep_secrets_are_never_read_whatever_the_globs_say(
    tmp_path: Path, path: str
) -> None:
    write(tmp_path, path, RETRIES)
    write(tmp_path, "notes.md", RETRIES)
    (tmp_path / "innocent.md").symlink_to(path)
    assert is_secret(path)
    assert found(tmp_path, "retry delay", path, "**", "innocent.md") == ["notes.md"]


def test_git_and_the_store_and_other_peoples_code_are_not_entered(tmp_path: Path) -> None:
    for folder in (".git", ".twin", "node_modules/x", ".venv"):
        write(tmp_path, f"{folder}/a.md", RETRIES)
    assert found(tmp_path, "retry delay", "**/*.md", ".git/a.md", ".twin/*.md") == []


@pytest.mark.parametrize(
    "content",
    [
        b"\0\1\2" + RETRIES.encode(),
        RETRIES.encode() + b"x" * MAX_BYTES,
        b"",
    ],
    ids=["binary", "too large", "empty"],
)
def test_what_is_no_text_of_a_sensible_size_is_skipped(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "AGENTS.md", content)
    assert found(tmp_path, "retry delay", "AGENTS.md") == []


def test_a_pipe_a_folder_and_an_unreadable_file_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    write(tmp_path, "closed.md", RETRIES).chmod(0)
    write(tmp_path, "open.md", RETRIES)
    paths = found(tmp_path, "retry delay", "*.md")
    assert "open.md" in paths
    assert not {"pipe.md", "folder.md"} & set(paths)


def test_bytes_that_are_no_utf_8_do_not_hide_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "AGENTS.md", b"\xff\xfe\xe9 " + RETRIES.encode())
    assert found(tmp_path, "retry delay", "AGENTS.md") == ["AGENTS.md"]


def test_no_more_documents_are_read_than_anybody_keeps(tmp_path: Path) -> None:
    for number in range(MAX_DOCUMENTS + 5):
        write(tmp_path, f"memory/{number}.md", f"note {number}")
    documents = Documents(tmp_path, ["memory/*.md"])
    documents.refresh()
    assert documents.num_sections == MAX_DOCUMENTS


def test_what_is_too_much_together_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    size = MAX_BYTES - 10
    for number in range(MAX_TOTAL_BYTES // size + 5):
        write(tmp_path, f"memory/{number:02}.md", "x" * size)
    documents = Documents(tmp_path, ["memory/*.md"])
    documents.refresh()
    assert documents.num_sections == MAX_TOTAL_BYTES // size
