"""What a request is, by rules alone: the router before anybody trained it.

Owns the tables of words and the arithmetic on them. Type, skill and project always come from here;
confidence and gain only until `twin train router` has found better ones. The confidence is meant to
be wrong on the careful side: above `SURE` only for a short request that is plainly a heartbeat, a
triage or a simple question, and in doubt far below, so that the request goes to the bigger model.

Words are compared whole: a text becomes its lower-case words with one blank around each, and a cue
is found as a run of words in it.
"""

import re
from typing import Final

from twin.records import Classification, Question
from twin.specialists.router_features import bounded

SURE: Final = 0.85
"""Where a route with the default threshold stays with the small model."""

VERSION: Final = "rules"

_TOKEN = re.compile(r"[a-z0-9_#+äöüßéèàçñ']+")

_CUES: Final[dict[str, tuple[tuple[float, str], ...]]] = {
    "triage": (
        (3, "classify this|classify the|classify the following|categorize|categorise|triage"),
        (3, "is this spam|spam or|which category|which label|assign a label|label this|label the"),
        (3, "assign a priority|what priority|prioritise this ticket|prioritize this ticket"),
        (3, "positive or negative|positive negative or neutral|sentiment of|which team should"),
        (3, "is this urgent|route this|which queue|bug or feature|yes or no|true or false only"),
        (3, "answer yes or no|one of the following labels|which intent|detect the language"),
        (2, "sentiment|urgent or not|label|which of these labels|severity of this"),
    ),
    "heartbeat": (
        (5, "ping|heartbeat|keepalive|are you there|are you alive|you there|reply with ok"),
        (5, "health check|say ok|respond with ok|reply ok|still there|just checking in"),
        (4, "hello|hi|hey|thanks|thank you|good morning|test|testing|ok|danke|hallo|merci"),
        (4, "got it|great thanks|good evening|bye|pong"),
    ),
    "simple": (
        (3, "capital of|how do you spell|synonym for|synonyms for|antonym of|plural of"),
        (3, "fix the typo|fix typos|fix the grammar|correct the spelling|proofread this sentence"),
        (3, "translate this sentence|translate the word|translate this word|to celsius"),
        (3, "to fahrenheit|in miles|to miles|to kilometers|to kilometres|in celsius"),
        (3, "what day|what does the word|what is the meaning of|meaning of the word|define"),
        (3, "to uppercase|to lowercase|lowercase|uppercase|title case|sort these|sort this list"),
        (3, "how many days|how many minutes|how many seconds|how many hours|abbreviation for"),
        (3, "stand for|what year did|what year was|who wrote|who painted|how tall is"),
        (3, "translate to|translate into|in one word|rephrase this sentence|reword this sentence"),
        (2, "translate|convert|spell|what is|who is|when was|where is|what's"),
    ),
    "coding": (
        (3, "write a function|implement|refactor|stack trace|traceback|unit test|unit tests"),
        (3, "compile error|type error|syntax error|nullpointerexception|segfault|regex for"),
        (3, "write a script|write a class|write code|fix the bug|fix this bug|write a query"),
        (3, "add a test|add tests|failing test|make the test pass|doesn't compile|write a program"),
        (3, "pull the code|add a flag|add an option|rename the|extract a method|typing error"),
        (2, "bug|function|method|class|code|exception|endpoint|parser|sql|regex|api|import"),
        (1, "error|test|tests|file|variable|loop|array|script|python|javascript|typescript|rust"),
    ),
    "review": (
        (5, "code review|review this|review the|review my|review these|pull request|this diff"),
        (4, "what do you think of this code|any problems with|find issues in|look over|critique"),
        (4, "audit|security review|merge request|feedback on|check my code|is this code correct"),
        (2, "review|diff|feedback|nitpick|lgtm"),
    ),
    "architecture": (
        (5, "architecture|system design|design a system|design the system|design a schema"),
        (5, "microservices or|monolith|event sourcing|data model for|design an api|api design"),
        (4, "scale to|scalable|trade offs between|tradeoffs between|trade offs|tradeoffs"),
        (4, "how should we structure|how should i structure|which database should"),
        (4, "high level design"),
        (3, "consistency model|sharding|multi tenant|design pattern|domain model|bounded context"),
        (2, "design|architect|scaling|throughput|microservice|microservices"),
    ),
    "planning": (
        (5, "make a plan|create a plan|project plan|roadmap|milestones|break this down|work plan"),
        (5, "plan the migration|migration plan|plan for|plan how|step by step plan|sprint plan"),
        (4, "estimate how long|prioritise the backlog|prioritize the backlog|break down the work"),
        (4, "next steps|what should we do first|release plan|rollout plan|user stories"),
        (2, "plan|schedule|estimate|backlog|strategy|milestone"),
    ),
    "retrieval": (
        (4, "where is the|where is|which file|which files|find the file|find all|search for"),
        (4, "look up|where do we|where does|what does the documentation|in the docs|in our docs"),
        (4, "list all|show me where|find where|who changed|when did we|what did we decide"),
        (4, "according to the|summarise the document|summarize the document|from the wiki"),
        (2, "find|search|locate|lookup|show me|documentation|grep"),
    ),
    "ops": (
        (4, "deploy|deployment|kubernetes|kubectl|rollback|restart the|restart|on call|incident"),
        (4, "docker compose|terraform|ansible|helm|nginx|systemd|cron job|ci pipeline|outage"),
        (4, "disk is full|out of memory|oom|certificate expired|dns|load balancer|prod is down"),
        (3, "docker|pipeline|server|logs|monitoring|alert|alerts|backup|backups|ssh|firewall"),
        (2, "production|staging|container|cluster|pods|pod|latency spike|cpu usage"),
    ),
    "novel": (
        (4, "write a story|write a poem|invent|brainstorm|come up with|prove that|derive"),
        (4, "research|hypothesis|new idea|novel|never been done|open problem|theorem|proof"),
        (3, "essay|creative|imagine|what if|philosophical|speculate|compose"),
    ),
}  # fmt: skip
"""Type -> (weight, runs of words). Order breaks ties: the harder type comes later and wins."""

