"""`twin keys`: virtual keys for people: create, list, revoke."""

import time

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.times import length
from twin.records import VirtualKey


@click.group(name="keys", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Who may ask the gateway, and within which limits. Secrets are shown once, when made.

    \b
    Example:
      twin keys create laptop --monthly-usd 5 --expires 90d
      twin keys
      twin keys revoke laptop
    """
    ctx.default_map = {name: {"as_json": True} for name in command.commands} if as_json else None
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Door), as_json)


@command.command(name="create")
@click.argument("name")
@click.option(
    "--models", default="", metavar="A,B", help="Models it may ask, globs too; default: all."
)
@click.option("--monthly-usd", type=click.FloatRange(min=0), help="Refused above it (UTC months).")
@click.option("--requests-per-minute", type=click.IntRange(min=1, max=1_000_000_000))
@click.option("--tokens-per-minute", type=click.IntRange(min=1, max=1_000_000_000))
@click.option("--expires", metavar="LENGTH", callback=length, help="Such as 90d; default: never.")
@json_option
@pass_door
def create(
    door: Door,
    name: str,
    models: str,
    monthly_usd: float | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Makes a key and prints its secret, which is stored nowhere.

    \b
    Example:
      twin keys create laptop --models small,big --requests-per-minute 60 --expires 90d
    """
    with door.home_store() as (_, _, store):
        key, secret = store.keys.create(
            name,
            models=[model.strip() for model in models.split(",") if model.strip()],
            monthly_usd=monthly_usd,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires_at=None if expires is None else time.time() + expires,
        )
    if as_json:
        show.as_json({**_plain(key), "secret": secret})
        return
    show.say(secret)
    click.echo(f"twin: the secret of {key.key_id} ({name}) is not shown again.", err=True)


@command.command(name="list")
@json_option
@pass_door
def list_keys(door: Door, as_json: bool) -> None:
    """Every key that was made, also those that are over.

    \b
    Example:
      twin keys list
    """
    _list(door, as_json)


@command.command(name="revoke")
@click.argument("key")
@json_option
@pass_door
def revoke(door: Door, key: str, as_json: bool) -> None:
    """Ends a key, given by its id or its name. A running gateway notices within seconds.

    \b
    Example:
      twin keys revoke laptop
    """
    with door.home_store() as (_, _, store):
        revoked = store.keys.revoke(key)
    if as_json:
        show.as_json(_plain(revoked))
    else:
        show.say(f"{revoked.key_id} ({revoked.name}) lets nobody in any more.")


def _list(door: Door, as_json: bool) -> None:
    with door.home_store() as (_, _, store):
        keys = store.keys.all()
    if as_json:
        show.as_json({"keys": [_plain(key) for key in keys]})
        return
    columns = (
        "key", "name", "state", "models", "USD a month", "requests/min", "tokens/min",
        "made (UTC)", "expires (UTC)",
    )  # fmt: skip
    rows = [
        (
            key.key_id,
            key.name,
            _state(key),
            ", ".join(key.models) or "all",
            key.monthly_usd,
            key.requests_per_minute,
            key.tokens_per_minute,
            show.when(key.created_at),
            show.when(key.expires_at),
        )
        for key in keys
    ]
    note = "" if rows else "None yet. `twin keys create NAME` makes one."
    show.table("Keys", columns, rows, note=note)


def _state(key: VirtualKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= time.time() else "active"


def _plain(key: VirtualKey) -> dict[str, object]:
    """For programs: all but the digest, which is of use to nobody."""
    return {
        **{name: getattr(key, name) for name in key.__struct_fields__ if name != "digest"},
        "state": _state(key),
    }
