"""What is to survive a power cut goes to the disk, files and folders alike."""

import os
from pathlib import Path

import pytest

from twin.lm import durable


def test_a_file_is_on_the_disk_with_all_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sizes = tmp_path / "file", []
    real = os.fsync

    def noted(handle: int) -> None:
        sizes.append(os.fstat(handle).st_size)
        real(handle)

    monkeypatch.setattr(os, "fsync", noted)
    durable.write(path, b"all of it")
    assert sizes == [9]  # nothing was left in a buffer when it was asked for
    assert path.read_bytes() == b"all of it"


def test_a_folder_is_flushed_as_a_file_is_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    durable.flush(tmp_path)
    with pytest.raises(FileNotFoundError):
        durable.flush(tmp_path / "missing")
