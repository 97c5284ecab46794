"""A recipe is read strictly: what is not known or cannot be is refused with its cure."""

from pathlib import Path

import pytest

from twin.lm.errors import BadConfig
from twin.lm.recipe import Recipe, changed, load_recipe, parse_setting

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_recipe_comes_back_as_it_was(tmp_path: Path) -> None:
    recipe = Recipe(
        preset="8M", model={"dropout": 0.1}, stages=((0.2, 64),), steps=9, order="windows",
        teachers=("one", "other"),
    )  # fmt: skip
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_whole(path: Path) -> None:
    recipe = load_recipe(path)
    recipe.shape(vocab_size=300)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batches = 3", "Did you mean `batch`"),
        ("dropout = 0.1", r"Did you mean `dropout` in the table \[model\]"),
        ("zzz = 1", "Leave it out"),
        ("batch = 'x'", "Give a int"),
        ("batch = true", "Give a int"),
        ("batch = 0", "too small"),
        ("lr = -1", "is no amount"),
        ("lr = inf", "is no amount"),
        ("lr = nan", "is no amount"),
        ("warmup = 1.5", "is no share"),
        ("preset = '9M'", "There is no preset"),
        ("optimizer = 'sgd'", "not known"),
        ("schedule = 'steps'", "not known"),
        ("steps = 3\ntime_budget_s = 3", "one budget"),
        ("stages = [[0.5, 64], [0.2, 128]]", "rising shares"),
        ("stages = [[0.5, 100]]", "does not divide"),
        ("stages = [1]", "no pairs"),
        ("stages = [[0.5, inf]]", "no pairs"),
        ("model = 3", "wrong type"),
        ("teachers = 'one'", "are no folders"),
        ("teachers = [1]", "are no folders"),
        ("teachers = ['one']", 'Use `order = "windows"`'),
        ("teaching = 1.1", "is no share"),
        ("seed = 99999999999999999999999", "too large"),
        ("threads = 99999999999", "too large"),
        ("batch = 99999999999", "too large"),
        ("validate_every_s = nan", "is no time"),
        ("validate_every_s = -inf", "is no time"),
        ("batch = ", "no readable TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_cure(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig, match=said):
        load_recipe(path)


def test_a_recipe_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "nowhere.toml", tmp_path / "x.toml", tmp_path):
        with pytest.raises(BadConfig):
            load_recipe(path)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(BadConfig, match="Did you mean `dropout`"):
        Recipe(model={"drop": 0.1}).shape(65)
    with pytest.raises(BadConfig, match="text decides"):
        Recipe(model={"vocab_size": 3}).shape(65)
    assert Recipe(model={"dropout": 0.25}).shape(65).dropout == 0.25


def test_settings_of_the_command_line_reach_the_shape() -> None:
    settings = dict(map(parse_setting, ["lr=1e-3", "model.fusion=HGF", "model.dropout=0.1"]))
    recipe = changed(Recipe(), settings)
    assert (recipe.lr, recipe.model) == (1e-3, {"fusion": "HGF", "dropout": 0.1})
    with pytest.raises(BadConfig, match="no table"):
        changed(Recipe(), {"model": 3, "model.dropout": 0.1})
    with pytest.raises(BadConfig, match="no setting"):
        parse_setting("lr")


def test_the_budget_is_what_was_given_or_ten_minutes() -> None:
    assert Recipe().budget == ("seconds", 600.0)
    assert Recipe(steps=5).budget == ("steps", 5.0)
    assert Recipe(tokens=5).budget == ("tokens", 5.0)
    assert Recipe(time_budget_s=5).budget == ("seconds", 5.0)
