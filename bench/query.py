"""Speed of `locate` in one process: milliseconds a question, and memory.

    python bench/query.py REPO [--files 1000] [--quick]

The newest messages of the repository are asked at HEAD with the shipped model, reasons and symbols
included; BM25 alone over the same files (the `bm25s` package, index built beforehand) is asked in
turn, so that load on the machine meets both. Where the repository has more code files than
`--files`, the first ones by path are kept, so that figures of different repositories compare. The
last line is JSON.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import bm25s
import numpy as np

from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.coding.languages import language_of
from twin.coding.retrieve import Locator
from twin.coding.text import WORD, clean_message
from twin.specialists.relevance import default_model
from twin.store.database import open_store


def peer(texts: Sequence[str]) -> tuple[bm25s.BM25, dict[str, int]]:
    """A bm25s index over plain lower-case words."""
    vocabulary: dict[str, int] = {}
    documents = [
        [vocabulary.setdefault(word.lower(), len(vocabulary)) for word in WORD.findall(text)]
        for text in texts
    ]
    index = bm25s.BM25()
    index.index((documents, vocabulary), show_progress=False)
    return index, vocabulary


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", type=Path)
    parser.add_argument("--files", type=int, default=1000, help="code files to keep")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="50 questions")
    given = parser.parse_args(arguments)
    number = 50 if given.quick else given.questions
    with TemporaryDirectory() as folder:
        return _measure(given.repo, given.files, number, Path(folder))


def _measure(path: Path, num_files: int, num_questions: int, folder: Path) -> int:
    bare = (path / "objects").is_dir()
    started = time.perf_counter()
    with GitRepository.bare(path) if bare else GitRepository.open(path) as repository:
        commits = list(read_history(repository))
        head = repository.head()
        code = {p: b for p, b in repository.tree(head).items() if language_of(p) is not None}
        files = dict(sorted(code.items())[:num_files])
        with open_store(folder) as store:
            locator = Locator.at(repository, files, store.blobs, commits, head)
        model = default_model()
        built_s = time.perf_counter() - started
        messages = [clean_message(f"{c.subject}\n\n{c.body}") for c in commits if c.changes]
        questions = [m for m in messages if len(WORD.findall(m)) > 3][-num_questions:]
        found = dict(repository.blobs(files.values()))
        texts = [(found.get(blob) or b"").decode("utf-8", "replace") for blob in files.values()]
        index, vocabulary = peer(texts)
        locator.locate(questions[0], model)  # LightGBM is loaded with the first question
        ours: list[float] = []
        theirs: list[float] = []
        for question in questions:
            began = time.perf_counter()
            locator.locate(question, model)
            ours.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            known = [
                vocabulary[w.lower()] for w in WORD.findall(question) if w.lower() in vocabulary
            ]
            if known:
                index.get_scores_from_ids(known)
            theirs.append((time.perf_counter() - began) * 1000)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    p50, p99 = float(np.percentile(ours, 50)), float(np.percentile(ours, 99))
    print(f"{len(files)} files, {len(commits)} commits, ready after {built_s:.1f} s")
    print(f"locate  p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   peak memory {memory_mb:.0f} MB")
    print(f"bm25s   p50 {statistics.median(theirs):7.2f} ms   scores alone, no reasons or symbols")
    bars = [
        _bar("p50 ms a question", 30, p50),
        _bar("p99 ms a question", 100, p99),
        _bar("peak memory MB", 1000, memory_mb),
    ]
    print(
        json.dumps(
            {
                "bench": "query",
                "versions": {
                    **{n: version(n) for n in ("cognitive-twin", "bm25s", "lightgbm", "numpy")},
                    "python": sys.version.split()[0],
                },
                "figures": {
                    "num_files": len(files),
                    "num_commits": len(commits),
                    "num_questions": len(questions),
                    "ready_s": round(built_s, 2),
                    "p50_ms": round(p50, 2),
                    "p99_ms": round(p99, 2),
                    "bm25s_p50_ms": round(statistics.median(theirs), 3),
                    "ratio_to_bm25s": round(p50 / max(statistics.median(theirs), 1e-9), 1),
                    "peak_memory_mb": round(memory_mb),
                },
                "bars": bars,
            }
        )
    )
    return 0 if all(bar["holds"] for bar in bars) else 1


def _bar(name: str, must: float, got: float) -> dict[str, object]:
    return {"name": name, "must": f"< {must}", "got": round(got, 2), "holds": got < must}


if __name__ == "__main__":
    sys.exit(main())
