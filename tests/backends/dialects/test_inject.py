"""Text put before a request: at the documented place, and nowhere else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import put_before
from twin.errors import BadRequest, Untranslatable

NEW = '{"role":"system","content":"CTX"}'
BLOCK = '{"type":"text","text":"CTX"}'


@pytest.mark.parametrize(
    ("dialect", "before", "after"),
    [
        ("chat", '{"messages": [ {"role":"user"} ]}', '{"messages": [ @NEW,{"role":"user"} ]}'),
        (
            "chat",
            '{"messages":[{"role":"system"} , {"role":"developer"}, {"role":"user"}],"a":1.0}',
            '{"messages":[{"role":"system"} , {"role":"developer"}, @NEW,{"role":"user"}],"a":1.0}',
        ),
        ("chat", '{"messages":[{"role":"system"}]}', '{"messages":[{"role":"system"},@NEW]}'),
        ("chat", '{"messages":[{"role":5}]}', '{"messages":[@NEW,{"role":5}]}'),
        ("chat", '{"messages":[ ]}', '{"messages":[@NEW]}'),
        ("messages", '{"messages":[]}', '{"system":"CTX","messages":[]}'),
        ("messages", '{"system":null}', '{"system":"CTX"}'),
        ("messages", '{"system":""}', '{"system":"CTX"}'),
        ("messages", '{"system":[]}', '{"system":"CTX"}'),
        (
            "messages",
            '{"a":1, "system" : "be \\u00e9"}',
            '{"a":1, "system" : [{"type":"text","text":"be \\u00e9"},@BLOCK]}',
        ),
        (
            "messages",
            '{"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}',
            '{"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},@BLOCK]}',
        ),
        ("responses", '{"input":"hi"}', '{"instructions":"CTX","input":"hi"}'),
        ("responses", '{"instructions":null}', '{"instructions":"CTX"}'),
        ("responses", '{"instructions":"be \\"x\\""}', '{"instructions":"be \\"x\\"\\n\\nCTX"}'),
        ("completions", '{"prompt":"a\\tb"}', '{"prompt":"CTX\\n\\na\\tb"}'),
        ("completions", '{"prompt":["a", "b"]}', '{"prompt":["CTX\\n\\na","CTX\\n\\nb"]}'),
    ],
)
def test_the_text_goes_after_the_callers_own_system_text(dialect, before, after) -> None:
    assert put_before(dialect, before.encode(), "CTX").decode() == after.replace(
        "@NEW", NEW
    ).replace("@BLOCK", BLOCK)


@pytest.mark.parametrize(
    ("dialect", "body", "error"),
    [
        ("chat", b"{}", BadRequest),
        ("chat", b'{"messages":"hi"}', BadRequest),
        ("messages", b'{"system":5}', BadRequest),
        ("responses", b'{"instructions":["a"]}', BadRequest),
        ("completions", b'{"prompt":[1,2]}', Untranslatable),
        ("completions", b'{"prompt":[]}', Untranslatable),
        ("completions", b"{}", Untranslatable),
        ("embeddings", b'{"input":"a"}', Untranslatable),
        ("chat", b'{"messages":[],"messages":[]}', BadRequest),
    ],
)
def test_where_there_is_no_place_an_error_says_so(dialect, body, error) -> None:
    with pytest.raises(error, match=r"\.$"):
        put_before(dialect, body, "CTX")


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
         "content": st.text(st.characters(codec="utf-8"))}
    )
)  # fmt: skip


@given(MESSAGES, st.text(st.characters(codec="utf-8")), st.sampled_from([None, 1]))
def test_in_any_conversation_one_message_is_added_and_the_rest_stays(
    messages: list[dict[str, str]], text: str, indent: int | None
) -> None:
    body = json.dumps({"a": [1, {"b": []}], "messages": messages, "z": 0}, indent=indent).encode()
    after = json.loads(put_before("chat", body, text))
    leading = 0
    while leading < len(messages) and messages[leading]["role"] in ("system", "developer"):
        leading += 1
    assert after["messages"].pop(leading) == {"role": "system", "content": text}
    assert after == json.loads(body)
