"""Inside the chosen files the symbols that a task is about come first, and few of them whole."""

from hypothesis import given, settings
from hypothesis import strategies as st

from twin.coding.features import Question
from twin.coding.parse import parse
from twin.coding.precision import (
    MAX_PRIMARY,
    MAX_SUPPORTING,
    LocatedSymbol,
    WordPlaces,
    located_symbols,
)
from twin.coding.text import count_terms, terms_of

STORE = '''"""Where things are kept."""

class Store:
    """Keeps rows."""

    def __init__(self, path):
        self.path = path

    def close(self):
        self.path = None

    def append_row(self, row: "Row", retry_delay: float):
        """Appends one row; waits `retry_delay` where the store is locked."""
        while self.locked():
            wait(retry_delay)
        self.rows.append(row)


class Row:
    """One row."""


def unrelated(a, b):
    return a + b
'''


def symbols(task: str, **files: str) -> dict[str, tuple[LocatedSymbol, ...]]:
    texts = {f"{name}.py": text for name, text in files.items()}
    return located_symbols(
        Question(task),
        {path: WordPlaces(text) for path, text in texts.items()},
        {
            path: parse(text.encode("utf-8", "surrogateescape"), "python")
            for path, text in texts.items()
        },
    )


def tiers(found: tuple[LocatedSymbol, ...]) -> dict[str, str]:
    return {symbol.name: symbol.tier for symbol in found}


def test_the_method_that_is_meant_is_primary_and_its_class_the_context() -> None:
    found = tiers(symbols("wait for the retry delay when appending a row", store=STORE)["store.py"])
    assert found["Store.append_row"] == "primary"
    assert found["Store"] in ("supporting", "type context")
    assert "unrelated" not in found


def test_a_class_that_its_signature_names_is_context() -> None:
    found = tiers(symbols("the retry delay of a locked store", store=STORE)["store.py"])
    assert found["Store.append_row"] == "primary"
    assert found["Row"] in ("supporting", "type context")


def test_a_class_is_primary_where_no_single_method_is_meant() -> None:
    text = "class Lock:\n" + "".join(
        f"    def step{n}(self):\n        return lock_{n}, more, words, here\n" for n in range(12)
    )
    found = symbols("lock", lock=text)["lock.py"]
    assert found[0].name == "Lock"
    assert found[0].tier == "primary"


def test_at_most_a_few_are_shown_whole_or_as_signatures() -> None:
    text = "".join(f"def take_lock_{n}():\n    return lock\n\n" for n in range(60))
    found = symbols("take the lock", many=text)["many.py"]
    counted = [symbol.tier for symbol in found]
    assert counted.count("primary") == MAX_PRIMARY == 6
    assert counted.count("supporting") == MAX_SUPPORTING == 12
    assert len(found) == MAX_PRIMARY + MAX_SUPPORTING


def test_files_compete_so_that_a_poor_one_shows_nothing() -> None:
    strong = "def retry_delay(retry, delay):\n    return retry, delay, retry, delay\n"
    weak = "def other(a):\n    return a + 1\n"
    found = symbols("retry delay", strong=strong, weak=weak)
    assert tiers(found["strong.py"]) == {"retry_delay": "primary"}
    assert found["weak.py"] == ()


def test_symbols_come_best_first_with_where_they_stand() -> None:
    (found, *_) = symbols("append a row after the retry delay", store=STORE).values()
    scores = [symbol.score for symbol in found]
    assert scores == sorted(scores, reverse=True)
    best = next(symbol for symbol in found if symbol.name == "Store.append_row")
    assert STORE.split("\n")[best.start_line - 1].strip().startswith("def append_row")
    assert "append_row" in best.signature
    assert best.kind == "method"


def test_a_task_about_something_else_shows_no_symbol() -> None:
    assert symbols("zzz qqq", store=STORE) == {"store.py": ()}


def test_files_without_symbols_or_words_are_no_matter() -> None:
    assert symbols("lock", empty="", words="lock = 1 and lock\n") is not None
    assert symbols("lock") == {}
    assert (
        located_symbols(Question("lock"), {}, {"gone.py": parse(b"def lock(): ...", "python")})
        == {}
    )


def test_symbols_beyond_the_end_of_a_text_hold_nothing() -> None:
    parsed = parse(STORE.encode(), "python")  # of a longer content than what is there
    found = located_symbols(
        Question("wait for the row"),
        {"a.py": WordPlaces("class Store:\n  row = 1")},
        {"a.py": parsed},
    )
    assert found == {"a.py": ()}


def test_every_place_of_a_term_is_known_in_order() -> None:
    text = "lock = 1\nLock.take_locks(lock)\n"
    places = WordPlaces(text)
    (term,) = terms_of("lock")
    assert places.places_of(term).tolist() == [0, 3, 4, 5]  # lock 1 \n Lock take_locks lock
    assert places.places_of(12345).tolist() == []
    assert sum(len(places.places_of(term)) for term in count_terms(text)) == sum(
        count_terms(text).values()
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["lock", "take", "row", "delay", "Store", "self"]), min_size=1),
    st.text(max_size=80),
)
def test_whatever_is_asked_of_whatever_file_stays_within_the_limits(
    words: list[str], more: str
) -> None:
    found = symbols(" ".join(words), store=STORE, odd=more)
    shown = [symbol.tier for file in found.values() for symbol in file]
    assert shown.count("primary") <= MAX_PRIMARY
    assert shown.count("supporting") <= MAX_SUPPORTING
    assert "excluded" not in shown
    assert found == symbols(" ".join(words), store=STORE, odd=more)
