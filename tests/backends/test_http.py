import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.backends.conftest import Authority, Run
from tests.backends.upstream import (
    CLOSE,
    FAULTS,
    RESET,
    STALL,
    STREAM_HEAD,
    Pause,
    Step,
    Upstream,
    answer,
    big,
    chat,
    chat_body,
    chat_events,
    chunk,
    drip,
    head,
    http_date,
    sent,
    stream,
    unused_url,
)

from twin.backends.connection import HIGH_WATER, Connection
from twin.backends.http import HttpClient, Response, Timeouts, Url, prepare
from twin.errors import BackendBroken, BackendTimeout, BackendUnreachable

LONG = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=20)
"""For what must not be a matter of time."""
STALLED = Timeouts(connect_s=20, first_byte_s=0.2, idle_s=0.2, deadline_s=20)


@asynccontextmanager
async def client(**options: int) -> AsyncIterator[HttpClient]:
    made = HttpClient(**options)
    try:
        yield made
    finally:
        await made.close()


async def post(
    http: HttpClient, base: str, body: bytes = b"{}", timeouts: Timeouts = LONG
) -> Response:
    url = Url.parse(base + "/chat/completions")
    return await http.send("POST", url, [(b"content-type", b"application/json")], body, timeouts)


async def fetch(base: str, timeouts: Timeouts = LONG, **options: int) -> tuple[Response, bytes]:
    async with client(**options) as http:
        response = await post(http, base, timeouts=timeouts)
        return response, await response.read()


# What is sent, and what comes back.


def test_the_request_goes_out_as_it_was_given(run: Run) -> None:
    body = '{"model": "ä"}'.encode()
    with Upstream(chat("Hello.")) as upstream:

        async def ask() -> bytes:
            async with client() as http:
                url = Url.parse(upstream.url + "/chat/completions?a=b%20c")
                headers = [(b"Authorization", b"Bearer sk-1"), (b"x-twin", b"")]
                response = await http.send("POST", url, headers, body, LONG)
                assert response.status == 200
                assert (b"content-type", b"application/json") in response.headers
                return await response.read()

        assert run(ask()) == chat_body("Hello.")
    request = upstream.requests[0]
    assert (request.method, request.target) == ("POST", "/v1/chat/completions?a=b%20c")
    assert request.body == body
    assert request.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-1",
        "x-twin": "",
        "content-length": str(len(body)),
    }


def test_a_large_request_arrives_whole(run: Run) -> None:
    body = bytes(range(256)) * 40_000
    with Upstream(chat("Hello.")) as upstream:

        async def ask() -> None:
            async with client() as http:
                for _ in range(2):
                    await (await post(http, upstream.url, body)).read()

        run(ask())
        assert [request.body == body for request in upstream.requests] == [True, True]


@pytest.mark.parametrize(
    ("plan", "body"),
    [
        (answer("whole"), b"whole"),
        (answer(""), b""),
        ([head(200) + b"until the end", CLOSE], b"until the end"),
        ([head(200, {"connection": "close", "content-length": "2"}) + b"ok", CLOSE], b"ok"),
        ([b"HTTP/1.0 200 OK\r\n\r\nold", CLOSE], b"old"),
        ([STREAM_HEAD, chunk(b"a"), chunk(b"b" * 70_000), b"0\r\n\r\n"], b"a" + b"b" * 70_000),
        ([STREAM_HEAD, chunk(b"a"), b"0\r\nx-trailer: 1\r\n\r\n"], b"a"),
        ([head(204)], b""),
        ([head(304, {"content-length": "5"})], b""),
        ([head(100) + head(102) + sent(answer("after"))], b"after"),
        ([head(103, {"link": "</x>"}), Pause(0.01), *answer("hints")], b"hints"),
        (drip(sent(answer("one byte at a time"))), b"one byte at a time"),
        (drip(STREAM_HEAD + chunk(b"slow") + b"0\r\n\r\n"), b"slow"),
        (answer("zipped?", headers={"content-encoding": "gzip"}), b"zipped?"),
        (answer("<html>busy</html>", status=503, content_type="text/html"), b"<html>busy</html>"),
        (answer(chat_body("cut")[:40]), chat_body("cut")[:40]),
    ],
)
def test_every_way_to_end_an_answer_is_understood(run: Run, plan: Step, body: bytes) -> None:
    with Upstream(plan) as upstream:

        async def twice() -> list[bytes]:
            async with client() as http:
                return [await (await post(http, upstream.url)).read() for _ in range(2)]

        assert run(twice()) == [body, body]


