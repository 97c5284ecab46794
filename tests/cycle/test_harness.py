"""A campaign over a pack: every commit has an answer, kept at once, asked for only once."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.coding.conftest import World
from tests.observe.small_project import FIRST, SECOND

from twin.coding.git import GitRepository
from twin.coding.sandbox.watch import descendants
from twin.config import Config
from twin.cycle import harness
from twin.cycle.harness import Validated, pack_now, validate_pack
from twin.errors import UsageError
from twin.observe.manifest import MANIFEST, Manifest, digests, sealed
from twin.records import Validation
from twin.store.database import Store, open_store

pytestmark = pytest.mark.usefixtures("no_index")

BROKEN = {"calc/__init__.py": "def add(a, b): return 2\n"}
MORE = {
    "calc/__init__.py": "def add(a, b): return a + b + 0\n",
    "tests/test_calc.py": SECOND["tests/test_calc.py"] + "def test_more(): assert 1\n",
}


@pytest.fixture
def packed(tmp_path: Path, store: Store) -> Callable[..., Manifest]:
    """Packs a world of these commits."""

    def make(*commits: dict[str, str]) -> Manifest:
        world = World(tmp_path / "world")
        world.grow(*(("Make add add its numbers instead", files) for files in commits))
        with GitRepository.open(world.root) as repository:
            return pack_now(repository, store, Config(), tmp_path / "world.pack")

    return make


@pytest.fixture
def validate(tmp_path: Path, store: Store) -> Callable[..., Validated]:
    return lambda **how: validate_pack(
        tmp_path / "world.pack", store, tmp_path / "environments", **how
    )


def verdicts(found: Validated) -> list[str]:
    return [one.why or "valid" for one in found.validations]


@pytest.mark.slow
def test_every_commit_has_an_answer_and_none_is_asked_twice(
    packed: Callable[..., Manifest], validate: Callable[..., Validated]
) -> None:
    packed(FIRST, SECOND, MORE)
    first = validate()
    assert verdicts(first) == ["valid", "nothing_fails"]
    assert first.why == {"nothing_fails": 1}
    assert first.classes == {"pass_to_pass": 3, "guard": 1, "fail_to_pass": 1}
    assert (first.num_commits, first.num_valid, first.num_known) == (2, 1, 0)
    assert first.median_seconds is not None
    again = validate()
    assert again.num_known == 2
    assert again.validations == first.validations
    assert validate(newest=1).validations == first.validations[1:]


@pytest.mark.slow
def test_several_processes_give_the_same_answers(
    packed: Callable[..., Manifest], validate: Callable[..., Validated], tmp_path: Path
) -> None:
    packed(FIRST, SECOND, MORE)
    alone = validate()
    (tmp_path / "elsewhere").mkdir()
    with open_store(tmp_path / "elsewhere") as other:
        together = validate_pack(
            tmp_path / "world.pack", other, tmp_path / "environments", workers=2
        )
    assert [one.classes for one in together.validations] == [
        one.classes for one in alone.validations
    ]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_commit_without_an_environment_is_an_answer(
    packed: Callable[..., Manifest], validate: Callable[..., Validated]
) -> None:
    packed(FIRST, {**SECOND, **BROKEN})
    (found,) = validate().validations
    assert found.why == "no_environment"
    assert "only 1 of 2 tests pass" in found.detail
    assert found.num_runs == 0


def test_a_commit_that_needs_a_newer_python_says_which(
    packed: Callable[..., Manifest], validate: Callable[..., Validated]
) -> None:
    newer = FIRST["pyproject.toml"].replace("[project]", "[project]\nrequires-python = '>=3.99'")
    packed(FIRST, {**SECOND, "pyproject.toml": newer})
    (found,) = validate().validations
    assert found.why == "no_environment"
    assert "it needs Python >=3.99" in found.detail
    assert "twin pack --python" in found.detail


@pytest.mark.slow
def test_a_commit_whose_wheels_are_for_another_platform_is_an_answer(
    packed: Callable[..., Manifest], validate: Callable[..., Validated], tmp_path: Path
) -> None:
    """A pack from a machine of the same kind with a newer C library, say."""
    made = packed(FIRST, SECOND)
    folder = tmp_path / "world.pack"
    (wheel,) = (folder / "packages").glob("pluggy-*")
    wheel.rename(wheel.with_name(wheel.name.replace("none-any", "none-manylinux_2_99_x86_64")))
    files = {str(path): digest for path, digest in digests(folder)}
    (folder / MANIFEST).write_bytes(sealed(msgspec.structs.replace(made, files=files)))
    (found,) = validate().validations
    assert found.why == "no_environment"
    assert "pluggy" in found.detail


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_campaign_and_no_answer_is_made_up(
    packed: Callable[..., Manifest],
    validate: Callable[..., Validated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed(FIRST, SECOND)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("twin.observe.environments.install", full)
        with pytest.raises(OSError, match="No space"):
            validate()
    assert verdicts(validate()) == ["valid"]


@pytest.mark.slow
def test_what_takes_longest_is_begun_first(
    packed: Callable[..., Manifest],
    validate: Callable[..., Validated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data_alone = {"calc/__init__.py": SECOND["calc/__init__.py"], "tests/data.json": "[]"}
    manifest = packed(FIRST, SECOND, MORE, data_alone)
    oldest, middle, newest = [one.commit_id for one in manifest.commits]
    begun = []

    def answer(self: harness._Validating, commit_id: str) -> None:
        begun.append(commit_id)
        self.failure(commit_id, "not asked")

    monkeypatch.setattr(harness._Validating, "answer", answer)
    validate()
    # The whole suite, since the commit changes no module of it; then by the size of its modules.
    assert begun == [newest, middle, oldest]


@pytest.mark.slow
def test_a_failure_of_this_program_is_an_answer_after_three_tries(
    packed: Callable[..., Manifest],
    validate: Callable[..., Validated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed(FIRST, SECOND)
    tried = []

    def fails(self: object, one: object) -> Validation:
        tried.append(one)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(harness._Validating, "answer", fails)
    (found,) = validate().validations
    assert found.why == "error"
    assert "Too many open files" in found.detail
    assert len(tried) == 3


def test_nothing_to_pack_is_said(packed: Callable[..., Manifest]) -> None:
    with pytest.raises(UsageError, match="twin mine"):
        packed({"calc.py": "1"}, {"calc.py": "2"})


@pytest.mark.slow
def test_a_killed_campaign_goes_on_where_it_was(
    packed: Callable[..., Manifest],
    validate: Callable[..., Validated],
    store: Store,
    tmp_path: Path,
) -> None:
    more = [
        {"calc/__init__.py": f"def add(a, b): return a + b + 0 * {n}\n",
         "tests/test_calc.py": SECOND["tests/test_calc.py"] + f"\ndef test_{n}(): pass\n"}
        for n in range(4)
    ]  # fmt: skip
    packed(FIRST, SECOND, *more)
    program = f"""
