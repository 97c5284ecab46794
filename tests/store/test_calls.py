"""The log of calls: what was recorded comes back as it was, and is found again."""

import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tests.store.recorded import (
    NOON,
    attempt,
    body,
    call,
    escalated,
    everything,
    feedback,
    reply,
)

from twin.errors import UnknownCall
from twin.records import LOCAL, Preference, Spend, Usage
from twin.store import schema
from twin.store.database import Store


def ids(found: list) -> list[str]:
    return [each.call_id for each in found]


def test_a_call_comes_back_as_it_was_recorded(store: Store) -> None:
    plain, full = call("call_1", attempts=()), everything("call_2")
    assert store.calls.add([plain, full]) == 2
    assert store.calls.get("call_1") == plain
    assert store.calls.get("call_2") == full
    assert list(store.calls.each()) == [plain, full]


def test_a_call_that_is_there_already_is_left_alone_and_not_paid_twice(store: Store) -> None:
    first = call("call_1")
    assert store.calls.add([first, first]) == 1
    assert store.calls.add([call("call_1", session="other"), call("call_2")]) == 1
    assert store.calls.get("call_1") == first
    (spend,) = store.calls.spend("2025-11")
    assert (spend.num_calls, spend.cost_usd) == (2, 0.5)


def test_a_call_that_nobody_recorded_is_named(store: Store) -> None:
    with pytest.raises(UnknownCall, match=r"no call 'call_9'.*`twin calls` lists"):
        store.calls.get("call_9")
    with pytest.raises(UnknownCall, match="go on from"):
        store.calls.search(before="call_9")


