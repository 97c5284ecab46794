"""Small arguments for a function, found by hypothesis from what its text says of them.

Annotations are read as syntax, never evaluated, and what comes out is written as literals, so no
code of a stranger runs here. Where nothing is said of a parameter, its default, the literals that
tests call it with, and a mix of plain values stand in. The same function, the same arguments.
"""

import ast
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from twin.errors import MissingRequirement

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

NUM_INPUTS: Final = 150
MAX_CHARS: Final = 200
SEED: Final = 0
NO_HYPOTHESIS: Final = (
    "hypothesis finds inputs for the functions that a commit changed. Install with: "
    "pip install 'cognitive-twin[harness]', or leave out the generator `characterization`."
)


def arguments_for(
    function: ast.FunctionDef, seen: Mapping[int, Sequence[str]]
) -> list[tuple[str, ...]]:
    """Different lists of positional arguments, shortest first; none for a function that cannot be
    called by position.

    `seen`: position -> literals that it was called with. Raises MissingRequirement.
    """
    if function.args.kwonlyargs and None in function.args.kw_defaults:
        return []
    if importlib.util.find_spec("hypothesis") is None:
        raise MissingRequirement(NO_HYPOTHESIS)
    from hypothesis import HealthCheck, Phase, given, seed, settings, strategies

    parameters = [*function.args.posonlyargs, *function.args.args]
    if not parameters:
        return [()]
    defaults = [None] * (len(parameters) - len(function.args.defaults)) + [*function.args.defaults]
    each = [
        _for_parameter(parameter.annotation, default, seen.get(at, ()))
        for at, (parameter, default) in enumerate(zip(parameters, defaults, strict=True))
    ]
    found: dict[tuple[str, ...], None] = {}

    @seed(SEED)
    @settings(
        max_examples=NUM_INPUTS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategies.tuples(*each))
    def collect(values: tuple[Any, ...]) -> None:
        texts = tuple(map(repr, values))
        if sum(map(len, texts)) <= MAX_CHARS and all(map(_is_literal, texts)):
            found[texts] = None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return sorted(found, key=lambda texts: (sum(map(len, texts)), texts))


def literals_at_calls(name: str, texts: Sequence[ast.Module]) -> dict[int, list[str]]:
    """Position -> literals that a function of this name is called with in these files."""
    found: dict[int, dict[str, None]] = {}
    for module in texts:
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or _called(node.func) != name:
                continue
            for at, argument in enumerate(node.args):
                text = ast.unparse(argument)
                if _is_literal(text):
                    found.setdefault(at, {})[text] = None
    return {at: list(texts) for at, texts in found.items()}


def _called(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return len(text) <= MAX_CHARS


def _for_parameter(
    annotation: ast.expr | None, default: ast.expr | None, seen: Sequence[str]
) -> "SearchStrategy[Any]":
    from hypothesis import strategies

    told = [] if annotation is None else [_annotated(annotation)]
    known = [ast.literal_eval(text) for text in seen]
    if default is not None and _is_literal(ast.unparse(default)):
        known.append(ast.literal_eval(default))
    if known:
        told.append(strategies.sampled_from(known))
        told += (_like(value) for value in known)
    return strategies.one_of(*told) if told else _anything()


def _like(value: object) -> "SearchStrategy[Any]":
    """Others of the same type."""
    from hypothesis import strategies

    return _plain().get(type(value).__name__, strategies.just(value))


def _plain() -> "dict[str, SearchStrategy[Any]]":
    from hypothesis import strategies

    text = strategies.text(
        alphabet=strategies.one_of(
            strategies.sampled_from("aAbz09 _-./:,\\n\\t'\""), strategies.characters(codec="utf-8")
        ),
        max_size=12,
    )
    return {
        "bool": strategies.booleans(),
        "int": strategies.integers(-1000, 1000),
        "float": strategies.floats(-1000, 1000, allow_nan=False, width=16),
        "str": text,
        "bytes": strategies.binary(max_size=8),
        "None": strategies.none(),
        "NoneType": strategies.none(),
    }


def _anything() -> "SearchStrategy[Any]":
    from hypothesis import strategies

    plain = strategies.one_of(*_plain().values())
    return strategies.one_of(
        plain,
        strategies.lists(plain, max_size=4),
        strategies.dictionaries(_plain()["str"], plain, max_size=3),
    )


_LISTS: Final = frozenset({"list", "List", "Sequence", "Iterable", "Collection", "MutableSequence"})
_DICTS: Final = frozenset({"dict", "Dict", "Mapping", "MutableMapping"})
_SETS: Final = frozenset({"set", "Set", "frozenset", "FrozenSet", "AbstractSet"})


def _annotated(node: ast.expr) -> "SearchStrategy[Any]":
    """What an annotation allows; anything where it is not known."""
    from hypothesis import strategies

    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            try:
                return _annotated(ast.parse(node.value, mode="eval").body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return _anything()
        return strategies.none() if node.value is None else _anything()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return strategies.one_of(_annotated(node.left), _annotated(node.right))
    inner = list(_arguments(node))
    name = _called(node.value if isinstance(node, ast.Subscript) else node)
    if name in ("Optional", "Union"):
        allowed = [_annotated(one) for one in inner] or [_anything()]
        return strategies.one_of(*allowed, *([strategies.none()] if name == "Optional" else []))
    if name == "Literal":
        values = [n.value for n in inner if isinstance(n, ast.Constant) and n.value is not ...]
        return strategies.sampled_from(values) if values else _anything()
    parts = [_annotated(one) for one in inner]
    if name in _LISTS:
        return strategies.lists(parts[0] if parts else _anything(), max_size=5)
    if name in _DICTS:
        value = parts[1] if len(parts) == 2 else _anything()
        return strategies.dictionaries(_hashable(inner), value, max_size=4)
    if name in ("tuple", "Tuple") and parts:
        if isinstance(inner[-1], ast.Constant) and inner[-1].value is ...:
            return strategies.lists(parts[0], max_size=4).map(tuple)
        return strategies.tuples(*parts)
    if name in _SETS:
        return strategies.sets(_hashable(inner), max_size=4)
    return _plain().get(name or "", _anything())


def _hashable(inner: Sequence[ast.expr]) -> "SearchStrategy[Any]":
    """Members of a set, keys of a dictionary: plain ones, whatever the annotation says."""
    plain = _plain()
    return plain.get((_called(inner[0]) if inner else None) or "str", plain["str"])


def _arguments(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Subscript):
        yield from node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
