"""The network as Hugging Face's `transformers` knows models: `save_pretrained`, `generate`, `Auto`.

Importing this module registers the architecture under `twin_hybrid`, after which
`AutoModelForCausalLM.from_pretrained` reads what `save_pretrained` wrote. Wraps `HybridLM` and adds
nothing to it: logits are the same to the last bit. Its cache is the recurrent state, so that
`generate` takes the same time and memory per token at any length.

Padding must not pass through a recurrence. Rows of a batch with different padding are therefore
read in groups of equal length, without their padding, and put back together.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from twin.lm import state as states
from twin.lm.checkpoint import load_model
from twin.lm.config import HybridConfig
from twin.lm.errors import BadConfig, BadState, BadTokens
from twin.lm.kernels.registry import Kernels
from twin.lm.model import HybridLM
from twin.lm.state import State
from twin.lm.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer, byte_of_symbol

try:
    import transformers
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        GenerationMixin,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError as error:
    raise ImportError(
        'This needs the package transformers: `pip install "cognitive-twin[hf]"`.'
    ) from error


class TwinHybridConfig(PreTrainedConfig):
    """`shape` is `HybridConfig` as a table; the other fields repeat what Hugging Face asks for."""

    model_type = "twin_hybrid"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    shape: dict[str, Any] | None = None
    vocab_size: int = 256
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    # The network ties its own weights; Hugging Face has nothing to tie.
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Raises BadConfig for a shape that cannot be built."""
        hybrid = HybridConfig.from_dict({"vocab_size": self.vocab_size, **(self.shape or {})})
        self.shape = hybrid.to_dict()
        self.vocab_size = hybrid.vocab_size
        self.hidden_size = hybrid.d_model
        self.num_hidden_layers = hybrid.n_layers
        super().__post_init__(**kwargs)

    @property
    def hybrid(self) -> HybridConfig:
        """The shape as this room knows it."""
        return HybridConfig.from_dict(self.shape or {})


class HybridCache:
    """The recurrent state of a batch, in the place where transformers keep keys and values."""

    is_compileable = False
    is_croppable = False

    def __init__(self, state: State, num_tokens: int) -> None:
        self.state = state
        self.num_tokens = num_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that were read, padding included: what `generate` cuts off its input by."""
        return self.num_tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row n becomes what row `beam_idx[n]` was."""
        self.state = states.take(self.state, beam_idx)


