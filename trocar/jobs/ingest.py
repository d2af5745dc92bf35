"""Ingest: the whole of it in this process and its workers, one part of an array, or the merge of all parts."""

from __future__ import annotations

from trocar.core.messages import Say
from trocar.data.ingest.options import IngestOptions, IngestSummary, Progress
from trocar.data.ingest.run import merge, run_ingest, run_part


def ingest(
    options: IngestOptions,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total, outcome: None,
    *,
    part: str | None = None,
    merging: bool = False,
) -> IngestSummary:
    """Videos, frames or stills -> shards and catalog; the summary counts what this call did and what there is now.

    Running it again does only what is not finished. `progress(done, total, outcome)` is called after each video. As a
    job of an array it does one `part` (`FILE:NUMBER`), or `merging`, which writes the catalog of all parts. Raises
    ConfigError for bad options before anything is written, TrocarError for a full disk or a second ingest of `out`.
    """
    if part is not None:
        return run_part(options, part, say, progress)
    return merge(options, say) if merging else run_ingest(options, say, progress)
