"""States: saved, restored, joined into batches and taken apart again."""

from pathlib import Path

import pytest
import torch
from tests.lm.test_model import small, tokens, trained

from twin.lm import state as states
from twin.lm.errors import BadState
from twin.lm.model import HybridLM


def test_a_saved_state_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    model, text = trained(small()), tokens()
    with torch.no_grad():
        whole = model(text)[0]
        _, state = model(text[:, :20])
        states.save(tmp_path / "state", state)
        rest = model(text[:, 20:], states.load(tmp_path / "state"))[0]
    assert torch.allclose(rest, whole[:, 20:], atol=1e-12)


def test_streams_join_and_leave_a_batch() -> None:
    model, text = trained(small()), tokens(3, 10)
    alone = [model(text[row : row + 1])[1] for row in range(3)]
    joined = states.join(alone)
    assert all(torch.equal(a, b) for a, b in zip(states.take(joined, [2]), alone[2], strict=True))
    assert states.num_bytes(joined) == 3 * states.num_bytes(alone[0])


def test_streams_of_unequal_caches_cannot_share_a_batch() -> None:
    model = trained(small(attention_every=1))
    with pytest.raises(BadState, match="length"):
        states.join([model(tokens(1, 4))[1], model(tokens(1, 5))[1]])
    with pytest.raises(BadState, match="at least one"):
        states.join([])


def test_a_clone_shares_nothing_and_a_detached_state_has_no_history() -> None:
    _, state = trained(small())(tokens())
    assert not any(x.requires_grad for x in states.detach(state))
    copied = states.clone(states.detach(state))
    copied[0].zero_()
    assert state[0].abs().sum() > 0


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"{}"])
def test_a_damaged_file_is_no_state(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state").write_bytes(damage)
    with pytest.raises(BadState, match="Start without it"):
        states.load(tmp_path / "state")


def test_the_layout_names_every_tensor() -> None:
    config = small(token_shift="dd", fusion="MINGRU", attention_every=2, ngram_max=3)
    names = [part.name for part in states.layout(config)]
    assert names == ["wkv", "conv", "ssm", "shift", "gate"] * 2 + ["kv", "recent"]
    assert len(HybridLM(config, kernels="chunked").init_state(1)) == len(names)