class TwinHybridForCausalLM(PreTrainedModel, GenerationMixin):
    """`HybridLM` under `.model`."""

    config_class = TwinHybridConfig
    config: TwinHybridConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True  # A state cannot go back to an earlier token: no assisted generation.
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def __init__(self, config: TwinHybridConfig, kernels: str | Kernels = "auto") -> None:
        super().__init__(config)
        self.model = HybridLM(config.hybrid, kernels=kernels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """`HybridLM` has done it."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Raises BadConfig: the vocabulary is part of the shape."""
        raise BadConfig(
            "The vocabulary cannot be changed afterwards: its size is part of the network's shape. "
            "Train a model with the other tokenizer."
        )

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, T, X) in float32 of `input_ids` (B, T), of which `past_key_values` has read
        what came before. Logits at padding are zero.

        Raises BadTokens for embeddings instead of tokens and for a mask with a hole or an empty
        row, BadState for a cache of another batch.
        """
        if input_ids is None or inputs_embeds is not None:
            raise BadTokens("This network reads tokens, no embeddings: give `input_ids`.")
        state = self.model.init_state(input_ids.shape[0])
        if past_key_values is not None:
            state = past_key_values.state
        h_BTD, state = self._read(input_ids, attention_mask, state)
        if not isinstance(logits_to_keep, int):
            h_BTD = h_BTD[:, logits_to_keep]
        elif logits_to_keep:
            h_BTD = h_BTD[:, -logits_to_keep:]
        logits = self.model.kernels.linear(h_BTD, self.model.head_weight)
        logits = logits.float() if logits.dtype != torch.float64 else logits
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = _advanced(past_key_values, state, input_ids.shape[1]) if use_cache else None
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        wants_dict = return_dict if return_dict is not None else self.config.return_dict
        return output if wants_dict else output.to_tuple()

    def _read(self, tokens_BT: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        """As `HybridLM.hidden`, past the padding."""
        groups = list(_groups(tokens_BT, mask))
        if len(groups) == 1 and groups[0][1:] == (0, tokens_BT.shape[1]):
            return self.model.hidden(tokens_BT, state)
        states.check(self.model.config, state, tokens_BT.shape[0])
        hidden, parts, order = None, [], []
        for rows, start, end in groups:
            found, after = self.model.hidden(tokens_BT[rows, start:end], states.take(state, rows))
            if hidden is None:
                hidden = found.new_zeros(*tokens_BT.shape, found.shape[-1])
            hidden[rows, start:end] = found
            parts.append(after)
            order.append(rows)
        assert hidden is not None
        try:
            joined = states.join(parts)
        except BadState as error:
            raise BadState(
                "Texts of different length cannot share a batch in a network with attention "
                "anchors, whose memory grows with the text. Give them one by one."
            ) from error
        return hidden, states.take(joined, torch.cat(order).argsort())

    def _reorder_cache(self, past_key_values: HybridCache, beam_idx: Tensor) -> HybridCache:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values


def _advanced(cache: HybridCache | None, state: State, num_tokens: int) -> HybridCache:
    """The cache that was given, moved on, as `generate` expects; or a new one."""
    if cache is None:
        return HybridCache(state, num_tokens)
    cache.state = state
    cache.num_tokens += num_tokens
    return cache


def _groups(tokens_BT: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, int, int]]:
    """(rows, first token, one behind the last) of the rows that are padded alike."""
    batch, time = tokens_BT.shape
    if mask is None or bool(mask[:, -time:].all()):
        yield torch.arange(batch, device=tokens_BT.device), 0, time
        return
    if mask.dim() != 2 or mask.shape[0] != batch or mask.shape[1] < time:
        raise BadTokens(
            f"The attention mask has the shape {tuple(mask.shape)}: give ({batch}, {time}), 1 for "
            "tokens and 0 for padding."
        )
    seen = mask[:, -time:].bool()
    first = seen.int().argmax(1)
    length = seen.sum(1)
    last = time - seen.int().flip(1).argmax(1)
    if not bool(((last - first) == length).all()):
        raise BadTokens(
            "The attention mask has a hole or an empty row: a recurrent network can leave out "
            "padding before and after a text, not within. Take the hidden tokens out of the text."
        )
    bounds = torch.stack([first, last], dim=1)
    for pair in bounds.unique(dim=0):
        rows = (bounds == pair).all(1).nonzero()[:, 0]
        yield rows, int(pair[0]), int(pair[1])


def from_checkpoint(
    folder: Path, kernels: str | Kernels = "auto"
) -> tuple[TwinHybridForCausalLM, Any]:
    """The model of one of our folders and its tokenizer, both as `transformers` has them; call
    `save_pretrained` of both to hand them on. Raises BadCheckpoint."""
    model, tokenizer, _ = load_model(folder, kernels)
    return wrap(model, tokenizer), fast_tokenizer(tokenizer)


def wrap(model: HybridLM, tokenizer: Tokenizer | None = None) -> TwinHybridForCausalLM:
    """The same network, not a copy, behind Hugging Face's interface."""
    end = tokenizer.end if tokenizer is not None else None
    config = TwinHybridConfig(
        shape=model.config.to_dict(), eos_token_id=end, pad_token_id=end, bos_token_id=end
    )
    # Built on no memory: its own weights would be thrown away at once.
    with torch.device("meta"):
        wrapper = TwinHybridForCausalLM(config, kernels=model.kernels)
    wrapper.model = model
    return wrapper.train(model.training)


def fast_tokenizer(tokenizer: Tokenizer) -> Any:
    """A `PreTrainedTokenizerFast` that pads on the left; its numbers are those of our tokenizer's
    `encode(text, control=True)`: as with every tokenizer of that library, a control token's name
    within a text becomes that token. Call it with `split_special_tokens=True` for text that others
    wrote: it then reads such a name as any other characters."""
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_str(_fast_json(tokenizer))
    marks = list(tokenizer.control)
    fast.add_special_tokens(marks)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, padding_side="left", clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    if tokenizer.end is not None:
        end = marks[0]
        wrapped.add_special_tokens(
            {"eos_token": end, "pad_token": end, "bos_token": end,
             "additional_special_tokens": marks[1:]}
        )  # fmt: skip
    return wrapped


def _fast_json(tokenizer: Tokenizer) -> str:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    if isinstance(tokenizer, BpeTokenizer):
        return json.dumps(tokenizer.to_dict()["bpe"])
    if isinstance(tokenizer, CharTokenizer):
        vocab = {symbol: number for number, symbol in enumerate(tokenizer.symbols)}
        fast = Fast(models.WordLevel(vocab, unk_token=tokenizer.replacement))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        fast.decoder = decoders.Fuse()
        return str(fast.to_str())
    fast = Fast(models.BPE(vocab=byte_of_symbol(), merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return str(fast.to_str())


def register() -> None:
    """Tells the `Auto*` classes; done once, when this module is imported."""
    AutoConfig.register(TwinHybridConfig.model_type, TwinHybridConfig, exist_ok=True)
    AutoModelForCausalLM.register(TwinHybridConfig, TwinHybridForCausalLM, exist_ok=True)


register()
