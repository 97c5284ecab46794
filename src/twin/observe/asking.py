"""Puts one question to a configured model and gives the text of its answer.

For work in the background, one question at a time: the first account, no retries, no fallbacks;
the gateway (`serve`) is for those who wait.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from twin.backends.backend import Ask
from twin.backends.connection import Timeouts
from twin.backends.dialects import answer_of, translate_request
from twin.backends.factories import make_backend, upstream_model
from twin.backends.http import HttpClient
from twin.backends.secrets import resolve
from twin.config import Config, ModelConfig
from twin.errors import BackendBroken, ConfigError
from twin.records import DialectName

SPOKEN: tuple[DialectName, ...] = ("chat", "messages", "completions")
MAX_TOKENS = 4096
EXCERPT = 200


def asker(name: str, config: Config, root: Path) -> Callable[[str], str]:
    """Asks the model of `[models.NAME]`.

    Raises ConfigError where there is none; what it gives raises BackendError where no answer comes.
    """
    if name not in config.models:
        known = ", ".join(sorted(config.models)) or "none"
        raise ConfigError(f"There is no [models.{name}]; known: {known}. Name one of these.")
    model = config.models[name]
    return lambda question: asyncio.run(_asked(question, name, model, root))


async def _asked(question: str, name: str, model: ModelConfig, root: Path) -> str:
    client = HttpClient()
    backend = make_backend(name, model, client, root)
    try:
        dialect = next((one for one in SPOKEN if one in backend.dialects), None)
        if dialect is None:
            raise ConfigError(f"[models.{name}] cannot chat. Name another model.")
        body = msgspec.json.encode(
            {
                "model": upstream_model(name, model),
                "messages": [{"role": "user", "content": question}],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
            }
        )
        if dialect != "chat":
            body = translate_request("chat", dialect, body)
        timeouts = Timeouts(
            connect_s=model.connect_s,
            first_byte_s=model.first_byte_s,
            idle_s=model.idle_s,
            deadline_s=model.deadline_s,
        )
        secret = resolve(model.accounts[0], root).reveal() if model.accounts else None
        ask = Ask(dialect=dialect, body=body, stream=False, timeouts=timeouts)
        reply = await backend.ask(ask, secret)
        try:
            said = await reply.read()
        finally:
            await reply.close()
        if reply.status != 200:
            excerpt = said[:EXCERPT].decode("utf-8", "replace")
            raise BackendBroken(f"`{name}` answered with status {reply.status}: {excerpt}")
        return answer_of(dialect, said).text
    finally:
        await backend.close()
        await client.close()
