"""The index of one commit: every file that can be read, parsed once per content and kept.

Owns what is parsed and what is skipped, and the cache of results by blob id, so that a second index
of the same contents, in whatever commit, parses nothing. Does not know how a language is read
(`parse`) nor how git is asked (`git`); keeps nothing but what can be made again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from twin.coding.graph import resolve_imports
from twin.coding.languages import language_of
from twin.coding.parse import PARSER_VERSION, Outline, decode, decode_outline, encode, parse
from twin.coding.paths import role_of
from twin.records import ParsedFile

MAX_BYTES: Final = 1_000_000
"""Larger files are data or machine-written: one of them costs as much as a hundred others."""
BINARY_PROBE: Final = 8_192
"""A NUL in the first bytes means binary, as git itself decides."""
MINIFIED_BYTES: Final = 4_096
MINIFIED_LINE: Final = 250
"""Files above both, in size and in mean line length, are minified or tables; nobody edits them."""
BATCH_BYTES: Final = 8_000_000
"""Sources parsed between two writes to the cache: what a kill can lose, and the memory in use."""
KEPT_DECODED: Final = 4_096
"""Decoded files kept at a time; decoding one again takes 30 us."""

SKIPPED: Final = b"\xc0"
"""The cached answer for a blob that is not worth parsing: nil, which no parsed file encodes to."""

Progress = Callable[[int, int], None]
"""Called with (blobs parsed, blobs to parse)."""


class Contents(Protocol):
    """Where the contents of files come from; `GitRepository` is one."""

    def blobs(
        self, blob_ids: Iterable[str], max_bytes: int = MAX_BYTES
    ) -> Iterator[tuple[str, bytes | None]]: ...


class Blobs(Contents, Protocol):
    """Where contents and the trees that hold them come from; `GitRepository` is one."""

    def tree(self, commit_id: str) -> Mapping[str, str]: ...


class Cache(Protocol):
    """Where results are kept; the store's `BlobCache` is one."""

    def get_many(self, kind: str, version: int, blob_ids: Iterable[str]) -> dict[str, bytes]: ...
    def put_many(self, kind: str, version: int, payloads: Mapping[str, bytes]) -> None: ...


class CacheWriter:
    """Collects payloads and writes them to the cache a batch at a time. `flush` at the end."""

    def __init__(self, cache: Cache, version: int) -> None:
        self._cache, self._version = cache, version
        self._batch: dict[str, dict[str, bytes]] = {}
        self._pending = 0

    def add(self, kind: str, blob: str, payload: bytes, num_bytes: int) -> None:
        """`num_bytes`: the size of the source that the payload was made from."""
        self._batch.setdefault(kind, {})[blob] = payload
        self._pending += num_bytes
        if self._pending >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        for kind, payloads in sorted(self._batch.items()):
            self._cache.put_many(kind, self._version, payloads)
        self._batch, self._pending = {}, 0


