"""`twin lm`: the language models of this repository: list, continue a text, judge, compare.

Owns the table of subcommands, each imported only when it is asked for: all but `list` need torch.
"""

import importlib
from typing import Any

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import models_folder

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "compare": ("twin.cli.lm_compare", "Variants of the network, side by side."),
    "gate": ("twin.cli.lm_gate", "What must hold before more time is spent on a model."),
    "generate": ("twin.cli.lm_generate", "Continues a text, in the terminal as it comes."),
    "list": ("twin.cli.lm", "Which models there are, and what they were trained on."),
    "score": ("twin.cli.lm_score", "How surprising each line of a file is."),
}
"""Name -> (module, short help). The module holds a click command in `command`; `list` is here."""


class LazyCommands(click.Group):
    """Imports a subcommand's module only when that subcommand is run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "list":
            return list_models
        if cmd_name not in SUBCOMMANDS:
            return None
        found = importlib.import_module(SUBCOMMANDS[cmd_name][0]).command
        assert isinstance(found, click.Command), f"{cmd_name} has no click command"
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyCommands, name="lm")
def command() -> None:
    """The small language models of this repository. `twin pretrain` makes one.

    \b
    Example:
      twin lm list --json
      twin lm generate shakespeare "ROMEO:"
      twin lm score code src/app.py --html app.html
    """


@click.command(name="list")
@json_option
@pass_door
def list_models(door: Door, as_json: bool) -> None:
    """Which models there are, and what they were trained on.

    \b
    Example:
      twin lm list --json
    """
    from twin.lm.checkpoint import is_checkpoint

    root = models_folder(door)
    folders = sorted(root.iterdir()) if root.is_dir() else []
    found = [_facts(folder) for folder in folders if is_checkpoint(folder)]
    if as_json:
        show.as_json({"models": found})
        return
    rows = [
        (m["name"], m["parameters"], m["shape"], m["tokens"], m["loss"], m["fault"]) for m in found
    ]
    note = "" if rows else "None yet. `twin pretrain --text FILE` makes one."
    columns = ("model", "parameters", "shape", "symbols", "held-out nats", "")
    show.table("Language models", columns, rows, note=note)


def _facts(folder: Any) -> dict[str, Any]:
    """What can be said without reading the weights; a damaged one is listed with its fault."""
    from twin.lm.checkpoint import load_card, load_config
    from twin.lm.config import num_parameters, state_bytes
    from twin.lm.errors import LmError

    facts: dict[str, Any] = dict.fromkeys(
        ("parameters", "shape", "tokens", "state_bytes", "loss", "card")
    )
    facts |= {"name": folder.name, "fault": ""}
    try:
        config, card = load_config(folder), load_card(folder)
    except LmError as error:
        return facts | {"fault": str(error)}
    figures = card.get("figures")
    loss = figures.get("validation") if isinstance(figures, dict) else None
    return facts | {
        "parameters": num_parameters(config),
        "shape": f"{config.d_model} x {config.n_layers} {config.fusion}",
        "tokens": config.vocab_size,
        "state_bytes": state_bytes(config),
        "loss": loss if isinstance(loss, int | float) else None,
        "card": card,
    }
