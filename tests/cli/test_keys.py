"""`twin keys`: made, listed, revoked; the secret is seen once."""

import json
import time
from pathlib import Path

import pytest

from twin.cli.main import run
from twin.store.database import open_store
from twin.store.keys import digest_of


def asked(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str, code: int = 0) -> dict:
    assert run(["--repo", str(home), "keys", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_secret_alone_is_on_stdout_so_that_it_can_be_piped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["--repo", str(tmp_path), "keys", "create", "laptop"]) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    assert "not shown again" in shown.err
    with open_store(tmp_path) as store:
        (key,) = store.keys.active()
    assert key.digest == digest_of(secret)
    assert run(["--repo", str(tmp_path), "keys"]) == 0
    listed = capsys.readouterr().out
    assert "laptop" in listed
    assert "active" in listed
    assert secret not in listed


def test_limits_are_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = asked(
        capsys, tmp_path, "create", "agent", "--models", "small, claude-*", "--monthly-usd", "5",
        "--requests-per-minute", "60", "--tokens-per-minute", "1000", "--expires", "90d",
    )  # fmt: skip
    assert made.pop("secret").startswith("twin-")
    assert made["models"] == ["small", "claude-*"]
    assert (made["monthly_usd"], made["requests_per_minute"]) == (5.0, 60)
    assert 89 * 86_400 < made["expires_at"] - time.time() <= 90 * 86_400
    assert asked(capsys, tmp_path, "list") == {"keys": [made]}
    assert "digest" not in made


def test_a_revoked_key_is_listed_as_such(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked(capsys, tmp_path, "create", "laptop")
    assert asked(capsys, tmp_path, "revoke", "laptop")["state"] == "revoked"
    assert [key["state"] for key in asked(capsys, tmp_path)["keys"]] == ["revoked"]


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("revoke", "nobody"), "UnknownKey", "twin keys list"),
        (("create", "a", "--expires", "soon"), "UsageError", "write it as 30m, 12h or 90d"),
        (("create", "a", "--monthly-usd", "-1"), "UsageError", "--monthly-usd"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    kind: str,
    said: str,
) -> None:
    error = asked(capsys, tmp_path, *arguments, code=2)["error"]
    assert error["kind"] == kind
    assert said in error["message"]


def test_without_keys_the_list_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["--repo", str(tmp_path), "keys"]) == 0
    assert "`twin keys create NAME`" in capsys.readouterr().out
