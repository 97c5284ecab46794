"""llama.cpp's `llama-server`: the adapter is chosen per request.

Owns the list of scales that goes into each request. Left out, *all* adapters that the server holds
apply at once, each in full; an unknown number is silently ignored, and the base model answers. So
each request carries the whole list, with an explicit 0 for all but one, and the numbers come from
the server itself.
"""

import asyncio
import time
from collections.abc import Iterable
from pathlib import PurePath

import msgspec

from twin.backends.backend import Ask
from twin.backends.http import HttpClient, Response, Url
from twin.backends.served import ServedBackend
from twin.errors import BackendBroken, BackendError, BackendUnreachable
from twin.records import DialectName

FRESH_S = 2.0
"""The list only changes with a restart, which breaks connections and so drops it at once; this is
for a restart that nobody noticed."""
GENERATES = frozenset(("chat", "completions"))
"""Dialects whose requests take the list."""


class LoadedAdapter(msgspec.Struct, frozen=True):
    """One entry of `GET /lora-adapters`."""

    id: int
    path: str


class LlamaServer:
    """One model of one llama-server, with one of its adapters or none."""

    def __init__(
        self,
        *,
        client: HttpClient,
        base_url: str,
        dialects: Iterable[DialectName],
        headers: Iterable[tuple[bytes, bytes]] = (),
        adapter: str = "",
    ) -> None:
        """`adapter`: the file that the server was started with, its name, with or without its
        ending, or its number. Empty: the base model."""
        self._served = ServedBackend(
            client=client, base_url=base_url, dialects=dialects, headers=headers
        )
        self.dialects = self._served.dialects
        self._adapter = adapter
        self._list_url = Url.parse(base_url.rstrip("/").removesuffix("/v1") + "/lora-adapters")
        self._scales = b""
        self._fresh_until = float("-inf")
        self._reading = asyncio.Lock()

    async def ask(self, ask: Ask, secret: str | None) -> Response:
        """Raises BackendUnreachable, too, where the server does not hold the adapter."""
        try:
            if ask.dialect in GENERATES and (scales := await self._current_scales(secret)):
                ask = msgspec.structs.replace(ask, body=with_scales(ask.body, scales))
            return await self._served.ask(ask, secret)
        except BackendError:
            self._fresh_until = float("-inf")
            raise

    async def is_alive(self, secret: str | None = None) -> bool:
        """Whether it is up and holds the adapter."""
        try:
            await self._current_scales(secret)
        except BackendError:
            return False
        return await self._served.is_alive(secret)

    async def close(self) -> None:
        await self._served.close()

    async def _current_scales(self, secret: str | None) -> bytes:
        if time.monotonic() < self._fresh_until:
            return self._scales
        async with self._reading:
            if time.monotonic() >= self._fresh_until:
                self._scales = scales_for(self._adapter, await self._loaded(secret))
                self._fresh_until = time.monotonic() + FRESH_S
            return self._scales

    async def _loaded(self, secret: str | None) -> list[LoadedAdapter]:
        status, body = await self._served.get(self._list_url, secret)
        if status == 404 and not self._adapter:
            return []  # Too old to know adapters, or no llama-server after all.
        if status != 200:
            raise BackendUnreachable(
                f"{self._list_url.place} does not list its adapters (status {status}). Check that "
                "it is a llama-server and that its key is right."
            )
        try:
            return msgspec.json.decode(body, type=list[LoadedAdapter])
        except msgspec.DecodeError as error:
            raise BackendBroken(
                f"{self._list_url.place} lists its adapters in an unknown shape ({error}). Update "
                "the server."
            ) from error


def scales_for(adapter: str, loaded: list[LoadedAdapter]) -> bytes:
    """The JSON list that switches on `adapter` alone; empty where the server holds none at all."""
    chosen = [entry.id for entry in loaded if adapter and adapter in _names(entry)]
    if adapter and len(chosen) != 1:
        known = ", ".join(entry.path for entry in loaded) or "none"
        how = "holds no adapter" if not chosen else "holds several adapters"
        raise BackendUnreachable(
            f"The llama-server {how} called `{adapter}`; it holds: {known}. Start it with "
            "`--lora FILE`, or correct `adapter`."
        )
    if not loaded:
        return b""
    return msgspec.json.encode(
        [{"id": entry.id, "scale": 1.0 if entry.id in chosen else 0.0} for entry in loaded]
    )


def with_scales(body: bytes, scales: bytes) -> bytes:
    """`body` with the list as its last field. Of a field that comes twice the server takes the
    last, so that a caller's own list has no effect."""
    inside = body.rstrip()[:-1].rstrip()
    comma = b"" if inside.endswith(b"{") else b","
    return b'%s%s"lora":%s}' % (inside, comma, scales)


def _names(entry: LoadedAdapter) -> set[str]:
    path = PurePath(entry.path)
    return {str(entry.id), entry.path, path.name, path.stem}