from pathlib import Path
from twin.cycle.harness import validate_pack
from twin.store.database import open_store
root = Path({str(tmp_path)!r})
validate_pack(root / "world.pack", open_store(root / "here"), root / "environments")
"""
    asked = [one.commit_id for one in validate(newest=1).validations]
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        limit = time.monotonic() + 60
        while num_answers(store) < 3 and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = num_answers(store)
    assert 3 <= before < 5
    found = validate()
    assert found.num_known == before
    assert len(found.validations) == 5
    assert asked[0] == found.validations[-1].commit_id


@pytest.mark.slow
def test_killing_a_campaign_ends_its_workers_and_their_runs(
    packed: Callable[..., Manifest], tmp_path: Path
) -> None:
    hangs = SECOND["tests/test_calc.py"] + "\nimport time\ndef test_hangs(): time.sleep(50)\n"
    more = {"calc/__init__.py": MORE["calc/__init__.py"], "tests/test_calc.py": hangs}
    packed(FIRST, SECOND, MORE, more, SECOND)
    program = f"""
from pathlib import Path
from twin.cycle.harness import validate_pack
from twin.store.database import open_store
root = Path({str(tmp_path)!r})
if __name__ == "__main__":
    store = open_store(root / "here")
    validate_pack(root / "world.pack", store, root / "environments", workers=2)
"""
    (tmp_path / "campaign.py").write_text(program)
    with subprocess.Popen([sys.executable, str(tmp_path / "campaign.py")]) as process:
        below: list[int] = []
        limit = time.monotonic() + 60
        while not any(b"inside.py" in command(pid) for pid in below):
            assert time.monotonic() < limit
            below = descendants(process.pid)
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    while any(command(pid) for pid in below):
        assert time.monotonic() < limit, [command(pid) for pid in below]
        time.sleep(0.05)


def command(pid: int) -> bytes:
    """Empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def num_answers(store: Store) -> int:
    with store.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM raw_validation").scalar_one())


def test_an_answer_is_kept_as_it_was(store: Store) -> None:
    given = Validation(
        commit_id="a" * 40,
        parent_id="b" * 40,
        why="",
        classes={"tests/test_\u00e4.py::test[\ud800]": "fail_to_pass"},
        selection=("tests/test_\u00e4.py",),
        level="bubblewrap",
        num_runs=5,
        seconds=1.5,
    )
    store.validations.add("world", "key", given)
    store.validations.add("world", "key", dataclasses.replace(given, why="flaky_only"))
    assert store.validations.known(["key", "other"]) == {"key": given}
    assert os.path.isdir(store.folder)
