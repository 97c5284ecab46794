from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from lm_peers.transformer import (  # noqa: E402
    Decoder,
    Transformer,
    TransformerConfig,
    num_parameters,
    sized,
)

SMALL = TransformerConfig(vocab_size=11, d_model=32, n_layers=2, n_heads=2, mlp_width=64, context=8)


def small(**changes: object) -> Transformer:
    return Transformer(replace(SMALL, **changes), seed=1).double().eval()  # type: ignore[arg-type]


def tokens(time: int, batch: int = 2) -> "torch.Tensor":
    return torch.randint(11, (batch, time), generator=torch.Generator().manual_seed(3))


def in_parts(
    model: Transformer, seen: "torch.Tensor", parts: list[int]
) -> "tuple[torch.Tensor, tuple[torch.Tensor, ...]]":
    state, said = model.init_state(2), []
    for part in seen.split(parts, dim=1):
        logits, state = model(part, state)
        said.append(logits)
    return torch.cat(said, 1), state


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_no_position_sees_what_comes_after_it(positions: str) -> None:
    model, seen = small(positions=positions), tokens(8)
    changed = seen.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(seen)[0], model(changed)[0]
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("parts", [[8], [3, 5], [1] * 8, [8, 8, 3], [5, 9, 1, 7]])
def test_with_its_state_it_says_the_same_however_the_text_is_cut(parts: list[int]) -> None:
    model, seen = small(qk_norm=True), tokens(sum(parts))
    whole, _ = model(seen)
    said, state = in_parts(model, seen, parts)
    torch.testing.assert_close(said, whole, rtol=1e-5, atol=1e-6)
    assert all(kv.shape[3] <= SMALL.context for kv in state)


@pytest.mark.parametrize("parts", [[8], [3, 5], [1] * 8, [5, 9, 1, 7]])
def test_so_does_one_with_the_hybrids_context_embedding(parts: list[int]) -> None:
    from twin.lm.config import HybridConfig

    like = HybridConfig(vocab_size=11, d_model=32, ngram_max=3, ngram_rows=50, induction_max=2)
    model = Transformer(replace(SMALL, qk_norm=True), seed=1, like=like).double().eval()
    seen = tokens(sum(parts))
    whole, _ = model(seen)
    assert not torch.allclose(whole, small(qk_norm=True)(seen)[0])
    torch.testing.assert_close(in_parts(model, seen, parts)[0], whole, rtol=1e-5, atol=1e-6)


def test_it_looks_back_no_further_than_its_context_in_one_layer() -> None:
    model, seen = small(n_layers=1), tokens(12)
    changed = seen.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    before, after = model(seen)[0], model(changed)[0]
    assert not torch.equal(before[:, 10], after[:, 10])
    assert torch.equal(before[:, 11], after[:, 11])


def test_while_training_every_window_starts_afresh() -> None:
    model, seen = small(), tokens(8)
    _, state = model(tokens(8))
    model.train()
    alone, after = model(seen, None)
    behind, _ = model(seen, state)
    assert torch.equal(alone, behind)
    assert all(kv.shape[:1] == (2,) and kv.numel() == 0 for kv in after)


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_the_decoder_with_its_cache_says_what_the_model_says(positions: str) -> None:
    model, seen = small(positions=positions, context=16), tokens(16)
    decoder = Decoder(model, context=16, kind=torch.float64, batch=2)
    said = [decoder.step(seen[:, :6]), *(decoder.step(seen[:, at : at + 1]) for at in range(6, 16))]
    torch.testing.assert_close(torch.stack(said, 1), model(seen)[0][:, 5:], rtol=1e-5, atol=1e-6)
    assert decoder.state_bytes == 2 * 2 * 16 * 32 * 8


@pytest.mark.parametrize("target", [3_500_000, 4_104_036, 5_000_000, 10_900_000])
@pytest.mark.parametrize("d_model", [192, 256, 384])
def test_a_transformer_of_equal_size_is_equal_within_two_per_cent(
    target: int, d_model: int
) -> None:
    config = sized(target, TransformerConfig(vocab_size=65, d_model=d_model, n_heads=d_model // 64))
    with torch.device("meta"):
        model = Transformer(config)
    assert model.num_parameters() == num_parameters(config)
    assert abs(num_parameters(config) / target - 1) <= 0.02
    assert 2 <= config.mlp_width / d_model <= 6


def test_a_size_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match="within 2 %"):
        sized(10_000, TransformerConfig(vocab_size=65))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba2", "rwkv"])
def test_the_published_networks_are_of_equal_size(name: str) -> None:
    pytest.importorskip("transformers")
    from lm_peers import published

    with torch.device("meta"):
        model = getattr(published, name)(4_104_036, vocab_size=65)
    assert abs(published.count(model) / 4_104_036 - 1) <= 0.02
