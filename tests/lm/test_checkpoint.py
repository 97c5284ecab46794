"""A checkpoint is whole or refused: whatever happens to the process, the files or their content."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from twin.lm import checkpoint
from twin.lm.checkpoint import (
    CONFIG,
    FILES,
    MANIFEST,
    is_checkpoint,
    load_card,
    load_config,
    load_model,
    model_digest,
    model_folder,
    save_model,
)
from twin.lm.config import HybridConfig
from twin.lm.errors import BadCheckpoint
from twin.lm.model import HybridLM
from twin.lm.tokenizer import ByteTokenizer, CharTokenizer

TOKENIZER = CharTokenizer("abcdefgh", control_tokens=False)
SMALL: dict[str, Any] = {
    "vocab_size": 8, "d_model": 16, "n_layers": 2, "head_dim": 8, "mamba_head_dim": 8,
    "d_state": 4, "decay_rank": 4,
}  # fmt: skip
CARD = {"text": "a poem", "val_loss": 1.5, "steps": [1, 2]}


def small_model(seed: int = 0, **options: Any) -> HybridLM:
    return HybridLM(HybridConfig(**SMALL | options), kernels="chunked", seed=seed)


def load(folder: Path) -> Any:
    return load_model(folder, kernels="chunked")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small_model(), TOKENIZER, CARD)
    return tmp_path / "model"


def sign_again(folder: Path) -> None:
    """What a program that forges a checkpoint would do: the manifest agrees with the files."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {name: checkpoint._entry(folder / name) for name in FILES}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_embeddings": False, "fusion": "HGF", "token_shift": "dd"},
        {"fusion": "MINGRU", "trainable_h0": True, "residual_gamma": 0.01, "attention_every": 2},
        {"pathways": "mamba"},
    ],
    ids=["plain", "untied", "options", "one pathway"],
)
def test_what_was_saved_is_loaded_to_the_last_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    model = small_model(**options)
    save_model(tmp_path / "deep" / "model", model, TOKENIZER, CARD)
    again, tokenizer, card = load(tmp_path / "deep" / "model")
    assert again.config == model.config
    assert tokenizer == TOKENIZER
    assert card == CARD
    assert not again.training
    wanted = model.state_dict()
    assert wanted.keys() == again.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_what_a_shape_does_not_name_is_as_it_was_before_there_was_a_choice(tmp_path: Path) -> None:
    save_model(tmp_path / "m", small_model(attention_every=2), TOKENIZER, CARD)
    told = json.loads((tmp_path / "m" / CONFIG).read_text())
    assert told["config"].pop("attention_norm") is False
    (tmp_path / "m" / CONFIG).write_text(json.dumps(told))
    sign_again(tmp_path / "m")
    assert load(tmp_path / "m")[0].config.attention_norm is False