class ParsedFiles(Mapping[str, ParsedFile]):
    """Parsed files by key, decoded when first asked for: most questions touch few of them."""

    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self._payloads = payloads
        self._decoded: dict[str, ParsedFile] = {}

    def __getitem__(self, key: str) -> ParsedFile:
        found = self._decoded.get(key)
        if found is None:
            found = decode(self._payloads[key])
            if len(self._decoded) >= KEPT_DECODED:
                self._decoded.clear()
            self._decoded[key] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._payloads)

    def __len__(self) -> int:
        return len(self._payloads)

    def __contains__(self, key: object) -> bool:
        return key in self._payloads


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One commit as the index sees it. All mappings are in the order of their paths."""

    commit_id: str
    files: Mapping[str, str]
    """Path to blob id, every regular file of the commit."""
    parsed: Mapping[str, ParsedFile]
    """Path to what the parser found, for the files that were worth reading."""
    imports: Mapping[str, frozenset[str]]
    """Path to the paths that it imports; a key for each of `parsed`."""
    num_skipped: int = 0
    """Files of a known language left out: vendored, too large, binary, minified or missing."""


def build_snapshot(
    repository: Blobs, blobs: Cache, commit_id: str, progress: Progress | None = None
) -> Snapshot:
    """Indexes one commit, parsing only contents that were never seen before.

    Interrupted at any moment, the next call goes on from the last batch that reached the cache.
    """
    tree = repository.tree(commit_id)
    files = {path: tree[path] for path in sorted(tree)}
    known = {path: language for path in files if (language := language_of(path))}
    languages = {path: known[path] for path in known if role_of(path) != "vendored"}
    wanted = {(files[path], language) for path, language in languages.items()}
    payloads, outlines = _outlined(repository, blobs, wanted, progress)
    readable = {
        path: (files[path], language)
        for path, language in languages.items()
        if (files[path], language) in outlines
    }
    return Snapshot(
        commit_id=commit_id,
        files=files,
        parsed=ParsedFiles({path: payloads[key] for path, key in readable.items()}),
        imports=resolve_imports({path: outlines[key] for path, key in readable.items()}),
        num_skipped=len(known) - len(readable),
    )


def parsed_blobs(
    repository: Blobs,
    blobs: Cache,
    wanted: Mapping[str, str],
    progress: Progress | None = None,
) -> Mapping[str, ParsedFile]:
    """What the parser finds in many blobs (`wanted`: blob id to language), decoded on demand.

    Blobs that are missing or not worth reading are left out. Sources are held a batch at a time;
    the compact results of all of them are kept.
    """
    payloads, _ = _outlined(repository, blobs, set(wanted.items()), progress)
    return ParsedFiles(
        {blob: payloads[blob, wanted[blob]] for blob in wanted if (blob, wanted[blob]) in payloads}
    )


_Key = tuple[str, str]  # blob id, language: one content may be read as two languages


def _outlined(
    repository: Blobs, blobs: Cache, wanted: set[_Key], progress: Progress | None
) -> tuple[dict[_Key, bytes], dict[_Key, Outline]]:
    """Payloads and import outlines of `wanted`, from the cache or parsed now."""
    payloads: dict[_Key, bytes] = {}
    outlines: dict[_Key, Outline] = {}
    missing: list[_Key] = []
    by_language: defaultdict[str, list[str]] = defaultdict(list)
    for blob, language in sorted(wanted):
        by_language[language].append(blob)
    for language, blob_ids in sorted(by_language.items()):
        cached = blobs.get_many(_kind(language), PARSER_VERSION, blob_ids)
        for blob in blob_ids:
            key = blob, language
            payload = cached.get(blob)
            if payload == SKIPPED:
                continue
            outline = _outline(payload)
            if payload is None or outline is None:
                missing.append(key)
            else:
                payloads[key], outlines[key] = payload, outline
    for key, payload in _parse_missing(repository, blobs, missing, progress):
        payloads[key], outlines[key] = payload, decode_outline(payload)
    return payloads, outlines


def _outline(payload: bytes | None) -> Outline | None:
    try:
        return None if payload is None else decode_outline(payload)
    except msgspec.DecodeError:
        return None  # a damaged entry is made anew: the cache holds nothing that git does not


def _parse_missing(
    repository: Blobs, blobs: Cache, missing: list[_Key], progress: Progress | None
) -> Iterator[tuple[_Key, bytes]]:
    """Parses and caches in batches; yields what was worth parsing."""
    languages: defaultdict[str, list[str]] = defaultdict(list)
    for blob, language in missing:
        languages[blob].append(language)
    writer = CacheWriter(blobs, PARSER_VERSION)
    found = repository.blobs(languages, max_bytes=MAX_BYTES)
    for done, (blob, data) in enumerate(found, start=1):
        if data is not None:
            for language in languages[blob]:
                payload = SKIPPED if unreadable(data) else encode(parse(data, language))
                writer.add(_kind(language), blob, payload, len(data))
                if payload != SKIPPED:
                    yield (blob, language), payload
        if progress is not None:
            progress(done, len(languages))
    writer.flush()


def _kind(language: str) -> str:
    return f"parsed-{language}"


def unreadable(data: bytes) -> str | None:
    """Why a content is not worth parsing, None if it is."""
    if len(data) > MAX_BYTES:
        return "too large"
    if b"\0" in data[:BINARY_PROBE]:
        return "binary"
    if len(data) > MINIFIED_BYTES and len(data) > MINIFIED_LINE * (data.count(b"\n") + 1):
        return "minified"
    return None
