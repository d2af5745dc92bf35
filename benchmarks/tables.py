"""Reading a frames.csv and a predictions.csv: `trocar.core.tables` against pandas, which guesses the types.

    python benchmarks/tables.py [--rows 1000000] [--pairs 5] [--quotes]

The two take turns, and end with columns of the same types. The ratio is the median over pairs of pandas / ours: above 1
we are faster. `--quotes` puts every text into quotes, as R does.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.core.tables import read_table
from trocar.data.labelled_data import SPLITS

CLASSES = 7


def write(folder: Path, rows: int, quotes: bool) -> None:
    """frames.csv of operations of 5,000 frames, and predictions.csv with seven scores a row."""
    generator, quoting = np.random.default_rng(0), csv.QUOTE_NONNUMERIC if quotes else csv.QUOTE_MINIMAL
    case, frame = np.arange(rows) // 5000, np.arange(rows) % 5000
    ids = [f"{number:03d}" for number in case]
    paths = [f"frames/{number:03d}/{place:06d}.jpg" for number, place in zip(case, frame, strict=True)]
    phase = np.array(["Preparation", "Dissection", "Closure"])[generator.integers(0, 3, rows)]
    frames = {"path": paths, "case": ids, "time_s": frame, "phase": phase, "split": "train"}
    pd.DataFrame(frames).to_csv(folder / "frames.csv", index=False, quoting=quoting)
    scores = generator.dirichlet(np.ones(CLASSES), rows).round(5)
    columns = {f"score_{name}": scores[:, name] for name in range(CLASSES)}
    predictions = {"case": ids, "time_s": frame, "gt": scores.argmax(1), "pred": scores.argmax(1), **columns}
    pd.DataFrame(predictions).to_csv(folder / "predictions.csv", index=False, quoting=quoting)


def frames_by_pandas(path: Path) -> None:
    """Types guessed; names mapped and blanks cut off cell by cell."""
    table = pd.read_csv(path, skipinitialspace=True)
    table.map(lambda value: value.strip() if isinstance(value, str) else value)


def frames_by_us(path: Path) -> None:
    """What the layout `folder` asks for."""
    table = read_table(path)
    table.ids("path"), table.ids("case"), table.numbers("time_s", 0)
    table.codes("phase", ["Preparation", "Dissection", "Closure"].index)
    table.choices("split", SPLITS)


def predictions_by_us(path: Path) -> None:
    """What the metrics ask for."""
    table = read_table(path)
    table.ids("case"), table.numbers("time_s"), table.whole("gt"), table.whole("pred")
    for name in range(CLASSES):
        table.numbers(f"score_{name}")


def seconds(run: Callable[[Path], object], path: Path) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    run(path)
    return time.perf_counter() - start


def main() -> None:
    """Print a line per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quotes", action="store_true")
    args = parser.parse_args()
    print(f"{'file':>16} {'pandas, s':>10} {'ours, s':>8} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), args.rows, args.quotes)
        readers = {"frames.csv": (frames_by_pandas, frames_by_us), "predictions.csv": (pd.read_csv, predictions_by_us)}
        for file, (theirs, ours) in readers.items():
            path = Path(name) / file
            pairs = [(seconds(theirs, path), seconds(ours, path)) for _ in range(args.pairs)]
            old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(f"{file:>16} {old:>10.2f} {new:>8.2f} {statistics.median(a / b for a, b in pairs):>6.2f}")


if __name__ == "__main__":
    main()
