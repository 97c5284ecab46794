"""The state of a run is whole or absent, and told from another's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from twin.lm import snapshot
from twin.lm.errors import BadCheckpoint


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {"a": shared, "b": shared[:3], "c": shared.view(2, 3).T, "d": torch.tensor(3)}
    snapshot.save(tmp_path, tensors, {"step": 3, "loss": float("nan")})
    found, rest = snapshot.load(tmp_path)
    assert rest["step"] == 3
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [path.name for path in tmp_path.iterdir()] == [snapshot.NAME]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_file_that_was_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    snapshot.save(tmp_path, {"a": torch.zeros(999)}, {"step": 3})
    path = tmp_path / snapshot.NAME
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BadCheckpoint, match="without `--resume`"):
        snapshot.load(tmp_path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="to continue from"):
        snapshot.load(tmp_path)
    save_file({"a": torch.zeros(3)}, tmp_path / snapshot.NAME)
    with pytest.raises(BadCheckpoint, match="another program"):
        snapshot.load(tmp_path)


def test_weights_of_another_shape_are_refused() -> None:
    model = torch.nn.Linear(3, 2)
    for tensors in ({}, {"model.weight": torch.zeros(2, 4), "model.bias": torch.zeros(2)}):
        with pytest.raises(BadCheckpoint, match="another shape"):
            snapshot.fill(model, tensors, "model.")
