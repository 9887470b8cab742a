"""Text tables."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Align rows of cells as lines: the first `left` columns to the left, the others to the right.

    >>> print(aligned([("piece", "bytes"), ("scale_by_ema", "4"), ("scale", "0")], left=1))
    piece         bytes
    scale_by_ema      4
    scale             0
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join(f"{cell:{'<' if i < left else '>'}{width}}" for i, (cell, width) in enumerate(zip(row, widths)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
