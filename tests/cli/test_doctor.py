"""The doctor looks at the things themselves, fails only on what is required, and makes nothing."""

import json
import sys
from pathlib import Path

import pytest
from tests.backends.upstream import Received, Step, Upstream, answer, unused_url

from twin.cli import doctor
from twin.cli.main import run
from twin.store.database import journal_folder
from twin.store.journal import Journal


def checks(capsys: pytest.CaptureFixture[str], repo: Path) -> dict[str, dict[str, str]]:
    code = run(["--repo", str(repo), "doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    missing = [check for check in told["checks"] if check["status"] == "missing"]
    assert told["healthy"] == (not missing)
    assert code == (3 if missing else 0)
    for check in told["checks"]:
        assert check["status"] in {"ok", "missing", "optional"}
        assert check["status"] == "ok" or check["cure"], f"{check['name']} says no cure"
    return {check["name"]: check for check in told["checks"]}


def test_where_everything_is_installed_nothing_is_missing(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    told = checks(capsys, repository)
    assert "missing" not in {check["status"] for check in told.values()}
    assert told["SQLite WAL"]["found"] == "wal"
    assert told["tree-sitter grammars"]["found"].split(", ") == list(doctor.GRAMMARS)
    assert told["repository"]["found"] == str(repository)
    assert not (repository / ".twin").exists(), "looking makes no store"


def test_outside_a_repository_the_rest_is_still_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = checks(capsys, tmp_path)
    assert told["repository"]["status"] == "optional"
    assert told["git"]["status"] == "ok"


def test_without_git_the_cure_is_named(
    capsys: pytest.CaptureFixture[str],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    told = checks(capsys, repository)
    assert told["git"] == {
        "name": "git",
        "status": "missing",
        "found": "not found",
        "cure": "Install git 2.25 or newer: apt-get install git",
    }


def test_kernels_without_a_compiler_are_told_with_the_cure(
    capsys: pytest.CaptureFixture[str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "native" in checks(capsys, repository)["language model kernels"]["found"]
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    told = checks(capsys, repository)["language model kernels"]
    assert told["status"] == "optional"
    assert "native" not in told["found"]
    assert told["cure"].endswith("apt-get install g++")


def test_without_torch_its_extra_is_named(
    capsys: pytest.CaptureFixture[str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor.importlib.metadata.version

    def absent(package: str) -> str:
        if package == "torch":
            raise doctor.importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    told = checks(capsys, repository)
    assert told["torch"]["cure"].endswith("pip install 'cognitive-twin[lm]'")
    assert "language model kernels" not in told


def test_a_library_that_is_installed_but_does_not_load_is_missing(
    capsys: pytest.CaptureFixture[str],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    message = "libgomp.so.1: cannot open shared object file"
    (tmp_path / "lightgbm.py").write_text(f"raise OSError({message!r})", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    told = checks(capsys, repository)
    assert told["lightgbm"]["status"] == "missing"
    assert told["lightgbm"]["cure"] == "apt-get install libgomp1"


def test_a_store_that_does_not_open_is_told_with_its_cure(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    (repository / ".twin").mkdir()
    (repository / ".twin" / "twin.db").write_bytes(b"this is no database" * 100)
    told = checks(capsys, repository)
    assert told["store"]["status"] == "missing"
    assert told["store"]["cure"].endswith((".", "?"))


def test_a_broken_configuration_does_not_stop_the_doctor(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    (repository / "twin.toml").write_text("[fit", encoding="utf-8")
    told = checks(capsys, repository)
    assert "is not valid TOML" in told["store"]["cure"]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    assert run(["--repo", str(repository), "doctor"]) == 0
    shown = capsys.readouterr().out
    assert "Everything required is here." in shown
    assert "tree-sitter grammars" in shown


SECRET = "sk-nobody-may-ever-see-this-one"


def served(request: Received) -> Step:
    is_known = request.headers.get("authorization") == f"Bearer {SECRET}"
    return answer('{"object": "list", "data": []}', status=200 if is_known else 401)


def test_models_are_told_with_what_keeps_them_from_answering(
    capsys: pytest.CaptureFixture[str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD_KEY", SECRET)
    monkeypatch.setenv("BAD_KEY", SECRET[::-1])
    monkeypatch.delenv("NO_KEY", raising=False)
    with Upstream(served) as upstream:
        (repository / "twin.toml").write_text(
            f"""
            [serve]
            admin_key = "env:NO_ADMIN_KEY"
            [models.well]
            provider = "vllm"
            base_url = "{upstream.url.replace("//", "//user:hidden@")}"
            accounts = ["env:GOOD_KEY"]
            [models.half]
            provider = "vllm"
            base_url = "{upstream.url}"
            accounts = ["env:GOOD_KEY", "env:BAD_KEY"]
            [models.keyless]
            provider = "vllm"
            base_url = "{upstream.url}"
            accounts = ["env:NO_KEY"]
            [models.gone]
            provider = "vllm"
            base_url = "{unused_url()}"
            [models.played]
            provider = "scripted"
            """,
            encoding="utf-8",
        )
        told = checks(capsys, repository)
    assert told["model half"]["status"] == "optional"
    assert "env:BAD_KEY" in told["model half"]["cure"]
    assert told["model keyless"]["status"] == "missing"
    assert "export NO_KEY" in told["model keyless"]["cure"]
    assert told["model gone"]["status"] == "optional"
    assert "does not answer" in told["model gone"]["found"]
    assert told["model played"]["status"] == "ok"
    assert told["admin key"]["status"] == "missing"
    shown = json.dumps(told)
    assert SECRET not in shown
    assert SECRET[::-1] not in shown
    assert "hidden" not in shown


def test_a_model_that_answers_is_well(
    capsys: pytest.CaptureFixture[str], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD_KEY", SECRET)
    with Upstream(served) as upstream:
        (repository / "twin.toml").write_text(
            f'[models.m]\nprovider = "vllm"\nbase_url = "{upstream.url}"\n'
            'accounts = ["env:GOOD_KEY"]\n',
            encoding="utf-8",
        )
        told = checks(capsys, repository)
    assert told["model m"]["status"] == "ok"
    assert told["model m"]["found"] == f"vllm at {upstream.url} answers"


def test_what_the_gateway_recorded_and_nobody_stored_is_told(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    assert "journal" not in checks(capsys, repository)
    journal = Journal(journal_folder(repository))
    journal.append([b"x" * 3_000_000])
    told = checks(capsys, repository)
    assert told["journal"] == {
        "name": "journal", "status": "ok", "found": "3.0 MB not in the store yet", "cure": "",
    }  # fmt: skip
    journal.close()
    (journal_folder(repository) / "a.damaged").touch()
    assert checks(capsys, repository)["journal"]["status"] == "optional"
