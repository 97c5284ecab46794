"""Writes of one turn of the event loop go out as one."""

import asyncio
from typing import Any

from twin.serve.protocol import DIRECT_BYTES, OneWrite


class Wire(asyncio.Transport):
    """Remembers each write as the system call that it would be."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...


def test_head_and_body_of_one_turn_are_one_write_and_the_next_turn_is_another() -> None:
    async def story() -> list[bytes]:
        wire = Wire()
        transport = OneWrite(wire, asyncio.get_running_loop().call_soon)
        transport.write(b"head ")
        transport.write(b"body")
        assert not wire.writes
        await asyncio.sleep(0)
        transport.write(b"next")
        await asyncio.sleep(0)
        return wire.writes

    assert asyncio.run(story()) == [b"head body", b"next"]


def test_closing_sends_what_waits_first() -> None:
    async def story() -> Wire:
        wire = Wire()
        transport = OneWrite(wire, asyncio.get_running_loop().call_soon)
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0)
        return wire

    wire = asyncio.run(story())
    assert wire.writes == [b"last words"]
    assert wire.is_closed


def test_what_is_large_is_not_copied_and_keeps_its_place() -> None:
    async def story() -> list[bytes]:
        wire = Wire()
        transport = OneWrite(wire, asyncio.get_running_loop().call_soon)
        large = b"x" * (DIRECT_BYTES + 1)
        transport.write(large)
        assert wire.writes == [large]
        transport.write(b"head")
        transport.write(large)
        await asyncio.sleep(0)
        assert wire.writes[1:] == [b"head" + large], "never before what was written earlier"
        return wire.writes

    asyncio.run(story())
