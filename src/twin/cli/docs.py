"""Writes the generated pages of `docs/`: every command's help, every configuration key, and the
presets and options of the language model.

`python -m twin.cli.docs docs` (or `make docs`) writes them; a test compares them with the code.
"""

import ast
import collections.abc
import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from twin import config
from twin.cli.main import cli
from twin.lm import config as lm_config
from twin.lm import recipe as lm_recipe

_WIDTH = 80
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_MADE_BY = "<!-- Made by `make docs` from the code; changes here are lost. -->"


def pages() -> dict[str, str]:
    """File name -> text of each generated page."""
    return {
        "commands.md": _commands_page(),
        "configuration.md": _configuration_page(),
        "lm-options.md": _language_model_page(),
    }


def _commands_page() -> str:
    parts = [
        "# Commands",
        _MADE_BY,
        'Every command takes `--json`; errors are then `{"error": {"kind", "message"}}` on '
        "stdout.\nExit codes: 0 done, 1 the answer is no, 2 wrong use, 3 something is missing, "
        "130 interrupted.",
    ]
    for ctx in _contexts(_top()):
        level = "#" * min(ctx.command_path.count(" ") + 2, 4)
        parts.append(f"{level} {ctx.command_path}\n\n```\n{ctx.get_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _top() -> click.Context:
    return click.Context(cli, info_name="twin", terminal_width=_WIDTH, **cli.context_settings)


def _contexts(ctx: click.Context) -> Iterator[click.Context]:
    """The command, then everything below it."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            assert command is not None
            yield from _contexts(
                click.Context(command, info_name=name, parent=ctx, terminal_width=_WIDTH)
            )


def _configuration_page() -> str:
    parts = [
        "# Configuration",
        _MADE_BY,
        "One file: `twin.toml` at the repository's root, or `[tool.twin]` in its "
        "`pyproject.toml`, or\nwhat `--config` names. An unknown key is an error that names the "
        "nearest valid one.",
    ]
    sections = {
        field.name: field.type
        for field in msgspec.structs.fields(config.Config)
        if field.name != "models"
    }
    sections |= {"models.NAME": config.ModelConfig, "models.NAME.price": config.Price}
    for name, struct in sections.items():
        parts.append(f"## [{name}]\n\n{inspect.getdoc(struct)}")
        rows = ["| key | default | allowed | why |", "| --- | --- | --- | --- |"]
        reasons = _field_docs(struct)
        for field in msgspec.structs.fields(struct):
            cells = (f"`{field.name}`", _default(field), _allowed(field.type), reasons[field.name])
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    """The value as TOML has it; a dash where there must be one or where none means "not set"."""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = None if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return "-" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _allowed(annotation: Any) -> str:
    """`int, at least 1`, from the field's type and its limits."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [
            f"{word} {getattr(limit, name):,}"
            for limit in arguments[1:]
            for name, word in _LIMITS.items()
            if getattr(limit, name) is not None
        ]
        return ", ".join([_allowed(arguments[0]), *limits])
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (types.UnionType, typing.Union):
        return _allowed(next(kind for kind in arguments if kind is not type(None)))
    if origin is tuple:
        return f"list of {_allowed(arguments[0])}"
    if origin is dict:
        return f"table of {_allowed(arguments[1])}"
    return "table" if issubclass(annotation, msgspec.Struct) else str(annotation.__name__)


def _language_model_page() -> str:
    """Without torch: shapes and their cost are arithmetic."""
    return (
        "\n\n".join(
            [
                "# The language model's presets and options",
                _MADE_BY,
                "What the network computes, and why, is in [lm.md](lm.md).",
                "## Presets",
                "A name is the number of parameters, embedding included, with the tokenizer that\n"
                "it is meant for. The state is what one stream takes in memory at any length;\n"
                "beside it, what a transformer of the same depth and width keeps in bfloat16\n"
                "keys and values.",
                _preset_table(),
                "## Options of the shape",
                "`[model]` of a recipe for `twin pretrain`, and `config.json` of a checkpoint.",
                _option_table(lm_config.HybridConfig),
                "## Keys of a recipe",
                "A TOML file for `twin pretrain RECIPE`.",
                _option_table(lm_recipe.Recipe),
            ]
        )
        + "\n"
    )


def _preset_table() -> str:
    rows = [
        "| preset | tokens | width | layers | heads RWKV, Mamba | state size N | feed-forward | "
        "parameters | state | transformer at 1K, 16K |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, known in lm_config.PRESETS.items():
        c = lm_config.preset(name)
        keys_and_values = 2 * 2 * c.n_layers * c.d_model  # bytes a token
        rows.append(
            f"| {name} | {known.tokens}, {c.vocab_size:,} | {c.d_model} | {c.n_layers} "
            f"| {c.n_heads} x {c.head_dim}, {c.mamba_heads} x {c.mamba_head_dim} | {c.d_state} "
            f"| {c.d_ffn} | {lm_config.num_parameters(c) / 1e6:.2f}M "
            f"| {lm_config.state_bytes(c) / 1024:,.0f} KiB | {keys_and_values * 1024 / 2**20:.0f}, "
            f"{keys_and_values * 16384 / 2**20:.0f} MiB |"
        )
    return "\n".join(rows)


def _option_table(record: type) -> str:
    """Every field of a dataclass; what its default and allowed values do not tell, in words."""
    hints = typing.get_type_hints(record)
    reasons = _field_docs(record)
    rows = ["| key | default | allowed | why |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(record):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "-" if default is dataclasses.MISSING else f"`{json.dumps(default)}`"
        rows.append(
            f"| `{field.name}` | {shown} | {_kind(hints[field.name])} "
            f"| {reasons.get(field.name, '')} |"
        )
    return "\n".join(rows)


def _kind(annotation: Any) -> str:
    """As `_allowed`, for types that only dataclasses have here."""
    origin = typing.get_origin(annotation)
    if origin is collections.abc.Mapping:
        return "table"
    if origin is tuple:
        return "list"
    return _allowed(annotation)


def _field_docs(struct: type) -> dict[str, str]:
    """The string below each field of a class, read from the source: Python does not keep it."""
    body = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
