"""Context from a process of its own: whatever becomes of that process, no request fails for it."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twin.config import Config, InjectConfig, RecordConfig
from twin.records import Question
from twin.serve import inject
from twin.serve.inject import MAX_WAITING, Injector

RETRIEVER = (sys.executable, "-P", "-m", "twin.cycle.retriever")
NOTES = "# Uploads\nThe upload client doubles its retry delay up to a minute.\n"
TASK = Question(text="Make the retry delay of the upload client configurable")
LONG = 60.0

ANSWERING = """
import json, os, sys, time
settings = json.loads(sys.stdin.readline())
for line in sys.stdin:
    wanted = json.loads(line)
    text = wanted["text"]
    if "die" in text:
        os._exit(3)
    if "sleep" in text:
        time.sleep(0.3)
    if "stop" in text:
        while True:
            time.sleep(60)
    if "garbage" in text:
        print("Warning: this is no JSON", flush=True)
    item = {"source": "document", "name": "a.md:1-2", "relevance": 0.9, "num_tokens": 5}
    found = {"number": wanted["number"], "text": text.upper(), "items": [item]}
    found["notice"] = f"limit {settings['inject'].get('max_tokens')}" if "say" in text else ""
    print(json.dumps(found), flush=True)
"""


def config(wait_s: float = LONG, **settings: Any) -> Config:
    return Config(inject=InjectConfig(enabled=True, wait_s=wait_s, **settings))


def with_fake(
    tmp_path: Path,
    world: Callable[[Injector], Coroutine[Any, Any, None]],
    *,
    program: str = ANSWERING,
    wait_s: float = LONG,
    hangs_s: float = LONG,
) -> None:
    """Lets `world` happen to an injector whose retriever is a few lines of Python."""

    async def main() -> None:
        one = Injector(tmp_path, config(wait_s), (sys.executable, "-c", program), hangs_s=hangs_s)
        try:
            await world(one)
        finally:
            await one.close()

    asyncio.run(main())


def asked(text: str) -> Question:
    return Question(text=text)


async def until(is_so: Callable[[], Awaitable[bool] | bool]) -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        found = is_so()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(one: Injector) -> int:
    assert one.process_id is not None
    return one.process_id


def test_the_real_retriever_finds_what_a_note_says_and_nothing_for_a_greeting(
    tmp_path: Path,
) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")

    async def main() -> None:
        one = Injector(tmp_path, config(), RETRIEVER)
        assert one.process_id is None
        text, items = await one.find(TASK)
        assert "doubles its retry delay" in text
        assert [(item.source, item.name) for item in items] == [("document", "AGENTS.md:1-2")]
        assert await one.find(asked("hello")) == ("", ())
        assert (one.counts.num_found, one.counts.num_empty) == (1, 1)
        pid = pid_of(one)
        await one.close()
        assert not is_alive(pid)

    asyncio.run(main())


def test_modules_in_the_users_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    for name in ("msgspec", "numpy", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        one = Injector(tmp_path, config(), RETRIEVER)
        text, _ = await one.find(TASK)
        assert text
        await one.close()

    asyncio.run(main())


def test_secrets_in_notes_are_not_sent_to_a_model(tmp_path: Path) -> None:
    secret = "sk-" + "a1B2" * 8
    (tmp_path / "AGENTS.md").write_text(f"{NOTES}The key is {secret} or PIN 4711.\n")

    async def main() -> None:
        given = Config(
            inject=InjectConfig(enabled=True, wait_s=LONG),
            record=RecordConfig(redact={"pin": r"PIN \d+"}),
        )
        one = Injector(tmp_path, given, RETRIEVER)
        text, _ = await one.find(TASK)
        await one.close()
        assert secret not in text
        assert "4711" not in text
        assert "[redacted:api-key]" in text

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "   \n\t"])
def test_a_request_without_words_starts_nothing(tmp_path: Path, text: str) -> None:
    async def world(one: Injector) -> None:
        assert await one.find(asked(text)) == ("", ())
        assert one.process_id is None

    with_fake(tmp_path, world)


def test_many_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        texts = [f"question {number}" for number in range(MAX_WAITING)]
        found = await asyncio.gather(*(one.find(asked(text)) for text in texts))
        assert [text for text, _ in found] == [text.upper() for text in texts]
        assert one.counts.num_found == len(texts)

    with_fake(tmp_path, world)


def test_more_than_can_wait_go_without(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        texts = ["sleep", *(f"question {number}" for number in range(MAX_WAITING + 9))]
        found = await asyncio.gather(*(one.find(asked(text)) for text in texts))
        assert sum(1 for text, _ in found if not text) == 10 == one.counts.num_refused
        assert one.counts.num_found == MAX_WAITING

    with_fake(tmp_path, world)


def test_a_late_answer_is_not_waited_for_and_the_next_request_is_served(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("first")))[0]
        one.adopt(config(wait_s=0.05))
        assert await one.find(asked("sleep")) == ("", ())
        assert one.counts.num_late == 1
        one.adopt(config(wait_s=LONG))
        assert await one.find(asked("third")) != ("", ())
        assert one.counts.num_deaths == 0

    with_fake(tmp_path, world)


def test_a_retriever_that_dies_over_a_request_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "FIRST_REST_S", 0.05)

    async def world(one: Injector) -> None:
        others = [one.find(asked("die")), one.find(asked("behind it"))]
        assert await asyncio.gather(*others) == [("", ()), ("", ())]
        assert one.counts.num_failed == 2

        async def answers() -> bool:
            return (await one.find(asked("and again")))[0] == "AND AGAIN"

        await until(answers)
        assert one.counts.num_deaths == 1

    with_fake(tmp_path, world)


@pytest.mark.slow
def test_a_retriever_that_was_killed_in_the_middle_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "AGENTS.md").write_text(NOTES, encoding="utf-8")
    monkeypatch.setattr(inject, "FIRST_REST_S", 0.05)

    async def main() -> None:
        one = Injector(tmp_path, config(), RETRIEVER)
        assert (await one.find(TASK))[0]
        os.kill(pid_of(one), signal.SIGSTOP)
        waiting = asyncio.create_task(one.find(TASK))
        await asyncio.sleep(0)
        os.kill(pid_of(one), signal.SIGKILL)
        assert await waiting == ("", ())
        assert one.counts.num_failed == 1

        async def answers() -> bool:
            return bool((await one.find(TASK))[0])

        await until(answers)
        await one.close()

    asyncio.run(main())


def test_one_that_dies_each_time_is_tried_ever_less_often(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        for _ in range(20):
            assert await one.find(asked("anything")) == ("", ())
        assert one.counts.num_failed == 1
        assert one.counts.num_deaths == 1
        assert one.counts.num_refused == 19

    with_fake(tmp_path, world, program="raise SystemExit(1)")


def test_a_command_that_does_not_exist_costs_no_request_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        one = Injector(tmp_path, config(), (str(tmp_path / "missing"),))
        assert await one.find(TASK) == ("", ())
        assert await one.find(TASK) == ("", ())
        await one.close()

    asyncio.run(main())


def test_one_that_is_stuck_is_killed_and_begun_again(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("first")))[0]
        stuck = pid_of(one)
        one.adopt(config(wait_s=0.05))
        assert await one.find(asked("stop")) == ("", ())
        await until(lambda: one.counts.num_deaths == 1 or _asked_in_vain(one))
        await until(lambda: not is_alive(stuck))

    async def _asked_in_vain(one: Injector) -> bool:
        await one.find(asked("anyone there"))
        return False

    with_fake(tmp_path, world, hangs_s=0.2)


def test_one_that_is_stuck_is_not_sent_lines_without_end(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("first")))[0]
        one.adopt(config(wait_s=0.001))
        for _ in range(3 * MAX_WAITING):
            await one.find(asked("stop " + "x" * 20_000))
        assert one.counts.num_late == MAX_WAITING
        assert one.counts.num_refused == 2 * MAX_WAITING

    with_fake(tmp_path, world)


def test_one_that_talks_nonsense_is_begun_again(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert await one.find(asked("garbage")) == ("", ())
        assert one.counts.num_failed == 1

    with_fake(tmp_path, world)


def test_another_configuration_reaches_a_new_process_while_the_old_one_finishes(
    tmp_path: Path,
) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("first")))[0]
        before = pid_of(one)
        slow = asyncio.create_task(one.find(asked("sleep")))
        await asyncio.sleep(0)
        one.adopt(config(max_tokens=123))
        assert (await slow)[0] == "SLEEP"
        assert (await one.find(asked("second")))[0]
        assert pid_of(one) != before
        await until(lambda: not is_alive(before))
        assert one.counts.num_deaths == 0

    with_fake(tmp_path, world)


def test_a_configuration_with_nothing_new_for_it_leaves_the_process_alone(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("first")))[0]
        before = pid_of(one)
        one.adopt(config())
        one.adopt(config(wait_s=LONG / 2))
        assert (await one.find(asked("second")))[0]
        assert pid_of(one) == before

    with_fake(tmp_path, world)


def test_what_people_should_know_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def world(one: Injector) -> None:
        for _ in range(3):
            await one.find(asked("say it"))

    with_fake(tmp_path, world)
    told = capsys.readouterr()
    assert (told.out + told.err).count("limit") == 1


def test_closing_ends_a_stuck_one_too_and_nothing_starts_afterwards(tmp_path: Path) -> None:
    async def main() -> None:
        one = Injector(tmp_path, config(), (sys.executable, "-c", ANSWERING))
        assert (await one.find(asked("first")))[0]
        pid = pid_of(one)
        stuck = asyncio.create_task(one.find(asked("stop")))
        await asyncio.sleep(0)
        await one.close()
        assert await stuck == ("", ())
        assert not is_alive(pid)
        assert await one.find(asked("late")) == ("", ())
        assert one.process_id is None
        await one.close()

    asyncio.run(main())


def test_closing_at_once_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        one = Injector(tmp_path, config(), (sys.executable, "-c", ANSWERING))
        one.warm()
        await one.close()
        assert one.process_id is None

    asyncio.run(main())


def test_a_request_that_is_cancelled_leaves_the_others_alone(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        gone = asyncio.create_task(one.find(asked("sleep")))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await one.find(asked("still here")))[0] == "STILL HERE"

    with_fake(tmp_path, world)


def test_text_that_utf_8_cannot_hold_is_asked_all_the_same(tmp_path: Path) -> None:
    async def world(one: Injector) -> None:
        assert (await one.find(asked("odd \ud800 text")))[0] == "ODD ? TEXT"

    with_fake(tmp_path, world)


def test_the_first_line_carries_the_settings_and_no_argument_does(tmp_path: Path) -> None:
    url = "postgresql://me:hunter2@localhost/x"
    given = msgspec.convert({"store": {"url": url}}, Config)
    one = Injector(tmp_path, given, RETRIEVER)
    assert b"hunter2" in one._first_line
    assert not any("hunter2" in word for word in one._command)
