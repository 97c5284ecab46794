"""The official clients over an in-process transport: what is generated here, they must parse."""

from collections.abc import Callable

import anthropic
import httpx2
import openai
import pytest


def transport(body: bytes, is_stream: bool, status: int) -> httpx2.MockTransport:
    kind = "text/event-stream" if is_stream else "application/json"

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": kind})

    return httpx2.MockTransport(answer)


@pytest.fixture
def openai_client() -> Callable[..., openai.OpenAI]:
    def make(body: bytes, *, is_stream: bool = False, status: int = 200) -> openai.OpenAI:
        http = httpx2.Client(transport=transport(body, is_stream, status))
        return openai.OpenAI(api_key="k", base_url="http://t/v1", http_client=http, max_retries=0)

    return make


@pytest.fixture
def anthropic_client() -> Callable[..., anthropic.Anthropic]:
    def make(body: bytes, *, is_stream: bool = False, status: int = 200) -> anthropic.Anthropic:
        http = httpx2.Client(transport=transport(body, is_stream, status))
        return anthropic.Anthropic(
            api_key="k", base_url="http://t", http_client=http, max_retries=0
        )

    return make