_HARD: Final = (
    "why|how would|how should|explain|analyse|analyze|compare|evaluate|optimise|optimize|debug|"
    "investigate|concurrency|race condition|deadlock|distributed|algorithm|complexity|security|"
    "vulnerability|performance|memory leak|legacy|refactor|migrate|migration|prove|derive|legal|"
    "medical|diagnosis|contract|tax|lawsuit|across|entire|whole codebase|several|multiple|"
    "carefully|in detail|detailed|comprehensive|thorough|edge cases|backwards compatible"
)
_STEPS: Final = "then|after that|finally|also|additionally|first|second|third|must|should"
_SKILLS: Final = (
    "python javascript typescript rust go java kotlin swift ruby php sql postgresql sqlite redis "
    "docker kubernetes terraform ansible git bash css html react vue django flask fastapi pytest "
    "numpy pandas pytorch excel latex regex graphql aws azure gcp linux nginx c++ c#"
)
_SAID_SKILL = re.compile(
    r"\b(?:use|using|with) the ([\w-]{2,40}) skill\b|\bskill: ?([\w-]{2,40})", re.I
)
_PROJECT = re.compile(
    r"\b(?:in|for|of|on) (?:the|our|my) ([\w.-]{2,60}) (?:project|repo|repository|codebase)\b"
    r"|\b(?:project|repo|repository):? [\"'`]?([\w./-]{2,60}\w)"
    r"|\bgithub\.com/[\w-]{1,39}/([\w.-]{1,60}\w)|~/(?:src|code|projects|work)/([\w.-]{1,60}\w)"
)
_CODE = re.compile(
    r"```|^(?:diff --git|@@ )|\bdef \w+\(|Traceback \(most|[;{][ \t]*$", re.MULTILINE
)
_ARITHMETIC = re.compile(
    r"^(?:what(?:'s| is) |calculate |compute )?[\d\s().+*/x×÷^=-]{3,40}\??$"  # noqa: RUF001 - meant
)

_BASE: Final = {
    "heartbeat": 0.97, "triage": 0.92, "simple": 0.90, "retrieval": 0.68, "coding": 0.62,
    "ops": 0.58, "review": 0.50, "novel": 0.50, "planning": 0.45, "architecture": 0.32,
}  # fmt: skip
"""Confidence in the small tier's answer to an easy request of the type."""
_LEVEL: Final = {
    "heartbeat": 0.02, "triage": 0.10, "simple": 0.12, "retrieval": 0.30, "coding": 0.40,
    "ops": 0.45, "review": 0.55, "novel": 0.60, "planning": 0.60, "architecture": 0.75,
}  # fmt: skip
"""Complexity of the type at its plainest."""
_EASY: Final = ("heartbeat", "triage", "simple")
_LONGEST: Final = {"heartbeat": 8, "triage": 400, "simple": 40}
"""Words up to which an easy type is believed; the text to sort may be long, a question may not."""
_UNSURE: Final = 0.75
_NEEDED: Final = 3.0


