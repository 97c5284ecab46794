"""`twin models`: the registry by hand."""

import json
from pathlib import Path

import pytest

from twin.cli.main import run
from twin.records import Lineage
from twin.store.database import open_store


@pytest.fixture
def two_versions(repository: Path) -> Path:
    """relevance-1 is in service, relevance-2 has passed."""
    with open_store(repository) as store:
        for number in (1, 2):
            lineage = Lineage(code_version="0.1.0", dataset_hash="d", config={"holdout": 0.2})
            artifact = store.artifacts.put(b"%d" % number)
            version = store.registry.add(
                model="relevance", artifact=artifact, lineage=lineage, metrics={"mrr": 0.5}
            )
            store.registry.move(version.version_id, "passed", "better")
            if number == 1:
                store.registry.promote(version.version_id, "better")
    return repository


def asked(capsys: pytest.CaptureFixture[str], repo: Path, *arguments: str, code: int = 0) -> dict:
    assert run(["--repo", str(repo), "models", *arguments]) == code
    return json.loads(capsys.readouterr().out)


def statuses(capsys: pytest.CaptureFixture[str], repo: Path) -> dict[str, str]:
    versions = asked(capsys, repo, "--json")["versions"]
    return {version["version_id"]: version["status"] for version in versions}


def test_a_new_store_has_none_and_says_who_answers(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    assert asked(capsys, repository, "--json") == {"versions": []}
    assert run(["--repo", str(repository), "models"]) == 0
    assert "the shipped model answers" in capsys.readouterr().out


def test_one_version_is_shown_with_its_lineage(
    capsys: pytest.CaptureFixture[str], two_versions: Path
) -> None:
    version = asked(capsys, two_versions, "show", "relevance-2", "--json")
    assert version["status"] == "passed"
    assert version["lineage"]["config"] == {"holdout": 0.2}
    assert asked(capsys, two_versions, "--json", "show", "relevance-2") == version
    assert run(["--repo", str(two_versions), "models", "show", "relevance-2"]) == 0
    assert "dataset_hash" in capsys.readouterr().out


def test_promoting_retires_the_one_in_service_and_rolling_back_returns_it(
    capsys: pytest.CaptureFixture[str], two_versions: Path
) -> None:
    assert asked(capsys, two_versions, "promote", "relevance-2", "--json")["status"] == "live"
    assert statuses(capsys, two_versions) == {"relevance-1": "retired", "relevance-2": "live"}
    back = asked(capsys, two_versions, "rollback", "--reason", "too slow", "--json")
    assert back["version_id"] == "relevance-1"
    assert statuses(capsys, two_versions) == {"relevance-1": "live", "relevance-2": "retired"}
    moves = asked(capsys, two_versions, "history", "--json")["moves"]
    assert "too slow" in {move["reason"] for move in moves}
    assert run(["--repo", str(two_versions), "models", "history"]) == 0
    assert "too slow" in capsys.readouterr().out


def test_a_refused_move_is_exit_code_1_and_an_unknown_version_2(
    capsys: pytest.CaptureFixture[str], two_versions: Path
) -> None:
    error = asked(capsys, two_versions, "rollback", "--json", code=1)["error"]
    assert error["kind"] == "IllegalMove"
    error = asked(capsys, two_versions, "show", "relevance-9", "--json", code=2)["error"]
    assert error["kind"] == "UnknownVersion"
    assert statuses(capsys, two_versions) == {"relevance-1": "live", "relevance-2": "passed"}
