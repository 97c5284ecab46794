"""A context package: the located files and symbols as text for a model, within a token budget.

Owns the budget and the order of spending it: primaries whole, then signatures with docstrings, then
type context, then mere names of files. Located by `retrieve`; sends nothing anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from twin.coding.retrieve import Answer

BYTES_PER_TOKEN: Final = 3.5
"""Code has 3 to 4 bytes a token with the tokenizers in use (BPE of 32K to 150K entries); the lower
end is assumed, so that a package never overflows the window that it was cut for."""

Detail = Literal["whole", "signature", "name"]


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
        parts = [f"# Context for: {self.task.partition(chr(10))[0]}"]
        for item in self.items:
            where = item.path if not item.symbol else f"{item.path} {item.symbol}"
            lines = f" (lines {item.start_line}-{item.end_line})" if item.start_line else ""
            parts.append(f"## {where}{lines}" + (f"\n```\n{item.text}\n```" if item.text else ""))
        return "\n\n".join(parts) + "\n"


def num_tokens(text: str) -> int:
    """An upper estimate of the tokens in `text`, without a tokenizer."""
    return int(len(text.encode("utf-8", "surrogateescape")) / BYTES_PER_TOKEN) + 1


def pack_context(answer: Answer, texts: Mapping[str, str], *, budget_tokens: int) -> ContextPackage:
    """Fills the budget in order of worth; what does not fit whole is tried as its signature.

    `texts` holds the text of the answer's files at its commit. The package never exceeds the
    budget, headings included.
    """
    spent = num_tokens(f"# Context for: {answer.task.partition(chr(10))[0]}") + 2
    items: list[ContextItem] = []
    left_out = 0
    for item in _pieces(answer, texts):
        cost = item.num_tokens
        if spent + cost > budget_tokens and item.detail == "whole":
            item = _shortened(item)
            cost = item.num_tokens
        if spent + cost > budget_tokens:
            left_out += 1
            continue
        spent += cost
        items.append(item)
    return ContextPackage(
        task=answer.task,
        commit_id=answer.commit_id,
        budget_tokens=budget_tokens,
        num_tokens=spent,
        items=tuple(items),
        num_left_out=left_out,
    )


def _pieces(answer: Answer, texts: Mapping[str, str]) -> list[ContextItem]:
    """Everything located, in the order in which the budget is spent."""
    order = {"primary": 0, "supporting": 1, "type context": 2}
    pieces: list[tuple[tuple[int, int, float], ContextItem]] = []
    for place, file in enumerate(answer.files):
        lines = texts.get(file.path, "").split("\n")
        if not file.symbols:
            pieces.append(((3, place, 0.0), _item(file.path, "", 0, 0, "name", "file", "")))
        for symbol in file.symbols:
            whole = symbol.tier == "primary"
            body = "\n".join(lines[symbol.start_line - 1 : symbol.end_line])
            pieces.append(
                (
                    (order[symbol.tier], place, -symbol.score),
                    _item(
                        file.path,
                        symbol.name,
                        symbol.start_line,
                        symbol.end_line,
                        "whole" if whole else "signature",
                        symbol.tier,
                        body if whole else symbol.signature,
                    ),
                )
            )
    return [item for _, item in sorted(pieces, key=lambda piece: piece[0])]


def _item(
    path: str, symbol: str, start: int, end: int, detail: Detail, tier: str, text: str
) -> ContextItem:
    heading = f"## {path} {symbol} (lines {start}-{end})\n``````\n\n\n"
    return ContextItem(
        path=path,
        symbol=symbol,
        start_line=start,
        end_line=end,
        detail=detail,
        tier=tier,
        num_tokens=num_tokens(heading + text),
        text=text,
    )


def _shortened(item: ContextItem) -> ContextItem:
    first = item.text.partition("\n")[0]
    return _item(
        item.path, item.symbol, item.start_line, item.end_line, "signature", item.tier, first
    )
