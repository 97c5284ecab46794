"""From tier to tier: who is asked first, when the answer is handed on, and what the next one is
told."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from tests.backends.upstream import Received, Step, Upstream, answer, chat, chat_body, stream
from tests.serve.conftest import Served

from twin.store.database import journal_folder, open_store
from twin.store.ingest import Ingest

Serving = Callable[..., Served]

SIMPLE = "Reply with OK."
HARD = (
    "Design a distributed consensus protocol for our storage engine, compare it with Raft and "
    "Paxos, and plan the migration of every service step by step with rollback."
)
REFUSAL = "I'm sorry, but I can't help with that."


def tier(name: str, role: str, url: str, more: str = "") -> str:
    return (
        f'[models.{name}]\nprovider = "vllm"\nbase_url = "{url}"\nrole = "{role}"\nretries = 0\n'
        f"{more}\n"
    )


def sure(text: str, logprob: float = -0.01) -> Step:
    """An answer with the probabilities of its tokens, as vLLM gives them."""
    tokens = [{"token": word, "logprob": logprob, "top_logprobs": []} for word in text.split()]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens},
        "finish_reason": "stop",
    }
    return answer(chat_body(text, choices=[choice]))


def two(small: Upstream, big: Upstream, more: str = "") -> str:
    return tier("small", "triage", small.url) + tier("big", "reasoning", big.url) + more


def test_a_simple_request_is_answered_by_the_small_tier_alone(serving: Serving) -> None:
    with Upstream(sure("OK")) as small, Upstream(chat("no")) as big:
        served = serving(two(small, big))
        status, headers, body = served.chat(SIMPLE)
        assert status == 200
        assert headers["x-twin-model"] == "small"
        assert json.loads(body)["choices"][0]["message"]["content"] == "OK"
        assert not big.requests
        call = served.recorded(headers["x-request-id"])
    assert call.route is not None
    assert call.route.classification is not None
    assert call.route.classification.confidence > 0.85
    assert call.attempts[0].confidence is not None


def test_probabilities_that_nobody_asked_for_are_not_in_the_answer(serving: Serving) -> None:
    with Upstream(sure("OK")) as small, Upstream(chat("no")) as big:
        served = serving(two(small, big))
        _, _, body = served.chat(SIMPLE)
        assert json.loads(body)["choices"][0]["logprobs"] is None
        assert small.requests[0].json["logprobs"] is True
        _, _, body = served.chat(SIMPLE, logprobs=True)
        assert json.loads(body)["choices"][0]["logprobs"]["content"]


def test_a_hard_request_goes_to_the_big_tier_with_what_the_small_one_knew(
    serving: Serving,
) -> None:
    with Upstream(sure("no")) as small, Upstream(chat("A plan.")) as big:
        served = serving(two(small, big))
        _, headers, _ = served.chat(HARD)
        assert headers["x-twin-model"] == "big"
        assert not small.requests
        told = handoff_in(big.requests[0])
        call = served.recorded(headers["x-request-id"])
    assert told["from"] == "small"
    assert told["to"] == "big"
    assert told["original_message"] == HARD
    assert told["classification"]["complexity"] > 0
    assert "threshold" in told["escalation_reason"]
    assert big.requests[0].json["messages"][-1] == {"role": "user", "content": HARD}
    assert json.loads(call.handoff)["handoff"] == told
    assert call.attempts[0].request is not None
    assert b"handoff" in call.attempts[0].request, "what is recorded is what the model saw"


def handoff_in(request: Received) -> dict[str, Any]:
    """The hand-off in a chat request: the JSON at the end of a system message."""
    for message in request.json["messages"]:
        if message["role"] == "system" and '{"handoff"' in message["content"]:
            text = message["content"]
            found: dict[str, Any] = json.loads(text[text.index('{"handoff"') :])["handoff"]
            return found
    raise AssertionError(f"no hand-off in {request.json['messages']}")


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "weak",
    [
        chat(REFUSAL),
        chat(""),
        sure("Maybe this or that or something", logprob=-6.0),
        answer("{}", status=500),
        answer('{"error": {"message": "too long"}}', status=400),
    ],
    ids=["refusal", "empty", "unsure", "down", "refused"],
)
def test_an_answer_that_is_not_good_enough_never_reaches_the_client(
    weak: Step, is_stream: bool, serving: Serving
) -> None:
    good = stream("The", " answer.") if is_stream else chat("The answer.")
    with Upstream(weak) as small, Upstream(good) as big:
        served = serving(two(small, big))
        status, headers, body = served.chat(SIMPLE, stream=is_stream)
        assert status == 200
        assert headers["x-twin-model"] == "big"
        assert b"answer." in body
        assert b"sorry" not in body
        assert handoff_in(big.requests[0])["from"] == "small"
        call = served.recorded(headers["x-request-id"])
    first, second = call.attempts
    assert first.outcome in ("escalated", "failed")
    assert first.reason
    assert second.outcome == "ok"


def test_both_answers_of_an_escalation_become_a_preference(serving: Serving) -> None:
    with Upstream(chat(REFUSAL)) as small, Upstream(chat("Gladly.")) as big:
        served = serving(two(small, big))
        _, headers, _ = served.chat(SIMPLE)
        served.recorded(headers["x-request-id"])
        with open_store(served.root) as store:
            Ingest(store, journal_folder(served.root)).drain()
            pairs = store.calls.preferences()
    assert len(pairs) == 1
    assert pairs[0].call_id == headers["x-request-id"]


def test_the_small_tiers_answer_as_a_stream_is_whole_for_the_official_client(
    serving: Serving,
) -> None:
    with Upstream(sure("It is fine.")) as small, Upstream(chat("no")) as big:
        served = serving(two(small, big))
        with (
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client,
            client.chat.completions.stream(
                model="twin", messages=[{"role": "user", "content": SIMPLE}]
            ) as events,
        ):
            final = events.get_final_completion()
    assert final.choices[0].message.content == "It is fine."


def test_where_the_big_tier_is_down_the_weak_answer_goes_out_and_is_marked(
    serving: Serving,
) -> None:
    with Upstream(chat(REFUSAL)) as small, Upstream(answer("{}", status=500)) as big:
        served = serving(two(small, big))
        status, headers, body = served.chat(SIMPLE)
        assert status == 200
        assert REFUSAL in json.loads(body)["choices"][0]["message"]["content"]
        assert headers["x-twin-degraded"] == "true"
        assert served.recorded(headers["x-request-id"]).is_degraded


def test_where_all_tiers_are_out_the_emergency_model_answers_and_is_marked(
    serving: Serving,
) -> None:
    down = answer("{}", status=503)
    with Upstream(down) as big, Upstream(down) as frontier, Upstream(chat("here")) as local:
        served = serving(
            tier("big", "reasoning", big.url)
            + tier("frontier", "escalation", frontier.url)
            + tier("local", "emergency", local.url)
        )
        _, headers, _ = served.chat(HARD)
        assert headers["x-twin-model"] == "local"
        assert headers["x-twin-degraded"] == "true"
        call = served.recorded(headers["x-request-id"])
    assert call.is_degraded
    assert [a.model for a in call.attempts] == ["big", "frontier", "local"]


def test_where_nobody_answers_the_error_names_every_reason(serving: Serving) -> None:
    down = answer("{}", status=503)
    with Upstream(down) as big, Upstream(down) as frontier:
        served = serving(
            tier("big", "reasoning", big.url) + tier("frontier", "escalation", frontier.url)
        )
        status, _, body = served.chat(HARD)
    assert status == 502
    message = json.loads(body)["error"]["message"]
    assert "`big`" in message
    assert "`frontier`" in message


def test_a_tier_over_its_budget_is_skipped_on_every_route(serving: Serving) -> None:
    price = "price = { input = 1000.0, output = 1000.0 }\nmonthly_usd = 0.005\n"
    with Upstream(chat("dear")) as big, Upstream(chat("free")) as spare:
        served = serving(
            tier("big", "other", big.url, price + 'fallback = ["spare"]')
            + tier("spare", "other", spare.url)
        )
        asks: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
            ("/v1/responses", {"input": "x"}),
            ("/v1/completions", {"prompt": "x" * 200}),
            ("/v1/embeddings", {"input": "x" * 200}),
        ]
        for path, body in asks:
            served.post(path, {"model": "big", **body})
        assert len(big.requests) <= 1, "one answer costs 0.015 USD"
        status, _, body_out = served.post("/v1/embeddings", {"model": "big", "input": "x" * 200})
        assert len(big.requests) <= 1
        assert status in (200, 429), body_out


@pytest.mark.slow
def test_a_budget_that_is_used_up_is_still_used_up_after_a_restart(serving: Serving) -> None:
    price = "price = { input = 1000.0, output = 1000.0 }\nmonthly_usd = 0.03\n"
    with Upstream(chat("dear")) as big:
        served = serving(tier("big", "other", big.url, price))
        assert served.chat("x", model="big", max_tokens=1)[0] == 200
        assert served.chat("x", model="big", max_tokens=1)[0] == 429
        served.stop()
        served.start()
        status, _, body = served.chat("x", model="big", max_tokens=1)
    assert status == 429
    assert "monthly budget" in json.loads(body)["error"]["message"]


def test_a_request_too_large_for_a_model_goes_to_the_next(serving: Serving) -> None:
    with Upstream(sure("no")) as small, Upstream(chat("room enough")) as big:
        served = serving(
            tier("small", "triage", small.url, "context_window = 50")
            + tier("big", "reasoning", big.url)
        )
        _, headers, _ = served.chat("Reply with OK. " + "word " * 200)
        assert headers["x-twin-model"] == "big"
        assert not small.requests


def test_aliases_lead_agents_with_built_in_names_to_the_router(serving: Serving) -> None:
    with Upstream(sure("OK")) as small, Upstream(chat("no")) as big:
        served = serving('[serve.aliases]\n"claude-*" = "twin"\n' + two(small, big))
        status, headers, _ = served.post(
            "/v1/messages",
            {
                "model": "claude-sonnet-4-5",
                "max_tokens": 50,
                "messages": [{"role": "user", "content": SIMPLE}],
            },
        )
    assert status == 200
    assert headers["x-twin-model"] == "small"


def test_hedging_takes_whichever_account_answers_first(serving: Serving) -> None:
    def plan(request: Received) -> Step:
        from tests.backends.upstream import STALL

        return [STALL] if request.headers["authorization"] == "Bearer one" else chat("fast")

    with Upstream(plan) as upstream:
        served = serving(
            tier("m", "other", upstream.url, 'accounts = ["env:A", "env:B"]\nhedge_s = 0.1'),
            A="one",
            B="two",
        )
        for number in range(3):
            status, headers, _ = served.chat(f"conversation {number}", model="m")
            assert status == 200
            call = served.recorded(headers["x-request-id"])
            assert call.attempts[-1].outcome == "ok"
            assert call.attempts[-1].account == "env:B"


@pytest.mark.slow
@pytest.mark.parametrize(("grade", "answers"), [("0.9", "small"), ("0.1", "big"), ("?", "small")])
def test_a_verifier_may_grade_the_small_tiers_answer(
    grade: str, answers: str, serving: Serving
) -> None:
    with (
        Upstream(sure("OK")) as small,
        Upstream(chat("OK!")) as big,
        Upstream(chat(grade)) as judge,
    ):
        served = serving(
            '[route]\nverifier = "judge"\n' + two(small, big) + tier("judge", "other", judge.url)
        )
        _, headers, _ = served.chat(SIMPLE)
        assert headers["x-twin-model"] == answers
        asked = judge.requests[0].json["messages"][1]["content"]
        assert f"<request>\n{SIMPLE}\n</request>" in asked
        call = served.recorded(headers["x-request-id"])
    assert [attempt.outcome for attempt in call.attempts if attempt.model == "judge"] == ["graded"]


def test_a_verifier_has_a_budget_like_any_model(serving: Serving) -> None:
    price = "price = { input = 1000.0, output = 1000.0 }\nmonthly_usd = 0.3"
    with Upstream(sure("OK")) as small, Upstream(chat("no")) as big, Upstream(chat("1")) as judge:
        served = serving(
            '[route]\nverifier = "judge"\n[serve]\nadmin_key = "env:ADMIN"\n'
            + two(small, big)
            + tier("judge", "other", judge.url, price),
            ADMIN="root-key",
        )
        served.chat(SIMPLE)
        admin = {"authorization": "Bearer root-key"}
        spent = json.loads(served.request("GET", "/admin/spend", headers=admin)[2])
        assert spent["by_model"]["judge"] == pytest.approx(0.015)
        for _ in range(40):
            assert served.chat(SIMPLE)[0] == 200
        assert len(judge.requests) < 30, "over its budget it is asked no more"


def test_a_weak_answer_is_better_than_an_error_of_the_next_tier(serving: Serving) -> None:
    refused = answer('{"error": {"message": "too long"}}', status=400)
    with Upstream(chat(REFUSAL)) as small, Upstream(refused) as big:
        served = serving(two(small, big))
        status, headers, body = served.chat(SIMPLE)
    assert status == 200
    assert headers["x-twin-degraded"] == "true"
    assert b"sorry" in body


def test_a_prompt_of_tokens_has_no_place_for_a_hand_off_and_is_asked_all_the_same(
    serving: Serving,
) -> None:
    with Upstream(sure("no")) as small, Upstream(answer('{"choices": [{"text": "x"}]}')) as big:
        served = serving("[route]\ncomplexity = 0.0\n" + two(small, big))
        body = {"model": "twin", "prompt": [[1, 2, 3]]}
        assert served.post("/v1/completions", body)[0] == 200
        assert big.requests[0].json["prompt"] == [[1, 2, 3]]
