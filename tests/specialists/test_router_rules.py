"""What a request is, by rules alone: sure only of what is plainly easy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.records import Question
from twin.specialists.router import Router
from twin.specialists.router_rules import SURE


def asked(text: str, **more: object) -> Question:
    given_more = {"num_chars": len(text), "num_prompt_tokens": len(text) // 4, **more}
    return Question(text=text, **given_more)  # type: ignore[arg-type]


EASY = [
    ("ping", "heartbeat"),
    ("Hello", "heartbeat"),
    ("thanks!", "heartbeat"),
    ("Are you there?", "heartbeat"),
    ("Reply with OK", "heartbeat"),
    ("Good morning", "heartbeat"),
    ("Is this spam? 'You have won a phone'", "triage"),
    ("Classify this ticket as bug or feature: the app crashes on start", "triage"),
    ("Which team should get this: 'my invoice is wrong'", "triage"),
    ("Positive or negative: 'I love this blender'", "triage"),
    ("Assign a priority to: login page is slow for one user", "triage"),
    ("Is this urgent? 'The printer has no paper'", "triage"),
    ("What is the capital of France?", "simple"),
    ("what is 2+2", "simple"),
    ("12 * 7 + 3", "simple"),
    ("Translate the word 'cat' into German", "simple"),
    ("Convert 5 km to miles", "simple"),
    ("Fix the typo: teh cat sat", "simple"),
    ("How do you spell necessary?", "simple"),
    ("A synonym for quick", "simple"),
    ("What does NATO stand for?", "simple"),
    ("Who wrote Faust?", "simple"),
    ("Rephrase this sentence: I am going home now", "simple"),
    ("Convert 20 degrees to fahrenheit", "simple"),
]
HARD = [
    ("Write a function that parses ISO 8601 dates in Python", "coding"),
    ("Implement a retry with exponential backoff in the HTTP client", "coding"),
    ("Fix the bug in the parser: it drops the last line", "coding"),
    ("Add unit tests for the tokenizer", "coding"),
    ("Why do I get a type error in this class?", "coding"),
    ("Refactor the loader into two modules", "coding"),
    ("Write a regex for email addresses", "coding"),
    ("Review this pull request for concurrency problems", "review"),
    ("Can you do a code review of my changes?", "review"),
    ("Any problems with this diff?", "review"),
    ("Give me feedback on the error handling, is this code correct?", "review"),
    ("Design a system that takes a million writes a second", "architecture"),
    ("What are the trade-offs between event sourcing and CRUD here?", "architecture"),
    ("Which database should we use, and how would sharding work?", "architecture"),
    ("Propose an architecture for a multi tenant billing service", "architecture"),
    ("How should we structure the domain model?", "architecture"),
    ("Plan the migration from MySQL to PostgreSQL", "planning"),
    ("Break this down into milestones and estimate how long each takes", "planning"),
    ("Make a plan for the next sprint", "planning"),
    ("Draft a roadmap for the second quarter", "planning"),
    ("Where is the retry logic?", "retrieval"),
    ("Which files touch the session table?", "retrieval"),
    ("Find all callers of open_store", "retrieval"),
    ("What did we decide about the cache in the docs?", "retrieval"),
    ("Restart the nginx server in production", "ops"),
    ("Deploy the staging branch with kubectl", "ops"),
    ("The disk is full on the build server", "ops"),
    ("Roll out the helm chart and watch the pods", "ops"),
    ("Our certificate expired and prod is down", "ops"),
    ("Prove that the square root of two is irrational", "novel"),
    ("Write a poem about the first frost", "novel"),
    ("Come up with a new idea for a board game", "novel"),
    ("Speculate about life on Europa", "novel"),
    ("Explain quantum tunnelling", "novel"),
]
DOUBTFUL = [
    "What is the meaning of life, and why do we fear death?",
    "What is the tax consequence of selling a house after two years?",
    "ok but why does the deployment fail?",
    "Is this spam, or is the contract legally binding in detail?",
    "Translate this and then refactor the function",
    "Classify this and explain carefully why, comparing several options",
    "thanks, now implement the next step of the plan",
    "What is the best algorithm for this?",
    "",
    " \n\t ",
    "asdf qwer zxcv",
    "?" * 500,
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), EASY)
def test_a_plainly_easy_request_stays_with_the_small_model(text: str, kind: str) -> None:
    found = Router.rules().classify(asked(text))
    assert found.type == kind
    assert found.confidence > SURE
    assert found.complexity <= 0.3


@pytest.mark.parametrize(("text", "kind"), HARD)
def test_anything_harder_is_named_and_not_trusted_to_the_small_model(text: str, kind: str) -> None:
    found = Router.rules().classify(asked(text))
    assert found.type == kind
    assert found.confidence < SURE
    assert found.gain > 0


@pytest.mark.parametrize("text", DOUBTFUL)
def test_in_doubt_the_request_is_escalated(text: str) -> None:
    assert Router.rules().classify(asked(text)).confidence < SURE


@pytest.mark.parametrize(
    "more",
    [
        {"has_tools": True},
        {"has_tool_results": True},
        {"has_images": True},
        {"num_chars": 50_000},
    ],
)
def test_an_easy_question_in_a_hard_setting_is_escalated(more: dict[str, object]) -> None:
    assert (
        Router.rules().classify(asked("What is the capital of France?", **more)).confidence < SURE
    )


def test_harder_types_are_more_complex_than_easier_ones() -> None:
    router = Router.rules()
    texts = ["ping", "Where is the retry logic?", "Review this pull request", "Design a system"]
    levels = [router.classify(asked(text)).complexity for text in texts]
    assert levels == sorted(levels)
    assert len(set(levels)) == len(levels)


@pytest.mark.parametrize(
    ("text", "skill", "project"),
    [
        ("Write a Python script for the billing project", "python", "billing"),
        ("Use the code-review skill on this", "code-review", ""),
        ("Fix the test in the acme-api repository", "", "acme-api"),
        ("See https://github.com/acme/rocket and fix it", "", "rocket"),
        ("In ~/src/engine the SQL is slow", "sql", "engine"),
        ("Say hello", "", ""),
    ],
)
def test_skill_and_project_are_read_where_they_are_named(
    text: str, skill: str, project: str
) -> None:
    found = Router.rules().classify(asked(text))
    assert (found.skill, found.project) == (skill, project)


def test_rules_say_that_they_are_rules() -> None:
    assert Router.rules().classify(asked("ping")).version == "rules"


@given(st.text(max_size=300), st.integers(0, 10**7), st.booleans())
def test_whatever_is_asked_the_figures_stay_in_range(text: str, size: int, tools: bool) -> None:
    found = Router.rules().classify(
        Question(text=text, num_chars=size, num_prompt_tokens=size // 4, has_tools=tools)
    )
    assert 0 <= found.complexity <= 1
    assert 0 < found.confidence < 1
    assert 0 <= found.gain <= 1


@pytest.mark.parametrize(
    "text",
    [
        "x " * 500_000,
        "I. " * 300_000,
        "\n" * 1_000_000,
        "$" * 1_000_000,
        "ab " * 10 + "\ud800" * 1_000,
        "\u202e\U0001d54f\u0000\uffff" * 100_000,
        "A. b\n" * 200_000,
        "in the " * 150_000,
        ";" * 1_000_000,
    ],
    ids=["words", "romans", "lines", "dollars", "surrogates", "unicode", "options", "project", ";"],
)
def test_a_hostile_megabyte_is_read_in_part_and_never_raises(text: str) -> None:
    # A regex that backtracks would hang here, and the suite's time limit would tell.
    assert Router.rules().classify(asked(text)).confidence < SURE
