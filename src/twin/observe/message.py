"""How much a commit's message says about its change, and what kind of change it announces.

Owns the words: verbs, empty phrases, prefixes, and the score made from them. Sees text only; what
files a commit touches is `mine`'s business.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

PREFIX: Final = re.compile(
    r"^\s*(?:\[[^\]]{1,30}\]\s*)*"  # [core] [3.11]
    r"(?:(?P<kind>[A-Za-z]{2,12})(?:\([^)]{0,60}\))?!?\s*:\s+)?"  # fix(parser)!: or BUG :
)
"""What stands before the sentence: a conventional prefix, or the house's own."""

_VERBS: Final = frozenset(
    """
    abort accept access adapt add adjust align allow alter annotate append apply assert assign
    assume attach avoid backport base batch begin block bring build bump bundle cache calculate
    call cancel cap capture catch change check choose clamp clarify clean clear close collapse
    collect combine comment compare compile complete compute configure consider consolidate
    convert copy correct cover create customize deal decode decouple decrease deduplicate default
    defer define delay delegate delete deprecate derive describe detect determine disable disallow
    discard display distinguish do document don't download drop dump duplicate edit eliminate
    emit enable encapsulate encode enforce enhance ensure escape evaluate exclude execute expand
    explain export expose extend extract fall fetch filter finalize find finish fix flatten fold
    follow forbid force format forward free generate get give go group guard handle hide highlight
    hoist honor honour ignore implement import improve include increase indent infer inherit
    initialize inject inline insert inspect install instantiate integrate introduce invert
    invoke isolate iterate join keep kill lazily let lift limit link list load localize lock log
    loosen lower maintain make mark match measure memoize merge migrate minimize mock modernize
    modify move name narrow normalize notify omit open optimize order output overhaul override
    overwrite parametrize parse pass patch perform permit pick pin point polish port postpone
    prefer prepare preserve prevent print process produce prohibit promote propagate protect
    provide prune publish pull push put quote raise read rearrange rebuild recognize record reduce
    refactor refine reflect register reject relax release reload remove rename render reorder
    reorganize replace report require reset resolve respect restore restrict restructure retry
    return reuse revert review revise rework rewrite round route run safeguard sanitize save scale
    scope search select send separate serialize set setup shorten show silence simplify skip
    slightly sort specialize specify speed split stabilize standardize start stop store
    streamline strip substitute support suppress swap switch sync synchronize take test throw
    tidy tighten toggle track transform translate treat trigger trim truncate try tune turn tweak
    type undo unify unwrap update upgrade use validate verify wait warn widen workaround wrap
    write yield
    """.split()  # noqa: SIM905 (a list of 300 strings reads worse)
)
_EMPTY: Final = frozenset(
    """
    a again all also an and another any are as at be better big bit bug bugs but by change changed
    changes cleanup code comment comments commit couple did do done everything few file files fix
    fixed fixes fixing for formatting from further general had has have here i improve
    improvements in initial is issue issues it its just last little lint linting make maybe minor
    misc missing more my new no nit nits not now of off old on one oops or other our out previous
    problem problems progress refactor remove review should small so some still stuff temp that
    the them then there these thing things this those to todo tweak tweaks typo typos up update
    updated updates various was we were when wip with work working
    """.split()  # noqa: SIM905
)
"""Words that name no place in any program."""

_NAME: Final = re.compile(
    r"`[^`\s]+`|\b[a-z]+[A-Z]\w+\b|\b[A-Z][a-z0-9]+[A-Z]\w*\b|\b\w+_\w+\b|\b_\w+\b"
    r"|\b[A-Za-z]\w*\.[A-Za-z_]\w*\b|\b\w+\(\)|--[a-z][\w-]+|['\"][\w.-]{2,40}['\"]"
)
"""An identifier, an option or a quoted word: something that stands in the code."""

_WORD: Final = re.compile(r"[^\W\d_][\w'.-]*")

