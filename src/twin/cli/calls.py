"""`twin calls`: what passed the gateway: search, show, comment, export.

What still lies in the journal is moved into the store first, so that everything works whether or
not a gateway is running. `answers` turns recorded bytes into what a person reads.
"""

import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twin.cli import show, transcript
from twin.cli.door import MAX_STDIN, Door, json_option, pass_door
from twin.cli.times import moment
from twin.errors import StoreError
from twin.records import LOCAL, Call, CallSummary, Feedback

if TYPE_CHECKING:
    from twin.store.database import Store

_OUTCOMES = ("ok", "refused", "failed", "cancelled")


class _WithDefault(click.Group):
    """`twin calls QUERY` means `twin calls search QUERY`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((arg for arg in args if arg != "--json"), "")
        if first in self.commands:
            # `twin calls --json show X` means the same as `twin calls show X --json`.
            at = args.index(first)
            args = [first, *args[:at], *args[at + 1 :]]
        elif first not in ("-h", "--help"):
            args = ["search", *args]
        return super().parse_args(ctx, args)


@click.group(name="calls", cls=_WithDefault)
def command() -> None:
    """What passed the gateway: `twin calls [QUERY]` searches; see `twin calls search --help`.

    \b
    Example:
      twin calls
      twin calls --json
      twin calls "retry delay" --escalated --since 2d
      twin calls show call_0123456789abcdef0123456789abcdef
    """


@command.command(name="search")
@click.argument("query", default="")
@click.option("--model", metavar="NAME", help="That was asked for, or that answered.")
@click.option("--outcome", type=click.Choice(_OUTCOMES))
@click.option("--session", metavar="ID")
@click.option("--task", "task_id", metavar="ID")
@click.option("--key", "key_id", metavar="KEY_ID", help="The virtual key that asked.")
@click.option(
    "--since",
    metavar="TIME",
    callback=moment,
    help="2h (ago), 2026-11-21 or 2026-11-21T08:30 (UTC).",
)
@click.option("--until", metavar="TIME", callback=moment, help="Likewise.")
@click.option("--escalated/--not-escalated", default=None, help="A first answer was not enough.")
@click.option("--feedback/--no-feedback", default=None, help="Somebody said something of it.")
@click.option("--before", metavar="CALL_ID", help="Goes on after the last one of an earlier list.")
@click.option("--limit", type=click.IntRange(min=1, max=100_000), default=20, show_default=True)
@json_option
@pass_door
def search(door: Door, /, query: str, limit: int, as_json: bool, **filters: Any) -> None:
    """Calls in which QUERY was asked or answered, the newest first; all without one.

    \b
    Example:
      twin calls search "retry delay" --model small --limit 5
    """
    with _recorded(door) as store:
        found = store.calls.search(query, limit=limit, **filters)
    if as_json:
        show.as_json({"calls": [transcript.plain(call) for call in found]})
        return
    columns = (
        "call", "when (UTC)", "asked", "answered", "outcome", "status", "tokens in", "out", "USD",
        "ms", "notes",
    )  # fmt: skip
    note = ""
    if not found:
        note = "None. Other words or fewer filters may find some; `twin serve` records calls."
    elif len(found) == limit:
        note = f"There may be more: --before {found[-1].call_id}"
    show.table("Calls", columns, [_line(call) for call in found], note=note)


@command.command(name="show")
@click.argument("call_id")
@json_option
@pass_door
def show_call(door: Door, call_id: str, as_json: bool) -> None:
    """One call's whole story: its route, context, attempts, what was asked and answered.

    \b
    Example:
      twin calls show call_0123456789abcdef0123456789abcdef
    """
    with _recorded(door) as store:
        call = store.calls.get(call_id)
        said = store.calls.feedback(call_id)
    if as_json:
        feedback = [transcript.plain(each) for each in said]
        show.as_json({**transcript.plain(call), "feedback": feedback})
    else:
        _tell(call, said)


@command.command(name="feedback")
@click.argument("call_id")
@click.option("--score", type=click.FloatRange(0, 1), help="1 is good, 0 is bad.")
@click.option("--comment", default="")
@click.option(
    "--demonstration",
    default="",
    metavar="TEXT",
    help="A better answer; - reads it from stdin.",
)
@json_option
@pass_door
def feedback(
    door: Door, call_id: str, score: float | None, comment: str, demonstration: str, as_json: bool
) -> None:
    """Says how good a call's answer was, or what it should have been.

    \b
    Example:
      twin calls feedback call_0123456789abcdef0123456789abcdef --score 0 --comment "wrong file"
      git diff | twin calls feedback call_0123456789abcdef0123456789abcdef --demonstration -
    """
    if demonstration == "-":
        demonstration = sys.stdin.buffer.read(MAX_STDIN).decode("utf-8", "replace")
    if score is None and not comment and not demonstration:
        raise click.UsageError("Give --score, --comment or --demonstration.")
    said = Feedback(
        feedback_id=f"fb_{secrets.token_hex(16)}",
        call_id=call_id,
        at=time.time(),
        score=score,
        comment=comment,
        demonstration=demonstration,
        key_id=LOCAL,
    )
    with _recorded(door) as store:
        store.calls.get(call_id)  # A wrong id is found here, not by whoever trains.
        store.calls.add_feedback([said])
    if as_json:
        show.as_json(transcript.plain(said))
    else:
        show.say(f"Noted as {said.feedback_id}.")


@command.command(name="export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, writable=True))
@click.option(
    "--preferences", "kind", flag_value="preferences", help="Pairs of answers: chosen, rejected."
)
@click.option("--sft", "kind", flag_value="sft", help="Good answers, demonstrations first.")
@json_option
@pass_door
def export(door: Door, file: Path, kind: str | None, as_json: bool) -> None:
    """Writes calls as JSONL in chat form, for training.

    \b
    Example:
      twin calls export --preferences pairs.jsonl
    """
    if kind is None:
        raise click.UsageError("Give --preferences or --sft.")
    with _recorded(door) as store:
        rows = transcript.preferences(store) if kind == "preferences" else transcript.sft(store)
        num_rows = 0
        with file.open("w", encoding="utf-8") as output:
            for row in rows:
                output.write(json.dumps(row) + "\n")
                num_rows += 1
    if as_json:
        show.as_json({"file": str(file), "num_rows": num_rows})
    else:
        show.say(f"{num_rows} rows in {file}.")


@contextmanager
def _recorded(door: Door) -> "Iterator[Store]":
    """The store with what the journal holds. Where that cannot be moved now, with what it has."""
    from twin.store.database import journal_folder
    from twin.store.ingest import Ingest

    with door.home_store() as (home, _, store):
        try:
            Ingest(store, journal_folder(home)).drain()
        except StoreError as error:
            click.echo(f"twin: the newest calls are missing here. {error}", err=True)
        yield store


def _line(call: CallSummary) -> tuple[object, ...]:
    notes = {
        "escalated": call.is_escalated, "degraded": call.is_degraded, "stream": call.is_stream
    }  # fmt: skip
    return (
        call.call_id,
        show.when(call.at),
        call.asked_model,
        call.model or None,
        call.outcome,
        call.status,
        call.num_prompt_tokens,
        call.num_completion_tokens,
        f"{call.cost_usd:.6f}".rstrip("0").rstrip("."),
        round(call.latency_ms),
        ", ".join(name for name, holds in notes.items() if holds),
    )


def _tell(call: Call, said: list[Feedback]) -> None:
    route = call.route
    facts: dict[str, object] = {
        "when (UTC)": show.when(call.at),
        "outcome": f"{call.outcome}, status {call.status}",
        "asked model": call.asked_model,
        "answered by": (call.model or "-") + (" (degraded)" if call.is_degraded else ""),
        "error": call.error or None,
        "first byte (ms)": call.first_byte_ms,
        "whole (ms)": call.latency_ms,
        "endpoint": call.dialect + (", streamed" if call.is_stream else ""),
        "session": call.session or None,
        "task": call.task_id or None,
        "key": call.key_id or None,
        "route": None if route is None else f"{route.model}: {route.reason}",
        **call.meta,
    }
    if route is not None and route.classification is not None:
        kind = route.classification
        facts["judged by"] = kind.version or None
        facts["type"] = kind.type
        facts["complexity"] = kind.complexity
        facts["confidence"] = kind.confidence
    show.table(call.call_id, ("what", "value"), facts.items())
    if call.context:
        rows = [(c.source, c.name, c.relevance, c.num_tokens) for c in call.context]
        show.table("Context", ("source", "name", "relevance", "tokens"), rows)
    columns = (
        "model", "outcome", "status", "account", "began (ms)", "first byte", "took", "pieces",
        "tokens in", "out", "USD", "confidence", "reason",
    )  # fmt: skip
    attempts = [
        (
            attempt.model,
            attempt.outcome,
            attempt.status,
            attempt.account or None,
            attempt.started_ms,
            attempt.first_byte_ms,
            attempt.latency_ms,
            len(attempt.chunk_ms) or None,
            attempt.usage.num_prompt_tokens if attempt.usage else None,
            attempt.usage.num_completion_tokens if attempt.usage else None,
            f"{attempt.cost_usd:.6f}".rstrip("0").rstrip("."),
            attempt.confidence,
            attempt.reason,
        )
        for attempt in call.attempts
    ]
    if attempts:
        show.table("Attempts", columns, attempts)
    if said:
        rows_said = [(show.when(f.at), f.score, f.comment, f.demonstration) for f in said]
        show.table("Feedback", ("when (UTC)", "score", "comment", "demonstration"), rows_said)
    for title, text in (
        ("Request", transcript.text_of(call.dialect, call.request)),
        ("Answer", transcript.answer(call)),
    ):
        show.say(f"{title}:")
        for line in text.splitlines() or ["(empty)"]:
            show.say(f"  {line}")
