"""A scored text as one HTML page: every token coloured by its surprisal, every line by how unusual
it is.

Self-contained (no script, no font, no address), readable in light and dark, and nothing of the text
is taken as markup.
"""

import html
from collections.abc import Sequence

from twin.lm.score import ScoredLine, ScoredText

MAX_BITS = 12.0
"""A token this surprising has the full colour."""
STEPS = 8
CONTEXT = 3
"""Unchanged lines shown around what is new in a difference."""
MAX_SHOWN_LINES = 20_000
# Marks that reorder text (Trojan Source, CVE-2021-42574), and control characters.
_STEERING = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F),
             *range(0x2066, 0x206A))  # fmt: skip
_CLEAN = dict.fromkeys(_STEERING, "\N{REPLACEMENT CHARACTER}")

_STYLE = """
:root { color-scheme: light dark; --heat: 220 60 20; --ink: #1c1c1c; --page: #ffffff;
  --quiet: #6b6b6b; --line: #e4e4e4; --new: #1a7f37; --odd: #b42318; }
@media (prefers-color-scheme: dark) { :root { --heat: 255 120 60; --ink: #e6e6e6;
  --page: #161616; --quiet: #9a9a9a; --line: #333333; --new: #57c46f; --odd: #ff8a7a; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; word-break: break-all; }
p, li { color: var(--quiet); } li code { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font: 13px/1.45 ui-monospace, monospace; }
td { padding: 0 .6rem; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; }
td.n, td.b { text-align: right; color: var(--quiet); white-space: nowrap; width: 1%;
  user-select: none; }
tr.new td.n { border-left: 3px solid var(--new); }
tr.odd td.b { color: var(--odd); font-weight: 600; }
tr.odd { outline: 1px solid var(--odd); }
tr.gap td { color: var(--quiet); border-top: 1px solid var(--line); }
.scale span { color: var(--ink); padding: 0 .5rem; font: 12px ui-monospace, monospace; }
"""


def page(texts: Sequence[ScoredText], *, title: str, is_difference: bool = False) -> str:
    """The whole page. With `is_difference` only added lines and some around them are shown."""
    steps = "\n".join(
        f".h{step} {{ background: rgb(var(--heat) / {0.75 * step / STEPS:.2f}); }}"
        for step in range(1, STEPS + 1)
    )
    scale = "".join(
        f'<span class="h{step}">{MAX_BITS * step / STEPS:g}</span>' for step in range(STEPS + 1)
    )
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_safe(title)}</title><style>{_STYLE}{steps}</style></head><body>",
        f"<h1>{_safe(title)}</h1>",
        f'<p class="scale">Bits of surprise per token: {scale}<br>'
        "Right column: bits per byte of the line, and how far above the usual lines "
        "(robust standard deviations).</p>",
        *(_section(text, is_difference=is_difference) for text in texts),
        "" if texts else "<p>Nothing to show.</p>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _section(text: ScoredText, *, is_difference: bool) -> str:
    shown = _shown(text) if is_difference else list(text.lines)
    left_out = max(len(shown) - MAX_SHOWN_LINES, 0)
    rows, before = [], 0
    for line in shown[:MAX_SHOWN_LINES]:
        if line.number != before + 1:
            rows.append('<tr class="gap"><td class="n">&#8943;</td><td></td><td></td></tr>')
        rows.append(_row(line))
        before = line.number
    odd = [line for line in text.worst(10, added_only=is_difference) if line.is_unusual]
    summary = "".join(
        f"<li>line {line.number}: <code>{_safe(line.text.strip()[:200])}</code></li>"
        for line in odd
    )
    more = f"<p>{left_out:,} lines more are not shown.</p>" if left_out else ""
    return (
        f"<h2>{_safe(text.name)}</h2><p>{text.num_tokens:,} tokens, "
        f"{text.bits_per_byte:.2f} bits per byte.</p>"
        f"<ul>{summary}</ul><table>{''.join(rows)}</table>{more}"
    )


def _shown(text: ScoredText) -> list[ScoredLine]:
    near: set[int] = set()
    for line in text.lines:
        if line.is_added:
            near.update(range(line.number - CONTEXT, line.number + CONTEXT + 1))
    return [line for line in text.lines if line.number in near]


def _row(line: ScoredLine) -> str:
    kinds = [name for name, holds in (("new", line.is_added), ("odd", line.is_unusual)) if holds]
    z = "" if line.z is None else f" {line.z:+.1f}"
    tokens = "".join(
        f'<span class="h{_step(token.bits)}" title="{token.bits:.1f} bits">{_safe(said)}</span>'
        for token in line.tokens
        if (said := token.text.rstrip("\n"))
    )
    return (
        f'<tr class="{" ".join(kinds)}"><td class="n">{line.number}</td><td>{tokens}</td>'
        f'<td class="b">{line.bits_per_byte:.1f}{z}</td></tr>'
    )


def _step(bits: float) -> int:
    return min(STEPS, max(0, round(bits / MAX_BITS * STEPS)))


def _safe(text: str) -> str:
    return html.escape(text.translate(_CLEAN))
