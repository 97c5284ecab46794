"""The stages put together: the only room that knows more than one of them.

`past` brings history, tasks and index up to date, `improvement` learns, judges and promotes,
`answers` locates with what is in service, `harness` (imported by who needs it) proves commits by
their tests. Does no work of its own: each step is a call into a lower room, and its result is left
in the store.
"""

from twin.cycle.answers import (
    Located,
    author_of,
    context,
    load_version,
    locate,
    model_in_service,
    ready_locator,
    record_answer,
)
from twin.cycle.improvement import STAGES, Improvement, improve, scorer
from twin.cycle.past import (
    Indexed,
    Mined,
    index_now,
    mine_history,
    mine_now,
    newest_tasks,
    require_sources,
)

__all__ = [
    "STAGES", "Improvement", "Indexed", "Located", "Mined", "author_of", "context",
    "improve",
    "index_now", "load_version", "locate", "mine_history", "mine_now", "model_in_service",
    "newest_tasks", "ready_locator", "record_answer", "require_sources", "scorer",
]  # fmt: skip
