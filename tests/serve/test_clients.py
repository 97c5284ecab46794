"""The official clients of OpenAI and Anthropic, unchanged but for their base URL."""

import json
from collections.abc import Callable, Iterator

import anthropic
import openai
import pytest
from tests.backends.upstream import Upstream, answer, chat, chat_body, stream
from tests.serve.conftest import Served

Serving = Callable[..., Served]

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture
def served(serving: Serving) -> Served:
    """With no configuration: the scripted model."""
    return serving()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


def test_openai_chat_whole_and_streamed(client: openai.OpenAI, served: Served) -> None:
    ask = [{"role": "user", "content": "What are you?"}]
    whole = client.chat.completions.create(model="twin", messages=ask)  # type: ignore[arg-type]
    text = whole.choices[0].message.content
    assert text is not None
    assert "scripted model" in text
    with client.chat.completions.stream(model="twin", messages=ask) as events:  # type: ignore[arg-type]
        final = events.get_final_completion()
    assert final.choices[0].message.content == text
    calls = served.calls()
    assert [call.outcome for call in calls] == ["ok", "ok"]
    assert calls[0].route is not None
    assert calls[0].route.classification is not None


def test_openai_completions_embeddings_responses_and_models(client: openai.OpenAI) -> None:
    done = client.completions.create(model="scripted", prompt="Say something.")
    assert done.choices[0].text
    vectors = client.embeddings.create(model="scripted", input=["a", "b"])
    assert len(vectors.data) == 2
    response = client.responses.create(model="scripted", input="Hello?")
    assert "scripted model" in response.output_text
    with client.responses.stream(model="scripted", input="Hello?") as events:
        kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [model.id for model in client.models.list()] == ["twin", "scripted"]
    assert client.models.retrieve("scripted").id == "scripted"


def test_anthropic_messages_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    ask: list[anthropic.types.MessageParam] = [{"role": "user", "content": "What are you?"}]
    whole = claude.messages.create(model="scripted", max_tokens=500, messages=ask)
    assert whole.content[0].type == "text"
    assert "scripted model" in whole.content[0].text
    with claude.messages.stream(model="scripted", max_tokens=500, messages=ask) as events:
        final = events.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text
    assert final.stop_reason == "end_turn"
    assert [model.id for model in claude.models.list()] == ["twin", "scripted"]


def test_errors_reach_each_client_as_its_own_kind(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean `scripted`"):
        client.chat.completions.create(model="scriptd", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(anthropic.NotFoundError, match="Did you mean `scripted`"):
        claude.messages.create(
            model="scriptd", max_tokens=1, messages=[{"role": "user", "content": "x"}]
        )
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="", messages=[])


def test_tools_go_to_the_model_and_come_back_in_both_families(serving: Serving) -> None:
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"place": "Ulm"}'},
            }
        ],
    }
    choice = {"index": 0, "message": asked, "finish_reason": "tool_calls", "logprobs": None}
    with Upstream(answer(chat_body("", choices=[choice]))) as upstream:
        served = serving(f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\n')
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
            got = client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "Weather in Ulm?"}],
                tools=[TOOL],  # type: ignore[list-item]
            )
        calls = got.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].type == "function"
        assert json.loads(calls[0].function.arguments) == {"place": "Ulm"}
        assert upstream.requests[0].json["tools"] == [TOOL]
        with anthropic.Anthropic(base_url=served.url, api_key="x") as claude:
            said = claude.messages.create(
                model="m",
                max_tokens=100,
                messages=[
                    {"role": "user", "content": "Weather in Ulm?"},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
                        ],
                    },
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "t1", "content": "rain"}
                        ],
                    },
                ],
                tools=[
                    {
                        "name": "weather",
                        "description": "The weather at a place.",
                        "input_schema": {"type": "object"},
                    }
                ],
            )
        assert said.stop_reason == "tool_use"
        assert said.content[0].type == "tool_use"
        assert said.content[0].input == {"place": "Ulm"}
        sent = upstream.requests[1].json
        assert sent["messages"][-1]["role"] == "tool"
        assert sent["messages"][-1]["content"] == "rain"


def test_what_passes_within_one_dialect_is_byte_for_byte_the_same(serving: Serving) -> None:
    odd = (
        b'{ "messages":[{"content":"gr\xc3\xbc\xc3\x9f \\u00e9 \\/","role":"user"}],\n'
        b'  "temperature": 0.70, "model":"m" , "x_unknown": {"model": "m", "deep": [1e3, 1.0]} }'
    )
    reply = b'{"choices" : [ {"message":{"content":"\\u0041"}} ],"odd":1.50, "usage":null}'
    with Upstream(answer(reply)) as upstream:
        config = (
            f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\nmodel = "real/name"\n'
        )
        served = serving(config)
        status, headers, body = served.post("/v1/chat/completions", odd)
        assert (status, body) == (200, reply)
        received = upstream.requests[0].body
        assert received == odd.replace(b'"model":"m"', b'"model":"real/name"', 1)
        call = served.recorded(headers["x-request-id"])
    assert call.request == odd
    assert call.attempts[0].response == reply
    assert call.attempts[0].request is None


def test_images_and_json_schemas_pass(serving: Serving) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
    with Upstream(chat('{"colour": "red"}')) as upstream:
        served = serving(f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\n')
        schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
            client.chat.completions.create(
                model="m",
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Which colour?"},
                            {"type": "image_url", "image_url": {"url": pixel}},
                        ],
                    }
                ],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "colour", "schema": schema},
                },
            )
        first = upstream.requests[0].json
        assert first["messages"][0]["content"][1]["image_url"]["url"] == pixel
        assert first["response_format"]["json_schema"]["schema"] == schema
        with anthropic.Anthropic(base_url=served.url, api_key="x") as claude:
            claude.messages.create(
                model="m",
                max_tokens=100,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": "iVBORw0KGgoAAAANSUhEUg==",
                                },
                            },
                            {"type": "text", "text": "Which colour?"},
                        ],
                    }
                ],
            )
        parts = upstream.requests[1].json["messages"][0]["content"]
    assert {"type": "image_url", "image_url": {"url": pixel}} in parts


def test_a_stream_translated_for_anthropics_client_arrives_whole(serving: Serving) -> None:
    with Upstream(stream("Good", " day", ".")) as upstream:
        served = serving(f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\n')
        with (
            anthropic.Anthropic(base_url=served.url, api_key="x") as claude,
            claude.messages.stream(
                model="m", max_tokens=50, messages=[{"role": "user", "content": "Hi"}]
            ) as events,
        ):
            texts = list(events.text_stream)
        assert texts == ["Good", " day", "."]
        call = served.calls()[0]
    assert call.dialect == "messages"
    assert call.attempts[0].dialect == "chat"
    assert call.response is not None
    assert b"event: message_stop" in call.response
