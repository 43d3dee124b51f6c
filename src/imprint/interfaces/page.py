"""What our HTML pages have in common: one look in light and dark, and text that is never read as markup.

A page is one file that asks nothing of any network: its policy forbids it."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #666; --ground: #fff; --line: #ddd; --good: #e2f4e9;
  --wide: #f6f6f6; --bad: #fbe4e0; --some: #fdf3d3; --mark: #0072B2; --other: #D55E00; --third: #009E73 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a0a3aa; --ground: #17181c; --line: #3d3f45; --good: #1d3a2a; --wide: #202228;
    --bad: #45231f; --some: #3d3517; --mark: #5ab4e6; --other: #ff8f4d; --third: #4fd08a } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.soft { color: var(--soft) } .summary li { margin: .4rem 0 } img { max-width: 100%; height: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { vertical-align: bottom; white-space: normal; background: var(--wide) }
th:first-child, td:first-child { text-align: left }
td small { color: var(--soft); display: block } tr.good td { background: var(--good) }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def opened(title: str, style: str = "") -> list[str]:
    """The lines up to the page's heading. The page may run no script and fetch nothing."""
    return [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{text(title)}</title>",
        f"<style>{STYLE}{style}</style></head><body>",
        f"<h1>{text(title)}</h1>",
    ]


def table(heads: list[tuple[str, str]], rows: list[tuple[str, list[str]]]) -> str:
    """A table of (heading, what it means) and of rows (class, cells). Cells are HTML already."""
    top = "".join(f'<th title="{text(means)}">{text(name)}</th>' for name, means in heads)
    body = "\n".join(
        f'<tr class="{text(look)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for look, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def text(words: object) -> str:
    """Words as HTML shows them."""
    return html.escape(str(words))
