"""Tokens of a request, estimated from its bytes."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import estimated_tokens
from twin.backends.dialects.estimate import IMAGE_TOKENS

PICTURE = base64.b64encode(bytes(range(256)) * 4_000).decode()
PARTS = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
    {"type": "file", "file": {"filename": "x", "file_data": f"data:x/y;base64,{PICTURE}"}},
]


def request(*parts: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()


@pytest.mark.parametrize("part", PARTS)
def test_an_image_counts_as_one_and_not_by_its_bytes(part: Any) -> None:
    assert IMAGE_TOKENS < estimated_tokens(request(part)) < IMAGE_TOKENS + 100
    twice = request(part, {"type": "text", "text": "x" * 4_000}, part)
    assert 2 * IMAGE_TOKENS + 1_000 < estimated_tokens(twice) < 2 * IMAGE_TOKENS + 1_200


@pytest.mark.parametrize(
    "text",
    ["x" * 50_000, "what is base64? " * 500, ";base64, is how it begins " * 500,
     '"base64" and "data": "short"', "data:image/png;base64,AAAA", ""],
)  # fmt: skip
def test_text_is_a_quarter_of_its_bytes_whatever_it_says(text: str) -> None:
    body = request({"type": "text", "text": text})
    assert estimated_tokens(body) == len(body) // 4
    assert estimated_tokens(text.encode()) == len(text) // 4


@given(st.lists(st.sampled_from([";base64,", '"base64"', '"data"', ":", '"', "A" * 2_000, " "])))
def test_any_bytes_have_an_estimate(words: list[str]) -> None:
    body = "".join(words).encode()
    assert 0 <= estimated_tokens(body) <= len(body) // 4 + IMAGE_TOKENS * len(words)
