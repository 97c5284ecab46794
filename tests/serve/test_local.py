"""A language model of one's own through the real gateway, with the official clients."""

from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from tests.serve.conftest import Served

from twin.lm.checkpoint import save_model
from twin.lm.config import HybridConfig
from twin.lm.model import HybridLM
from twin.lm.tokenizer import ByteTokenizer

pytestmark = pytest.mark.slow  # the gateway loads torch

CONFIG = """
[models.own]
provider = "local"
model = "lm/small"
role = "triage"
"""


def saved(root: Path) -> None:
    tokenizer = ByteTokenizer()
    config = HybridConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, head_dim=16, mamba_head_dim=16,
        d_state=8,
    )  # fmt: skip
    model = HybridLM(config, kernels="chunked", seed=3)
    save_model(root / ".twin" / "lm" / "small", model, tokenizer, {})


def test_every_dialect_reaches_it_and_the_gateway_judges_its_answer(
    serving: Callable[..., Served],
) -> None:
    served = serving()  # its folder first, then the model, then the configuration
    saved(served.root)
    served.stop()
    served.configure(CONFIG)
    served.start()
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        whole = client.chat.completions.create(
            model="own", messages=[{"role": "user", "content": "hi"}], max_tokens=8, seed=1,
            logprobs=True, top_logprobs=2,
        )  # fmt: skip
        assert whole.choices[0].finish_reason in ("length", "stop")
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 4
        assert whole.choices[0].logprobs is not None
        stream = client.chat.completions.create(
            model="own", messages=[{"role": "user", "content": "hi"}], max_tokens=8, seed=1,
            stream=True,
        )  # fmt: skip
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert said == whole.choices[0].message.content
        completion = client.completions.create(model="own", prompt="a", max_tokens=5, seed=2)
        assert completion.usage is not None
        assert completion.usage.completion_tokens <= 5
        response = client.responses.create(model="own", input="hi", max_output_tokens=16)
        assert response.usage is not None
        with pytest.raises(openai.BadRequestError, match="out of range"):
            client.completions.create(model="own", prompt="a", temperature=-3)
        routed = client.chat.completions.create(
            model="twin", messages=[{"role": "user", "content": "hi"}], max_tokens=8
        )
        assert routed.choices[0].logprobs is None, "asked for by the judge alone"
    body = {"model": "own", "max_tokens": 6, "messages": [{"role": "user", "content": "hi"}]}
    status, _, _ = served.post("/v1/messages", body)
    assert status == 200


def test_a_model_that_is_not_there_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "twin.toml").write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("twin")), "--repo", str(tmp_path)]
    done = subprocess.run(
        [*command, "serve", "--port", "0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "[models.own]" in done.stderr
    assert "twin pretrain" in done.stderr
