"""What a reload takes over, what it refuses, and what it says of the rest. One gateway for
all: each test brings it to where it begins."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.upstream import Upstream, chat
from tests.serve.conftest import Served

from twin.backends.http import HttpClient
from twin.config import Config, ModelConfig, RecordConfig, ServeConfig, StoreConfig
from twin.serve.fleet import Fleet
from twin.serve.reload import RESTART, needs_restart

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def test_what_only_a_new_start_changes_is_named() -> None:
    before = Config()
    assert needs_restart(before, before) == []
    wanted = Config(
        serve=ServeConfig(
            host="::1", port=1, max_response_bytes=1, drain_s=1, otlp_endpoint="http://x",
            max_concurrency=7, queue_s=1,
        ),
        record=RecordConfig(max_age_days=1, max_mb=1, sync="disk"),
        store=StoreConfig(url="sqlite:///x"),
    )  # fmt: skip
    assert needs_restart(before, wanted) == [*RESTART, "serve.max_concurrency"]


def test_a_model_is_made_anew_where_a_secret_behind_its_references_changed(tmp_path: Path) -> None:
    for name in ("account", "header"):
        (tmp_path / name).write_text(f"{name}-secret-1")
    model = ModelConfig(
        provider="openai", accounts=("file:account",), headers={"x-key": "file:header", "x-a": "b"}
    )
    config = Config(models={"m": model})
    client = HttpClient()
    first = Fleet(config, tmp_path, client)
    assert first.secrets == {"account-secret-1", "header-secret-1"}
    second = Fleet(config, tmp_path, client, before=first)
    assert second.members["m"] is first.members["m"]
    for name in ("account", "header"):
        (tmp_path / name).write_text(f"{name}-secret-2")
        third = Fleet(config, tmp_path, client, before=second)
        assert third.members["m"] is not second.members["m"]
        second = third
    assert second.secrets == {"account-secret-2", "header-secret-2"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(chat("It is account-secret-2, the admin's is admin-secret-2.")) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("reload")
    write_secrets(root, 1)
    running = Served(root, config(upstream), {})
    yield running
    running.stop()


def write_secrets(root: Path, number: int) -> None:
    for name in ("account", "admin"):
        (root / f"{name}.txt").write_text(f"{name}-secret-{number}")


def config(upstream: Upstream, serve: str = "", more: str = "") -> str:
    return f"""
        [serve]
        admin_key = "file:admin.txt"
        {serve}
        [models.m]
        provider = "openai"
        base_url = "{upstream.url}"
        accounts = ["file:account.txt"]
        {more}
    """


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_secrets_that_changed_are_taken_over_and_stay_out_of_records(
    served: Served, upstream: Upstream
) -> None:
    write_secrets(served.root, 2)
    assert served.post("/admin/reload", b"", bearer("admin-secret-1"))[0] == 200
    assert served.request("GET", "/admin/status", headers=bearer("admin-secret-1"))[0] == 401
    assert served.request("GET", "/admin/status", headers=bearer("admin-secret-2"))[0] == 200
    status, headers, body = served.post(CHAT, ASK)
    assert (status, b"account-secret-2" in body) == (200, True), "clients get all of the answer"
    assert upstream.requests[-1].headers["authorization"] == "Bearer account-secret-2"
    kept = served.recorded(headers["x-request-id"]).attempts[-1].response
    assert b"It is [redacted:secret], the admin's is [redacted:secret]." in kept


def test_what_needs_a_restart_is_logged_by_name(served: Served, upstream: Upstream) -> None:
    write_secrets(served.root, 2)
    served.configure(config(upstream, "port = 1", "[record]\nmax_age_days = 3"))
    served.process.send_signal(signal.SIGHUP)
    served.until(lambda: "restart_needed" in served.log.read_text())
    line = next(line for line in served.log.read_text().splitlines() if "restart_needed" in line)
    assert json.loads(line)["keys"] == ["serve.port", "record.max_age_days"]


def test_keys_that_are_required_from_now_on_close_the_door_and_the_figures(
    served: Served, upstream: Upstream
) -> None:
    write_secrets(served.root, 2)
    served.configure(config(upstream))
    served.post("/admin/reload", b"", bearer("admin-secret-1"))
    admin = bearer("admin-secret-2")
    served.configure(config(upstream, "require_keys = true"))
    status, _, body = served.post("/admin/reload", b"", admin)
    assert status == 400
    assert "there is none" in json.loads(body)["error"]["message"]
    assert served.post(CHAT, ASK)[0] == 200, "nothing has changed"

    wanted = {"name": "ci", "requests_per_minute": 2}
    key = bearer(json.loads(served.post("/admin/keys", wanted, admin)[2])["secret"])
    assert served.post("/admin/reload", b"", admin)[0] == 200
    assert served.post(CHAT, ASK)[0] == 401

    assert served.request("GET", "/health")[0] == 200
    assert json.loads(served.request("GET", "/ready")[2]) == {"status": "ready"}
    assert served.request("GET", "/metrics")[0] == 401
    for known in (admin, key):
        assert "warnings" in json.loads(served.request("GET", "/ready", headers=known)[2])
        assert b"twin_calls_active" in served.request("GET", "/metrics", headers=known)[2]

    said = {"call_id": "call_" + "0" * 32, "score": 1}
    assert [served.post("/v1/feedback", said, key)[0] for _ in range(3)] == [201, 201, 429]
