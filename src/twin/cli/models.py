"""`twin models`: the registry for people: list, show, promote, roll back, history."""

import dataclasses

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.records import ModelVersion

DEFAULT_MODEL = "relevance"


@click.group(name="models", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """The versions of each model: which one is in service, and what became of the others.

    \b
    Example:
      twin models
      twin models show relevance-3
      twin models rollback
    """
    # `twin models --json show X` means the same as `twin models show X --json`.
    ctx.default_map = {name: {"as_json": True} for name in command.commands} if as_json else None
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Door), as_json)


def _list(door: Door, as_json: bool) -> None:
    with door.store() as store:
        versions = store.registry.versions()
    if as_json:
        show.as_json({"versions": versions})
        return
    rows = [
        (v.version_id, v.model, v.status, show.when(v.created_at), v.lineage.code_version)
        for v in versions
    ]
    note = "" if rows else "None yet: the shipped model answers. `twin improve` fits one."
    show.table("Models", ("version", "model", "status", "made (UTC)", "code"), rows, note=note)


@command.command(name="show")
@click.argument("version_id")
@json_option
@pass_door
def show_version(door: Door, version_id: str, as_json: bool) -> None:
    """One version: its figures and where it comes from.

    \b
    Example:
      twin models show relevance-3
    """
    with door.store() as store:
        version = store.registry.get(version_id)
    _show_one(version, as_json)


@command.command(name="promote")
@click.argument("version_id")
@click.option("--reason", default="by hand", show_default=True, help="Kept in the history.")
@json_option
@pass_door
def promote(door: Door, version_id: str, reason: str, as_json: bool) -> None:
    """Puts a version that passed the gate into service; the one before it retires.

    \b
    Example:
      twin models promote relevance-3 --reason "checked by hand"
    """
    with door.store() as store:
        version = store.registry.promote(version_id, reason)
    _moved(version, as_json)


@command.command(name="rollback")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--reason", default="by hand", show_default=True, help="Kept in the history.")
@json_option
@pass_door
def rollback(door: Door, model: str, reason: str, as_json: bool) -> None:
    """Takes the version in service out and puts the one before it back.

    \b
    Example:
      twin models rollback --reason "slow on our largest repository"
    """
    with door.store() as store:
        version = store.registry.rollback(model, reason)
    _moved(version, as_json)


@command.command(name="history")
@click.argument("model", default=DEFAULT_MODEL)
@json_option
@pass_door
def history(door: Door, model: str, as_json: bool) -> None:
    """Every move of every version of a model, with its reason.

    \b
    Example:
      twin models history relevance
    """
    with door.store() as store:
        moves = store.registry.history(model)
    if as_json:
        show.as_json({"model": model, "moves": moves})
        return
    columns = ("when (UTC)", "version", "from", "to", "reason")
    rows = [(show.when(m.at), m.version_id, m.before, m.after, m.reason) for m in moves]
    show.table(f"History of {model}", columns, rows, note="" if rows else "No moves yet.")


def _show_one(version: ModelVersion, as_json: bool) -> None:
    if as_json:
        show.as_json(version)
        return
    facts = {
        **{name: getattr(version, name) for name in ("model", "status", "artifact")},
        "made (UTC)": show.when(version.created_at),
        **dataclasses.asdict(version.lineage),
        **version.metrics,
    }
    show.table(version.version_id, ("what", "value"), facts.items())


def _moved(version: ModelVersion, as_json: bool) -> None:
    if as_json:
        show.as_json(version)
    else:
        show.say(f"{version.version_id} is now {version.status}.")