@pytest.mark.parametrize("wait", ["7", http_date(30)])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_status_is_an_answer(run: Run, status: int, wait: str) -> None:
    with Upstream(answer('{"error": {}}', status=status, headers={"Retry-After": wait})) as up:
        response, body = run(fetch(up.url))
    assert (response.status, body) == (status, b'{"error": {}}')
    assert dict(response.headers)[b"retry-after"] == wait.encode()


def test_hints_before_the_answer_are_not_its_headers(run: Run) -> None:
    with Upstream([head(103, {"link": "</x>"}) + sent(answer("{}"))]) as upstream:
        response, _ = run(fetch(upstream.url))
    assert b"link" not in dict(response.headers)


def test_the_answer_to_head_has_no_body(run: Run) -> None:
    with Upstream([head(200, {"content-length": "5"})]) as upstream:

        async def ask() -> bytes:
            async with client() as http:
                response = await http.send("HEAD", Url.parse(upstream.url), [], b"", LONG)
                return await response.read()

        assert run(ask()) == b""


def test_what_follows_a_whole_answer_is_dropped_with_its_connection(run: Run) -> None:
    extra = sent(answer("first")) + sent(answer("smuggled"))
    with Upstream([[extra], answer("second")]) as upstream:

        async def twice() -> list[bytes]:
            async with client() as http:
                return [await (await post(http, upstream.url)).read() for _ in range(2)]

        assert run(twice()) == [b"first", b"second"]
    assert [request.connection for request in upstream.requests] == [0, 1]


def test_an_answer_that_nobody_asked_for_is_not_given_to_the_next(run: Run) -> None:
    late = [sent(answer("first")), Pause(0.02), sent(answer("smuggled"))]
    with Upstream([late, answer("second")]) as upstream:

        async def twice() -> list[bytes]:
            async with client() as http:
                first = await (await post(http, upstream.url)).read()
                while upstream.num_open:
                    await asyncio.sleep(0.005)
                return [first, await (await post(http, upstream.url)).read()]

        assert run(twice()) == [b"first", b"second"]


def test_an_answer_that_comes_before_the_request_is_read_ends_the_connection(run: Run) -> None:
    """The rest of the request would otherwise still be on its way when the next one begins."""

    async def ask() -> bool:
        may_close = asyncio.Event()

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent(answer("too large", status=413)))
            await may_close.wait()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024)
        port = server.sockets[0].getsockname()[1]
        async with server, client() as http:
            base = f"http://127.0.0.1:{port}"
            response = await post(http, base, b"x" * 30_000_000)
            assert (response.status, await response.read()) == (413, b"too large")
            pool = next(iter(http._pools.values()))
            may_close.set()
            return pool.take_idle() is None

    assert run(ask())


# What must never be sent.


@pytest.mark.parametrize(
    "header",
    [
        (b"x-a", b"1\r\nx-b: 2"),
        (b"x-a", b"1\nx-b: 2"),
        (b"x-a", b"1\x00"),
        (b"x-a\r\nx-b", b"1"),
        (b"x a", b"1"),
        (b"", b"1"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"Host", b"elsewhere"),
        (b"connection", b"close"),
    ],
)
def test_headers_that_could_smuggle_are_refused(header: tuple[bytes, bytes]) -> None:
    url = Url.parse("http://127.0.0.1/v1")
    with pytest.raises(ValueError, match="header"):
        prepare("POST", url, [header])

    async def passed_on() -> None:
        async with client() as http:
            await http.ask(prepare("POST", url, []), b"{}", LONG, [header])

    with pytest.raises(ValueError, match="header"):
        asyncio.run(passed_on())


def test_a_refused_header_is_named_and_its_value_is_not() -> None:
    with pytest.raises(ValueError, match="authorization") as refusal:
        prepare("POST", Url.parse("http://a"), [(b"authorization", b"Bearer sk-secret\n")])
    assert "sk-secret" not in str(refusal.value)


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nx: y", "get", ""])
def test_a_method_that_is_no_word_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        prepare(method, Url.parse("http://a"), [])


def test_a_prepared_head_does_not_show_its_secret() -> None:
    made = prepare("POST", Url.parse("http://a"), [(b"authorization", b"Bearer sk-secret")])
    assert "sk-secret" not in f"{made!r} {made}"


