"""Reading texts out of requests and answers of any dialect."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.store.readable import Matcher, readable

PIECES = ["The ret", "ry del", 'ay is "3" s\n', "é\U0001f600"]
WHOLE = "".join(PIECES)


def events(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


@pytest.mark.parametrize(
    "stream",
    [
        events(*({"choices": [{"delta": {"content": piece}}]} for piece in PIECES))
        + b"data: [DONE]\n\n",
        b"event: message_start\n"
        + events(*({"type": "x", "delta": {"type": "text_delta", "text": p}} for p in PIECES)),
        events(*({"type": "response.output_text.delta", "delta": piece} for piece in PIECES)),
        b": ping\n\n" + events(*({"choices": [{"text": piece}]} for piece in PIECES)),
    ],
)
def test_a_word_that_two_events_share_is_found(stream: bytes) -> None:
    assert readable(stream) == WHOLE
    assert Matcher("retry delay").matches(stream)
    assert Matcher("É\U0001f600").matches(stream)
    assert not Matcher("content").matches(stream)


def test_field_names_and_roles_are_not_what_somebody_said() -> None:
    body = json.dumps({"model": "m-1", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    assert readable(body) == "Hello"
    for word in ("messages", "user", "m-1", "model"):
        assert not Matcher(word).matches(body)
    assert Matcher("hell").matches(body)


def test_an_image_is_not_searched() -> None:
    source = {"type": "base64", "data": "QUJD" * 500}
    url = "data:image/png;base64," + "QUJD" * 500
    body = json.dumps([{"source": source}, {"url": url}, "caption"]).encode()
    assert readable(body) == "caption"


def test_what_is_no_json_is_searched_as_it_is() -> None:
    assert Matcher("bad gateway").matches(b"<h1>502 Bad Gateway</h1>\xff")
    assert readable(b"[" * 100_000) == "[" * 100_000
    assert readable(b"") == ""


@given(text=st.text(min_size=1, max_size=30), around=st.text(max_size=10), ascii_only=st.booleans())
def test_any_text_is_found_however_json_writes_it(text: str, around: str, ascii_only: bool) -> None:
    said = f"{around}{text}{around}"
    body = json.dumps({"content": said}, ensure_ascii=ascii_only)
    assert Matcher(text).matches(body.encode("utf-8", "surrogatepass"))
    assert Matcher(text.swapcase()).matches(body.encode()) == (
        text.swapcase().casefold() in said.casefold()
    )


@given(body=st.binary(max_size=200))
def test_no_body_makes_a_search_fail(body: bytes) -> None:
    for prefix in (b"", b"data: ", b"{"):
        readable(prefix + body)
        Matcher("x").matches(prefix + body)
