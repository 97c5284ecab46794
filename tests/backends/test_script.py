import json
from pathlib import Path

import pytest

from twin.backends.script import Entry, load_script
from twin.errors import ConfigError


def script(folder: Path, *lines: object) -> Path:
    path = folder / "script.jsonl"
    path.write_text(
        "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    )
    return path


def test_a_line_matches_words_or_a_regular_expression() -> None:
    assert Entry(match="a+b?").fits("what is a+b?")
    assert Entry(match="^(sum|total) of").fits("total of these")
    assert Entry().fits("")
    assert not Entry(match="^total").fits("the total")


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    entries = load_script(script(tmp_path, {"match": "a", "answer": "1"}, "  ", {"answer": "2"}))
    assert entries == (Entry(match="a", answer="1"), Entry(answer="2"))


def test_a_recorded_conversation_answers_the_messages_before_its_own(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    entries = load_script(
        script(
            tmp_path,
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "1 + 1?"},
                    {"role": "assistant", "content": "2"},
                    {"role": "user", "content": "Look."},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                ]
            },
        )
    )
    assert [entry.answer for entry in entries] == ["2", ""]
    assert entries[0].fits("1 + 1?")
    assert not entries[0].fits("1 + 1? And then?")
    assert (entries[1].tool_calls[0].name, entries[1].tool_calls[0].arguments) == (
        "look",
        '{"a": 1}',
    )


def test_answers_to_the_same_question_come_in_the_order_of_the_recording(tmp_path: Path) -> None:
    hi, bye = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Bye"}
    answers = [{"role": "assistant", "content": text} for text in ("1", "2", "3")]
    entries = load_script(
        script(tmp_path, {"messages": [hi, answers[0], hi, answers[1], bye, answers[2]]})
    )
    assert [(entry.answer, entry.times) for entry in entries] == [("1", 1), ("2", 1), ("3", None)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "script.jsonl:2: "),
        ("[]", "object"),
        ('{"answr": "x"}', "answr"),
        ('{"match": "(", "answer": "x"}', "unterminated"),
        ('{"status": 99}', "status"),
        ('{"status": "500"}', "status"),
        ('{"delay_ms": -1}', "delay_ms"),
        ('{"logprob": 0.5}', "logprob"),
        ('{"tool_calls": [{"arguments": {}}]}', "name"),
        ('{"messages": []}', "no assistant message"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "no assistant message"),
        ('{"messages": [{"content": "x"}]}', "role"),
        ('{"messages": [{"role": "user", "content": "x"},'
         ' {"role": "assistant", "tool_calls": [{"function": {}}]}]}', "name"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_named_with_its_cure(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"script.jsonl:2: .*Correct that line") as error:
        load_script(script(tmp_path, {"answer": "fine"}, line))
    assert words in str(error.value)


def test_a_script_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Check `script`"):
        load_script(tmp_path / "missing.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_script(tmp_path / "binary.jsonl")
    with pytest.raises(ConfigError, match="empty"):
        load_script(script(tmp_path, ""))