# What can go wrong.

BY_KIND = {
    BackendTimeout: [name for name in FAULTS if name.startswith("stalls")],
    BackendBroken: [name for name in FAULTS if not name.startswith("stalls")],
}


@pytest.mark.parametrize("fault", BY_KIND[BackendBroken])
def test_an_answer_that_does_not_come_whole_is_broken(run: Run, fault: str) -> None:
    with Upstream(FAULTS[fault]) as upstream:
        with pytest.raises(BackendBroken, match=rf"127.0.0.1:{upstream.port} .*\.$"):
            run(fetch(upstream.url))
        upstream.wait_until(lambda up: not up.num_open)
    assert len(upstream.requests) == 1, "it was asked again, though it may have worked on it"


@pytest.mark.parametrize("fault", BY_KIND[BackendTimeout])
def test_a_server_that_falls_silent_is_given_up(run: Run, fault: str) -> None:
    with Upstream(FAULTS[fault]) as upstream:
        name = "first_byte_s" if "head" in fault else "idle_s"
        with pytest.raises(BackendTimeout, match=f"`{name}`"):
            run(fetch(upstream.url, STALLED))
        upstream.wait_until(lambda up: up.hangups)


def test_a_slow_drip_ends_at_the_deadline(run: Run) -> None:
    limits = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=0.3)
    with Upstream(drip(sent(answer("x" * 500)), gap_s=0.01)) as upstream:
        with pytest.raises(BackendTimeout, match="`deadline_s`"):
            run(fetch(upstream.url, limits))
        upstream.wait_until(lambda up: up.hangups)


def test_a_slow_drip_within_the_limits_is_no_fault(run: Run) -> None:
    limits = Timeouts(connect_s=20, first_byte_s=20, idle_s=5, deadline_s=20)
    plan = [head(200, {"content-length": "20"}), *drip(b"y" * 20, gap_s=0.01)]
    with Upstream(plan) as upstream:
        assert run(fetch(upstream.url, limits))[1] == b"y" * 20


def test_a_server_that_does_not_listen_is_unreachable(run: Run) -> None:
    with pytest.raises(BackendUnreachable, match=r"Cannot connect to 127.0.0.1:.*base_url"):
        run(fetch(unused_url()))


def test_a_name_that_does_not_exist_is_unreachable(run: Run) -> None:
    with pytest.raises(BackendUnreachable, match=r"no-such-host\.invalid"):
        run(fetch("http://no-such-host.invalid/v1"))


@pytest.mark.parametrize(
    "plan",
    [
        big(2_000_000),
        [head(200) + b"z" * 2_000_000, CLOSE],
        [STREAM_HEAD, *[chunk(b"z" * 50_000)] * 40, b"0\r\n\r\n"],
    ],
)
def test_an_answer_over_the_limit_is_cut_off(run: Run, plan: Step) -> None:
    with Upstream(plan) as upstream, pytest.raises(BackendBroken, match="max_response_bytes"):
        run(fetch(upstream.url, max_response_bytes=1_000_000))


def test_an_answer_at_the_limit_is_not(run: Run) -> None:
    with Upstream(big(1_000_000)) as upstream:
        assert len(run(fetch(upstream.url, max_response_bytes=1_000_000))[1]) == 1_000_000


def test_a_body_of_200_mb_does_not_come_in(run: Run) -> None:
    with Upstream(big(200_000_000)) as upstream:
        with pytest.raises(BackendBroken, match="64000000 bytes"):
            run(fetch(upstream.url))
        upstream.wait_until(lambda up: up.hangups)
    assert upstream.num_bytes_sent < 100_000_000


def test_errors_name_neither_headers_nor_body(run: Run) -> None:
    async def ask(base: str) -> None:
        async with client() as http:
            headers = [(b"authorization", b"Bearer sk-secret")]
            url = Url.parse(base)
            await (await http.send("POST", url, headers, b"private", STALLED)).read()

    for fault in FAULTS:
        with Upstream(FAULTS[fault]) as upstream:
            with pytest.raises((BackendBroken, BackendTimeout)) as failure:
                run(ask(upstream.url))
            assert "sk-secret" not in str(failure.value)
            assert "private" not in str(failure.value)


# Streams.


async def pieces_of(response: Response) -> list[bytes]:
    return [piece async for piece in response]


