"""A task is answered with files, the reason for each, and the symbols inside the best."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from twin.coding.features import FEATURES_VERSION
from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.retrieve import MAX_QUESTION, SHORTLIST, SYMBOL_FILES, Answer, Locator
from twin.errors import RepositoryError, UsageError
from twin.specialists.relevance import Card, Linear, RelevanceModel, default_model

World = Any  # the class stands in conftest, which tests cannot import
Cache = Any
Locate = Callable[..., Locator]

RETRY = '''import time

RETRY_DELAY = 3

class Backoff:
    """How long to wait before trying again."""

    def next_delay(self, attempt: int) -> float:
        """The retry delay of one attempt."""
        return RETRY_DELAY * attempt

def unrelated() -> None: ...
'''
FILES = {
    "pkg/__init__.py": "",
    "pkg/retry.py": RETRY,
    "pkg/lock.py": "class WriteLock:\n    def take(self): ...\n",
    "pkg/store.py": "from .lock import WriteLock\n\ndef open_store(): return WriteLock()\n",
    "tests/test_retry.py": "from pkg.retry import Backoff\n\ndef test_delay(): Backoff()\n",
    "README.md": "About retry delays.\n",
}
TASK = "Make the retry delay configurable"


@pytest.fixture
def locator(world: World, cache: Cache) -> Iterator[Locate]:
    """Makes the locator of `main` after the given commits."""
    opened: list[GitRepository] = []

    def make(*commits: tuple[str, Mapping[str, str | bytes | None]]) -> Locator:
        world.grow(*commits or [("Start", FILES)])
        repository = GitRepository.open(world.root)
        opened.append(repository)
        head = repository.head()
        past = list(read_history(repository))
        return Locator.at(repository, repository.tree(head), cache, past, head)

    yield make
    for repository in opened:
        repository.close()


def linear(**weights: float) -> RelevanceModel:
    return RelevanceModel(
        kind="linear",
        features=tuple(weights),
        features_version=FEATURES_VERSION,
        card=Card(trained_on=(), num_tasks=0),
        linear=Linear(weights=weights),
    )


def paths(answer: Answer) -> list[str]:
    return [file.path for file in answer.files]


@pytest.mark.parametrize("model", [linear(text=2.0, is_source=1.0), default_model()])
def test_the_file_that_the_task_is_about_comes_first(
    locator: Locate, model: RelevanceModel
) -> None:
    answer = locator().locate(TASK, model)
    assert answer.files[0].path == "pkg/retry.py"
    assert sorted(paths(answer)) == sorted(path for path in FILES if path != "README.md")
    assert (answer.num_candidates, answer.num_source_files) == (5, 4)
    scores = [file.score for file in answer.files]
    assert scores == sorted(scores, reverse=True)
    assert len(answer.commit_id) == 40
    assert answer.task == TASK


def test_shares_are_positive_fall_with_the_rank_and_sum_to_one_over_all_files(
    locator: Locate,
) -> None:
    ready = locator()
    shares = [file.share for file in ready.locate(TASK, default_model()).files]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    few = ready.locate(TASK, default_model(), limit=2)
    assert [file.share for file in few.files] == shares[:2]
    assert sum(shares[:2]) < 1


def test_huge_scores_still_make_shares(locator: Locate) -> None:
    answer = locator().locate(TASK, linear(text=1e30, is_source=-1e30))
    assert all(np.isfinite(file.share) for file in answer.files)
    assert sum(file.share for file in answer.files) <= 1 + 1e-9


def test_every_file_says_why_it_stands_there(locator: Locate) -> None:
    answer = locator().locate(TASK, default_model())
    best = {reason.kind: reason.text for reason in answer.files[0].reasons}
    assert 1 <= len(best) <= 3
    assert any("'retry'" in text for text in best.values())
    for file in answer.files:
        amounts = [reason.amount for reason in file.reasons]
        assert amounts == sorted(amounts, reverse=True)
        assert all(amount > 0 for amount in amounts)
        assert all(reason.text for reason in file.reasons)


def test_symbols_of_the_best_files_are_named_with_their_tier(locator: Locate) -> None:
    answer = locator().locate(TASK, linear(text=1.0))
    tiers = {symbol.name: symbol.tier for symbol in answer.files[0].symbols}
    assert tiers["Backoff.next_delay"] == "primary"
    assert "unrelated" not in tiers


def test_symbols_are_looked_for_in_the_best_files_alone(locator: Locate) -> None:
    text = "def retry_delay(): ...\n"
    many = {f"m{n}.py": f"{text}# {n}\n" for n in range(SYMBOL_FILES + 4)}
    answer = locator(("Start", many)).locate(TASK, linear(text=1.0))
    assert sum(bool(file.symbols) for file in answer.files) == SYMBOL_FILES


def test_of_very_many_files_as_many_are_answered_as_asked_for(locator: Locate) -> None:
    files = {f"pkg{n % 7}/m{n}.py": f"x{n} = retry_{n % 5}\n" for n in range(3 * SHORTLIST)}
    ready = locator(("Start", {**files, **FILES}))
    for limit in (1, 10, SHORTLIST + 50, 10_000):
        answer = ready.locate(TASK, default_model(), limit=limit, explain=False)
        assert len(answer.files) == min(limit, answer.num_candidates)
        assert all(np.isfinite(file.score) for file in answer.files)
        assert sum(file.share for file in answer.files) <= 1 + 1e-9
        assert answer.files[0].path == "pkg/retry.py"


def test_reasons_and_symbols_can_be_left_out(locator: Locate) -> None:
    answer = locator().locate(TASK, default_model(), explain=False, with_symbols=False)
    assert all(file.reasons == () == file.symbols for file in answer.files)


def test_the_same_question_has_the_same_answer_again(locator: Locate) -> None:
    ready = locator()
    first = ready.locate(TASK, default_model(), now=1_700_100_000)
    ready.locate("Take the write lock", default_model())
    again = ready.locate(TASK, default_model(), now=1_700_100_000)
    assert first.files == again.files


def test_the_files_that_one_works_on_count_for_that_person(locator: Locate, world: World) -> None:
    ready = locator(("Start", FILES), ("Tidy", {"pkg/lock.py": "class WriteLock: ...\n"}))
    model = linear(touched_by_author=1.0)
    ours = ready.locate(TASK, model, author="ADA@example.org")
    assert ours.files[0].path == "pkg/lock.py"
    assert ready.locate(TASK, model, author="nobody@example.org").files[0].score == 0


@pytest.mark.parametrize("task", ["", "  \n\t ", "...!?", "\0\1", "\udcff\ud800", "e" * 5_000])
def test_a_task_without_a_word_is_wrong_use(locator: Locate, task: str) -> None:
    with pytest.raises(UsageError, match="no word to search for"):
        locator().locate(task, default_model())


@pytest.mark.parametrize(
    "task",
    ["lock\udcff the \ud800store", "настройка задержки", "x", "e" * 5_000 + " lock", "\0lock"],
)
def test_any_task_with_a_word_is_answered(locator: Locate, task: str) -> None:
    assert len(locator().locate(task, default_model()).files) == 5


def test_of_an_endless_task_only_the_beginning_is_read(locator: Locate) -> None:
    ready = locator()
    log = " \n" * 50_000 + TASK + "\n" + "WriteLock take open_store 0x3f\n" * 700_000
    answer = ready.locate(log, default_model())
    assert len(answer.task) == MAX_QUESTION
    assert answer.task.startswith(TASK)
    assert answer.files == ready.locate(answer.task, default_model()).files


def test_a_repository_without_a_known_language_is_told_which_are_known(locator: Locate) -> None:
    with pytest.raises(RepositoryError, match=r"Python, JavaScript.*Point twin at"):
        locator(("Start", {"README.md": "words\n", "main.hs": "main = pure ()\n"}))


def test_a_model_of_other_features_is_refused(locator: Locate) -> None:
    with pytest.raises(ValueError, match="other features"):
        locator().locate(TASK, linear(no_such_feature=1.0))


def test_names_and_contents_of_any_kind_are_answered_like_others(locator: Locate) -> None:
    odd = b'caf\xe9/new\nline\t"q" \xff.py'.decode("utf-8", "surrogateescape")
    files = {
        odd: RETRY.encode() + b"# caf\xe9 \xff\n",
        "-rf.py": "x = 1\n",
        "binary.py": b"class Retry:\0\1",
        "minified.js": "function retryDelay(){return 1};" * 20_000,
        "empty.py": "",
        "broken.py": "def (((\n" * 50,
        "huge.py": "retry_delay = 1\n" * 70_000,
    }
    answer = locator(("Start", files)).locate(TASK, default_model())
    assert set(paths(answer)) == set(files)
    by_path = {file.path: file for file in answer.files}
    assert [s.name for s in by_path[odd].symbols if s.tier == "primary"]
    assert by_path["binary.py"].symbols == by_path["minified.js"].symbols == ()


def test_one_file_and_one_commit_are_enough(locator: Locate) -> None:
    answer = locator(("Start", {"only.py": ""})).locate(TASK, default_model())
    assert paths(answer) == ["only.py"]
    assert answer.files[0].share == 1


def test_files_are_answered_as_they_are_in_the_commit_asked_for(
    locator: Locate, world: World
) -> None:
    ready = locator()
    world.grow(("Move", {"pkg/retry.py -> pkg/again.py": RETRY}))
    assert "pkg/again.py" not in paths(ready.locate(TASK, default_model()))
    assert ready.texts(["pkg/retry.py"]) == {"pkg/retry.py": RETRY}
    later = locator(("Tidy", {"pkg/lock.py": "x = 1\n"}))
    assert later.locate(TASK, default_model()).files[0].path == "pkg/again.py"


def test_texts_that_cannot_be_read_are_left_out(locator: Locate) -> None:
    ready = locator(("Start", {"huge.py": "x = 1\n" * 200_000, "a.py": b"caf\xe9"}))
    assert ready.texts(["huge.py", "a.py"]) == {"a.py": "caf\udce9"}
    assert ready.texts([]) == {}
