"""A contact sheet of the phantom: one frame of every phase of the first six cases, one of each hospital and procedure.

    python benchmarks/phantom_sheet.py docs/phantom.jpg [--seed 0]

Each row is a case, each column a phase; a phase that an operation leaves out stays dark.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from trocar.phantom.film import film, plan_case
from trocar.phantom.spec import CORPORA, HOSPITALS, PHASES, PROCEDURES, PhantomSpec

CELL = 176, 132
MARGIN = 26


def row(spec: PhantomSpec, index: int) -> Image.Image:
    """The frame two thirds into each phase of case `index`, of frames that are not planted."""
    plan = plan_case(spec, index)
    pictures: dict[int, list[Image.Image]] = {}
    for frame in film(spec, plan):
        if frame.planted is None:
            pictures.setdefault(frame.moment.phase, []).append(Image.fromarray(frame.picture))
    line = Image.new("RGB", (CELL[0] * len(PHASES), CELL[1] + MARGIN), "white")
    ImageDraw.Draw(line).text((4, 5), f"{plan.hospital}, {plan.procedure}", fill="black", font_size=15)
    line.paste("black", (0, MARGIN, *line.size))
    for phase, found in pictures.items():
        line.paste(found[len(found) * 2 // 3].resize(CELL), (CELL[0] * phase, MARGIN))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a .jpg or .png file")
    parser.add_argument("--seed", type=int, default=CORPORA["pages"])
    args = parser.parse_args()
    spec = PhantomSpec(minutes=1, seed=args.seed)
    rows = [row(spec, index) for index in range(len(HOSPITALS) * len(PROCEDURES))]
    sheet = Image.new("RGB", (rows[0].width, MARGIN + sum(line.height for line in rows)), "white")
    for phase, name in enumerate(PHASES):
        ImageDraw.Draw(sheet).text((CELL[0] * phase + 4, 5), name, fill="black", font_size=15)
    for number, line in enumerate(rows):
        sheet.paste(line, (0, MARGIN + number * line.height))
    sheet.save(args.out, quality=70)


if __name__ == "__main__":
    main()
