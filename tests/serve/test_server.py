"""The process: where it listens, who may in, reload, shutdown, what it shows of itself."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backends.upstream import STREAM_HEAD, Pause, Upstream, chat, chat_events, chunk
from tests.serve.conftest import Served

from twin.store.database import open_store

Serving = Callable[..., Served]
TWIN = str(Path(sys.executable).with_name("twin"))


def model(name: str, url: str, more: str = "") -> str:
    return f'[models.{name}]\nprovider = "vllm"\nbase_url = "{url}"\nretries = 0\n{more}\n'


@pytest.mark.slow
def test_without_a_configuration_it_serves_the_scripted_model_and_says_how_to_add_one(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [TWIN, "--repo", str(tmp_path), "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    out = "".join(process.stdout.readline() for _ in range(4))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Serving twin, scripted at http://127.0.0.1:" in out
    assert "base_url" in out
    assert "[models.small]" in err
    assert process.returncode == 0


def test_it_refuses_to_listen_elsewhere_without_keys(tmp_path: Path) -> None:
    ended = subprocess.run(
        [TWIN, "--repo", str(tmp_path), "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "twin keys create" in ended.stderr


@pytest.mark.slow
def test_an_address_that_is_taken_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [TWIN, "--repo", str(tmp_path), "serve", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    assert f"Cannot listen at 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('[models.m]\nprovider = "openai"\naccounts = ["env:NOT_SET_ANYWHERE"]\n', "NOT_SET"),
        ('[models.m]\nprovider = "openai"\naccounts = ["sk-abcdefghijklmnop"]\n', "env:"),
        ('[models.m]\nprovider = "opnai"\n', "models.m.provider"),
    ],
)
def test_a_wrong_configuration_is_an_error_with_its_cure(
    config: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "twin.toml").write_text(config, encoding="utf-8")
    ended = subprocess.run(
        [TWIN, "--repo", str(tmp_path), "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "sk-abcdefghijklmnop" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_keys_open_the_door_and_close_it_again(serving: Serving) -> None:
    served = serving("[serve]\nrequire_keys = false\n")
    with open_store(served.root) as store:
        key, secret = store.keys.create("laptop", models=("scripted",))
        served.stop()
        served.configure("[serve]\nrequire_keys = true\n")
        served.start()
        bearer = {"authorization": f"Bearer {secret}"}
        body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
        path = "/v1/chat/completions"
        assert served.post(path, body)[0] == 401
        assert served.post(path, body, {"x-api-key": "twin-wrong"})[0] == 401
        status, headers, _ = served.post(path, body, bearer)
        assert status == 200
        assert served.recorded(headers["x-request-id"]).key_id == key.key_id
        assert served.post(path, {**body, "model": "twin"}, bearer)[0] == 403
        listed = json.loads(served.request("GET", "/v1/models", headers=bearer)[2])
        assert [item["id"] for item in listed["data"]] == ["scripted"]
        assert served.request("GET", "/v1/models")[0] == 401
        store.keys.revoke(key.key_id)
        served.until(lambda: served.post(path, body, bearer)[0] == 401)
    refused = [call for call in served.calls() if call.status == 401]
    assert not refused, "strangers fill no disk"


def test_the_admin_api_needs_its_own_key_and_makes_keys(serving: Serving) -> None:
    served = serving('[serve]\nadmin_key = "env:ADMIN"\nrequire_keys = false\n', ADMIN="root-key")
    admin = {"authorization": "Bearer root-key"}
    assert served.request("GET", "/admin/status")[0] == 401
    assert served.request("GET", "/admin/status", headers={"x-api-key": "wrong"})[0] == 401
    status, _, body = served.request("GET", "/admin/status", headers=admin)
    assert status == 200
    assert "scripted" in json.loads(body)["models"]
    status, _, body = served.post("/admin/keys", {"name": "ci", "requests_per_minute": 1}, admin)
    assert status == 201
    made = json.loads(body)
    assert "digest" not in made
    bearer = {"authorization": f"Bearer {made['secret']}"}
    ask = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}
    assert served.post("/v1/chat/completions", ask, bearer)[0] == 200
    status, headers, _ = served.post("/v1/chat/completions", ask, bearer)
    assert status == 429
    assert int(headers["retry-after"]) > 1
    assert made["secret"] not in served.request("GET", "/admin/keys", headers=admin)[2].decode()
    key_id = made["key_id"]
    assert served.request("DELETE", f"/admin/keys/{key_id}", headers=admin)[0] == 200
    assert served.post("/v1/chat/completions", ask, bearer)[0] == 401
    assert served.request("GET", "/admin/spend", headers=admin)[0] == 200


def test_without_an_admin_key_the_admin_api_does_not_exist(serving: Serving) -> None:
    served = serving()
    assert served.request("GET", "/admin/status", headers={"x-api-key": ""})[0] == 404


@pytest.mark.slow
def test_a_reload_changes_the_models_and_drops_no_connection(serving: Serving) -> None:
    slow = [STREAM_HEAD]
    for event in chat_events(*["word "] * 30):
        slow += [chunk(event), Pause(0.03)]
    slow.append(b"0\r\n\r\n")
    with Upstream(slow) as old, Upstream(chat("new")) as new:
        served = serving(model("old", old.url))
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        body = {"model": "old", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        answer.read1(10)
        served.configure(model("new", new.url))
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: served.chat(model="new")[0] == 200)
        assert served.chat(model="old")[0] == 404
        assert b"[DONE]" in answer.read(), "the stream that was under way goes on to its end"
        # The same connection serves the next request too.
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_reload_with_a_mistake_changes_nothing_and_says_why(serving: Serving) -> None:
    with Upstream(chat("here")) as upstream:
        served = serving(model("m", upstream.url))
        served.configure("[models.m]\nprovider = 'nobody'\n")
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: "reload_refused" in served.log.read_text())
        assert served.chat(model="m")[0] == 200


@pytest.mark.slow
def test_a_shutdown_lets_streams_finish_and_takes_no_new_calls(serving: Serving) -> None:
    slow = [STREAM_HEAD]
    for event in chat_events(*["word "] * 20):
        slow += [chunk(event), Pause(0.05)]
    slow.append(b"0\r\n\r\n")
    with Upstream(slow) as upstream:
        served = serving(model("m", upstream.url))
        found: list[bytes] = []

        def ask() -> None:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            found.append(served.post("/v1/chat/completions", body)[2])

        thread = threading.Thread(target=ask)
        thread.start()
        upstream.wait_until(lambda up: bool(up.requests))
        time.sleep(0.2)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(OSError, match=r"refused|reset"):
            served.request("GET", "/health", timeout=2)
        thread.join()
        assert b"[DONE]" in found[0]
        assert served.stop() == 0
    assert [call.outcome for call in served.calls()] == ["ok"]


def test_figures_for_prometheus_tell_of_calls_tokens_and_records(serving: Serving) -> None:
    served = serving()
    served.chat()
    served.chat(model="nothing")
    text = served.request("GET", "/metrics")[2].decode()
    assert 'twin_calls_total{dialect="chat",model="scripted",outcome="ok",status="200"} 1.0' in text
    assert 'outcome="refused",status="404"} 1.0' in text
    assert 'twin_call_seconds_count{model="scripted"} 1.0' in text
    assert "twin_records_written 2.0" in text
    assert "twin_calls_active 0.0" in text


def test_health_and_readiness(serving: Serving) -> None:
    served = serving()
    assert served.request("GET", "/health")[0] == 200
    served.until(lambda: served.request("GET", "/ready")[0] == 200)


def test_feedback_joins_its_call(serving: Serving) -> None:
    served = serving()
    _, headers, _ = served.chat()
    call_id = headers["x-request-id"]
    said = {"call_id": call_id, "score": 0.0, "comment": "no", "demonstration": "Better so."}
    assert served.post("/v1/feedback", said)[0] == 201
    served.recorded(call_id)
    with open_store(served.root) as store:
        served.until(lambda: bool(store.calls.feedback(call_id)))
        kept = store.calls.feedback(call_id)[0]
        assert (kept.score, kept.comment, kept.demonstration) == (0.0, "no", "Better so.")
        assert [pair.call_id for pair in store.calls.preferences()] == [call_id]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"call_id": "call_1", "score": 1}',
        b'{"call_id": 5}',
        b'{"score": 1}',
        json.dumps({"call_id": "call_" + "0" * 32, "score": 2}).encode(),
        json.dumps({"call_id": "call_" + "0" * 32}).encode(),
        json.dumps({"call_id": "call_" + "0" * 32, "score": 1, "other": 1}).encode(),
    ],
)
def test_feedback_that_says_nothing_useful_is_refused(
    body: bytes, together: Callable[..., Served]
) -> None:
    served = _shared(together)
    assert served.post("/v1/feedback", body)[0] == 400


_cache: dict[int, Served] = {}


def _shared(together: Callable[..., Served]) -> Served:
    if id(together) not in _cache:
        _cache.clear()
        _cache[id(together)] = together("", "shared")
    return _cache[id(together)]


@pytest.mark.slow
def test_a_queue_that_is_full_says_when_to_come_back(serving: Serving) -> None:
    slow = [STREAM_HEAD, Pause(1.0), chunk(chat_events("x")[1]), b"0\r\n\r\n"]
    with Upstream(slow) as upstream:
        served = serving(
            "[serve]\nmax_concurrency = 2\nmax_queue = 1\nqueue_s = 0.3\n"
            + model("m", upstream.url)
        )
        statuses: list[tuple[int, str]] = []

        def ask() -> None:
            status, headers, _ = served.chat(model="m", stream=True)
            statuses.append((status, headers.get("retry-after", "")))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    refused = [after for status, after in statuses if status == 503]
    assert len(refused) == 4
    assert all(refused), "each refusal says when to come back"
