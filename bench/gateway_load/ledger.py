"""What a gateway's own store holds, read past the program that wrote it."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path


def _open(root: Path) -> sqlite3.Connection:
    found = sorted((root / ".twin").glob("*.db"))
    if not found:
        raise FileNotFoundError(f"No store under {root}.")
    return sqlite3.connect(f"file:{found[0]}?mode=ro", uri=True, timeout=30)


def num_calls(root: Path) -> int:
    """Recorded calls; 0 before there is a store."""
    try:
        with closing(_open(root)) as store:
            return int(store.execute("SELECT count(*) FROM traffic_call").fetchone()[0])
    except (FileNotFoundError, sqlite3.OperationalError):
        return 0


def missing(root: Path, call_ids: Iterable[str]) -> list[str]:
    """Which of `call_ids` have no record."""
    with closing(_open(root)) as store:
        known = {row[0] for row in store.execute("SELECT call_id FROM traffic_call")}
    return [call_id for call_id in call_ids if call_id not in known]
