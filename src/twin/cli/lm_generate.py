"""`twin lm generate`: continues a text with a model of one's own, in the terminal as it comes."""

import sys
from typing import TYPE_CHECKING, Any

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.cli.lm_door import checkpoint_folder, need_torch, sentences

if TYPE_CHECKING:
    from twin.lm.generate import Answer, Continuation, Generator


@click.command(name="generate")
@click.argument("name")
@click.argument("prompt", default="")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--temperature", type=float, default=0.8, show_default=True, help="0: always the likeliest."
)
@click.option("--top-k", type=int, default=0, help="Only the k likeliest; 0: all.")
@click.option("--top-p", type=float, default=1.0, help="Only the likeliest up to this share.")
@click.option("--min-p", type=float, default=0.0, help="Only those this near to the likeliest.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Above 1: repeats less.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Ends before this text.")
@click.option("--seed", type=int, default=None, help="The same seed gives the same text.")
@click.option("--streams", type=click.IntRange(1, 64), default=1, help="Answers side by side.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "int8", "bf16", "fp32"]),
    default="auto",
    show_default=True,
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@json_option
@pass_door
def command(
    door: Door, /, name: str, prompt: str, as_json: bool, weights: Any, threads: int,
    streams: int, **given: Any,
) -> None:  # fmt: skip
    """Continues PROMPT with the model NAME (`twin lm list`, or a checkpoint's folder).

    PROMPT `-` is read from stdin; an empty one begins a new text. Only what the model has seen in
    training can stand in it.

    \b
    Example:
      twin lm generate shakespeare "ROMEO:" --max-tokens 500 --seed 1
      twin lm generate shakespeare "To be" --temperature 0 --json
    """
    with sentences():
        need_torch("`twin lm generate`")
        from twin.lm.checkpoint import load_model
        from twin.lm.decode import Engine
        from twin.lm.generate import Generator
        from twin.lm.sampling import Sampling

        if prompt == "-":
            prompt = sys.stdin.buffer.read(1 << 24).decode("utf-8", "replace")
        seed = given.pop("seed")
        made = [
            Sampling(seed=None if seed is None else seed + stream, **given)
            for stream in range(streams)
        ]
        model, tokenizer, _ = load_model(checkpoint_folder(door, name))
        engine = Engine(model, weights=weights, threads=threads)
        generator = Generator(engine, tokenizer)
        try:
            under_way = [generator.start(prompt, sampling) for sampling in made]
            if as_json or streams > 1:
                answers = [each.answer() for each in under_way]
            else:
                answers = [_stream(prompt, under_way[0])]
        finally:
            generator.close()
    _tell(answers, generator, as_json=as_json, is_shown=streams == 1)


def _stream(prompt: str, under_way: "Continuation") -> "Answer":
    """The pieces as they come, the prompt before them; then the whole."""
    click.echo(_shown(prompt), nl=False)
    pieces = []
    for piece in under_way:
        pieces.append(piece)
        click.echo(_shown(piece.text), nl=False)
        sys.stdout.flush()
    click.echo("")
    return under_way.whole(pieces)


def _tell(
    answers: "list[Answer]", generator: "Generator", *, as_json: bool, is_shown: bool
) -> None:
    engine = generator.engine
    total = sum(len(answer.tokens) for answer in answers)
    seconds = max(answer.seconds for answer in answers)
    speed = total / seconds if seconds else 0.0
    if as_json:
        told = [
            {
                "text": answer.text, "finish": answer.finish, "num_tokens": len(answer.tokens),
                "num_prompt_tokens": answer.num_prompt_tokens,
            }
            for answer in answers
        ]  # fmt: skip
        found = {
            "answers": told, "tokens_per_s": speed, "engine": engine.name,
            "fallback": engine.fallback,
        }  # fmt: skip
        show.as_json(found)
        return
    if not is_shown:
        for number, answer in enumerate(answers, start=1):
            show.say(f"--- {number}")
            click.echo(_shown(answer.text))
    why = f" ({engine.fallback})" if engine.fallback else ""
    click.echo(f"{total} tokens, {speed:,.0f} tok/s, {engine.name}{why}", err=True)


def _shown(text: str) -> str:
    """Nothing that a model says may steer the terminal; its lines stay lines."""
    return "\n".join(show.clean(line) for line in text.split("\n"))
