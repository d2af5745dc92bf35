"""`trocar ingest ... --slurm`: an array that decodes, each element its own videos; then one step merges the catalog."""

from __future__ import annotations

import argparse

from trocar.cli.slurm_args import profile_of
from trocar.data.ingest.distributed import split, write_parts
from trocar.data.ingest.options import IngestOptions, Say
from trocar.slurm import submissions
from trocar.slurm.arrays import MAX_INDEX, JobStage
from trocar.slurm.graph import Graph, scripts, submit_graph
from trocar.slurm.profile import Profile
from trocar.slurm.submit import refuse_second, script, submit, tell

PARTS_PER_SLOT = 4
"""Parts for each element that may run at once: a part that is lost costs little, and the last ones end together."""


def submit_ingest(args: argparse.Namespace, options: IngestOptions, say: Say) -> int:
    """Submit what is missing, or print the scripts. Returns the exit code."""
    profile = profile_of(args).single()
    words = ingest_words(args, profile)
    if profile.cluster == "local":
        if args.dry_run:
            print(script(words, options.out, profile), end="")
        else:
            tell(submit(words, options.out, profile), print)
        return 0
    parts = split(options, say, min(MAX_INDEX, PARTS_PER_SLOT * profile.array_limit))
    folder = submissions.folder_of(options.out)
    if args.dry_run:
        print(scripts(stages_of(words, str(folder / "parts.json"), len(parts)), options.out, profile, "ingest"), end="")
        return 0
    refuse_second(folder, options.out)
    stages = stages_of(words, str(write_parts(folder, parts)), len(parts))
    graph = submit_graph(stages, options.out, profile, name="ingest", finished=lambda name: False)
    say(f"{sum(map(len, parts))} videos to decode in {len(parts)} parts, then the catalog is written")
    _tell(graph, say)
    return 0


def stages_of(words: tuple[str, ...], parts: str, number: int) -> list[JobStage]:
    """One stage per part of the file `parts`, and the merge, which tells what parts that failed have left out."""
    decode = [JobStage(f"part-{i:04d}", (*words, "--allow-rejects", "--part", f"{parts}:{i}")) for i in range(number)]
    small = {"cpus_per_task": 1}
    return [*decode, JobStage("merge", (*words, "--merge"), tuple(s.name for s in decode), small, tolerant=True)]


def ingest_words(args: argparse.Namespace, profile: Profile) -> tuple[str, ...]:
    """The command line again, with what the parser has understood; workers as the profile has CPUs."""
    left_out = {"command", "sources", "run", "continues", "slurm", "slurm_set", "dry_run", "part", "merge", "workers"}
    words = ["ingest", *args.sources]
    for name, value in vars(args).items():
        if name in left_out or (value is None and name != "short_side") or value is False or value == "":
            continue
        flag = f"--{name.replace('_', '-')}"
        words.append(flag if value is True else f"{flag}={'none' if value is None else value}")
    workers = profile.cpus_per_task or args.workers
    return (*words, f"--workers={workers}")


def _tell(graph: Graph, say: Say) -> None:
    for submission in submissions.in_folder(submissions.folder_of(graph.out)):
        if set(submission.ids) & set(graph.jobs.values()):
            tell(submission, say)
