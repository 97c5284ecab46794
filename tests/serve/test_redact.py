"""Secrets are removed before anything is written, whole or in pieces, and nothing else is."""

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from twin.config import RecordConfig
from twin.errors import ConfigError
from twin.records import Attempt, Call, ContextItem
from twin.serve import logs
from twin.serve.exchange import Exchange
from twin.serve.redact import Redactor
from twin.serve.scribe import Scribe
from twin.store import segments
from twin.store.journal import Journal
from twin.store.segments import Segment

TAIL = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
SECRETS = {
    "api-key": f"sk-ant-api03-{TAIL}",
    "github-token": f"ghp_{TAIL[:36]}",
    "aws-key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "google-key": "AIza" + TAIL[:35],
    "slack-token": "xoxb-" + "1234567890-abcdef",
    "huggingface-token": "hf_" + TAIL[:34],
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.abcDEF123",
    "twin-key": "twin-" + TAIL,
    "pypi-token": "pypi-" + TAIL * 2,
    "bearer-token": "Bearer " + TAIL,
}


@pytest.mark.parametrize(("name", "secret"), SECRETS.items())
def test_each_kind_of_secret_is_replaced_by_its_name(name: str, secret: str) -> None:
    body = json.dumps({"messages": [{"content": f"use {secret} for it"}]}).encode()
    cleaned = Redactor().clean(body)
    assert secret.removeprefix("Bearer ").encode() not in cleaned
    assert f"[redacted:{name}]".encode() in cleaned
    json.loads(cleaned)


def test_a_private_key_goes_with_all_its_lines_also_inside_json() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----"
    for body in (pem.encode(), json.dumps({"content": f"my key: {pem} ok?"}).encode()):
        cleaned = Redactor().clean(body)
        assert b"MIIEow" not in cleaned
        assert b"IBAAK" not in cleaned
    assert json.loads(cleaned)["content"].endswith(" ok?")


def test_passwords_in_urls_and_assignments_go_and_what_is_around_them_stays() -> None:
    cleaned = Redactor().clean(b'postgres://bob:hunter2@db/x and PASSWORD="correct-horse"')
    assert b"hunter2" not in cleaned
    assert cleaned.startswith(b"postgres://[redacted:url-password]@db/x")
    cleaned = Redactor().clean(b'{"password": "correct-horse"}')
    assert b"correct-horse" not in cleaned


def test_text_without_secrets_is_the_very_same_object() -> None:
    for text in (b"", b"task-force, risk-averse", b"https://example.org/a:b", b"sk- hf_ AKIA eyJ"):
        assert Redactor().clean(text) is text


@given(st.binary(max_size=400))
def test_any_bytes_come_through(data: bytes) -> None:
    Redactor().clean(data)


@given(
    st.text(alphabet=string.ascii_letters + ' \n{}"', max_size=80),
    st.sampled_from(sorted(SECRETS.values())),
    st.text(alphabet=string.ascii_letters + ' \n{}"', max_size=80),
)
def test_a_secret_is_found_wherever_it_stands(before: str, secret: str, after: str) -> None:
    text = f"{before} {secret} {after}".encode()
    assert secret.removeprefix("Bearer ").encode() not in Redactor().clean(text)


def test_own_rules_are_added_and_wrong_ones_refused() -> None:
    redactor = Redactor({"customer": r"C-\d{6}"})
    assert redactor.clean(b"ask C-123456 now") == b"ask [redacted:customer] now"
    with pytest.raises(ConfigError, match=r"record\.redact\.bad"):
        Redactor({"bad": "("})
    with pytest.raises(ConfigError, match="empty text"):
        Redactor({"bad": "x*"})


def test_a_secret_that_a_stream_brings_in_pieces_is_noticed() -> None:
    secret = SECRETS["github-token"]
    pieces = [secret[i : i + 5] for i in range(0, len(secret), 5)]
    stream = b"".join(
        b"data: " + json.dumps({"choices": [{"delta": {"content": p}}]}).encode() + b"\n\n"
        for p in pieces
    )
    assert Redactor().clean(stream) is stream
    assert Redactor().is_split(stream)
    assert not Redactor().is_split(b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n')


def test_many_secrets_in_a_large_text_are_all_found() -> None:
    text = " ".join(f"ghp_{n:036d}" for n in range(2_000)).encode()
    redactor = Redactor()
    assert b"ghp_" not in redactor.clean(text)
    assert redactor.num_redacted == 2_000


def deltas(*pieces: str) -> bytes:
    return b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": p}}]}).encode()
        + b"\n\n"
        for p in pieces
    )  # fmt: skip


