"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ratio", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ratio(value: float, text: str) -> str:
    """A figure behind its ratio to another one, which is what counts."""
    return f"**{value:.2f}** ({text})"
