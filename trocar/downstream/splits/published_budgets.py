"""Published label budgets: lists of training videos that stand for a small data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Draws = tuple[tuple[str, ...], ...]


def published_budgets(
    lists: Mapping[str, Sequence[Sequence[int]]], cases: Mapping[int, str]
) -> tuple[dict[str, Draws], list[str]]:
    """Lists of video numbers as lists of cases, and notes on those left out.

    `cases`: video number -> case, of the training videos that are here. A budget is kept only whole: a draw with a
    missing video would be another budget.
    """
    kept, notes = {}, []
    for name, draws in lists.items():
        missing = sorted({number for draw in draws for number in draw} - cases.keys())
        if missing:
            notes.append(f"budget {name} left out: training video {_few(missing)} not here")
        else:
            kept[name] = tuple(tuple(cases[number] for number in draw) for draw in draws)
    return kept, notes


def _few(numbers: Iterable[int]) -> str:
    first = [str(number) for number in numbers]
    return ", ".join(first[:5]) + (", ..." if len(first) > 5 else "")
