"""A folder that is complete or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from twin.errors import UsageError
from twin.observe.drafts import draft_of

KILLED = """
import os, signal, sys
from pathlib import Path
from twin.observe.drafts import draft_of
with draft_of(Path(sys.argv[1]), "") as draft:
    (draft / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_whole_at_the_end_and_not_before(tmp_path: Path) -> None:
    with draft_of(tmp_path / "deep" / "it", "") as draft:
        (draft / "file").touch()
        assert not (tmp_path / "deep" / "it").exists()
    assert names(tmp_path / "deep") == ["it"]
    assert names(tmp_path / "deep" / "it") == ["file"]


def test_nothing_is_left_where_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), draft_of(tmp_path / "it", ""):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_what_is_there_is_not_touched_whenever_it_came(tmp_path: Path) -> None:
    def overtaken() -> None:
        with draft_of(tmp_path / "it", "Look."):
            (tmp_path / "it").mkdir()
            (tmp_path / "it" / "theirs").touch()

    with pytest.raises(UsageError, match=r"is there already. Look\."):
        overtaken()
    with pytest.raises(UsageError, match="is there already"), draft_of(tmp_path / "it", ""):
        pass
    assert names(tmp_path) == ["it"]
    assert names(tmp_path / "it") == ["theirs"]


def test_what_a_kill_left_behind_goes_with_the_next_but_not_what_is_being_made(
    tmp_path: Path,
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "it"], check=False)
    assert killed.returncode == -signal.SIGKILL
    (abandoned,) = names(tmp_path)
    (tmp_path / abandoned).rename(tmp_path / ".it.making-1")
    with draft_of(tmp_path / "it", "") as draft:
        assert names(tmp_path) == [f".it.making-{os.getpid()}"]
        again = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "it"], check=False)
        assert again.returncode == -signal.SIGKILL
        assert draft.exists()
    assert "it" in names(tmp_path)