_HARD_KIND: Final = "hard"
_STEP_KIND: Final = "step"


def _indexed() -> dict[str, list[tuple[str, str, float]]]:
    """First word of a cue -> (cue, what it speaks for, weight): a text is asked only for the cues
    that can be in it."""
    table = [
        (kind, float(weight), cue)
        for kind, groups in _CUES.items()
        for weight, cues in groups
        for cue in cues.split("|")
    ]
    table += [(_HARD_KIND, 1.0, cue) for cue in _HARD.split("|")]
    table += [(_STEP_KIND, 1.0, cue) for cue in _STEPS.split("|")]
    found: dict[str, list[tuple[str, str, float]]] = {}
    for kind, weight, cue in table:
        found.setdefault(cue.split()[0], []).append((f" {cue} ", kind, weight))
    return found


_INDEX: Final = _indexed()


def _points(words: list[str]) -> dict[str, float]:
    """Per type, and for `hard` and `step`, the weights of the cues that the words hold."""
    points = dict.fromkeys((*_CUES, _HARD_KIND, _STEP_KIND), 0.0)
    joined = f" {' '.join(words)} "
    for word in set(words) & _INDEX.keys():
        for cue, kind, weight in _INDEX[word]:
            if cue in joined:
                points[kind] += weight
    return points


def classify(question: Question) -> Classification:
    """Type, complexity, skill, project and a careful confidence, by rules alone."""
    text = bounded(question.text)
    words = _TOKEN.findall(text.lower())
    points = _points(words)
    has_code = _CODE.search(text) is not None
    kind, is_plain = _kind(text, points, len(words), has_code, question)
    complexity = _complexity(kind, points, len(words), has_code, question)
    confidence = _BASE[kind] - 0.45 * max(complexity - _LEVEL[kind], 0.0)
    if not (is_plain and kind in _EASY):
        confidence = min(confidence, _UNSURE)
    if not words and not question.has_tool_results:
        confidence = min(confidence, 0.5)
    return Classification(
        type=kind,
        complexity=round(complexity, 4),
        confidence=round(max(confidence, 0.05), 4),
        gain=round(max(0.92 - max(confidence, 0.05), 0.0), 4),
        skill=_skill(text, words),
        project=_project(text),
        version=VERSION,
    )


def _kind(
    text: str, found: dict[str, float], num_words: int, has_code: bool, question: Question
) -> tuple[str, bool]:
    """The type, and whether it is plain: nothing else in the request speaks against it."""
    points = {name: found[name] for name in _CUES}
    if num_words > _LONGEST["heartbeat"]:
        points["heartbeat"] = 0.0
    if num_words > _LONGEST["simple"]:
        points["simple"] /= 3
    if has_code or question.has_tool_results:
        points["coding"] += 3
        points["simple"] = points["heartbeat"] = 0.0
    if _ARITHMETIC.match(text.strip().lower()[:60]):
        points["simple"] += 4
    best = max(reversed(points), key=points.__getitem__)  # the later of equals: the harder
    if points[best] < (2.0 if best not in _EASY else _NEEDED):
        return ("simple", False) if best == "simple" and points[best] else ("novel", False)
    others = max((points[name] for name in points if name not in _EASY), default=0.0)
    is_plain = (
        best in _EASY
        and points[best] >= _NEEDED
        and num_words <= _LONGEST[best]
        and others <= (1.0 if best != "triage" else points[best] - 1)
        and not found[_HARD_KIND]
        and not (question.has_tools or question.has_tool_results or question.has_images)
        and question.num_chars <= 8_000
    )
    return best, is_plain


def _complexity(
    kind: str, points: dict[str, float], num_words: int, has_code: bool, question: Question
) -> float:
    level = _LEVEL[kind] + 0.05 * has_code
    level += 0.06 * min(points[_HARD_KIND], 4) + 0.03 * min(points[_STEP_KIND], 4)
    level += min(num_words / 2_000, 0.15) + min(question.num_prompt_tokens / 100_000, 0.15)
    level += 0.05 * question.has_tools + 0.05 * question.has_images
    level += min(question.num_messages / 200, 0.10)
    return min(level, 1.0)


def _skill(text: str, words: list[str]) -> str:
    said = _SAID_SKILL.search(text)
    if said:
        return said[1] or said[2]
    known = set(words)
    return next((skill for skill in _SKILLS.split() if skill in known), "")


def _project(text: str) -> str:
    found = _PROJECT.search(text)
    return next((name for name in found.groups() if name), "") if found else ""
