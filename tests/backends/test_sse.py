"""The parser of server-sent events: the specification's cases, and any split of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.sse import Event, SseParser
from twin.errors import BackendBroken


def parse(*pieces: bytes, limit: int = 1000) -> list[Event]:
    parser = SseParser(max_event_bytes=limit)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.end()]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: x\n\n", [("", b"x")]),
        (b"data:x\n\n", [("", b"x")]),
        (b"data:  x\n\n", [("", b" x")]),
        (b"data\n\n", [("", b"")]),
        (b"data:\n\n", [("", b"")]),
        (b"event: ping\n\n", []),
        (b"event: a\ndata: x\n\n", [("a", b"x")]),
        (b"event: a\nevent: b\ndata: x\n\n", [("b", b"x")]),
        (b"data: x\nevent:a\nid: 1\nretry: 5\n\n", [("a", b"x")]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", b"YHOO\n+2\n10")]),
        (b": a comment\n\ndata: x\n\n", [("", b"x")]),
        (b": a comment\ndata: x\n\n", [("", b"x")]),
        (b"unknown: 1\ndata: x\nno colon\n\n", [("", b"x")]),
        (b'data: {"a": "b: c"}\n\n', [("", b'{"a": "b: c"}')]),
        (b"\n\n\ndata: x\n\n\n\n\ndata: y\n\n\n", [("", b"x"), ("", b"y")]),
        (b"data: x\r\n\r\ndata: y\r\n\r\n", [("", b"x"), ("", b"y")]),
        (b"data: x\r\rdata: y\r\r", [("", b"x"), ("", b"y")]),
        (b"data: x\n\r\ndata: y\r\n\n", [("", b"x"), ("", b"y")]),
        (b"data: x\r\ndata: y\rdata: z\n\r", [("", b"x\ny\nz")]),
        (b"\xef\xbb\xbfdata: x\n\n", [("", b"x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: \xe2\x82\xac\n\n", [("", "€".encode())]),
        (b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")]),
        (b"data: x\n\ndata: cut", [("", b"x"), ("", b"cut")]),
        (b"data: [DONE]\n", [("", b"[DONE]")]),
        (b"\xef\xbb", []),
        (b"", []),
    ],
)
def test_a_stream_is_read_as_the_specification_says(
    stream: bytes, events: list[tuple[str, bytes]]
) -> None:
    assert [(event.event, event.data) for event in parse(stream)] == events


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    parser = SseParser()
    assert parser.feed(b"data: x\n") == []
    assert parser.feed(b"\n") == [Event("", b"x")]
    assert parser.feed(b"data: y\r\n\r") == [Event("", b"y")]
    assert parser.feed(b"\ndata: z\n\n") == [Event("", b"z")]


def test_many_events_in_one_piece_all_come() -> None:
    stream = b"".join(b"data: %d\n\n" % number for number in range(1000))
    assert [event.data for event in parse(stream)] == [b"%d" % number for number in range(1000)]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 100 + b"\n\n"],
        [b"data: ", b"x" * 50, b"x" * 50],
        [b"data: x\n"] * 100,
        [b": never an event\n"] * 100,
        [b"data: ok\n\ndata: " + b"x" * 100],
    ],
)
def test_an_event_larger_than_the_limit_is_an_error(pieces: list[bytes]) -> None:
    with pytest.raises(BackendBroken, match="more than 64 bytes"):
        parse(*pieces, limit=64)


def test_a_long_stream_of_small_events_stays_under_the_limit() -> None:
    assert len(parse(*[b"data: x\n\n"] * 1000, limit=64)) == 1000


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"event: a", b"event", b": c", b"", b"", b"id: 1",
     "data: €😀".encode(), b"data: \xff", b"\xef\xbb\xbfdata: z", b"x" * 30]
)  # fmt: skip
STREAMS = st.builds(
    lambda bom, parts: bom + b"".join(line + end for line, end in parts),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"]))),
)


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    starts, ends = [0, *places], [*places, len(stream)]
    return [stream[start:end] for start, end in zip(starts, ends, strict=True)]


@given(STREAMS | st.binary(), st.lists(st.integers(min_value=0)))
def test_any_split_of_a_stream_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert parse(*split(stream, cuts)) == parse(stream)


@given(STREAMS, st.lists(st.integers(min_value=0)), st.integers(1, 40))
def test_any_split_of_a_stream_meets_the_limit_alike(
    stream: bytes, cuts: list[int], limit: int
) -> None:
    def outcome(pieces: list[bytes]) -> list[Event] | None:
        try:
            return parse(*pieces, limit=limit)
        except BackendBroken:
            return None

    assert outcome(split(stream, cuts)) == outcome([stream])


def reference(stream: bytes) -> list[tuple[str, str]]:
    """The specification's algorithm, line by line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    events, name, data = [], "", []
    for line in [*text.split("\n"), ""]:
        if not line:
            if data:
                events.append((name, "\n".join(data)))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events


@given(STREAMS)
def test_it_agrees_with_the_specification_line_by_line(stream: bytes) -> None:
    found = [(event.event, event.data.decode("utf-8", "replace")) for event in parse(stream)]
    assert found == reference(stream)
