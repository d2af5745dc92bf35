"""Ingest on a cluster: an array decodes, each element its own videos; then one job merges the catalog."""

from __future__ import annotations

from collections.abc import Sequence

from trocar.core.messages import Say
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import split, write_parts
from trocar.slurm import job_states
from trocar.slurm.arrays import MAX_INDEX, JobStage
from trocar.slurm.graph import scripts, submit_graph
from trocar.slurm.job_states import Submission
from trocar.slurm.profile import Profile
from trocar.slurm.submit import refuse_second, script, submit

PARTS_PER_SLOT = 4
"""Parts for each element that may run at once: a part that is lost costs little, and the last ones end together."""


def ingest_script(words: Sequence[str], options: IngestOptions, profile: Profile, say: Say) -> str:
    """The scripts that `submit_ingest` would hand to sbatch. Nothing is written."""
    if profile.cluster == "local":
        return script(words, options.out, profile)
    parts = _parts(options, profile, say)
    file = job_states.folder_of(options.out) / "parts.json"
    return scripts(_stages(words, str(file), len(parts)), options.out, profile, "ingest")


def submit_ingest(words: Sequence[str], options: IngestOptions, profile: Profile, say: Say) -> list[Submission]:
    """Submit what is missing; returns the jobs. `words` are those of the command line for the same options.

    Raises ConfigError while an earlier job for the same folder waits or runs, TrocarError if sbatch refuses.
    """
    if profile.cluster == "local":
        return [submit(words, options.out, profile)]
    parts = _parts(options, profile, say)
    folder = job_states.folder_of(options.out)
    refuse_second(folder, options.out)
    stages = _stages(words, str(write_parts(folder, parts)), len(parts))
    graph = submit_graph(stages, options.out, profile, name="ingest", finished=lambda name: False)
    say(f"{sum(map(len, parts))} videos to decode in {len(parts)} parts, then the catalog is written")
    own = set(graph.jobs.values())
    return [one for one in job_states.in_folder(folder) if own & set(one.ids)]


def _parts(options: IngestOptions, profile: Profile, say: Say) -> list[list[str]]:
    return split(options, say, min(MAX_INDEX, PARTS_PER_SLOT * profile.array_limit))


def _stages(words: Sequence[str], parts: str, number: int) -> list[JobStage]:
    """One stage per part of the file `parts`, and the merge, which tells what parts that failed have left out."""
    decode = [JobStage(f"part-{i:04d}", (*words, "--allow-rejects", "--part", f"{parts}:{i}")) for i in range(number)]
    small = {"cpus_per_task": 1}
    return [*decode, JobStage("merge", (*words, "--merge"), tuple(s.name for s in decode), small, tolerant=True)]
