"""A request to OpenAI's old `completions` in chat's words: the prompt becomes a user message.

A chat model answers a prompt rather than continuing it; that is the nearest there is. `suffix`,
`echo`, `best_of`, token numbers and several prompts at once raise Untranslatable.
"""

from twin.backends.dialects.blocks import Json, copied, limit_name
from twin.errors import Untranslatable

_SAME_NAME = (
    "model", "n", "stop", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty",
    "logit_bias", "user", "stream", "stream_options",
)  # fmt: skip


def request(source: Json) -> Json:
    prompt = source.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Untranslatable("A chat model takes one prompt of text; send `prompt` as a string.")
    for name in ("suffix", "echo"):
        if source.get(name):
            raise Untranslatable(f"A chat model knows nothing like `{name}`; leave it out.")
    if (source.get("best_of") or 1) > (source.get("n") or 1):
        raise Untranslatable("A chat model knows nothing like `best_of`; leave it out.")
    out: Json = {"messages": [{"role": "user", "content": prompt}], **copied(source, *_SAME_NAME)}
    if source.get("max_tokens") is not None:
        out[limit_name(source.get("model"))] = source["max_tokens"]
    if isinstance(count := source.get("logprobs"), int) and source["logprobs"] is not False:
        out |= {"logprobs": True, "top_logprobs": int(count)}
    return out
