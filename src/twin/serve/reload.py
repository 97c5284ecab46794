"""What a reload cannot change in a running gateway: said by name, so that nobody takes a limit for
set that is not."""

import msgspec

from twin.config import Config

RESTART = (
    "serve.host",
    "serve.port",
    "serve.max_response_bytes",
    "serve.drain_s",
    "serve.otlp_endpoint",
    "record.max_age_days",
    "record.max_mb",
    "store.url",
)
"""Read once: by the socket, the client of the models, the exporter, and the recorder's process."""
CONNECTIONS = "serve.max_concurrency"
"""Taken over for calls; as the number of connections to one server it stays."""


def needs_restart(running: Config, wanted: Config) -> list[str]:
    """The keys that differ and count only from the next start on."""
    return [key for key in (*RESTART, CONNECTIONS) if _at(running, key) != _at(wanted, key)]


def _at(config: Config, key: str) -> object:
    table, name = key.split(".")
    values: msgspec.Struct = getattr(config, table)
    return getattr(values, name)