def test_a_stream_comes_in_pieces_as_they_are_sent(run: Run) -> None:
    """The next event is only sent when the one before has been seen, so none may be held back."""
    events = chat_events("Hel", "lo")

    async def ask() -> list[bytes]:
        seen = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(STREAM_HEAD)
            for event in events:
                await asyncio.wait_for(seen.wait(), 20)
                seen.clear()
                writer.write(chunk(event))
            writer.write(b"0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, client() as http:
            port = server.sockets[0].getsockname()[1]
            response = await post(http, f"http://127.0.0.1:{port}")
            pieces = []
            seen.set()
            async for piece in response:
                pieces.append(piece)
                seen.set()
            return pieces

    assert run(ask()) == events


def test_a_stream_that_breaks_off_gives_what_came_before_the_error(run: Run) -> None:
    plan = [STREAM_HEAD, chunk(b"data: 1\n\n"), Pause(0.05), RESET]
    with Upstream(plan) as upstream:

        async def ask() -> bytes:
            async with client() as http:
                response = await post(http, upstream.url)
                first = await anext(response)
                with pytest.raises(BackendBroken, match="in the middle"):
                    await anext(response)
                return first

        assert run(ask()) == b"data: 1\n\n"


def test_a_stream_split_into_single_bytes_is_the_same_stream(run: Run) -> None:
    events = chat_events("Hel", "lo")
    data = STREAM_HEAD + b"".join(map(chunk, events)) + b"0\r\n\r\n"
    with Upstream(drip(data)) as upstream:

        async def ask() -> bytes:
            async with client() as http:
                return b"".join(await pieces_of(await post(http, upstream.url)))

        assert run(ask()) == b"".join(events)


def test_a_slow_reader_makes_the_server_wait(run: Run) -> None:
    """200 MB pass through, and what waits in between stays small."""
    size = 200_000_000
    with Upstream(big(size)) as upstream:

        async def ask() -> tuple[int, int]:
            most, total = 0, 0
            async with client(max_response_bytes=size) as http:
                response = await post(http, upstream.url)
                # Nobody reads yet: the server must come to a halt by itself.
                before = -1
                while before != upstream.num_bytes_sent:
                    before = upstream.num_bytes_sent
                    await asyncio.sleep(0.3)
                assert before < 50_000_000
                async for piece in response:
                    most, total = max(most, len(piece)), total + len(piece)
            return most, total

        most, total = run(ask())
    assert total == size
    assert most < HIGH_WATER + 1_000_000


def test_the_server_is_not_blamed_for_a_slow_reader(run: Run) -> None:
    limits = Timeouts(connect_s=20, first_byte_s=20, idle_s=0.2, deadline_s=20)
    with Upstream(big(20_000_000)) as upstream:

        async def ask() -> int:
            async with client() as http:
                response = await post(http, upstream.url, timeouts=limits)
                await asyncio.sleep(0.6)
                return sum(map(len, await pieces_of(response)))

        assert run(ask()) == 20_000_000


def test_reading_whole_after_a_pause_gives_the_whole_body(run: Run) -> None:
    with Upstream(big(5_000_000)) as upstream:

        async def ask() -> bytes:
            async with client() as http:
                response = await post(http, upstream.url)
                await asyncio.sleep(0.1)
                return await response.read()

        assert run(ask()) == b"x" * 5_000_000


# Hanging up.


def test_closing_in_the_middle_of_a_stream_is_seen_by_the_server(run: Run) -> None:
    with Upstream([STREAM_HEAD, chunk(b"data: 1\n\n"), STALL]) as upstream:

        async def ask() -> None:
            async with client() as http:
                response = await post(http, upstream.url)
                assert await anext(response) == b"data: 1\n\n"
                await response.close()
                await asyncio.to_thread(upstream.wait_until, lambda up: up.hangups)

        run(ask())


@pytest.mark.parametrize("plan", [[STALL], [STREAM_HEAD, STALL], big(100_000_000)])
def test_cancelling_whoever_waits_is_seen_by_the_server(run: Run, plan: Step) -> None:
    with Upstream(plan) as upstream:

        async def ask() -> None:
            async with client(max_response_bytes=200_000_000) as http:

                async def wait() -> None:
                    response = await post(http, upstream.url)
                    async for _ in response:
                        await asyncio.sleep(0.01)

                task = asyncio.create_task(wait())
                await asyncio.to_thread(upstream.wait_until, lambda up: up.requests)
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if upstream.num_bytes_sent < 1000:
                    await asyncio.to_thread(upstream.wait_until, lambda up: up.hangups)

        run(ask())
        upstream.wait_until(lambda up: up.hangups)


def test_a_cancelled_request_leaves_no_dirty_connection(run: Run) -> None:
    """Cancelled at every possible moment; whoever asks next gets the answer to their own."""
    with Upstream(lambda request: answer(request.body)) as upstream:

        async def ask() -> None:
            async with client(max_connections_per_host=2) as http:

                async def one(text: bytes) -> bytes:
                    return await (await post(http, upstream.url, text)).read()

                for turn in range(60):
                    task = asyncio.create_task(one(b"cancelled"))
                    for _ in range(turn % 12):
                        await asyncio.sleep(0)
                    task.cancel()
                    text = b"%d" % turn
                    assert await one(text) == text
                    await asyncio.wait([task])

        run(ask())


def test_closing_a_finished_answer_keeps_its_connection(run: Run) -> None:
    with Upstream(chat("Hello.")) as upstream:

        async def ask() -> None:
            async with client() as http:
                for _ in range(3):
                    response = await post(http, upstream.url)
                    await response.read()
                    await response.close()
                    assert await response.read() == chat_body("Hello.")

        run(ask())
    assert upstream.num_connections == 1
    assert not upstream.hangups


def test_closing_the_client_ends_what_is_under_way(run: Run) -> None:
    with Upstream([STALL]) as upstream:

        async def ask() -> None:
            async with client() as http:
                task = asyncio.create_task(post(http, upstream.url))
                await asyncio.to_thread(upstream.wait_until, lambda up: up.requests)
                await http.close()
                with pytest.raises(BackendBroken, match="stopping"):
                    await task

        run(ask())
        upstream.wait_until(lambda up: up.hangups)


@pytest.mark.parametrize("fault", ["", "closes in the body", "resets before the head"])
def test_nothing_is_left_for_the_garbage_collector(run: Run, fault: str) -> None:
    """A gateway that meets a failing server a million times keeps its memory."""

    def left() -> int:
        # By type, not by `isinstance`: that asks each object for its class, and some warn.
        return sum(issubclass(type(each), (Connection, Response)) for each in gc.get_objects())

    with Upstream(FAULTS[fault] if fault else answer("fine"), is_closing=True) as upstream:

        async def ask() -> int:
            async with client() as http:
                for _ in range(50):
                    with suppress(BackendBroken):
                        await (await post(http, upstream.url)).read()
            return left()

        gc.collect()
        gc.disable()
        try:
            assert run(ask()) < 5
        finally:
            gc.enable()


# TLS.


def test_a_certificate_of_a_known_authority_is_trusted(
    run: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with Upstream(stream("Hel", "lo"), tls=authority.server) as upstream:

        async def twice() -> list[bytes]:
            async with client() as http:
                return [await (await post(http, upstream.url)).read() for _ in range(2)]

        assert run(twice()) == [b"".join(chat_events("Hel", "lo"))] * 2
    assert upstream.num_connections == 1


def test_an_unknown_authority_is_not_trusted(run: Run, authority: Authority) -> None:
    with (
        Upstream(chat("Hello."), tls=authority.server) as upstream,
        pytest.raises(BackendUnreachable, match="SSL_CERT_FILE"),
    ):
        run(fetch(upstream.url))
    assert not upstream.requests


def test_a_certificate_for_another_name_is_not_trusted(
    run: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with (
        Upstream(chat("Hello."), tls=authority.server) as upstream,
        pytest.raises(BackendUnreachable, match="not trusted"),
    ):
        run(fetch(upstream.url.replace("localhost", "127.0.0.1")))
    assert not upstream.requests


@pytest.mark.parametrize(
    "fault", ["resets in the stream", "closes in the body", "stalls in the body"]
)
def test_faults_under_tls_are_faults(
    run: Run, fault: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with (
        Upstream(FAULTS[fault], tls=authority.server) as upstream,
        pytest.raises((BackendBroken, BackendTimeout)),
    ):
        run(fetch(upstream.url, STALLED))


def test_a_server_without_tls_is_unreachable_over_https(run: Run) -> None:
    with Upstream(chat("Hello.")) as upstream, pytest.raises(BackendUnreachable, match="connect"):
        run(fetch(upstream.url.replace("http:", "https:")))
