"""The repository's half of what is injected: excerpts of code for a request, from a warm locator.

Owns when the locator is made anew (HEAD moved, another model in service) and that nobody waits for
it: a thread prepares the next one while the last one answers. Reads new commits as `twin locate`
does, but begins nothing: where history was never read there are no excerpts.
"""

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from twin.coding.context import pack_context
from twin.coding.evidence import FLOOR, Words
from twin.coding.git import GitRepository
from twin.coding.retrieve import SYMBOL_FILES, Locator
from twin.coding.retrieved import Piece
from twin.config import Config
from twin.cycle.answers import author_of, model_in_service, ready_locator
from twin.cycle.past import is_mined
from twin.errors import RepositoryError, StoreError, TwinError
from twin.gate.promote import in_service
from twin.specialists.relevance import MODEL, RelevanceModel
from twin.store.database import Store, open_store

LEAST: Final = FLOOR / 2
"""A file of less relevance is not shown, however high it ranks: the list always has ten."""
PATIENCE_S: Final = 0.2
"""How long a request waits for news where something older can answer: to compare HEAD takes
milliseconds, to read new commits longer."""
FIRST_PATIENCE_S: Final = 1.5
"""And where nothing can answer yet, after the reading has begun: a small repository is read by
then, and for a large one nobody should wait."""
FAILED_REST_S: Final = 10.0
STORE_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpts:
    """One commit and one model, ready to answer. Holds a repository of its own, so that it can be
    asked while another thread prepares the next one."""

    repository: GitRepository
    locator: Locator
    model: RelevanceModel
    live: str
    """The version in service, even where the shipped model answers in its place."""
    author: str

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same answers."""
        return self.locator.commit_id, self.live

    def find(self, text: str, words: Words, budget_tokens: int) -> list[Piece]:
        """Excerpts for a request, most important first; none where no file is about it."""
        relevant = self.locator.relevance(words)
        best = max(relevant.values(), default=0.0)
        if best < FLOOR or budget_tokens < 1:
            return []
        answer = self.locator.locate(
            text, self.model, limit=SYMBOL_FILES, author=self.author, explain=False
        )
        # What the model believes in first is as relevant as the request is to the repository at
        # all: it may know the place from history, without a word in common.
        worth = {
            file.path: max(relevant.get(file.path, 0.0), best * file.share / answer.files[0].share)
            for file in answer.files
        }
        kept = tuple(file for file in answer.files if worth[file.path] >= LEAST)
        texts = self.locator.texts([file.path for file in kept])
        package = pack_context(replace(answer, files=kept), texts, budget_tokens=budget_tokens)
        return [
            Piece(
                source="repository",
                path=item.path,
                start_line=item.start_line,
                end_line=item.end_line,
                what=item.symbol,
                text=item.text,
                relevance=worth[item.path],
            )
            for item in package.items
        ]


class Watch:
    """Keeps excerpts that are up to date, or nearly. `current` is for one thread."""

    def __init__(self, root: Path, config: Config, look_every_s: float) -> None:
        self._root = root
        self._config = config
        self._look_every_s = look_every_s
        self._store: Store | None = None
        self._repository: GitRepository | None = None
        """The thread's own, to ask for HEAD."""
        self._news = threading.Condition()
        self._is_wanted = False
        self._wanted_at = 0.0
        self._next_look = 0.0
        self._prepared: Excerpts | None = None
        self._used: Excerpts | None = None
        self.notice = ""
        """Why there are no excerpts, or not by the live model; empty where all is well."""
        self._thread = threading.Thread(target=self._keep, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def current(self, until: float) -> Excerpts | None:
        """The excerpts of now, or of a moment ago where new ones are not ready by `until` (on the
        monotonic clock); None where there are none."""
        with self._news:
            now = time.monotonic()
            if now >= self._next_look:
                if not self._is_wanted:
                    self._is_wanted, self._wanted_at = True, now
                    self._news.notify_all()
                patience_s = FIRST_PATIENCE_S if self._prepared is None else PATIENCE_S
                last = min(until, self._wanted_at + patience_s)
                self._news.wait_for(lambda: not self._is_wanted, last - now)
            prepared = self._prepared
        if prepared is not self._used and self._used is not None:
            self._used.repository.close()
        self._used = prepared
        return prepared

    def _keep(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_wanted)
            rest_s = self._look_every_s
            prepared = self._prepared
            try:
                prepared, notice = self._look(prepared)
            except TwinError as error:
                notice, rest_s = str(error), max(rest_s, FAILED_REST_S)
                prepared = None if isinstance(error, RepositoryError) else prepared
            except Exception as error:
                # The edge of this thread: without it, it would end and nobody would know.
                notice, rest_s = f"Reading the repository failed: {error!r}.", FAILED_REST_S
            with self._news:
                self._prepared, self.notice = prepared, notice
                self._is_wanted = False
                self._next_look = time.monotonic() + rest_s
                self._news.notify_all()

    def _look(self, known: Excerpts | None) -> tuple[Excerpts | None, str]:
        """(what is up to date now, what people should know). Raises TwinError."""
        if self._repository is None:
            self._repository = GitRepository.open(self._root)
        repository = self._repository
        if self._store is None:
            self._store = open_store(self._root, self._config.store.url, wait_s=STORE_WAIT_S)
        store = self._store
        head = repository.head()
        try:
            live = in_service(store.registry, MODEL)
            if known is not None and known.key == (head, live):
                return known, self.notice
            if not is_mined(repository, store, self._config):
                return None, (
                    f"{self._root} was never learnt, so only documents are put before requests. "
                    "Run `twin improve` there to add its code."
                )
        except StoreError:
            if known is not None and known.key[0] == head:
                return known, self.notice
            raise
        return self._made(store, live)

    def _made(self, store: Store, live: str) -> tuple[Excerpts, str]:
        repository = GitRepository.open(self._root)
        try:
            locator = ready_locator(repository, store, self._config)
            _, model, notice = model_in_service(store)
            # The first prediction loads LightGBM; no request should wait for it.
            model.scores(model.features, np.zeros((1, len(model.features)), np.float32))
            return Excerpts(
                repository=repository,
                locator=locator,
                model=model,
                live=live,
                author=author_of(repository),
            ), notice
        except BaseException:
            repository.close()
            raise