def test_a_secret_whose_first_piece_is_one_already_is_split_all_the_same() -> None:
    secret = SECRETS["api-key"]
    assert Redactor().is_split(deltas("use ", secret[:30], secret[30:], " now"))
    assert not Redactor().is_split(deltas("use ", secret, " now"))
    assert not Redactor().is_split(deltas("a", secret, "", " now"))
    assert Redactor({"customer": r"C-\d{6}"}).is_split(deltas("C-1", "23456"))
    assert not Redactor({"customer": r"C-\d{6}"}).is_split(deltas("C-123456", "7"))


@given(st.integers(1, 20), st.sampled_from(sorted(SECRETS.values())))
def test_nothing_of_a_secret_in_pieces_is_written(size: int, secret: str) -> None:
    pieces = [secret[i : i + size] for i in range(0, len(secret), size)]
    stream = deltas("use ", *pieces, " now")
    entry = call(response=stream, is_stream=True, attempts=(attempt(stream),))
    kept = written(Redactor(), entry)
    assert b"[redacted:" in (kept.response or b"")
    assert b"[redacted:" in kept.attempts[0].response
    for body in (kept.response or b"", kept.attempts[0].response):
        assert secret[-8:].encode() not in body


@pytest.mark.parametrize(
    "escaped", ["s\\u006b-", "\\u0073k-", "\\u0073\\u006B\\u002d", "sk\\u002D"]
)
def test_a_secret_that_json_writes_in_escapes_is_found(escaped: str) -> None:
    body = '{"a": "\\u00fc x ' + escaped + TAIL + ' y", "b": "\\u003c"}'
    cleaned = Redactor().clean(body.encode())
    assert cleaned == b'{"a": "\\u00fc x [redacted:api-key] y", "b": "\\u003c"}'
    assert Redactor().is_split(deltas("s", "k-" + TAIL[:10], TAIL[10:]).replace(b"-", b"\\u002d"))


def test_escapes_without_a_secret_change_nothing() -> None:
    for body in (b'"\\u003cb\\u003e http:\\/\\/example.org"', b"\\u00", b"\\u0073", b":\\/"):
        assert Redactor().clean(body) is body
    url = b'"https:\\/\\/bob:hunter2@db\\/x"'
    assert Redactor().clean(url) == b'"https:\\/\\/[redacted:url-password]@db\\/x"'


def test_the_configured_secrets_are_found_by_their_value_whatever_their_form() -> None:
    secrets = ["correct-horse-battery", "sk-short1", 'qu"o\\te-12', "short"]
    redactor = Redactor(secrets=secrets)
    for secret in secrets[:3]:
        body = json.dumps({"content": f"it is {secret}, no?"}).encode()
        assert json.loads(redactor.clean(body)) == {"content": "it is [redacted:secret], no?"}
        assert redactor.clean_text(f"x{secret}y") == "x[redacted:secret]y"
    assert redactor.clean(b"in short, no") == b"in short, no"
    assert redactor.is_split(deltas("correct-", "horse-battery"))


def test_names_that_a_caller_gives_are_cleaned_as_well() -> None:
    secret = SECRETS["api-key"]
    entry = call(
        asked_model=f"gpt {secret}",
        session=secret,
        task_id=f"task/{secret}",
        meta={"user_agent": f"curl {secret}"},
        context=(ContextItem(source="document", name=f"a {secret}", relevance=1, num_tokens=1),),
    )
    kept = written(Redactor(), entry)
    assert secret.encode() not in msgspec.msgpack.encode(kept)
    assert (kept.asked_model, kept.session) == ("gpt [redacted:api-key]", "[redacted:api-key]")
    assert kept.meta == {"user_agent": "curl [redacted:api-key]"}
    assert kept.context[0].name == "a [redacted:api-key]"


def test_a_log_line_shows_no_secret_that_was_taken_for_a_models_name() -> None:
    exchange = Exchange("chat", b"{}")
    exchange.asked_model = SECRETS["api-key"]
    with structlog.testing.capture_logs() as lines:
        logs.call_logger(clean=Redactor().clean_text)(exchange, "failed", 502)
    assert lines[0]["asked"] == "[redacted:api-key]"


def call(**values: Any) -> Call:
    usual = {"call_id": "call_1", "at": 1.0, "dialect": "chat", "outcome": "ok"}
    return Call(**{**usual, "asked_model": "m", **values})


def attempt(response: bytes) -> Attempt:
    return Attempt(model="m", outcome="ok", response=response, is_streamed=True)


def written(redactor: Redactor, entry: Call) -> Call:
    """What stands in the journal afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        scribe = Scribe(Journal(Path(folder), segment_bytes=100_000), RecordConfig(), redactor)
        scribe.write(entry)
        scribe.close()
        (path,) = segments.in_folder(Path(folder))
        with Segment(path) as segment:
            (frame,) = segment.frames(segment.cursor())
            return msgspec.msgpack.decode(frame.payload, type=Call)
