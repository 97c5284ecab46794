"""What the router sees of a request: about a hundred numbers for its shape, and hashed n-grams.

Owns the reading of the text and nothing else: no weights, no decision. Everything is bounded (of a
long text the two ends are read), deterministic across machines and Python versions, and quick
enough to stand before every request. The shape says what generalises to subjects nobody trained on
(how much is asked, with which options, how much calculation); the n-grams say what it is about.
"""

import re
import zlib
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.records import Question

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEATURES_VERSION: Final = 1
"""Raised when a column or the hashing changes meaning: models of another version do not load."""

HEAD_CHARS: Final = 6_000
TAIL_CHARS: Final = 2_000
"""What is read of a long text: its beginning says what it is, its end what is asked."""

BITS: Final = 15
BUCKETS: Final = 1 << BITS
"""Hash buckets for each of the two kinds of n-grams."""

_APOSTROPHES: Final = "'\u2019"
_WORD = re.compile(rf"[^\W\d_]+(?:[{_APOSTROPHES}][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPTION = re.compile(r"^[ \t]*\(?([A-H])[.):][ \t]*(\S[^\n]*)", re.MULTILINE)
_OPERATORS: Final = "+-*/=^<>×÷±≤≥≠−∑∫√∧∨¬⊃→•~"  # noqa: RUF001 - the signs are meant
_SENTENCE = re.compile(r"[.!?](?:\s|$)")
_YEAR = re.compile(r"\b1[0-9]{3}\b|\b20[0-4][0-9]\b")
_CAPITAL = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")
_ACRONYM = re.compile(r"\b[A-Z]{2,6}s?\b")
_ROMAN = re.compile(r"(?:^|\s)\(?(?:I{1,3}|IV|VI{0,3})[.):]\s")
_VARIABLE = re.compile(rf"(?<![A-Za-z{_APOSTROPHES}])[b-hj-zB-HJ-Z](?![A-Za-z{_APOSTROPHES}.):])")
_LATEX = re.compile(r"\\[a-z]+|\$[^$\n]{1,80}\$|[\^_]\{")
_UNIT = re.compile(
    r"\d\s?(?:%|°|k?m|cm|mm|kg|g|mg|s|ms|h|hz|khz|mhz|v|a|w|kw|j|kj|n|ohms?|km/h|m/s|mol|l|ml|"
    r"hours?|minutes?|days?|years?|miles?|feet|inches|dollars?|cents?)\b",
    re.IGNORECASE,
)
_STATEMENT = re.compile(r"\b(?:Statement|Scenario|Premise|Case|Part|Step)s? ?(?:\d|[IVX]+)\b")
_PASSAGE = re.compile(
    r"\b(?:refers? to the following|passage|excerpt|the following "
    r"(?:text|code|document|article))\b",
    re.IGNORECASE,
)
_SYMBOL = re.compile(r"[^\w .,'-]")
_CODE: Final = ("```", "()", ";\n", "{\n", "}\n", ":=", "<-", "==", "def ", "return ", "int ")
_ALL_NONE = re.compile(
    r"\b(?:all|none|any|both|neither|either) (?:of )?(?:the |these|those|of)", re.IGNORECASE
)

_TERMS: Final[dict[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "negations": "not except never no without incorrect false least neither nor cannot isn't "
        "doesn't don't isn\u2019t doesn\u2019t don\u2019t unlikely lacks",
        "superlatives": "best most least primary primarily main mainly likely greatest largest "
        "smallest highest lowest first closest",
        "truth": "true false correct incorrect valid invalid consistent right wrong statement "
        "statements following",
        "what": "what what's", "which": "which", "who": "who whom whose", "when": "when",
        "where": "where", "why": "why because explain reason", "how": "how",
        "amounts": "many much number percent percentage fraction probability average mean total "
        "sum rate ratio value amount",
        "calculation": "find solve compute calculate evaluate simplify equation equals equal "
        "expression function multiply divide add subtract times product integer integers root "
        "remainder factor approximately expressed graph length area volume distance angle",
        "logic": "if then implies all some every only and or therefore thus argument premise "
        "conclusion logic proposition predicate",
        "conditions": "suppose assume given let if when unless would should could",
        "proof": "prove show derive justify theorem lemma proof",
        "i": "i me my mine myself", "you": "you your yours", "we": "we our us",
        "people": "he she his her him man woman patient boy girl child people person",
        "medical": "patient symptoms pain blood disease treatment diagnosis clinical pressure "
        "syndrome therapy chronic acute year-old infection",
        "law": "law state court rights contract treaty legal justice",
        "theory": "theory according concept refers term defined known called approach",
        "writing": "write draft summarize summarise rewrite translate list describe explain",
        "code": "function class method code bug error test file array loop variable program "
        "algorithm python java data",
        "stopwords": "the a an of to in is are was were be been by for on with as at from that "
        "this these those it its and or which what who has have had do does did will",
        "hedges": "may might can could usually often always only",
    }.items()
}  # fmt: skip

_TERM_AT: Final[dict[str, list[int]]] = {}
"""Word -> the numbers of the groups that hold it, so that each word is looked up once."""
for _at, _group in enumerate(_TERMS.values()):
    for _word in _group:
        _TERM_AT.setdefault(_word, []).append(_at)

_COUNTS: Final = (
    "chars", "words", "sentences", "lines", "numbers", "years", "capitals", "acronyms", "romans",
    "variables", "latex", "units", "statements", "passage", "code", "question_marks", "quotes",
    "blanks", "colons", "commas", "parentheses", "operators", "non_ascii", "dollars", "percents",
)  # fmt: skip
_SHARES: Final = (
    "digit_share", "upper_share", "letter_share", "operator_share", "word_length", "long_words",
    "very_long_words", "sentence_length", "distinct_words", "ends_with_question",
    "ends_with_colon", "starts_with_wh", "starts_lower",
)  # fmt: skip
_OPTIONS: Final = (
    "options", "option_length", "option_longest", "option_shortest", "option_spread",
    "option_numeric", "option_all_numeric", "option_words", "option_one_word", "option_capital",
    "option_distinct", "option_same_start", "option_pair_like", "option_symbols", "option_overlap",
    "option_all_none", "option_comma", "option_sentence", "option_share", "stem_words",
    "option_ordered", "option_long_words", "stem_numbers", "stem_calculation",
)  # fmt: skip
SHAPE: Final = (*_COUNTS, *_SHARES, *(f"{name}_share" for name in _TERMS), *_OPTIONS)
"""The columns of `shape`, in order."""
_CONTEXT: Final = (
    "messages", "prompt_tokens", "system_chars", "tools", "tool_results", "images", "json",
    "max_tokens",
)  # fmt: skip
COLUMNS: Final = (*SHAPE, *_CONTEXT)
"""The columns of `Seen.row`, in order."""
LENGTH: Final = COLUMNS.index("chars")


class Seen(NamedTuple):
    """All that the learners read of one request."""

    row: Floats
    """[COLUMNS]"""
    words: Ints
    """Buckets, with repeats."""
    chars: Ints


def see(question: Question) -> Seen:
    """Reads one request: the last user message, and the numbers around it."""
    text = bounded(question.text)
    around = (
        np.log1p(question.num_messages), np.log1p(question.num_prompt_tokens),
        np.log1p(len(question.system)), question.has_tools, question.has_tool_results,
        question.has_images, question.wants_json, np.log1p(max(question.max_tokens or 0, 0)),
    )  # fmt: skip
    row = np.concatenate([shape(text, len(question.text)), around])
    return Seen(row, word_grams(text), char_grams(text))


def bounded(text: str) -> str:
    """The part that is read: all of it, or its two ends."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def shape(text: str, num_chars: int | None = None) -> Floats:
    """[SHAPE] what a `bounded` text looks like; `num_chars` is its length before it was cut."""
    marks = list(_OPTION.finditer(text))
    options = [mark[2].strip() for mark in marks] if len(marks) >= 2 else []
    stem = text[: marks[0].start()] if options else text
    words = _WORD.findall(text)
    lower = [word.lower() for word in words]
    num_words = max(len(words), 1)
    num_digits = sum(map(text.count, "0123456789"))
    num_operators = sum(map(text.count, _OPERATORS))
    num_upper = sum(map(str.isupper, text))
    length = max(len(text), 1)
    size = len(text) if num_chars is None else num_chars
    sentences = len(_SENTENCE.findall(stem)) + 1
    numbers = len(_NUMBER.findall(text))
    num_letters = sum(map(len, words))
    counts = (
        size, len(words), sentences, text.count("\n"), numbers, len(_YEAR.findall(text)),
        len(_CAPITAL.findall(text)), len(_ACRONYM.findall(text)), len(_ROMAN.findall(text)),
        len(_VARIABLE.findall(text)), len(_LATEX.findall(text)), len(_UNIT.findall(text)),
        len(_STATEMENT.findall(text)), len(_PASSAGE.findall(text)), sum(map(text.count, _CODE)),
        text.count("?"), text.count('"') + text.count("“"), text.count("__"), text.count(":"),
        text.count(","), text.count("("), num_operators,
        len(text) - len(text.encode("ascii", "ignore")), text.count("$"), text.count("%"),
    )  # fmt: skip
    stem_end = stem.rstrip()
    stem_start = stem.lstrip()[:1]
    first = lower[0] if lower else ""
    shares = (
        num_digits / length, num_upper / length, num_letters / length, num_operators / length,
        num_letters / num_words, sum(len(word) >= 7 for word in words) / num_words,
        sum(len(word) >= 10 for word in words) / num_words,
        np.log1p(len(stem.split()) / sentences), len(set(lower)) / num_words,
        stem_end.endswith("?"), stem_end.endswith(":"),
        first in ("what", "which", "who", "when", "where", "why", "how"), stem_start.islower(),
    )  # fmt: skip
    terms = [0.0] * len(_TERMS)
    for word in filter(_TERM_AT.__contains__, lower):
        for at in _TERM_AT[word]:
            terms[at] += 1
    terms = [count / num_words for count in terms]
    row = np.empty(len(SHAPE))
    row[: len(counts)] = np.log1p(counts)
    at = len(counts)
    for part in (shares, terms, _options(stem, options)):
        row[at : at + len(part)] = part
        at += len(part)
    return row


def _options(stem: str, options: list[str]) -> tuple[float, ...]:
    """What the choices of a question look like; zeros where it offers none."""
    stem_words = [word.lower() for word in _WORD.findall(stem)]
    num_stem = np.log1p(len(stem_words))
    stem_numbers = np.log1p(len(_NUMBER.findall(stem)))
    calculation = sum(map(_TERMS["calculation"].__contains__, stem_words)) / max(len(stem_words), 1)
    if not options:
        return (*(0.0,) * (len(_OPTIONS) - 5), num_stem, 0.0, 0.0, stem_numbers, calculation)
    count = len(options)
    lengths = [len(option) for option in options]
    bags = [[word.lower() for word in _WORD.findall(option)] for option in options]
    numeric = [bool(_NUMBER.search(option)) and len(bag) <= 2
               for option, bag in zip(options, bags, strict=True)]  # fmt: skip
    every = [word for bag in bags for word in bag]
    distinct = set(every)
    starts = {bag[0] if bag else "" for bag in bags}
    inside = distinct & set(stem_words)
    num_symbols = len(_SYMBOL.findall(" ".join(options)))
    total = sum(lengths)
    mean = total / count
    return (
        float(count), np.log1p(mean), np.log1p(max(lengths)), np.log1p(min(lengths)),
        (max(lengths) - min(lengths)) / max(max(lengths), 1), sum(numeric) / count,
        float(all(numeric)), np.log1p(len(every) / count),
        sum(len(bag) == 1 for bag in bags) / count,
        sum(option[:1].isupper() for option in options) / count,
        len(distinct) / max(len(every), 1), (count - len(starts)) / count,
        # Options that only recombine the same few words: True, False; Wrong, Not wrong.
        float(len(every) >= 6 and len(distinct) <= 4), num_symbols / max(total, 1),
        len(inside) / max(len(distinct), 1),
        sum(bool(_ALL_NONE.match(option)) for option in options) / count,
        sum("," in option for option in options) / count,
        sum(option.endswith(".") for option in options) / count,
        total / (len(stem) + total + 1), num_stem, float(lengths == sorted(lengths)),
        sum(len(word) >= 9 for word in every) / max(len(every), 1), stem_numbers, calculation,
    )  # fmt: skip


def word_grams(text: str) -> Ints:
    """Buckets of the words and pairs of neighbouring words in a `bounded` text, with repeats."""
    codes = np.fromiter(
        (zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())),
        np.uint64,
    )
    pairs = codes[:-1] * np.uint64(0x9E3779B97F4A7C15) + codes[1:]
    return _bucket(np.concatenate([codes * np.uint64(0xD6E8FEB86659FD93), pairs]))


def char_grams(text: str) -> Ints:
    """Buckets of the runs of three to five bytes in a `bounded` text, with repeats."""
    data = np.frombuffer(text.lower().encode("utf-8", "replace"), np.uint8).astype(np.uint64)
    grams, code = [], data
    for size in range(2, 6):
        if len(data) < size:
            break
        code = code[:-1] * np.uint64(0x100000001B3) + data[size - 1 :]
        if size >= 3:
            grams.append(code + np.uint64(size))
    return _bucket(np.concatenate(grams)) if grams else np.empty(0, np.int64)


def _bucket(codes: NDArray[np.uint64]) -> Ints:
    """Fibonacci hashing: the high bits of a product are the well-mixed ones."""
    mixed = (codes ^ (codes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)