def test_the_newest_calls_come_first_and_a_list_goes_on_where_one_ended(store: Store) -> None:
    # Two at the same moment, and one that arrives late.
    store.calls.add([call(f"call_{n}", at=NOON + n // 2) for n in range(7)])
    store.calls.add([call("late", at=NOON - 1)])
    whole = ids(store.calls.search())
    assert whole == [*(f"call_{n}" for n in (6, 5, 4, 3, 2, 1, 0)), "late"]
    pages, before = [], None
    while page := ids(store.calls.search(limit=3, before=before)):
        pages += page
        before = page[-1]
    assert pages == whole


def test_each_filter_holds_and_all_hold_together(store: Store) -> None:
    store.calls.add(
        [
            call("plain", session="s1", key_id="key_1"),
            call("failed", outcome="failed", model="", at=NOON + 1, session="s1", task_id="t"),
            escalated("big", at=NOON + 2, asked_model="big", key_id="key_1"),
        ]
    )
    store.calls.add_feedback([feedback("plain")])
    search = store.calls.search
    assert ids(search(model="big")) == ["big"]
    assert ids(search(model="twin")) == ["failed", "plain"]
    assert ids(search(model="small")) == ["plain"]
    assert ids(search(outcome="failed")) == ["failed"]
    assert ids(search(session="s1")) == ["failed", "plain"]
    assert ids(search(task_id="t")) == ["failed"]
    assert ids(search(key_id="key_1")) == ["big", "plain"]
    assert ids(search(since=NOON + 1)) == ["big", "failed"]
    assert ids(search(until=NOON + 1)) == ["plain"]
    assert ids(search(escalated=True)) == ["big"]
    assert ids(search(escalated=False)) == ["failed", "plain"]
    assert ids(search(feedback=True)) == ["plain"]
    assert ids(search(feedback=False)) == ["big", "failed"]
    assert ids(search("question", session="s1", key_id="key_1")) == ["plain"]
    assert ids(search(session="s1", key_id="key_2")) == []


def test_text_is_found_in_questions_and_answers_beyond_the_first_page(store: Store) -> None:
    needle = call("needle", at=NOON - 1, request=body('Where is the "Retry\nDelay" set?'))
    answered = call("answered", at=NOON - 2, attempts=(attempt(response=reply("the retry delay")),))
    store.calls.add([call(f"call_{n}") for n in range(450)])
    store.calls.add([needle, answered])
    assert ids(store.calls.search("RETRY DELAY")) == ["answered"]
    assert ids(store.calls.search('"retry\ndelay"')) == ["needle"]
    assert ids(store.calls.search("question of call_44", limit=4)) == [
        "call_449", "call_448", "call_447", "call_446",
    ]  # fmt: skip
    assert ids(store.calls.search("messages")) == []


def test_the_summary_counts_all_attempts(store: Store) -> None:
    store.calls.add([escalated(), call("unasked", attempts=(), outcome="refused", status=401)])
    unasked, found = sorted(store.calls.search(), key=lambda each: each.num_prompt_tokens)
    assert (found.num_prompt_tokens, found.num_completion_tokens) == (20, 10)
    assert found.cost_usd == 0.5
    assert found.is_escalated
    assert (unasked.num_prompt_tokens, unasked.cost_usd, unasked.status) == (0, 0.0, 401)


# ------------------------------------------------------------------------- feedback, preferences


def test_feedback_is_kept_whether_its_call_is_known_or_not(store: Store) -> None:
    known, unknown = feedback("call_1", 1, score=0.5, comment="\x00 so so"), feedback("call_9", 2)
    store.calls.add([call("call_1")])
    assert store.calls.add_feedback([known, unknown]) == 2
    assert store.calls.add_feedback([known]) == 0
    assert store.calls.feedback("call_1") == [known]
    assert store.calls.feedback("call_9") == [unknown]


def test_an_answer_that_was_escalated_is_worse_than_the_one_that_went_out(store: Store) -> None:
    store.calls.add([escalated("call_1"), call("call_2")])
    assert store.calls.preferences() == [
        Preference(call_id="call_1", reason="it refuses", at=NOON, rejected=1, chosen=2)
    ]


def test_an_escalation_that_nobody_answered_says_nothing(store: Store) -> None:
    tried = (attempt(outcome="escalated"), attempt("big", outcome="failed"))
    store.calls.add([call(attempts=tried, outcome="failed")])
    assert store.calls.preferences() == []


@pytest.mark.parametrize("comes_first", ["call", "feedback"])
def test_a_demonstration_is_better_than_the_answer_whichever_comes_first(
    store: Store, comes_first: str
) -> None:
    shown = feedback("call_1", demonstration="43", comment="off by one")
    steps = [lambda: store.calls.add([escalated()]), lambda: store.calls.add_feedback([shown])]
    for step in steps if comes_first == "call" else reversed(steps):
        step()
        step()
    pairs = store.calls.preferences()
    assert {(pair.rejected, pair.chosen, pair.feedback_id) for pair in pairs} == {
        (1, 2, ""),
        (2, None, "fb_1"),
    }
    assert {pair.reason for pair in pairs} == {"it refuses", "off by one"}


@pytest.mark.parametrize(
    ("key", "by", "counts"),
    [
        ("key_1", "key_1", True),
        ("key_1", "key_2", False),
        ("key_1", "", False),
        ("", "key_2", False),
        ("", "", True),
        ("key_1", LOCAL, True),
    ],
)
def test_only_who_made_the_call_or_owns_the_store_teaches_with_it(
    store: Store, key: str, by: str, counts: bool
) -> None:
    store.calls.add([call(key_id=key)])
    store.calls.add_feedback([feedback(demonstration="43", key_id=by)])
    assert len(store.calls.preferences()) == counts
    assert len(store.calls.feedback("call_1")) == counts


def test_a_demonstration_for_a_call_without_an_answer_is_only_feedback(store: Store) -> None:
    store.calls.add([call(attempts=(attempt(outcome="failed"),), outcome="failed")])
    store.calls.add_feedback([feedback(demonstration="43")])
    assert store.calls.preferences() == []


# ------------------------------------------------------------------------- spending


def test_spending_is_summed_by_month_key_and_model(store: Store) -> None:
    again = (attempt(outcome="failed", usage=None), attempt(), attempt("big"))
    store.calls.add([call("call_1", key_id="key_1", attempts=again)])
    store.calls.add([call("call_2", key_id="key_1"), call("call_3", at=NOON + 30 * 86_400)])
    used = Usage(num_prompt_tokens=10, num_completion_tokens=5)
    assert store.calls.spend("2025-11") == [
        Spend(
            month="2025-11", key_id="key_1", model="big", num_calls=1, cost_usd=0.25,
            num_prompt_tokens=used.num_prompt_tokens,
            num_completion_tokens=used.num_completion_tokens,
        ),
        Spend(
            month="2025-11", key_id="key_1", model="small", num_calls=2, cost_usd=0.75,
            num_prompt_tokens=20, num_completion_tokens=10,
        ),
    ]  # fmt: skip
    assert [spend.num_calls for spend in store.calls.spend("2025-12")] == [1]
    assert store.calls.spend("2025-10") == []


def test_spending_without_a_month_is_that_of_the_present_one(store: Store) -> None:
    now = time.time()
    store.calls.add([call("now", at=now), call("long ago", at=now - 40 * 86_400)])
    assert [spend.num_calls for spend in store.calls.spend()] == [1]


# ------------------------------------------------------------------------- lifecycle


def test_rows_of_traffic_refuse_every_change_but_sums_do_not(store: Store) -> None:
    store.calls.add([everything()])
    store.calls.add_feedback([feedback()])
    for table in schema.tables_of("traffic"):
        column = list(table.columns)[-1].name
        statement = text(f"UPDATE {table.name} SET {column} = {column}")
        if table is schema.traffic_spend:
            with store.engine.begin() as connection:
                assert connection.execute(statement).rowcount == 3
            continue
        with (
            store.engine.connect() as connection,
            pytest.raises(DBAPIError, match=f"{table.name} is never changed"),
        ):
            connection.execute(statement)


def test_rebuilding_the_curated_tables_leaves_traffic_and_keys_alone(store: Store) -> None:
    store.calls.add([everything()])
    key, _ = store.keys.create("laptop")
    store.rebuild_curated()
    assert store.calls.get("call_1") == everything()
    assert store.keys.all() == [key]
