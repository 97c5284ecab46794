"""Writes the generated pages of `docs/`: every command's help, every configuration key.

`python -m twin.cli.docs docs` (or `make docs`) writes them; a test compares them with the code.
"""

import ast
import inspect
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

_WIDTH = 80
_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_MADE_BY = "<!-- Made by `make docs` from the code; changes here are lost. -->"


def pages() -> dict[str, str]:
    """File name -> text of each generated page."""
    return {"commands.md": _commands_page(), "configuration.md": _configuration_page()}


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
