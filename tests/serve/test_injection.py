"""Context before requests, through the whole gateway: switched, budgeted, recorded as sent."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backends.upstream import Upstream, chat
from tests.serve.conftest import Served

Serving = Callable[..., Served]
NOTES = "# Deploying\n\nThe staging cluster is called Wanderfalke; deploy it with `make falcon`.\n"


def repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    (folder / "retry.py").write_text(
        'def retry_delay(attempt):\n    """Seconds to wait."""\n    return 2**attempt\n'
    )
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "."],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Retry delay"],
    ):
        subprocess.run(command, cwd=folder, check=True)


@pytest.mark.slow
def test_a_question_gets_the_notes_that_answer_it_and_the_record_says_which(
    serving: Serving, tmp_path: Path
) -> None:
    repository(tmp_path / "home")
    with Upstream(chat("ok")) as upstream:
        served = serving(
            "[inject]\nenabled = true\nwait_s = 20\n"
            f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\n'
            f'[models.bare]\nprovider = "vllm"\nbase_url = "{upstream.url}"\ninject = false\n'
        )
        asked = "How do I deploy the staging cluster Wanderfalke?"
        _, headers, _ = served.chat(asked, model="m")
        sent = upstream.requests[0]
        assert "make falcon" in sent.json["messages"][0]["content"]
        assert sent.json["messages"][-1] == {"role": "user", "content": asked}
        call = served.recorded(headers["x-request-id"])
        assert any(item.name.startswith("AGENTS.md") for item in call.context)
        assert call.attempts[0].request == sent.body, "recorded as sent"
        assert b"falcon" not in call.request

        served.chat("hello", model="m")
        assert "falcon" not in upstream.requests[1].body.decode(), "nothing is relevant"
        served.chat(asked, model="bare")
        assert "falcon" not in upstream.requests[2].body.decode()
        body = {"model": "m", "messages": [{"role": "user", "content": asked}]}
        served.post("/v1/chat/completions", body, {"x-twin-context": "off"})
        assert "falcon" not in upstream.requests[3].body.decode()
        on = {"x-twin-context": "on"}
        served.post("/v1/chat/completions", {**body, "model": "bare"}, on)
        assert "falcon" not in upstream.requests[4].body.decode(), "never, it is configured so"
        served.configure(served.configuration.replace("enabled = true", "enabled = false"))
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: "reloaded" in served.log.read_text())
        served.post("/v1/chat/completions", body)
        assert "falcon" not in upstream.requests[5].body.decode()
        served.post("/v1/chat/completions", body, on)
        assert "falcon" in upstream.requests[6].body.decode()


@pytest.mark.slow
def test_on_its_way_up_a_request_shows_context_only_to_those_who_may_see_it(
    serving: Serving, tmp_path: Path
) -> None:
    repository(tmp_path / "home")
    refusal = chat("I'm sorry, but I can't help with that.")
    with Upstream(refusal) as small, Upstream(chat("ok")) as big:
        served = serving(
            "[inject]\nenabled = true\nwait_s = 20\n[route]\nconfidence = 0.0\ncomplexity = 1.0\n"
            f'[models.small]\nprovider = "vllm"\nbase_url = "{small.url}"\nrole = "triage"\n'
            f'[models.big]\nprovider = "vllm"\nbase_url = "{big.url}"\nrole = "reasoning"\n'
            "inject = false\n"
        )
        _, headers, _ = served.chat("How do I deploy the staging cluster Wanderfalke?")
        assert headers["x-twin-model"] == "big"
        assert "falcon" in small.requests[0].body.decode()
        assert "make falcon" not in big.requests[0].body.decode()
