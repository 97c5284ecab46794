"""Every text and every JSON value survives the way into both databases and back."""

from hypothesis import given
from hypothesis import strategies as st

from twin.store.columns import from_stored, to_stored
from twin.store.database import Store

HOSTILE = [
    "",
    "plain/path.py",
    "caf\u00e9/\u4f60\u597d/\U0001f600.py",
    b"caf\xe9/\xff\xfe.py".decode("utf-8", "surrogateescape"),
    "nul\x00inside",
    "\x1a0041 looks like an escape",
    "\x1a\x1a\x1a",
    "quote ' \" ; DROP TABLE raw_run; --",
    "line\r\nbreak\ttab\\",
    "x" * 100_000,
]


@given(st.text(st.characters()))
def test_any_text_comes_back_from_its_stored_form(text: str) -> None:
    stored = to_stored(text)
    assert from_stored(stored) == text
    stored.encode("utf-8")
    assert "\x00" not in stored


@given(st.binary())
def test_any_bytes_of_git_come_back_from_their_stored_form(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    back = from_stored(to_stored(text))
    assert back.encode("utf-8", "surrogateescape") == data


def test_an_ordinary_text_is_stored_as_it_is() -> None:
    assert to_stored("src/caf\u00e9.py") == "src/caf\u00e9.py"


def test_hostile_text_survives_the_database(store: Store) -> None:
    for text in HOSTILE:
        value = {"text": text, "nested": [text, None, 1.5, True]}
        session = store.sessions.start(text)
        store.sessions.put(session, "key", value)
        assert store.sessions.get(session, "key") == value
        run = store.runs.begin("improve", text, {})
        store.runs.stage_done(run, "mine", text, value, 0.0)
        assert store.runs.finished_stage(text, "mine", text) == value