def test_loading_leaves_the_random_numbers_of_others_alone(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(saved)
    assert torch.equal(torch.rand(4), expected)


def test_shape_and_card_are_read_without_torch(saved: Path) -> None:
    script = f"""
        import sys
        from pathlib import Path
        from twin.lm.checkpoint import load_card, load_config, model_digest
        folder = Path({str(saved)!r})
        print(load_config(folder).d_model, load_card(folder)["text"], len(model_digest(folder)))
        assert "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "16 a poem 64\n"


def test_the_digest_stands_for_what_the_model_says_not_for_its_card(tmp_path: Path) -> None:
    for name, seed, card in (("a", 0, {"n": 1}), ("b", 0, {"n": 2}), ("c", 1, {"n": 1})):
        save_model(tmp_path / name, small_model(seed), TOKENIZER, card)
    a, b, c = (model_digest(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_saving_again_replaces_it_and_leaves_other_files_alone(saved: Path) -> None:
    (saved / "metrics.jsonl").write_text("{}\n")
    first = model_digest(saved)
    save_model(saved, small_model(seed=1), TOKENIZER, {"second": True})
    assert model_digest(saved) != first
    assert load(saved)[2] == {"second": True}
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        [*FILES, MANIFEST, "metrics.jsonl"]
    )


STEPS = 15
"""More than the number of flushes and renames of one save: the last runs end by themselves."""


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_save_killed_at_any_step_leaves_the_old_or_the_new_one_whole(
    saved: Path, step: int
) -> None:
    old = model_digest(saved)
    child = os.fork()
    if child == 0:  # the child dies before its `step`-th flush or rename
        left = step

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return run

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)  # type: ignore[assignment]
        try:
            save_model(saved, small_model(seed=1), TOKENIZER, {"second": True})
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    model, _, card = load(saved)
    wanted = small_model(seed=1 if card == {"second": True} else 0).state_dict()
    assert card in (CARD, {"second": True})
    assert (model_digest(saved) == old) == (card == CARD)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    save_model(saved, small_model(seed=2), TOKENIZER, {"third": True})
    assert load(saved)[2] == {"third": True}
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, MANIFEST])


def test_a_first_save_that_was_killed_is_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / ".model.safetensors.new").write_bytes(b"half")
    assert not is_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match=r"has no manifest\.json"):
        load(folder)
    save_model(folder, small_model(), TOKENIZER, CARD)
    assert is_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BadCheckpoint, match=rf"{name} is cut short .* restore"):
        load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_other_byte_is_named(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(BadCheckpoint, match=rf"{name} was changed after it was saved"):
        load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(BadCheckpoint, match=rf"{name} is missing"):
        load(saved)


def test_what_is_no_checkpoint_is_said_with_the_reason(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.safetensors").write_bytes(b"")
    for name, reason in {
        "nothing": "no such folder",
        "file": "cannot be read|it is a file",
        "empty": "no manifest",
        "foreign": "from_pretrained",
    }.items():
        with pytest.raises(BadCheckpoint, match=reason):
            load(tmp_path / name)


def forge(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    if name != MANIFEST:
        sign_again(folder)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (MANIFEST, "not json", "is not JSON"),
        (MANIFEST, "[" * 100_000, "is not JSON"),
        (MANIFEST, [], "is not a JSON object"),
        (MANIFEST, {"kind": "gpt", "format": 1}, "another program"),
        (MANIFEST, {"kind": "twin-lm", "format": 2}, "has format 2"),
        (MANIFEST, {"kind": "twin-lm", "format": 1}, "does not list the checkpoint's files"),
        (
            MANIFEST,
            {"kind": "twin-lm", "format": 1, "files": {"../../etc/passwd": {}}},
            "does not list the checkpoint's files",
        ),
        (
            MANIFEST,
            {"kind": "twin-lm", "format": 1, "files": {key: {"size": "9"} for key in FILES}},
            "does not list sizes",
        ),
        (
            MANIFEST,
            {
                "kind": "twin-lm",
                "format": 1,
                "files": {key: {"size": 10**30, "sha256": "0"} for key in FILES},
            },
            "cannot be read|cut short",
        ),
        ("config.json", {"kind": "twin-lm", "format": 2}, "has format 2"),
        ("config.json", {"kind": "twin-lm", "format": 1}, "describes no model"),
        ("config.json", {"kind": "twin-lm", "format": 1, "config": [1]}, "describes no model"),
        (
            "config.json",
            {"kind": "twin-lm", "format": 1, "config": SMALL | {"d_modle": 3}},
            "d_model",
        ),
        (
            "config.json",
            {"kind": "twin-lm", "format": 1, "config": SMALL | {"n_layers": 10**12}},
            "different models",
        ),
        (
            "config.json",
            {"kind": "twin-lm", "format": 1, "config": SMALL | {"head_dim": 4}},
            "bonus",  # as many parameters, another shape
        ),
        ("model.safetensors", "garbage", "not in safetensors format"),
        ("tokenizer.json", {"kind": "word", "format": 1, "control": []}, "no kind of tokenizer"),
        ("card.json", "7", "is not a JSON object"),
    ],
)
def test_a_forged_file_is_refused_with_its_reason(
    saved: Path, name: str, value: Any, reason: str
) -> None:
    forge(saved, name, value)
    with pytest.raises(BadCheckpoint, match=reason):
        load(saved)


def test_the_wrong_tokenizer_is_refused_both_ways(saved: Path) -> None:
    with pytest.raises(BadCheckpoint, match="261 symbols and the model 8"):
        save_model(saved, small_model(), ByteTokenizer(), CARD)
    forge(saved, "tokenizer.json", ByteTokenizer().to_dict())
    with pytest.raises(BadCheckpoint, match="261 symbols and the model 8"):
        load(saved)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(saved: Path) -> None:
    broken = small_model(seed=1)
    with torch.no_grad():
        broken.embed.weight[0, 0] = float("nan")
    with pytest.raises(BadCheckpoint, match="diverged"):
        save_model(saved, broken, TOKENIZER, CARD)
    assert load(saved)[2] == CARD  # the good one is still there
    weights = load_file(saved / "model.safetensors")
    weights["norm.weight"][0] = float("inf")
    save_file(weights, saved / "model.safetensors")
    sign_again(saved)
    with pytest.raises(BadCheckpoint, match=r"not finite in norm\.weight"):
        load(saved)


def test_a_card_that_json_cannot_hold_is_refused_before_the_old_one_is_touched(saved: Path) -> None:
    for card in ({"loss": float("nan")}, {"when": object()}):
        with pytest.raises(BadCheckpoint, match="card"):
            save_model(saved, small_model(seed=1), TOKENIZER, card)
    assert load(saved)[2] == CARD


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadCheckpoint, match="cannot be written"):
        save_model(tmp_path / "file" / "model", small_model(), TOKENIZER, CARD)


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../x", ".hidden", "a\0b", "x" * 101, "-x"])
def test_a_hostile_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadCheckpoint, match="cannot be a model's name"):
        model_folder(tmp_path, name)


def test_a_plain_name_is_a_folder_below_the_root(tmp_path: Path) -> None:
    assert model_folder(tmp_path, "shakespeare-5M_v1.2") == tmp_path / "shakespeare-5M_v1.2"


def test_the_card_alone_and_the_shape_alone_are_checked_too(saved: Path) -> None:
    assert load_card(saved) == CARD
    assert load_config(saved) == HybridConfig(**SMALL)
    (saved / "card.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"card\.json"):
        load_card(saved)
