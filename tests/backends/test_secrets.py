import copy
import pickle
from pathlib import Path

import pytest

from twin.backends.secrets import Secret, resolve, resolve_header
from twin.errors import ConfigError

VALUE = "sk-proj-abcdefghijklmnop1234567890"


def test_a_variable_is_read_when_it_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCOUNT_A", VALUE)
    secret = resolve("env:ACCOUNT_A", tmp_path)
    assert (secret.label, secret.reveal()) == ("env:ACCOUNT_A", VALUE)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", " \n\n"])
def test_a_file_is_found_from_the_root_and_stripped(tmp_path: Path, ending: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a").write_text(VALUE + ending)
    assert resolve("file:keys/a", tmp_path).reveal() == VALUE
    assert resolve(f"file:{tmp_path}/keys/a", Path("/nowhere")).reveal() == VALUE


def test_nothing_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCOUNT_A", VALUE)
    secret = resolve("env:ACCOUNT_A", tmp_path)
    shown = f"{secret} {secret!r} {[secret]} {secret.label}"
    assert VALUE not in shown
    assert "ACCOUNT_A" in shown


@pytest.mark.parametrize("move", [pickle.dumps, copy.copy])
def test_a_secret_is_not_copied_to_elsewhere(move: object) -> None:
    with pytest.raises(TypeError):
        move(Secret("env:A", VALUE))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("reference", "cure"),
    [
        (VALUE, "environment variable"),
        ("hunter2", "environment variable"),
        ("", "environment variable"),
        ("ENV:ACCOUNT_A", "environment variable"),
        (f"env:{VALUE}", "Write `env:OPENAI_API_KEY`"),
        ("env:", "Write `env:OPENAI_API_KEY`"),
        ("env:NOT_SET_ANYWHERE", "export NOT_SET_ANYWHERE"),
        ("env:EMPTY", "export EMPTY"),
        ("file:missing", "Create "),
        ("file:empty", "Write the secret into it"),
        ("file:.", "Check its path"),
        ("file:binary", "Check its path"),
        ("file:two_lines", "on one line"),
        ("env:TWO_LINES", "on one line"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_a_cure_and_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, cure: str
) -> None:
    monkeypatch.setenv("EMPTY", " \n")
    monkeypatch.setenv("TWO_LINES", f"{VALUE}\r\nx-injected: 1")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "two_lines").write_text(f"{VALUE}\n{VALUE}\n")
    with pytest.raises(ConfigError) as error:
        resolve(reference, tmp_path)
    assert cure in str(error.value)
    assert VALUE not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_headers_value_is_text_or_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCOUNT_A", VALUE)
    assert resolve_header("env:ACCOUNT_A", tmp_path) == VALUE
    assert resolve_header("2023-06-01", tmp_path) == "2023-06-01"
    assert resolve_header("https://example.org/my-app", tmp_path) == "https://example.org/my-app"


@pytest.mark.parametrize("text", [VALUE, f"Bearer {VALUE}", "hf_abcdefghijklmnop", "a1B2" * 12])
def test_a_headers_value_that_looks_like_a_secret_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="environment variable") as error:
        resolve_header(text, tmp_path)
    assert text not in str(error.value)
