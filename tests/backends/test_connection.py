"""The connection fed by hand: what a network can do to the bytes, without the network's mood."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from tests.backends.upstream import (
    STREAM_HEAD,
    answer,
    chat_body,
    chat_events,
    chunk,
    head,
    sent,
    splits,
)

from twin.backends.connection import Connection, Response, Timeouts
from twin.errors import BackendError

LONG = Timeouts(connect_s=600, first_byte_s=600, idle_s=600, deadline_s=600)
VALID = [
    sent(answer(chat_body("Hello."))),
    sent(answer("", status=204)),
    head(204, {"x-a": "1"}),
    STREAM_HEAD + b"".join(map(chunk, chat_events("Hel", "lo"))) + b"0\r\n\r\n",
    STREAM_HEAD + chunk(b"data: 1\n\n") + b"0\r\nx-trailer: 1\r\n\r\n",
    head(100) + head(103, {"link": "</x>"}) + sent(answer("after hints", status=429)),
]


class Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self.is_aborted = False

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Outcome(tuple[int, list[tuple[bytes, bytes]], bytes, str, bool]):
    """Status, headers, body, error, and whether the connection can be used again."""


def fed(pieces: Sequence[bytes], *, is_ended: bool) -> Outcome:
    """What a request makes of these pieces; `is_ended`: the server closes after them."""

    async def feed() -> Outcome:
        wire, freed = Wire(), []
        connection = Connection(asyncio.get_running_loop(), "a:1", 1_000_000, freed.append)
        connection.connection_made(wire)  # type: ignore[arg-type]
        response = Response()
        connection.start(response, b"", b"", LONG, asyncio.get_running_loop().time(), False)
        for piece in pieces:
            if not wire.is_aborted:
                connection.data_received(piece)
        can_be_reused = connection.is_open
        if is_ended:
            connection.eof_received()
        error, body = "", b""
        if response.is_complete:
            try:
                body = await response.read()
            except BackendError as failure:
                error = str(failure)
        else:
            error = "not complete"
        connection.close()
        return Outcome((response.status, response.headers, body, error, can_be_reused))

    return asyncio.run(feed())


@given(st.sampled_from(VALID), st.lists(st.integers(0, 10_000), max_size=30))
def test_an_answer_is_the_same_however_it_is_split(data: bytes, places: list[int]) -> None:
    assert fed(list(splits(data, places)), is_ended=False) == fed([data], is_ended=False)


@given(st.sampled_from(VALID))
def test_a_whole_answer_frees_its_connection(data: bytes) -> None:
    status, _, _, error, can_be_reused = fed([data], is_ended=False)
    assert status >= 200
    assert (error, can_be_reused) == ("", True)


@given(st.sampled_from(VALID), st.integers(1, 10_000), st.lists(st.integers(0, 10_000), max_size=5))
def test_an_answer_cut_short_is_never_taken_for_whole(
    data: bytes, missing: int, places: list[int]
) -> None:
    cut = data[: len(data) - 1 - missing % len(data)]
    error = fed(list(splits(cut, places)), is_ended=True)[3]
    assert "closed the connection" in error


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_end_in_an_answer_or_an_error(data: bytes, places: list[int]) -> None:
    status, _, _, error, _ = fed(list(splits(data, places)), is_ended=True)
    assert error or status >= 200


@given(st.sampled_from(VALID), st.binary(min_size=1, max_size=50), st.lists(st.integers(0, 10_000)))
def test_what_follows_an_answer_never_reaches_the_next(
    data: bytes, extra: bytes, places: list[int]
) -> None:
    whole = fed([data], is_ended=False)
    status, headers, body, error, can_be_reused = fed(
        list(splits(data + extra, places)), is_ended=False
    )
    assert (status, headers, body, error) == whole[:4]
    # Blank lines between two messages are all that HTTP allows there.
    assert not can_be_reused or not extra.strip(b"\r\n")


@given(st.binary(max_size=2000), st.lists(st.integers(0, 5000), max_size=20))
def test_a_body_arrives_byte_for_byte(body: bytes, places: list[int]) -> None:
    with_length = head(200, {"content-length": str(len(body))}) + body
    until_the_end = head(200) + body
    for data in (with_length, until_the_end):
        assert fed(list(splits(data, places)), is_ended=True)[2:4] == (body, "")
