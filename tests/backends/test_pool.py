import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from tests.backends.conftest import Run
from tests.backends.upstream import CLOSE, STALL, Pause, Upstream, answer, unused_url

from twin.backends import connection as connections
from twin.backends import pool
from twin.backends.http import HttpClient, Timeouts, Url, prepare
from twin.errors import BackendBroken, BackendTimeout, BackendUnreachable

LONG = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=20)


@asynccontextmanager
async def client(**options: int) -> AsyncIterator[HttpClient]:
    made = HttpClient(**options)
    try:
        yield made
    finally:
        await made.close()


async def ask(http: HttpClient, base: str, body: bytes = b"{}", limits: Timeouts = LONG) -> bytes:
    head = prepare("POST", Url.parse(base), [])
    return await (await http.ask(head, body, limits)).read()


def echo(request: object) -> list[bytes]:
    return list(answer(request.body))  # type: ignore[attr-defined]


def test_a_thousand_requests_in_turn_share_one_connection(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                for number in range(1000):
                    assert await ask(http, upstream.url, b"%d" % number) == b"%d" % number

        run(main())
    assert upstream.num_connections == 1
    assert len(upstream.requests) == 1000


def test_two_hundred_at_once_share_as_many_as_are_allowed(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client(max_connections_per_host=20) as http:
                bodies = [b"%d" % number for number in range(200)]
                got = await asyncio.gather(*(ask(http, upstream.url, body) for body in bodies))
                assert got == bodies

        run(main())
    assert upstream.num_connections == 20


def test_two_hundred_at_once_are_used_again_by_the_next_two_hundred(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                for _ in range(3):
                    await asyncio.gather(*(ask(http, upstream.url) for _ in range(200)))

        run(main())
    assert upstream.num_connections == 200
    assert len(upstream.requests) == 600


def test_the_last_connection_used_is_the_first_one_used_again(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                await asyncio.gather(*(ask(http, upstream.url) for _ in range(5)))
                for _ in range(10):
                    await ask(http, upstream.url)

        run(main())
    assert len({request.connection for request in upstream.requests[5:]}) == 1


def test_different_servers_share_nothing(run: Run) -> None:
    with Upstream(answer("one")) as first, Upstream(answer("two")) as second:

        async def main() -> None:
            async with client() as http:
                for _ in range(2):
                    assert await ask(http, first.url) == b"one"
                    assert await ask(http, second.url) == b"two"

        run(main())
    assert (first.num_connections, second.num_connections) == (1, 1)


def test_a_connection_that_the_server_closed_while_idle_is_not_used(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                await asyncio.gather(*(ask(http, upstream.url) for _ in range(5)))
                upstream.close_connections()
                await asyncio.sleep(0.05)
                await ask(http, upstream.url)

        run(main())
    assert [request.connection for request in upstream.requests][5:] == [5]


def test_a_request_that_meets_the_servers_goodbye_is_sent_again_on_a_new_connection(
    run: Run,
) -> None:
    """The loop does not run between the close and the request, so that nobody can have noticed."""
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                for number in range(20):
                    await asyncio.gather(*(ask(http, upstream.url) for _ in range(3)))
                    upstream.close_connections()
                    assert await ask(http, upstream.url, b"%d" % number) == b"%d" % number

        run(main())


def test_a_server_that_closes_after_each_answer_is_asked_anew(run: Run) -> None:
    with Upstream(echo, is_closing=True) as upstream:

        async def main() -> None:
            async with client() as http:
                for number in range(50):
                    assert await ask(http, upstream.url, b"%d" % number) == b"%d" % number

        run(main())
    assert len(upstream.requests) == 50


def test_a_request_is_sent_again_only_once(run: Run) -> None:
    with Upstream([answer("fine"), [CLOSE]]) as upstream:

        async def main() -> None:
            async with client() as http:
                await ask(http, upstream.url)
                with pytest.raises(BackendBroken, match="without an answer"):
                    await ask(http, upstream.url)

        run(main())
    assert [request.connection for request in upstream.requests] == [0, 0, 1]


def test_a_request_is_not_sent_again_once_a_byte_has_come_back(run: Run) -> None:
    with Upstream([answer("fine"), [b"HTTP/1.1 2", CLOSE]]) as upstream:

        async def main() -> None:
            async with client() as http:
                await ask(http, upstream.url)
                with pytest.raises(BackendBroken):
                    await ask(http, upstream.url)

        run(main())
    assert len(upstream.requests) == 2


def test_a_request_is_not_sent_again_where_the_server_only_takes_too_long(run: Run) -> None:
    short = Timeouts(connect_s=20, first_byte_s=0.1, idle_s=20, deadline_s=20)
    with Upstream([answer("fine"), [STALL]]) as upstream:

        async def main() -> None:
            async with client() as http:
                await ask(http, upstream.url)
                with pytest.raises(BackendTimeout):
                    await ask(http, upstream.url, limits=short)

        run(main())
    assert len(upstream.requests) == 2


def test_a_server_that_is_gone_when_asked_again_is_unreachable(run: Run) -> None:
    async def main() -> None:
        async with client() as http:
            with Upstream(echo) as upstream:
                await ask(http, upstream.url)
            with pytest.raises(BackendUnreachable):
                await ask(http, upstream.url)

    run(main())


def test_idle_connections_go_after_a_while(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client() as http:
                await asyncio.gather(*(ask(http, upstream.url) for _ in range(5)))
                await asyncio.to_thread(upstream.wait_until, lambda up: not up.num_open)
                await ask(http, upstream.url)

        run(main())
    assert not upstream.hangups


def test_a_busy_connection_outlives_the_idle_ones_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.1)
    with Upstream([Pause(0.5), *answer("late")]) as upstream:

        async def main() -> None:
            async with client() as http:
                assert await ask(http, upstream.url) == b"late"

        run(main())


def test_who_waits_for_a_connection_gives_up_at_the_deadline(run: Run) -> None:
    short = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=0.2)
    with Upstream([STALL]) as upstream:

        async def main() -> None:
            async with client(max_connections_per_host=1) as http:
                busy = asyncio.create_task(ask(http, upstream.url))
                await asyncio.to_thread(upstream.wait_until, lambda up: up.requests)
                with pytest.raises(BackendTimeout, match=r"connections .* were busy"):
                    await ask(http, upstream.url, limits=short)
                busy.cancel()
                await asyncio.wait([busy])

        run(main())
    assert len(upstream.requests) == 1


def test_a_turn_given_to_somebody_cancelled_goes_to_the_next(run: Run) -> None:
    with Upstream(echo) as upstream:

        async def main() -> None:
            async with client(max_connections_per_host=1) as http:
                for turn in range(40):
                    tasks = [asyncio.create_task(ask(http, upstream.url)) for _ in range(6)]
                    for _ in range(turn):
                        await asyncio.sleep(0)
                    for task in tasks[1:-1]:
                        task.cancel()
                    async with asyncio.timeout(20):
                        assert await tasks[0] == await tasks[-1] == b"{}"
                    await asyncio.wait(tasks)

        run(main())


def test_a_connection_that_did_not_come_about_frees_its_place(run: Run) -> None:
    base = unused_url()

    async def main() -> None:
        async with client(max_connections_per_host=2) as http:
            got = await asyncio.gather(
                *(ask(http, base) for _ in range(20)), return_exceptions=True
            )
            assert {type(each) for each in got} == {BackendUnreachable}

    run(main())


def test_a_closed_client_opens_nothing_and_lets_nobody_wait(run: Run) -> None:
    with Upstream([STALL]) as upstream:

        async def main() -> None:
            async with client(max_connections_per_host=1) as http:
                tasks = [asyncio.create_task(ask(http, upstream.url)) for _ in range(5)]
                await asyncio.to_thread(upstream.wait_until, lambda up: up.requests)
                await http.close()
                async with asyncio.timeout(20):
                    got = await asyncio.gather(*tasks, return_exceptions=True)
                assert all("stopping" in str(each) for each in got)

        run(main())
        upstream.wait_until(lambda up: not up.num_open)
    assert len(upstream.requests) == 1


@contextmanager
def full_port() -> Iterator[int]:
    """A port where nobody takes connections: a listener whose queue is full answers no SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(place)
        try:
            yield place[1]
        finally:
            for each in waiting:
                each.close()


def test_a_connection_that_does_not_come_about_is_a_timeout(run: Run) -> None:
    limits = Timeouts(connect_s=0.2, first_byte_s=20, idle_s=20, deadline_s=20)

    async def main(base: str) -> None:
        async with client() as http:
            await ask(http, base, limits=limits)

    with full_port() as port, pytest.raises(BackendTimeout, match="`connect_s`"):
        run(main(f"http://127.0.0.1:{port}/v1"))


def test_an_address_that_swallows_packets_does_not_hide_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Timeouts(connect_s=3.0, first_byte_s=20, idle_s=20, deadline_s=20)

    async def main(base: str) -> bytes:
        async with client() as http:
            return await ask(http, base, limits=limits)

    refusing = Url.parse(unused_url()).origin[2]
    with full_port() as dead, Upstream(answer("fine")) as upstream:

        async def addresses_of(host: str, port: int) -> list[tuple[str, int]]:
            return [("127.0.0.1", each) for each in (dead, refusing, upstream.port)]

        monkeypatch.setattr(pool, "addresses_of", addresses_of)
        assert run(main("http://many.example/v1")) == b"fine"
    assert upstream.requests[0].headers["host"] == "many.example"
