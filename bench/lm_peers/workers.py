"""One thing measured in one process of its own, asked again and again.

Threads are settled before torch is loaded, compiling happens once, and what is compared is measured
in turns, within seconds of each other. Owns the processes and their talk (a JSON line each way),
not what they measure: `serve` is what a bench's child runs, `Worker` is the parent's end.
"""

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Measure = Callable[[dict[str, Any]], dict[str, Any]]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FAILED = "failed"


class WorkerFailed(RuntimeError):
    """The child said why, or went away."""


class Worker:
    """A child process of `script` that builds what `spec` says and then waits to be asked."""

    def __init__(self, script: Path, spec: dict[str, Any], *, threads: int) -> None:
        counts = {name: str(threads) for name in THREADS}
        self._child = subprocess.Popen(
            [sys.executable, str(script), "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **counts, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        try:
            self.ready = self.ask(**spec, threads=threads)
        except BaseException:
            self.stop()
            raise

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._child.stdin
        assert self._child.stdout
        try:
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerFailed(f"ended with status {self._child.wait()}; see above")
        answer: dict[str, Any] = json.loads(line)
        if FAILED in answer:
            raise WorkerFailed(answer[FAILED])
        return answer

    def stop(self) -> None:
        """Ends it within ten seconds, whatever it is doing."""
        assert self._child.stdin
        assert self._child.stdout
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            self._child.terminate()
            try:
                self._child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._child.stdout.close()


def serve(build: Callable[[dict[str, Any]], tuple[dict[str, Any], Measure]]) -> int:
    """The child's side: the first line builds, each further one measures, the end of input ends.

    What libraries print goes to standard error: standard output is the parent's.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        measure: Measure | None = None
        for line in sys.stdin:
            try:
                if measure is None:
                    answer, measure = build(json.loads(line))
                else:
                    answer = measure(json.loads(line))
            except Exception as error:
                traceback.print_exc()
                answer = {FAILED: f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    return 0


class Clock:
    """CPU seconds of this process (all its threads) and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._wall


def peak_mb() -> float:
    """The most memory this process ever had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
