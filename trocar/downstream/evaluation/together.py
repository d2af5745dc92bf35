"""The slow parts of an evaluation by several ranks: features of frozen backbones, and problems that are solved.

Both are kept on disk under the names that one process would give them. When all is there, rank 0 goes through the whole
evaluation as if it were alone, and finds everything done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from trocar.core.messages import Say
from trocar.downstream.evaluation.contenders import Contender, usable
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.evaluation.runner import Runner
from trocar.downstream.features.feature_cache import Encoder
from trocar.downstream.features.feature_parts import extract_together
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.protocols.segmentation import MaskProtocol
from trocar.downstream.work_share import WorkShare

EncodersOf = Callable[[Contender], Mapping[str, Encoder]]
"""Of the members of an arm, by name."""


def solve_together(
    arms: Sequence[Contender],
    benches: Sequence[Experiment],
    protocols: Sequence[Protocol],
    runner: Runner,
    encoders_of: EncodersOf,
    share: WorkShare,
    say: Say,
) -> None:
    """Compute this rank's share of all features and problems; returns when the others have theirs too.

    To be called by every rank with the same arguments. `say` is told what this rank is at. Raises TrocarError as an
    evaluation does, and where another rank ends before its time.
    """
    say(f"{share.size} ranks: features")
    wanted = [arm for arm in arms if _needs_features(arm, benches, protocols)]
    extract_together([encoder for arm in wanted for encoder in encoders_of(arm).values()], share)
    turns = Turns(share)
    for arm in arms:
        say(f"{arm.label}, a share of one in {share.size}")
        encoders = encoders_of(arm)
        for bench in benches:
            theirs = usable(arm, protocols, bench)
            runner.finished.expect(theirs)
            for protocol in theirs:
                if protocol.trains_network:
                    say(f"  {bench.name}: {protocol.label}")
                runner.solve(arm, bench, protocol, encoders, partial(turns.is_mine, protocol, arm, bench), share.check)
            runner.finished.let_go()
        for line in runner.finished.said():
            say(f"  {line}")
    share.wait("problems solved")


def _needs_features(arm: Contender, benches: Sequence[Experiment], protocols: Sequence[Protocol]) -> bool:
    """Whether a protocol will ask for those of a frozen network. One that was not foreseen is served all the same: by
    every rank that asks for itself.
    """
    if arm.members[0].model is None:
        return False
    theirs = [protocol for bench in benches for protocol in usable(arm, protocols, bench)]
    return any(not isinstance(protocol, MaskProtocol) and not protocol.trains_network for protocol in theirs)


class Turns:
    """Problems go round among the ranks, those of each protocol by themselves: they take about equally long.

    Protocols that begin with one fine-tuning count as one, so that a rank which fine-tuned also goes on from there.
    """

    def __init__(self, share: WorkShare) -> None:
        self._share = share
        self._numbers: dict[str, dict[tuple[str, str, RunIndex, int], int]] = {}

    def is_mine(self, protocol: Protocol, arm: Contender, bench: Experiment, index: RunIndex, fold: int) -> bool:
        """Whether it is this rank's problem. Every rank asks for all of them, in one order."""
        kind = (protocol.fine_tuning() or protocol).model_dump_json()
        numbers = self._numbers.setdefault(kind, {})
        number = numbers.setdefault((arm.label, bench.name, index, fold), len(numbers))
        first = list(self._numbers).index(kind)  # where each protocol has one problem, not all are rank 0's
        return (first + number) % self._share.size == self._share.rank
