"""The answer-side check: what failed is seen before it goes out, what is fine is let through."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.errors import StoreCorrupt
from twin.records import Answer, Question, ToolCall
from twin.specialists.answer import DEFAULT, SAID, AnswerCheck, findings, judge

ASKED = Question(text="Why is the sky blue? Please explain it for a child of ten years.")
GOOD = "Sunlight is made of all colours. Air scatters blue the most, so blue comes from everywhere."


def answered(text: str = GOOD, *, finish: str = "stop", **more: object) -> Answer:
    return Answer(text=text, finish_reason=finish, **more)  # type: ignore[arg-type]


def test_a_plain_answer_goes_out() -> None:
    found = judge(answered(), ASKED)
    assert found.confidence == pytest.approx(0.80, abs=0.01)
    assert found.reason == ""


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (answered(""), "empty"),
        (answered(" \n\t"), "empty"),
        (answered("I'm sorry, but I can't help with that."), "refusal"),
        (answered("I’m sorry, but I can’t assist with this request."), "refusal"),  # noqa: RUF001
        (answered("As an AI, I have no opinion on that."), "refusal"),
        (answered("I am unable to provide this."), "refusal"),
        (answered("Tut mir leid, das kann ich nicht tun."), "refusal"),
        (answered("Ich kann dir dabei nicht helfen."), "refusal"),
        (answered("Je ne peux pas vous aider avec cela."), "refusal"),
        (answered("Lo siento, pero no puedo hacerlo."), "refusal"),
        (answered("Mi dispiace, ma non posso."), "refusal"),
        (answered("抱歉,我无法回答这个问题。"), "refusal"),
        (answered("申し訳ありませんが、お答えできません。"), "refusal"),
        (answered("No.", is_refusal=True), "refusal"),
        (answered("I don't know."), "hedge"),
        (answered("I'm not sure, please provide more details."), "hedge"),
        (answered("It cannot be determined without more information."), "hedge"),
        (answered("Das weiß ich nicht."), "hedge"),
        (answered(finish="length"), "truncated"),
        (answered(finish=""), "broken_off"),
        (answered(finish="content_filter"), "filtered"),
        (answered("the same words again " * 60), "repetition"),
        (answered("no " * 30), "repetition"),
        (answered("{" + "\"a\": [1, 2], " * 200), "repetition"),
        (answered(ASKED.text), "echo"),
        (answered(tool_calls=(ToolCall(name="search", arguments='{"q": '),)), "bad_tool_call"),
        (answered(tool_calls=(ToolCall(name="search", arguments="[1]"),)), "bad_tool_call"),
        (answered(tool_calls=(ToolCall(name="", arguments="{}"),)), "bad_tool_call"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_escalated(answer: Answer, finding: str) -> None:
    assert finding in findings(answer, ASKED)
    found = judge(answer, ASKED)
    assert found.confidence < 0.5
    assert found.reason in SAID.values()


@pytest.mark.parametrize(
    "text",
    [
        "I cannot reproduce the bug on Linux; on Windows it fails in line 12.",
        "You can't help but smile at this: blue light is scattered most.",
        "The letter should say: I am sorry for the delay of your parcel.",
        "The sky is blue. " + "Every colour has its own wavelength, and air treats each of them "
        "in its own way: red passes, green is bent a little, violet is mostly absorbed above us.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
        "42",
        "\n".join(f"{n}. Item number {n} costs {n * 7 % 13} euros." for n in range(60)),
    ],
)
def test_what_only_looks_wrong_is_let_through(text: str) -> None:
    assert judge(answered(text), ASKED).confidence >= 0.5


def test_a_refusal_in_the_middle_of_a_story_is_no_refusal() -> None:
    story = "The robot walked along the shore for many days. " * 6
    assert "refusal" not in findings(answered(story + "I'm sorry, I can't help you."), ASKED)


def test_a_tool_call_without_text_is_not_empty() -> None:
    call = ToolCall(name="search", arguments='{"q": "sky"}')
    assert judge(answered("", tool_calls=(call,), finish="tool_calls"), ASKED).confidence > 0.7
    bare = ToolCall(name="now", arguments="")
    assert judge(answered("", tool_calls=(bare,), finish="tool_calls"), ASKED).confidence > 0.7


def test_json_is_only_looked_for_where_it_was_asked_for() -> None:
    wanted = Question(text="Give me the colours", wants_json=True)
    assert judge(answered('{"colours": ["blue"]}'), wanted).confidence > 0.7
    assert judge(answered('{"colours": ["blue"'), wanted).confidence < 0.1
    assert judge(answered("Here you are: blue"), wanted).confidence < 0.1
    assert judge(answered("Here you are: blue"), ASKED).confidence > 0.7


def test_json_in_a_fence_is_half_wrong() -> None:
    wanted = Question(text="Give me the colours", wants_json=True)
    assert findings(answered('```json\n{"a": 1}\n```'), wanted)["bad_json"] == 0.5


def test_who_asks_for_one_token_gets_one_token() -> None:
    tiny = Question(text="yes or no?", max_tokens=1)
    assert "truncated" not in findings(answered("yes", finish="length"), tiny)


def test_unsure_tokens_lower_the_confidence_and_sure_ones_do_not() -> None:
    def confidence(*probabilities: float) -> float:
        values = tuple(math.log(one) for one in probabilities)
        return judge(answered(logprobs=values), ASKED).confidence

    levels = [confidence(*[p] * 40) for p in (0.99, 0.8, 0.6, 0.4, 0.2)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == judge(answered(), ASKED).confidence
    assert levels[-1] < 0.2
    assert confidence(*[0.99] * 36, *[0.05] * 4) < confidence(*[0.99] * 40)


@pytest.mark.parametrize("odd", [(), (math.nan,), (-math.inf,), (5.0,), (math.nan, -0.1)])
def test_odd_log_probabilities_do_no_harm(odd: tuple[float, ...]) -> None:
    assert 0 < judge(answered(logprobs=odd), ASKED).confidence < 1


@given(st.text(max_size=400), st.text(max_size=400), st.booleans(), st.text(max_size=20))
def test_any_answer_gets_a_probability(text: str, asked: str, wants: bool, finish: str) -> None:
    found = judge(
        Answer(text=text, finish_reason=finish, tool_calls=(ToolCall(name="f", arguments=text),)),
        Question(text=asked, wants_json=wants),
    )
    assert 0 < found.confidence < 1


@pytest.mark.parametrize("text", ["[" * 1_000_000, "\ud800" * 1_000, "i can't " * 200_000])
def test_a_hostile_answer_is_judged_too(text: str) -> None:
    wanted = Question(text="x", wants_json=True)
    assert judge(answered(text), wanted).confidence < 0.5


def test_a_check_survives_its_bytes_and_refuses_others() -> None:
    check = AnswerCheck(bias=0.5, weights={"empty": -3.0})
    assert AnswerCheck.from_bytes(check.to_bytes()) == check
    whole = DEFAULT.to_bytes()
    for damaged in (b"", b"pickle", whole[:-1], whole[:30] + b"x" + whole[31:]):
        with pytest.raises(StoreCorrupt, match="Fit it again"):
            AnswerCheck.from_bytes(damaged)
    with pytest.raises(StoreCorrupt, match="no numbers"):
        AnswerCheck.from_bytes(AnswerCheck(bias=math.nan).to_bytes())
