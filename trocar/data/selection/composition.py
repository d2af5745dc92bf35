"""What a study varies: which sources, hospitals, procedures and cases, how many, curated how, mixed how."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trocar.core.config import AsWritten, Config
from trocar.core.random import I64
from trocar.data.catalog.catalog import DEFAULT_CURATION, STRICT_CURATION, Catalog, to_numpy
from trocar.data.labelled_data import LeakConfig
from trocar.data.selection.curation import LeftOut, Mask
from trocar.data.selection.selection import (
    EMPTY,
    Exclusion,
    Pool,
    RowRuns,
    Selection,
    hash_runs,
    limit_repeats,
    nominal_shares,
)
from trocar.errors import ConfigError, nearest

Exclude = Callable[[Catalog, Sequence[int], Mapping[str, int]], Exclusion]
"""exclude(catalog, videos, sizes): what must not be sampled from these videos; `sizes` are the frames of each case."""


class VideoFilter(Config):
    """A filter on videos: all given fields must hold, a list means any of its values."""

    source: list[AsWritten] | None = Field(default=None, description="names of data sets; null: any")
    hospital: list[AsWritten] | None = Field(default=None, description="names of hospitals; null: any")
    procedure: list[AsWritten] | None = Field(default=None, description="names of procedures; null: any")
    case: list[AsWritten] | None = Field(default=None, description="case ids; null: any")
    split: list[AsWritten] | None = Field(default=None, description="tags of a split, such as train; null: any")
    robotic: bool | None = Field(default=None, description="robotic operations alone, or others alone; null: both")


class Curation(Config):
    """Which quality verdicts keep a frame out."""

    black: bool = Field(default=True, description="leave out frames that are black")
    uniform: bool = Field(default=True, description="leave out frames of one colour")
    blurred: bool = Field(default=True, description="leave out blurred frames")
    near_duplicate: bool = Field(
        default=True, description="leave out frames that look like the last kept frame of their video"
    )
    out_of_body: float | None = Field(
        default=None, ge=0, le=1, description="score from which a frame is left out, 0 to 1; null: none is"
    )

    def limits(self) -> dict[str, bool | float]:
        """The same in the form of `catalog.DEFAULT_CURATION`."""
        limits: dict[str, bool | float] = {
            name: False for name in ("black", "uniform", "blurred", "near_duplicate") if getattr(self, name)
        }
        if self.out_of_body is not None:
            limits["out_of_body"] = self.out_of_body
        return limits


class Amount(Config):
    """How much of every cell is sampled; a cell is one value of `per` (or everything together)."""

    cases: int | None = Field(default=None, ge=1, description="number of cases of a cell; null: all")
    hours: float | None = Field(default=None, gt=0, description="hours of a cell; null: all")
    frames: int | None = Field(default=None, ge=1, description="number of frames of a cell; null: all")
    per: list[Literal["source", "hospital", "procedure"]] = Field(
        default=[], description="what makes a cell: every combination of values of these; empty: everything together"
    )


class Composition(Config):
    """The pretraining data. Empty `include` means everything in the catalog."""

    include: list[VideoFilter] = Field(
        default=[], description="filters of which a video must match one; empty: everything in the catalog"
    )
    exclude: list[VideoFilter] = Field(default=[], description="filters of which a video must match none")
    sample: Amount = Field(default=Amount(), description="how much of each cell is sampled")
    sample_seed: int = Field(
        default=0, description="seed of the sample; a smaller sample is part of a larger one of the same seed"
    )
    on_short: Literal["error", "skip"] = Field(
        default="error", description="a cell with too few cases is an error, or left out and listed"
    )
    fps: float | None = Field(
        default=None,
        gt=0,
        description="frames per second at most, by leaving out frames in between; null: all that are stored",
    )
    curate: Literal["default", "strict", "none"] | Curation = Field(
        default="default",
        description="which frames are left out by their quality verdicts: a named set, or verdict by verdict",
    )
    weights: Literal["proportional", "sqrt", "uniform"] | dict[AsWritten, float] = Field(
        default="proportional",
        description="shares of the sources in a batch: by their hours, by the square root of these, equal, or a "
        "number for each source",
    )
    max_repeat: float | None = Field(
        default=None,
        gt=0,
        description="most epochs that a source is seen; what is over goes to the others; null: no limit",
    )
    leak: LeakConfig = Field(
        default=LeakConfig(), description="which cases are held out, and what becomes of those in the pool"
    )

    def resolve(self, catalog: Catalog, samples: int | None = None, exclude: Exclude | None = None) -> Selection:
        """Rows, shares and fingerprint.

        `samples` is the length of the run in samples; `max_repeat` needs it. A sample of n cases is nested in one of
        m > n cases, and new cases in the catalog change it only where they hash in front of chosen ones.
        `exclude` says what leaves the pool before anything is sampled; without it a composition whose `leak.against`
        names data is refused (TypeError), since they would stay in the pool unseen.
        Raises ConfigError when nothing matches, a cell is too small, or a name does not occur in the catalog, and what
        `exclude` raises.
        """
        if self.leak.against and exclude is None:
            raise TypeError("a composition with leak.against is resolved by trocar.leakage.guard")
        return _Resolver(self, catalog, exclude).resolve(samples)


class _Resolver:
    """One resolution: the columns of the video table as lists, and the choices made on the way."""

    def __init__(self, config: Composition, catalog: Catalog, exclude: Exclude | None) -> None:
        self.config, self.catalog, self.exclude = config, catalog, exclude
        table = catalog.videos
        names = (
            "name",
            "case_id",
            "source",
            "hospital",
            "procedure",
            "robotic",
            "splits",
            "content_hash",
            "fps",
        )
        self.column: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in names}
        self.first: I64 = to_numpy(table.column("first_row")).astype(np.int64)
        self.count: I64 = to_numpy(table.column("rows")).astype(np.int64)
        self.notes: list[str] = []
        self.excluded = Exclusion()

    def resolve(self, samples: int | None) -> Selection:
        # Excluded cases leave before anything is sampled: a sample of n cases keeps its n.
        videos = self._sampled(self._without_excluded(self._matching()))
        runs = self._budgeted(self._kept(videos), videos)
        source_rows = {source: len(r) for source, r in runs.items()}
        pools = self._pools(runs, samples)
        named = [(self.column["name"][v], self.column["content_hash"][v]) for v in videos]
        return Selection(
            pools=pools,
            source_rows=source_rows,
            cases=tuple(sorted({self._case(v) for v in videos})),
            fingerprint=hash_runs(named, pools, self.first),
            notes=tuple(self.notes),
            excluded=self.excluded,
        )

    def _without_excluded(self, videos: list[int]) -> list[int]:
        if self.exclude is None:
            return videos
        size: Counter[str] = Counter()
        for v in videos:
            size[self._case(v)] += int(self.count[v])
        self.excluded = self.exclude(self.catalog, videos, size)
        self.notes += self.excluded.notes
        kept = [v for v in videos if self._case(v) not in self.excluded.cases]
        if not kept:
            raise ConfigError("composition: every case that it matches is held out; " + "; ".join(self.notes))
        return kept

    def _matching(self) -> list[int]:
        for match in (*self.config.include, *self.config.exclude):
            self._check_names(match)
        chosen = [
            v
            for v in range(len(self.first))
            if (not self.config.include or any(self._matches(m, v) for m in self.config.include))
            and not any(self._matches(m, v) for m in self.config.exclude)
        ]
        if not chosen:
            raise ConfigError("the composition matches no video of the catalog; `trocar inspect` lists what it holds")
        return chosen

    def _matches(self, match: VideoFilter, video: int) -> bool:
        pairs = (
            ("source", "source"),
            ("hospital", "hospital"),
            ("procedure", "procedure"),
            ("case", "case_id"),
        )
        for field, column in pairs:
            wanted = getattr(match, field)
            if wanted is not None and self.column[column][video] not in wanted:
                return False
        if match.split is not None and not set(match.split) & set(self.column["splits"][video] or ()):
            return False
        return match.robotic is None or self.column["robotic"][video] == match.robotic

    def _check_names(self, match: VideoFilter) -> None:
        known: dict[str, set[str]] = {
            "source": set(self.column["source"]),
            "hospital": set(self.column["hospital"]),
            "procedure": set(self.column["procedure"]),
            "case": set(self.column["case_id"]),
            "split": {tag for tags in self.column["splits"] for tag in tags or ()},
        }
        for field, names in known.items():
            for wanted in getattr(match, field) or ():
                if wanted not in names:
                    listed = ", ".join(sorted(names)[:12])
                    raise ConfigError(
                        f"composition: no {field} {wanted!r} in the catalog{nearest(wanted, names)}; it has: {listed}"
                    )

    def _sampled(self, videos: list[int]) -> list[int]:
        amount = self.config.sample
        if amount.cases is None and amount.hours is None:
            return videos
        chosen: set[str] = set()
        for cell, members in self._cells(videos).items():
            chosen |= self._sample_cell(cell, members)
        return [v for v in videos if self._case(v) in chosen]

    def _cells(self, videos: list[int]) -> dict[tuple[str, ...], list[int]]:
        cells: dict[tuple[str, ...], list[int]] = {}
        for v in videos:
            cells.setdefault(tuple(self.column[field][v] for field in self.config.sample.per), []).append(v)
        return cells

    def _sample_cell(self, cell: tuple[str, ...], videos: list[int]) -> set[str]:
        hours: dict[str, float] = {}
        duration = self.catalog.videos.column("duration_s").to_pylist()
        for v in videos:
            case = self._case(v)
            hours[case] = hours.get(case, 0.0) + float(duration[v]) / 3600
        order = sorted(hours, key=self._rank)
        amount, name = self.config.sample, " / ".join(cell) or "everything"
        take = len(order)
        if amount.cases is not None:
            take = amount.cases
        if amount.hours is not None:
            self._refuse_stills(name, videos)
            reached = np.cumsum([hours[case] for case in order])
            enough = int(np.searchsorted(reached, amount.hours - 1e-9)) + 1
            take = enough if amount.cases is None else min(take, enough)
        if take > len(order):
            wanted = f"{amount.cases} cases" if amount.hours is None else f"{amount.hours:g} hours"
            problem = f"cell {name!r} has {len(order)} cases ({sum(hours.values()):.2f} h), {wanted} were asked for"
            if self.config.on_short == "error":
                raise ConfigError(f"composition: {problem}; lower the number or set on_short: skip")
            self.notes.append(f"{problem}: skipped")
            return set()
        return set(order[:take])

    def _refuse_stills(self, cell: str, videos: list[int]) -> None:
        """Raises ConfigError where a cell is to be measured in hours and holds what has none."""
        stills = [v for v in videos if self.catalog.is_still[v]]
        if stills:
            sources = ", ".join(sorted({self.column["source"][v] for v in stills}))
            raise ConfigError(
                f"composition: sample.hours: cell {cell!r} holds {len(stills)} isolated pictures (stills, of source "
                f"{sources}), which last no time and have no hours; sample by frames or cases, or keep them apart"
            )

    def _case(self, video: int) -> str:
        """Case ids are unique within a source only."""
        return f"{self.column['source'][video]}/{self.column['case_id'][video]}"

    def _rank(self, case: str) -> str:
        return hashlib.sha256(f"{self.config.sample_seed}\x1f{case}".encode()).hexdigest()

    def _kept(self, videos: list[int]) -> dict[int, RowRuns]:
        """The frames of each video that pass the time grid and curation, without the excluded rows."""
        runs, before = {}, 0
        with LeftOut(self.catalog, self._limits()) as left_out:
            for v in sorted(videos):
                span = slice(int(self.first[v]), int(self.first[v] + self.count[v]))
                keep = self._on_time_grid(v, span)
                before += int(np.count_nonzero(keep))
                keep &= ~left_out.rows(span.start, span.stop)
                rows = self.excluded.rows
                keep[rows[(rows >= span.start) & (rows < span.stop)] - span.start] = False
                runs[v] = RowRuns.of_video(np.flatnonzero(keep).astype(np.int64) + span.start)
        after = sum(len(r) for r in runs.values())
        self.notes.append(f"curation leaves {after} of {before} frames")
        if not after:
            raise ConfigError("composition: curation leaves no frame; try curate: none, or look with `trocar inspect`")
        return runs

    def _on_time_grid(self, video: int, span: slice) -> Mask:
        """The first frame at or after each multiple of 1 / fps; all frames without `fps`, and all isolated pictures."""
        keep = np.ones(span.stop - span.start, dtype=bool)
        if self.config.fps is None or self.catalog.is_still[video]:
            return keep
        if self.config.fps > self.column["fps"][video] + 1e-6:
            raise ConfigError(
                f"composition: fps {self.config.fps:g} asked for, but {self.column['name'][video]!r} was ingested at "
                f"{self.column['fps'][video]:g}; lower it or ingest again with a higher --fps"
            )
        tick = np.floor(self.catalog.frames["time_s"][span].astype(np.float64) * self.config.fps + 1e-3)
        keep[1:] = tick[1:] != tick[:-1]
        return keep

    def _limits(self) -> Mapping[str, bool | float]:
        rules = self.config.curate
        if isinstance(rules, Curation):
            return rules.limits()
        return {"default": DEFAULT_CURATION, "strict": STRICT_CURATION}.get(rules, {})

    def _budgeted(self, kept: Mapping[int, RowRuns], videos: list[int]) -> dict[str, RowRuns]:
        """Runs per source, each cell thinned to its frame budget."""
        runs: dict[str, list[RowRuns]] = {}
        for cell, members in self._cells(videos).items():
            parts = self._thin(cell, [kept[v] for v in members])
            for v, part in zip(members, parts, strict=True):
                runs.setdefault(self.column["source"][v], []).append(part)
        joined = {source: RowRuns.concatenate(parts) for source, parts in runs.items()}
        kept_runs = {source: part for source, part in joined.items() if len(part)}
        if not kept_runs:
            raise ConfigError("composition: nothing is left; " + "; ".join(self.notes))
        return kept_runs

    def _thin(self, cell: tuple[str, ...], parts: list[RowRuns]) -> list[RowRuns]:
        frames, total = self.config.sample.frames, sum(len(p) for p in parts)
        if frames is None:
            return parts
        if total < frames:
            problem = f"cell {' / '.join(cell) or 'everything'!r} has {total} frames, {frames} were asked for"
            if self.config.on_short == "error":
                raise ConfigError(f"composition: {problem}; lower the number or set on_short: skip")
            self.notes.append(f"{problem}: skipped")
            return [EMPTY] * len(parts)
        reached = (np.cumsum([len(p) for p in parts]) * frames) // total
        return [p.thinned(int(n)) for p, n in zip(parts, np.diff(reached, prepend=0), strict=True)]

    def _pools(self, runs: Mapping[str, RowRuns], samples: int | None) -> tuple[Pool, ...]:
        sizes = {source: len(r) for source, r in runs.items()}
        if self.config.weights == "proportional":
            # One permutation over everything is exactly proportional, and keeps epochs equal for all sources.
            if self.config.max_repeat is not None:
                limit_repeats({"all": sum(sizes.values())}, {"all": 1.0}, self.config.max_repeat, samples)
            return (Pool("all", RowRuns.concatenate(list(runs.values())), 1.0),)
        shares = nominal_shares(sizes, self.config.weights)
        if self.config.max_repeat is not None:
            shares, notes = limit_repeats(sizes, shares, self.config.max_repeat, samples)
            self.notes.extend(notes)
        return tuple(Pool(source, runs[source], share) for source, share in shares.items() if share > 0)
