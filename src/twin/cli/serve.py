"""`twin serve`: the gateway, one endpoint over all models."""

import sys
from typing import TYPE_CHECKING

import click

from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.config import Config, load_config

if TYPE_CHECKING:
    from twin.serve.server import Service

# -P: no modules out of the folder that it is started in, which is somebody's repository.
RETRIEVER = (sys.executable, "-P", "-m", "twin.cycle.retriever")

_HOW_TO_ADD = """\
Only the scripted model answers: none is configured. Add one to twin.toml, for example
  [models.small]
  provider = "ollama"          # or vllm, llama-server, openai, together, anthropic
  model = "qwen3:4b"
  role = "triage"              # T0; bigger models are `reasoning` and `escalation`
and send this process SIGHUP, or start it again."""


@click.command(name="serve")
@click.option("--host", help="Where to listen; default: `serve.host` (127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Default: `serve.port` (8484); 0: a free one."
)
@click.option("--verbose", is_flag=True, help="Log every call, not only what went wrong.")
@json_option
@pass_door
def command(door: Door, host: str | None, port: int | None, verbose: bool, as_json: bool) -> None:
    """Serves all configured models behind one OpenAI- and Anthropic-compatible endpoint.

    Asked for the model `twin`, it chooses the smallest tier that can do it. Every call is recorded
    in the store; `twin calls` shows them. Runs until Ctrl-C; SIGHUP reads the configuration again.

    \b
    Example:
      twin serve
      OPENAI_BASE_URL=http://127.0.0.1:8484/v1 OPENAI_API_KEY=none your-agent
      ANTHROPIC_BASE_URL=http://127.0.0.1:8484 ANTHROPIC_API_KEY=none your-agent
    """
    from twin.serve import logs
    from twin.serve.server import Service

    logs.configure(verbose=verbose)
    home = door.home()

    def load() -> Config:
        return load_config(home, door.config_file)

    def ready(service: "Service", at: str, bound: int) -> None:
        _say_ready(service, at, bound, as_json)

    with door.home_store() as (_, _, store):
        Service(home, load, store, RETRIEVER).run(
            host=host, port=port, verbose=verbose, ready=ready
        )


def _say_ready(service: "Service", host: str, port: int, as_json: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    names = service.gateway.fleet.names
    if as_json:
        show.as_json({"url": url, "models": names, "scripted": service.fleet.is_scripted})
        return
    if service.fleet.is_scripted:
        click.echo(_HOW_TO_ADD, err=True)
    show.say(f"Serving {', '.join(names)} at {url}")
    show.say(f"  OpenAI clients:    base_url={url}/v1")
    show.say(f"  Anthropic clients: base_url={url}")
    key = "a key of `twin keys create`" if service.requires_keys else "any key will do"
    show.say(f"  {key[0].upper()}{key[1:]}; calls are recorded: twin calls")
