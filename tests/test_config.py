"""One configuration file: which one counts, and what it says about a mistake in it."""

from pathlib import Path

import pytest

from twin.config import Config, load_config
from twin.errors import ConfigError


def refused(root: Path, text: str) -> str:
    (root / "twin.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(root)
    message = str(caught.value)
    assert str(root / "twin.toml") in message, "the sentence names the file"
    assert message.endswith((".", "?")), "the sentence ends with its cure"
    return message


def test_without_a_file_every_value_is_its_default(tmp_path: Path) -> None:
    assert load_config(tmp_path) == Config()


def test_only_what_is_written_differs_from_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "twin.toml").write_text("[fit]\nholdout = 0.3\n", encoding="utf-8")
    config = load_config(tmp_path)
    assert config.fit.holdout == 0.3
    assert config.fit.seed == Config().fit.seed
    assert config.mine == Config().mine


def test_an_empty_file_is_a_file_of_defaults(tmp_path: Path) -> None:
    (tmp_path / "twin.toml").write_text("", encoding="utf-8")
    assert load_config(tmp_path) == Config()


def test_a_file_that_is_named_wins_over_twin_toml_which_wins_over_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.twin.fit]\nseed = 1\n", encoding="utf-8")
    assert load_config(tmp_path).fit.seed == 1
    (tmp_path / "twin.toml").write_text("[fit]\nseed = 2\n", encoding="utf-8")
    assert load_config(tmp_path).fit.seed == 2
    named = tmp_path / "named.toml"
    named.write_text("[fit]\nseed = 3\n", encoding="utf-8")
    assert load_config(tmp_path, named).fit.seed == 3


def test_a_pyproject_without_our_section_is_not_ours_to_judge(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nseed = 1\n", encoding="utf-8")
    assert load_config(tmp_path) == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[fit]\nholdot = 0.3", "unknown key `holdot` in [fit]. Did you mean `holdout`?"),
        ("[mime]\nmin_words = 2", "unknown key `mime` in the top level. Did you mean `mine`?"),
        ("[context]\nzzz = 2", "Valid keys: window_tokens, reserve_tokens."),
        (
            "[models.a]\nprovider = 'vllm'\nbase = 'x'",
            "unknown key `base` in [models.a]. Did you mean `base_url`?",
        ),
        (
            "[models.a]\nprovider = 'vllm'\n[models.a.price]\ninputs = 1",
            "unknown key `inputs` in [models.a.price]. Did you mean `input`?",
        ),
        ("[models.a]\nmodel = 'x'", "`models.a`: `provider` is missing; it is one of openai,"),
        ("[models.a]\nprovider = 'vlm'", "`models.a.provider`: Invalid enum value 'vlm'"),
        ("[models.twin]\nprovider = 'vllm'", "`twin` is the router's own name"),
        ("[serve.aliases]\nx = 'y'", "the alias `x` leads to `y`, which is no model"),
        (
            "[models.a]\nprovider = 'vllm'\nfallback = ['b']",
            "`a` falls back to `b`, which is no model",
        ),
        ("[fit]\nseed = 'one'", "`fit.seed`: Expected `int`, got `str`"),
        ("store = 5", "`store`: Expected a table, got `int`"),
        ("[[fit]]\nseed = 1", "`fit`: Expected a table, got `array`"),
        ("[fit]\nholdout = 1.5", "`fit.holdout`: Expected `float` < 1.0"),
        ("[fit]\nholdout = 0", "`fit.holdout`: Expected `float` > 0.0"),
        ("[fit]\nholdout = nan", "`fit.holdout`: Expected `float` > 0.0"),
        ("[fit]\nholdout = true", "`fit.holdout`: Expected `float`, got `bool`"),
        ("[fit]\nbootstrap_rounds = 0", "`fit.bootstrap_rounds`: Expected `int` >= 100"),
        ("[fit]\nmax_tasks = 99999999999999999999999", "`fit.max_tasks`: Expected `int` <= "),
        ("[mine]\nmin_message_score = -1", "`mine.min_message_score`: Expected `float` >= 0.0"),
        ("[context]\nreserve_tokens = 32000", "must be less than `window_tokens`"),
        ("holdout 0.3", "is not valid TOML"),
        ('[fit]\nseed = "\x00"', "is not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_cure(
    tmp_path: Path, text: str, sentence: str
) -> None:
    assert sentence in refused(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "twin.toml").write_bytes(b"[store]\nurl = '\xff'\n")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(tmp_path)


def test_a_named_file_that_is_not_there_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path, tmp_path / "absent.toml")


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path, tmp_path)
