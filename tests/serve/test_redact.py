"""Secrets are removed before anything is written, whole or in pieces, and nothing else is."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.errors import ConfigError
from twin.serve.redact import Redactor

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
