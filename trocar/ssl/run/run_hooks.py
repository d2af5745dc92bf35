"""The run folder behind the training loop: metrics, checkpoints, bad rows, progress, the final backbone."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trocar.backbones.card import model_card
from trocar.core.files import fsync_folder, fsync_tree, write_atomic, write_json_atomic
from trocar.core.progress import Pace
from trocar.data.loading.batch import Batch
from trocar.errors import StoppedError, TrocarError
from trocar.runs.lease import Lease, LeaseLost
from trocar.runs.mlflow_follower import Follower
from trocar.runs.run_folder import Run, Status, judged_loss
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.checkpoint_writer import CheckpointContent, CheckpointWriter, Kept
from trocar.ssl.engine.health import collapse
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.trainer import AfterStop, Stop, TrainState, never, shell_code
from trocar.ssl.ranks.distributed import barrier
from trocar.ssl.ranks.parts import gathered
from trocar.ssl.ranks.sharding import is_sharded
from trocar.ssl.run.assembly import Pretraining, exported_backbone
from trocar.ssl.run.bad_rows import BAD_ROWS


class RunHooks:
    """Implements `trainer.Hooks` for one rank. Only rank 0 has a `record` and a `lease`, and writes."""

    def __init__(
        self,
        setup: Pretraining,
        method: Method,
        optimizer: torch.optim.Optimizer,
        lease: Lease | None,
        record: Run | None,
        first_step: int,
        state: TrainState,
        after_stop: AfterStop = shell_code,
        stop: Stop = never,
    ) -> None:
        self.setup, self.method, self.optimizer = setup, method, optimizer
        self.lease, self.record = lease, record
        self.after_stop, self.stop_requested = after_stop, stop
        self._first_step, self._state = first_step, state
        self.watch, self.done = setup.watch, first_step
        self.run = setup.config.run
        self.log_every = self.run.log_every
        self._checkpoints = CheckpointWriter(
            self.run.out, Kept(self.run.keep_last, self.run.milestone_every), self._check_lease, setup.say
        )
        self._warned, self._began = False, time.perf_counter()
        self._pace = Pace(first_step, setup.total)
        self._follower: Follower | None = None
        self._bar = _progress_bar(visible=record is not None and sys.stderr.isatty())
        self._task = self._bar.add_task("pretrain", total=setup.total, completed=first_step, loss="")

    def __enter__(self) -> RunHooks:
        self._bar.start()
        tracking = self.setup.config.tracking
        if self.record is not None and tracking.uri != "none":
            uri = None if tracking.uri == "sqlite" else tracking.uri
            self._follower = Follower.start(self.run.out, uri, tracking.experiment)
            if self._follower.note:
                self.setup.say(self._follower.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        # Whatever ends the run, what is being written is good; only who pressed Ctrl-C twice doesn't wait for it.
        late = self._checkpoints.close(give_up=kind is not None and issubclass(kind, KeyboardInterrupt))
        if late is not None:
            self.setup.say(f"{type(late).__name__}: {late}" if not isinstance(late, TrocarError) else str(late))
        if self.record is None or isinstance(error, LeaseLost) or isinstance(late, LeaseLost):
            return  # the folder belongs to another process now, and so does its record
        status: Status = "finished" if kind is None else "failed" if issubclass(kind, Exception) else "killed"
        with suppress(OSError) if kind is not None else nullcontext():  # the first trouble is the one to report
            self.record.finish(status)
        if self._follower is not None and kind is None:
            # Only a run that has all the time in the world waits for the last numbers to reach mlflow.
            self._follower.stop()

    def logged(self, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step to the record, the bar or the output."""
        if self.record is None:
            return
        self.record.log(step, values)
        self._bar.update(self._task, loss=f"loss {values['loss']:.3f}")
        self._warn_of_collapse(step, values)
        if not sys.stderr.isatty() and step % (10 * self.log_every) == 0:
            self.setup.say(
                f"step {step}/{self.setup.total}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
                f"{values['images_per_s']:.0f} images/s  waiting {_shares(values)}"
                f"{_straggler(values)}"
            )

    def stepped(self, batch: Batch, done: int) -> None:
        """Note what was bad in the batch, and move the bar."""
        self.done = done
        if batch.bad:
            self._append_bad(batch)
        self._bar.update(self._task, completed=done)
        if self.record is not None and not sys.stderr.isatty() and (left := self._pace.left(done)):
            self.setup.say(f"step {done}/{self.setup.total}  {left}")

    def probed(self, done: int) -> bool:
        """Score what would be exported, keep its weights if they are the best so far; True where patience ends."""
        values = self.watch.look(done, self.method.exported)
        if values and self.record is not None:
            # Under the step that has just ended, which a later attempt that goes on from here does not make again.
            self.record.log(max(0, done - 1), values)
        if values and (best := self.watch.best) is not None and best.done == done:
            weights = gathered(exported_backbone(self.setup, self.method, done).state, keep=self.record is not None)
            self.watch.best_weights = weights if self.record is not None else None
        return self.watch.ended

    def save(self, done: int) -> None:
        """Save when a checkpoint is due, and whenever the run is complete."""
        self._checkpoints.check()
        due = any(done % every == 0 for every in self.run.saves_every)
        following = min((done // every + 1) * every for every in self.run.saves_every)
        if done == self.setup.total or self.watch.ended:
            self._save(done, wait=True)
        elif due:
            self._save(done)
            gc.collect()  # the trainer keeps the collector off, and here all ranks wait anyway
        elif (
            done == self._first_step + 1
            and self.record is not None
            and following < self.setup.total
            and not is_sharded(self.method)
        ):
            # From its first step on the optimizer has all its state. The last checkpoint is waited for and not copied.
            self._checkpoints.prepare(self._content(done))

    def stopping(self, done: int, number: int) -> None:
        """Save, see to what comes after, and raise StoppedError with the exit code."""
        self._save(done, wait=True)
        # A SIGTERM during the save outranks what asked for the stop: nothing must bring the job back.
        number = max(number, self.stop_requested())
        self.setup.say(f"stopped by signal {number} after step {done}; the same command continues from here")
        code = self.after_stop(number, self.setup.world)
        # No rank ends before rank 0 has saved and asked for the requeue: its end could end the whole job.
        barrier()
        raise StoppedError(code)

    def broken(self, batch: Batch, why: str) -> None:
        """Write the batch to the run folder, and raise TrocarError with its path."""
        path = self.run.out / f"broken-step-{batch.step}-rank-{self.setup.world.rank}.pt"
        torch.save({"step": batch.step, "rows": torch.from_numpy(batch.rows), "views": batch.views}, path)
        raise TrocarError(
            f"{why} (train.max_skipped = {self.setup.config.train.max_skipped}); the last batch is in {path}. Usual "
            f"remedies: a lower optim.lr, train.precision float32, a smaller optim.clip"
        )

    def finish(self) -> None:
        """Publish the backbone and mark the run finished; the order makes a kill in between harmless."""
        if self.record is not None:
            self._check_lease()
            source = checkpoint.path_of(self.run.out, self.done)
            self._publish(source / "backbone", "backbone")
            if self.watch.best is not None:
                self._publish(source / checkpoint.BEST, f"backbone-{checkpoint.BEST}")
            write_json_atomic(self.run.out / "finished.json", {"step": self.done, "identity": self.setup.identity()})
        barrier()
        self._sum_up()

    def _publish(self, source: Path, name: str) -> None:
        target = self.run.out / name
        _replace_folder(source, target)
        write_atomic(target / "README.md", model_card(self.run.out, target, self.setup.guard))

    def _sum_up(self) -> None:
        watch = self.watch
        if self.watch.ended and self.done < self.setup.total:
            self.setup.say(f"ended after {self.done} of {self.setup.total} steps, by patience: {watch.patience} looks")
        if watch.probes:
            whole = time.perf_counter() - self._began
            self.setup.say(f"probes took {watch.seconds:.1f} s, {100 * watch.seconds / whole:.1f} % of the time")
        if (best := watch.best) is not None:
            self.setup.say(
                f"best after {best.done} steps: {best.value:.3f} of probe {watch.chooser}, chosen by it; that backbone "
                f"is {self.run.out / f'backbone-{checkpoint.BEST}'}"
            )

    def _save(self, done: int, wait: bool = False) -> None:
        """The other ranks don't wait: what follows a step changes nothing of what rank 0 has copied."""
        if self.record is not None:
            self._checkpoints.write(done, self._content(done), wait=wait)
        elif is_sharded(self.method):
            self._content(done)  # rank 0 puts together what all have parts of

    def _content(self, done: int) -> CheckpointContent:
        state: checkpoint.State = {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "skipped": self._state.skipped,
        }
        about = {"identity": self.setup.identity(), "environment": self.setup.environment()}
        if self.watch.probes:
            state["probe"] = self.watch.state()
        backbone = exported_backbone(self.setup, self.method, done)
        best = None
        if (point := self.watch.best) is not None and self.watch.best_weights is not None:
            best = replace(
                exported_backbone(self.setup, self.method, point.done, point), state=dict(self.watch.best_weights)
            )
        if is_sharded(self.method):
            state, weights = gathered((state, backbone.state), keep=self.record is not None)
            backbone = replace(backbone, state=weights)
        return CheckpointContent(state, backbone, about, best)

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _warn_of_collapse(self, step: int, values: dict[str, float]) -> None:
        progress = (step + 1) / self.setup.total
        loss = values[judged_loss(values)]
        words = collapse(loss, values.get("teacher_entropy"), self.method.reference_loss(), progress)
        if words and not self._warned:
            self.setup.say(words)
            self._warned = True

    def _append_bad(self, batch: Batch) -> None:
        found = [{"step": batch.step, **self.setup.catalog.place(b.row), "reason": b.reason} for b in batch.bad]
        # Each line begins with a newline: one that a kill tore before it can't swallow the next.
        lines = "".join("\n" + json.dumps(line) for line in found) + "\n"
        # One write with O_APPEND: ranks share the file.
        descriptor = os.open(self.run.out / BAD_ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)
        self.setup.say(f"step {batch.step}: replaced {len(batch.bad)} bad frame(s), see {self.run.out / BAD_ROWS}")


def _shares(values: dict[str, float]) -> str:
    if "device_wait" not in values:
        return f"{100 * values['data_wait']:.0f} %"
    return f"{100 * values['data_wait']:.0f} % (device {100 * values['device_wait']:.0f} %)"


def _straggler(values: dict[str, float]) -> str:
    """Which rank the others wait for, where it takes a tenth longer than they do."""
    slowest, median = values.get("slowest_rank_s", 0.0), values.get("median_rank_s", 0.0)
    if slowest <= 1.1 * median:
        return ""
    return f"  rank {values['slowest_rank']:.0f} is slowest: {slowest:.2f} s a step, the median rank {median:.2f} s"


def _replace_folder(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    fsync_tree(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    fsync_folder(target.parent)


def _progress_bar(visible: bool) -> Progress:
    from trocar.core.progress import Console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not visible,
    )
