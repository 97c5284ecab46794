"""One task's working memory."""

import pytest
from sqlalchemy import select

from twin.errors import UsageError
from twin.store import schema
from twin.store.database import Store


def test_the_value_last_put_is_got(store: Store) -> None:
    session = store.sessions.start("make the delay configurable")
    store.sessions.put(session, "plan", {"steps": [1, 2]})
    store.sessions.put(session, "plan", {"steps": [3]})
    assert store.sessions.get(session, "plan") == {"steps": [3]}
    assert store.sessions.get(session, "nothing") is None


def test_sessions_do_not_see_one_another(store: Store) -> None:
    one, two = store.sessions.start("one"), store.sessions.start("two")
    store.sessions.put(one, "key", 1)
    assert store.sessions.get(two, "key") is None
    assert sorted(store.sessions.open_ids()) == sorted([one, two])


def test_archiving_moves_everything_into_raw(store: Store) -> None:
    session = store.sessions.start("task")
    store.sessions.put(session, "a", 1)
    store.sessions.put(session, "b", [None])
    store.sessions.archive(session)
    assert store.sessions.open_ids() == []
    with store.engine.connect() as connection:
        item = schema.raw_session_item.c
        kept = connection.execute(select(item.key, item.value).order_by(item.key)).all()
        left = connection.execute(select(schema.session_item)).all()
        task = connection.execute(select(schema.raw_session)).one()
    assert [tuple(row) for row in kept] == [("a", 1), ("b", [None])]
    assert left == []
    assert (task.session_id, task.task) == (session, "task")
    assert task.archived_at >= task.started_at


def test_an_archived_session_is_closed_for_good(store: Store) -> None:
    session = store.sessions.start("task")
    store.sessions.archive(session)
    for use in (
        lambda: store.sessions.put(session, "key", 1),
        lambda: store.sessions.get(session, "key"),
        lambda: store.sessions.archive(session),
    ):
        with pytest.raises(UsageError, match="no open session"):
            use()


def test_a_value_that_is_not_json_is_refused_and_leaves_the_old_one(store: Store) -> None:
    session = store.sessions.start("task")
    store.sessions.put(session, "key", 1)
    with pytest.raises(Exception, match="not JSON serializable"):
        store.sessions.put(session, "key", object())
    assert store.sessions.get(session, "key") == 1
