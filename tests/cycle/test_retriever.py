"""What the retriever finds in real repositories, within its budget, as the world moves on."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from twin.coding.git import GitRepository
from twin.coding.retrieved import Found, RetrieverSettings, Wanted
from twin.config import Config, InjectConfig, StoreConfig
from twin.cycle.past import mine_now
from twin.cycle.retriever import DOCUMENTS_SHARE, Retriever, main
from twin.store.database import open_store

New = Callable[..., Path]
Git = Callable[..., str]

TASK = "Make the retry delay of the upload client configurable"
NOTES = "# Uploads\nWhoever changes a retry or its delay in the upload client tells the cups.\n"
FILES = {
    "src/upload.py": (
        '"""The upload client."""\n\n\nclass UploadClient:\n'
        "    def retry_delay(self, attempt: int) -> float:\n"
        '        """The delay before a retry doubles."""\n'
        "        return min(60.0, 0.5 * 2**attempt)\n"
    ),
    "src/session.py": "def session_token(user: str, password: str) -> str:\n    return user\n",
    "src/parser.py": "def parse_tree(text: str) -> list[str]:\n    return text.split()\n",
    "src/report.py": "def render_table(rows: list[str]) -> str:\n    return str(rows)\n",
    "src/greeting.py": "def hello() -> None:\n    print('hello world')\n",
}
LONG = 10.0


@pytest.fixture
def new_project(new_repository: New) -> Callable[[], Path]:
    """Makes a repository in which one file is about TASK and another one greets."""
    return lambda: new_repository(("Begin", FILES))


def learnt(root: Path) -> Path:
    """Its history is read, as after `twin improve`."""
    with GitRepository.open(root) as repository, open_store(root) as store:
        mine_now(repository, store, Config())
    return root


def retriever(root: Path, **inject: object) -> Retriever:
    return Retriever(
        RetrieverSettings(
            root=str(root), inject=msgspec.convert(inject, InjectConfig), look_every_s=0.0
        )
    )


def ask(one: Retriever, text: str, number: int = 1) -> Found:
    return one.answer(Wanted(number=number, text=text, until=time.monotonic() + LONG))


def ask_until(one: Retriever, text: str, is_right: Callable[[Found], bool]) -> Found:
    """Asks again until the answer is as expected: new commits are read in the background."""
    until = time.monotonic() + LONG
    while True:
        found = ask(one, text)
        if is_right(found) or time.monotonic() > until:
            return found


def sources(found: Found) -> set[str]:
    return {item.source for item in found.items}


def test_code_notes_and_documents_about_a_task_are_put_together(new_project: New) -> None:
    root = learnt(new_project())
    (root / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    (root / "memory").mkdir()
    (root / "memory" / "habits.md").write_text(
        "# Habits\nA delay before each retry of an upload.\n"
    )
    found = ask_until(retriever(root), TASK, lambda found: "repository" in sources(found))
    assert sources(found) == {"repository", "memory", "document"}
    assert found.number == 1
    assert not found.notice
    names = [item.name for item in found.items]
    assert "AGENTS.md:1-2" in names
    assert any(name.startswith("src/upload.py:") for name in names)
    assert "def retry_delay(self, attempt: int) -> float:" in found.text
    assert "tells the cups" in found.text
    assert all(0 < item.relevance <= 1 for item in found.items)
    assert all(item.num_tokens > 0 for item in found.items)


@pytest.mark.parametrize("text", ["hello", "Hi, how are you?", "What is the capital of France?"])
def test_small_talk_gets_nothing(new_project: New, text: str) -> None:
    root = learnt(new_project())
    (root / "AGENTS.md").write_text("# Hello\nhello, hello\n", encoding="utf-8")
    one = retriever(root)
    assert ask_until(one, TASK, lambda found: "repository" in sources(found)).text
    found = ask(one, text)
    assert (found.text, found.items) == ("", ())


@pytest.mark.parametrize("max_tokens", [1, 60, 150, 400, 1_000])
def test_the_budget_holds_for_all_of_it(new_project: New, max_tokens: int) -> None:
    root = learnt(new_project())
    (root / "AGENTS.md").write_text(NOTES * 20, encoding="utf-8")
    one = retriever(root, max_tokens=max_tokens)
    found = ask(one, TASK)
    assert len(found.text.encode()) / 3.5 <= max_tokens
    assert sum(item.num_tokens for item in found.items) <= max_tokens


def test_notes_take_their_share_where_there_is_code_and_all_where_there_is_none(
    new_repository: New,
) -> None:
    body = "\n".join(f"    total += weigh_acorn({line})" for line in range(60))
    code = f"def adjust_acorn_order(total: int) -> int:\n{body}\n    return total\n"
    root = new_repository(("Begin", {**FILES, "src/acorn.py": code}))
    about = f"To adjust acorn order, {'weigh it well, ' * 100}."
    notes = [f"# Rule {number}\n{about if number < 10 else 'None.'}\n" for number in range(70)]
    (root / "AGENTS.md").write_text("".join(notes), encoding="utf-8")
    task = "adjust acorn order"
    alone = ask(retriever(root), task)
    assert sources(alone) == {"document"}
    assert sum(item.num_tokens for item in alone.items) > 3_000
    found = ask_until(
        retriever(learnt(root)), task, lambda found: sources(found) == {"repository", "document"}
    )
    notes_tokens = sum(item.num_tokens for item in found.items if item.source == "document")
    assert 0 < notes_tokens <= 4_000 * DOCUMENTS_SHARE


def test_a_commit_on_top_is_seen(new_project: New, run_git: Git) -> None:
    root = learnt(new_project())
    one = retriever(root)
    first = ask_until(one, TASK, lambda found: "repository" in sources(found))
    assert "walrus" not in first.text
    (root / "src" / "walrus.py").write_text(
        "def feed_walrus(herring: int) -> int:\n    return herring\n", encoding="utf-8"
    )
    run_git(root, "add", "src")
    run_git(root, "commit", "-q", "-m", "Feed it")
    task = "feed the walrus another herring"
    found = ask_until(one, task, lambda found: "src/walrus.py" in found.text)
    assert "def feed_walrus" in found.text


def test_a_note_that_was_changed_is_seen_at_once(new_project: New) -> None:
    root = new_project()
    one = retriever(root)
    assert ask(one, TASK).text == ""
    (root / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    assert "cups" in ask(one, TASK).text
    (root / "AGENTS.md").write_text(NOTES.replace("cups", "lids and caps"), encoding="utf-8")
    assert "lids and caps" in ask(one, TASK).text
    (root / "AGENTS.md").unlink()
    assert ask(one, TASK).text == ""


def test_the_same_question_gets_the_same_text(new_project: New) -> None:
    root = learnt(new_project())
    one = retriever(root)
    first = ask_until(one, TASK, lambda found: "repository" in sources(found))
    again = ask(one, TASK, number=2)
    assert (again.text, again.items, again.number) == (first.text, first.items, 2)


def test_a_repository_that_was_never_learnt_gives_documents_and_says_what_to_do(
    new_project: New,
) -> None:
    root = new_project()
    (root / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    one = retriever(root)
    found = ask(one, TASK)
    assert sources(found) == {"document"}
    assert "twin improve" in found.notice
    learnt(root)
    found = ask_until(one, TASK, lambda found: "repository" in sources(found))
    assert sources(found) == {"document", "repository"}
    assert not found.notice


def test_a_folder_that_is_no_repository_gives_documents(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    found = ask(retriever(tmp_path), TASK)
    assert sources(found) == {"document"}
    assert "not a git repository" in found.notice
    assert not (tmp_path / ".twin").exists()


def test_a_store_that_cannot_be_opened_gives_documents(new_project: New) -> None:
    root = new_project()
    (root / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    (root / ".twin").mkdir()
    (root / ".twin" / "twin.db").write_bytes(b"no database" * 1_000)
    found = ask(retriever(root), TASK)
    assert sources(found) == {"document"}
    assert found.notice


def test_switched_off_the_repository_is_not_opened(new_project: New) -> None:
    root = learnt(new_project())
    (root / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    found = ask(retriever(root, repository=False), TASK)
    assert sources(found) == {"document"}
    assert not found.notice


def test_a_request_whose_time_is_up_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    found = retriever(tmp_path).answer(Wanted(number=4, text=TASK, until=time.monotonic() - 1))
    assert found == Found(number=4)


def test_lines_in_and_lines_out_until_the_input_ends(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    until = time.monotonic() + LONG
    requests = b"".join(
        msgspec.json.encode(line) + b"\n"
        for line in (
            RetrieverSettings(root=str(tmp_path), store=StoreConfig()),
            Wanted(number=1, text=TASK, until=until),
            Wanted(number=2, text="hello", until=until),
        )
    )
    answers = io.BytesIO()
    assert main(io.BytesIO(requests), answers) == 0
    found = [msgspec.json.decode(line, type=Found) for line in answers.getvalue().splitlines()]
    assert [(one.number, bool(one.text)) for one in found] == [(1, True), (2, False)]
    assert main(io.BytesIO(b""), answers) == 0