_KINDS: Final = (
    ("revert", "revert", r"^revert(?:ed|s|ing)?\b"),
    (
        "bump",
        "bump update upgrade pin lock",
        r"^(?:version )?bump\b|^(?:bump|upgrade|update|pin) \S+(?: \S+){0,3} (?:from|to) v?\d"
        r"|\b(?:pre-?commit|deps?|dependenc(?:y|ies)) (?:auto)?(?:update|upgrade|bump)"
        r"|^(?:update|upgrade) (?:black|flake8|isort|mypy|pre-?commit|pylint|pyright|ruff)\.?$"
        r"|^(?:auto)?(?:update|upgrade|bump|lock|pin) (?:all )?(?:dev |python )?"
        r"(?:deps?|dependenc(?:y|ies)|requirements|lock ?file|pre-?commit)",
    ),
    (
        "release",
        "releas version . development",
        r"^(?:prepare|prep|cut|make|tag|new)?\s*(?:for\s+)?(?:the\s+)?releas(?:e|ing)\b"
        r"|^v?\d+\.\d+(?:\.\d+)?(?:[abc.rc-]*\d*)?\.?$|^version v?\d+\.\d+"
        r"|\b(?:start|begin) (?:new |next )?(?:development|release)|\bback to development"
        r"|\bversion bump",
    ),
    (
        "typo",
        "typo misspell spelling grammar wording",
        r"\btypos?\b|\bmisspell|\bspelling\b|\bgrammar (?:fix|mistake)|\bwording\b",
    ),
    (
        "fix",
        "fix bug crash regression",
        r"\b(?:bug)?fix(?:e[sd]|ing)?\b|\bbug\b|\bcrash(?:es)?\b|\bregression\b",
    ),
    (
        "feature",
        "add implement introduc support allow enabl provid expos feat",
        r"^(?:add|implement|introduce|support|allow|enable|provide|expose|feat(?:ure)?)"
        r"(?:s|d|ed|ing)?\b",
    ),
    (
        "refactor",
        "refactor organi structur simplif clean renam mov extract inlin split dedup",
        r"\brefactor|\bre-?organi[sz]|\brestructur|\bsimplif|\bclean(?:s|ed|ing)?[ -]?up\b"
        r"|^(?:rename|move|extract|inline|split|deduplicate)(?:s|d|ed)?\b",
    ),
    (
        "docs",
        "doc readme change",
        r"\bdocs?\b|\bdocumentation\b|\bdocstrings?\b|\breadme\b|\bchange ?log\b",
    ),
    (
        "tests",
        "test coverage",
        r"^(?:add|fix|improve|update|more|extend)?\s*(?:unit )?tests?\b|\bcoverage\b",
    ),
    (
        "style",
        "format black isort ruff prettier gofmt rustfmt lint flake8 whitespace pep",
        r"\b(?:re)?format(?:ting|ted)?\b.*\b(?:code|files|black|ruff|prettier|all)\b"
        r"|\b(?:run|apply|use|with) (?:black|isort|ruff|prettier|gofmt|rustfmt|clang-format)\b"
        r"|\blint(?:er|ing)?\b|\bflake8\b|\bpylint\b|\bwhitespace\b|\bpep ?8\b",
    ),
)
"""Named kinds, the emptier first; the pattern that gives each away in a lower-case subject; and
before it the letters of which every match has some, a twentieth of the time to look for."""

_MATCHERS: Final = tuple(
    (name, tuple(letters.split()), re.compile(pattern)) for name, letters, pattern in _KINDS
)

_CONVENTIONAL: Final = {
    "bug": "fix", "bugfix": "fix", "deps": "bump",
    "doc": "docs", "docs": "docs", "feat": "feature", "feature": "feature", "fix": "fix",
    "hotfix": "fix", "refactor": "refactor", "release": "release", "revert": "revert",
    "style": "style", "test": "tests", "tests": "tests",
}  # fmt: skip

_SAYS_LITTLE: Final = frozenset({"bump", "release", "revert", "style", "typo"})
"""Kinds whose message names no place even when it is long."""

