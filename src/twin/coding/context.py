"""A context package: the located files and symbols as text for a model, within a token budget.

Owns the budget and the order of spending it: primaries whole, then signatures with docstrings, then
type context, then mere names of files. Located by `retrieve`; sends nothing anywhere.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from twin.coding.precision import LocatedSymbol
from twin.coding.retrieve import Answer

BYTES_PER_TOKEN: Final = 3.5
"""Code has 3 to 4 bytes a token with the tokenizers in use (BPE of 32K to 150K entries); the lower
end is assumed, so that a package never overflows the window that it was cut for."""

MAX_TITLE: Final = 200
"""Characters of the task's first line that head the package: a pasted log must not fill it."""

Detail = Literal["whole", "signature", "name"]

_TICKS: Final = re.compile("`+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextItem:
    """One piece of the package."""

    path: str
    symbol: str
    """Empty where the item stands for the file."""
    start_line: int
    end_line: int
    detail: Detail
    tier: str
    num_tokens: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPackage:
    """What a model is given for one task."""

    task: str
    commit_id: str
    budget_tokens: int
    num_tokens: int
    items: tuple[ContextItem, ...]
    num_left_out: int
    """Pieces that were located but did not fit."""

    def as_markdown(self) -> str:
        """The package as one text, ready to be put before a prompt."""
        parts = [_title(self.task)]
        parts.extend(map(_as_markdown, self.items))
        return "\n\n".join(parts) + "\n"


def num_tokens(text: str) -> int:
    """An upper estimate of the tokens in `text`, without a tokenizer."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


def _title(task: str) -> str:
    return f"# Context for: {task.partition(chr(10))[0][:MAX_TITLE]}"


def pack_context(answer: Answer, texts: Mapping[str, str], *, budget_tokens: int) -> ContextPackage:
    """Fills the budget in order of worth; what does not fit whole is tried as its signature.

    `texts` holds the text of the answer's files at its commit. The package never exceeds the
    budget, headings included; only where the budget does not even hold the title, `num_tokens`
    says so by being larger.
    """
    spent = num_tokens(_title(answer.task) + "\n")
    items: list[ContextItem] = []
    left_out = 0
    for choices in _pieces(answer, texts):
        fitting = [item for item in choices if spent + item.num_tokens <= budget_tokens]
        if fitting:
            spent += fitting[0].num_tokens
            items.append(fitting[0])
        else:
            left_out += 1
    return ContextPackage(
        task=answer.task,
        commit_id=answer.commit_id,
        budget_tokens=budget_tokens,
        num_tokens=spent,
        items=tuple(items),
        num_left_out=left_out,
    )


def _pieces(answer: Answer, texts: Mapping[str, str]) -> list[tuple[ContextItem, ...]]:
    """Everything located, in the order in which the budget is spent; each with its shorter form,
    where it has one."""
    order = {"primary": 0, "supporting": 1, "type context": 2}
    pieces: list[tuple[tuple[int, int, float], tuple[ContextItem, ...]]] = []
    for place, file in enumerate(answer.files):
        lines = texts.get(file.path, "").split("\n")
        if not file.symbols:
            pieces.append(((3, place, 0.0), (_item(file.path, None, "name", ""),)))
        for symbol in file.symbols:
            signature = _item(file.path, symbol, "signature", symbol.signature)
            choices: tuple[ContextItem, ...] = (signature,)
            body = "\n".join(lines[symbol.start_line - 1 : symbol.end_line])
            if symbol.tier == "primary" and body:
                choices = (_item(file.path, symbol, "whole", body), signature)
            pieces.append(((order[symbol.tier], place, -symbol.score), choices))
    return [choices for _, choices in sorted(pieces, key=lambda piece: piece[0])]


def _item(path: str, symbol: LocatedSymbol | None, detail: Detail, text: str) -> ContextItem:
    item = ContextItem(
        path=path,
        symbol=symbol.name if symbol else "",
        start_line=symbol.start_line if symbol else 0,
        end_line=symbol.end_line if symbol else 0,
        detail=detail,
        tier=symbol.tier if symbol else "file",
        num_tokens=0,
        text=text,
    )
    return replace(item, num_tokens=num_tokens("\n\n" + _as_markdown(item)))


def _as_markdown(item: ContextItem) -> str:
    where = item.path if not item.symbol else f"{item.path} {item.symbol}"
    lines = f" (lines {item.start_line}-{item.end_line})" if item.start_line else ""
    fence = _fence(item.text)
    return f"## {where}{lines}" + (f"\n{fence}\n{item.text}\n{fence}" if item.text else "")


def _fence(text: str) -> str:
    """A fence that the text itself cannot close."""
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    return "`" * max(3, longest + 1)
