"""Workers on the nodes of a Ray cluster.

They take their work from the store, as all workers do, so nodes share one PostgreSQL store; a pack
lies at the same path on each. Ray starts the workers and says when one has died. A node that cannot
take part (no pack, no sandbox, no store) says why, and the others do its share. Knows nothing of
the work.
"""

import logging
import os
import time
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

from twin.cycle.working import Shift, work
from twin.errors import ConfigError, MissingRequirement, TwinError

NO_RAY: Final = "Ray spreads work over machines. Install with: pip install 'cognitive-twin[ray]'"
LOCAL: Final = "local"
"""For a cluster of this machine alone, which is started for the work and ends with it."""
MAX_CRASHES: Final = 20
"""Workers that may die on a node. Items that kill their workers explain some, but a node that is
short of memory kills one after the other."""
FILL_S: Final = 2.0
"""How often to look for nodes that have joined."""
STOP_S: Final = 10.0


class Nodes:
    """A crew on a cluster. Connects on entering; there is one at a time in a process."""

    def __init__(self, shift: Shift, address: str, num_workers: int | None) -> None:
        """`address` is what `ray start --head` says, `auto` or `local`. With `num_workers` None
        there is one for each core of the cluster."""
        if address != LOCAL and shift.address.url.startswith("sqlite"):
            raise ConfigError(
                "Several machines cannot share a store that is a file. Set `store.url` to a "
                "PostgreSQL database that every node reaches, or give `--ray local`."
            )
        self._shift = shift
        self._address = address
        self._max_workers = num_workers
        self._running: dict[Any, str] = {}
        self._crashes: Counter[str] = Counter()
        self._next_fill = 0.0
        self.refused: dict[str, str] = {}
        """Nodes that cannot take part, and why."""

    def __enter__(self) -> Self:
        # Ray would report its use to its makers.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingRequirement(NO_RAY) from error
        self._ray = ray
        try:
            ray.init(
                address=self._address,
                include_dashboard=False if self._address == LOCAL else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or ["no answer"])[0]
            raise MissingRequirement(
                f"There is no Ray cluster to use at {self._address}: {said} Start one with: "
                "ray start --head --disable-usage-stats"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ray.shutdown()

    def look(self, wait_s: float) -> None:
        if time.monotonic() >= self._next_fill:
            self._fill()
        if not self._running:
            time.sleep(wait_s)
            return
        ended, _ = self._ray.wait(list(self._running), timeout=wait_s)
        for task in ended:
            self._hear(task, self._running.pop(task))
            self._next_fill = 0.0

    def stop(self) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_S)

    def _hear(self, task: Any, node: str) -> None:
        """What became of a worker that has ended."""
        from ray.exceptions import RayError, RayTaskError

        try:
            self._ray.get(task)
        except RayTaskError as error:
            if not isinstance(error.cause, TwinError | OSError):
                raise
            self.refused[node] = str(error.cause)
        except RayError as error:  # it was killed, or its whole node is gone
            self._crashes[node] += 1
            if self._crashes[node] > MAX_CRASHES:
                self.refused[node] = f"its workers die: {str(error).splitlines()[0]}"

    def _fill(self) -> None:
        """One worker for each core of each node that is there and can take part."""
        self._next_fill = time.monotonic() + FILL_S
        usable = [
            node for node in self._ray.nodes() if node["Alive"] and _name(node) not in self.refused
        ]
        if not usable and self.refused:
            said = "; ".join(f"{node}: {why}" for node, why in self.refused.items())
            raise MissingRequirement(f"No node of the cluster can do the work. {said}")
        at_work = Counter(self._running.values())
        for node in usable:
            for _ in range(int(node["Resources"].get("CPU", 0)) - at_work[_name(node)]):
                if self._max_workers is None or len(self._running) < self._max_workers:
                    self._running[self._begin(node["NodeID"])] = _name(node)

    def _begin(self, node_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # What is tried again, and how often, the store decides.
        remote = self._ray.remote(num_cpus=1, max_retries=0, scheduling_strategy=there)
        return remote(_enter).remote(self._shift)


def _enter(shift: Shift) -> None:
    """In a worker, on a node."""
    shift.address.root.mkdir(parents=True, exist_ok=True)
    with shift.address.open() as store:
        for _ in work(store, shift):
            pass


def _name(node: dict[str, Any]) -> str:
    """How a person knows a node; two of them can be on one machine."""
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