FULL_SUBJECT: Final = 8
"""Words with which a subject counts as complete; most good ones have six to ten."""

FULL_BODY: Final = 8
MAX_SUBJECT: Final = 500
"""Characters looked at; a subject is one line of people, whatever stands in the commit."""

LITTLE: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageScore:
    """A value in [0, 1] and the reasons that add up to it."""

    value: float
    reasons: tuple[str, ...]


def message_score(subject: str, body: str = "", min_words: int = 4) -> MessageScore:
    """How much a message says about the place of its change.

    The parts are those that readers name when they call a message good; their sizes are a
    judgement, set so that "Fix typo" is near 0 and a sentence with a name in it is above a half.
    """
    subject = subject[:MAX_SUBJECT]
    sentence = PREFIX.sub("", subject, count=1)
    words = _WORD.findall(sentence)
    explained = len(list(islice(_WORD.finditer(body), FULL_BODY)))
    telling = {word.lower() for word in words} - _EMPTY
    parts = [
        (0.30 * min(len(words), FULL_SUBJECT) / FULL_SUBJECT, f"{len(words)} words"),
        (0.25 * min(len(telling), 4) / 4, f"{len(telling)} telling words"),
        (0.15 * starts_with_verb(subject), "starts with a verb"),
        (0.15 * bool(_NAME.search(sentence)), "names something in the code"),
        (0.15 * explained / FULL_BODY, "explained in the body"),
    ]
    value = sum(part for part, _ in parts)
    reasons = [f"+{part:.2f} {why}" for part, why in parts if part >= 0.005]
    little = sorted(_SAYS_LITTLE.intersection(kind for kind, _ in kinds_of(subject, body)))
    limits = [(LITTLE, f"a {kind} names no place") for kind in little]
    if len(words) < min_words:
        limits.append((LITTLE * 2, f"fewer than {min_words} words"))
    for limit, why in limits:
        if value > limit:
            value = limit
            reasons.append(f"at most {limit:.2f}: {why}")
    return MessageScore(value=round(value, 4), reasons=tuple(reasons))


def count_words(subject: str) -> int:
    """Words of a subject as anybody counts them: what stands between spaces and is no mere sign."""
    return sum(any(char.isalnum() for char in word) for word in subject[:MAX_SUBJECT].split())


def starts_with_verb(subject: str) -> bool:
    """Whether the first word after any prefix is a verb in any of its forms."""
    found = re.match(r"\W*([A-Za-z']+)", PREFIX.sub("", subject, count=1))
    return found is not None and _is_verb(found[1].lower())


@lru_cache(maxsize=1)  # the score asks, and whoever labels the same commit asks again
def kinds_of(subject: str, body: str = "") -> tuple[tuple[str, str], ...]:
    """The kinds of change that a message announces, each with its reason."""
    subject = subject[:MAX_SUBJECT]
    prefix = PREFIX.match(subject)
    kinds: dict[str, str] = {}
    if prefix is not None and prefix["kind"]:
        said = _CONVENTIONAL.get(prefix["kind"].lower())
        if said is not None:
            kinds[said] = f"prefix {prefix['kind']!r}"
    sentence = subject[prefix.end() :].strip() if prefix is not None else subject
    lowered = sentence.lower()
    for name, letters, pattern in _MATCHERS:
        for some in letters:
            if some in lowered:
                if found := pattern.search(lowered):
                    kinds.setdefault(name, f"subject says {found[0].strip()!r}")
                break
    if "This reverts commit" in body:
        kinds.setdefault("revert", "body says which commit it reverts")
    return tuple(kinds.items())


@lru_cache(maxsize=20_000)
def _is_verb(word: str) -> bool:
    stems = {word}
    for ending in ("s", "es", "d", "ed", "ing"):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            stems |= {stem, stem + "e"}
            if len(stem) > 2 and stem[-1] == stem[-2]:
                stems.add(stem[:-1])
            if stem.endswith("i"):
                stems.add(stem[:-1] + "y")
    return not _VERBS.isdisjoint(stems)
