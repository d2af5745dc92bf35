"""A phantom with its own split into training and test cases, for benchmarks that pretrain on it, and which it is."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pandas as pd

T = TypeVar("T")
R = TypeVar("R")

TRAIN_CASES = 6  # of each hospital and procedure


def trocar(*words: str) -> None:
    """Run a command; its failure ends the benchmark."""
    print("trocar", *words, flush=True)
    subprocess.run([sys.executable, "-m", "trocar", *words], check=True)


def in_lanes(lanes: int, run: Callable[[T], R], jobs: Iterable[T]) -> list[R]:
    """What `run` gives for all jobs, `lanes` at a time; after a failure or Ctrl-C no other one begins."""
    pool = ThreadPoolExecutor(lanes)
    try:
        return [done.result() for done in [pool.submit(run, job) for job in jobs]]
    finally:
        pool.shutdown(cancel_futures=True)


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """The flag that says which corpus is used."""
    parser.add_argument(
        "--corpus", choices=("A", "B"), default="A", help="A: choices are made on it (default); B confirms them, once"
    )


def described(phantom: Path) -> str:
    """Which phantom a folder holds, in words for the table that was measured on it."""
    found = json.loads((phantom / "phantom.json").read_text(encoding="utf-8"))
    seed, cases = found["parameters"]["seed"], found["parameters"]["cases"]
    name = f"corpus {found['corpus']}" if found.get("corpus") else "a corpus of no name"
    return f"phantom of version {found['generator_version']}, {name} (seed {seed}), {cases} cases"


def make_phantom(phantom: Path, shards: Path, cases: int, corpus: str, val: int = 0) -> None:
    """Videos, split and shards; what is there already is kept."""
    trocar("phantom", str(phantom), "--cases", str(cases), "--corpus", corpus)
    split(phantom, val)
    described = ["--metadata", str(phantom / "videos.csv"), "--short-side", "160"]
    trocar("ingest", str(phantom / "videos"), *described, "--out", str(shards))


def split(phantom: Path, val: int = 0) -> None:
    """Write the benchmark's own split into videos.csv: of each hospital and procedure six cases train, the next `val`
    are for validation, the others test.
    """
    videos = pd.read_csv(phantom / "videos.csv")
    cases = videos.drop_duplicates("case_id").sort_values("case_id")
    rank = cases.groupby(["hospital", "procedure"]).cumcount()
    train, chosen = (set(cases.case_id[rank < count]) for count in (TRAIN_CASES, TRAIN_CASES + val))
    videos["split"] = ["train" if case in train else "val" if case in chosen else "test" for case in videos.case_id]
    videos.to_csv(phantom / "videos.csv", index=False)
