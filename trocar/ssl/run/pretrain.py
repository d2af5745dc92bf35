"""One pretraining run, from its configuration to its backbone folder."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import torch

from trocar.backbones.device import allow_tf32, explained
from trocar.backbones.weights_file import require_finite
from trocar.core.files import write_json_atomic
from trocar.core.resources import torch_threads
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.aliases import aliases_of, withhold
from trocar.runs.lease import Lease
from trocar.runs.run_folder import Run, update_record
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.optimizer import build_optimizer, restore
from trocar.ssl.engine.trainer import AfterStop, Stop, TrainConfig, Trainer, TrainState, never, shell_code
from trocar.ssl.ranks.distributed import World, agree, broadcast_int, gather_words, process_group
from trocar.ssl.ranks.machine import MachineShare, default_threads
from trocar.ssl.ranks.parts import load_method
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.run_description import describe
from trocar.ssl.run.run_hooks import RunHooks


def run(setup: Pretraining, after_stop: AfterStop = shell_code, stop: Stop = never) -> None:
    """Run or resume what is set up, to the end. A finished run returns at once.

    `stop` is polled at each step boundary; when it asks for a stop the run saves, and `after_stop` decides what
    follows. Nothing of the process is changed: no signal handlers, and torch's threads and random state are afterwards
    what they were. Raises ConfigError / TrocarError for what a user can act on, StoppedError with what `after_stop`
    returns after a saved stop.
    """
    config, world, say = setup.config, setup.world, setup.say
    if wrong := config.indivisible(world.size):
        raise ConfigError(wrong)
    allow_tf32(setup.device)
    with process_group(world, setup.device, config.run.out, config.run.data_timeout_s):
        setup.neighbouring = MachineShare.found(gather_words)
        with torch_threads(config.run.threads or default_threads(setup.neighbouring.cores)):
            _require_one_precision(setup)
            if finished(config.run.out, setup):
                say(f"{config.run.out} is finished; its backbone is {config.run.out / 'backbone'}")
                return
            lease = _acquire(config.run.out, world)
            try:
                # The noise inside the model is seeded by torch's global generator.
                devices = [setup.device] if setup.device.type == "cuda" else []
                with explained(lambda: memory_remedy(config.train, world.size)), torch.random.fork_rng(devices):
                    _train(setup, lease, after_stop, stop)
            finally:
                if lease is not None:
                    lease.release()


def memory_remedy(train: TrainConfig, ranks: int) -> str:
    """What a step's memory depends on, with the values it has."""
    parts = ", set train.shard to full (now none)" if ranks > 1 and train.shard == "none" else ""
    return (
        f"There were {train.batch // (ranks * train.accumulate)} frames at a time on each of {ranks} rank(s). Raise "
        f"train.accumulate (now {train.accumulate}), set train.grad_checkpointing to true (now "
        f"{str(train.grad_checkpointing).lower()}){parts} or lower train.batch (now {train.batch}); `trocar pretrain` "
        f"with --dry-run estimates what is needed. A run that has checkpoints goes on with such a change where "
        f"resume.allow names it, as [recipe.train.accumulate] does"
    )


def _require_one_precision(setup: Pretraining) -> None:
    """Ranks on cards of different kinds would add gradients of different precisions without a word."""
    half = float(setup.resolved.train.precision == "bfloat16")
    most, negated_least = agree(torch.tensor([half, -half], device=setup.device))
    if most != -negated_least:
        raise ConfigError(
            "train.precision: auto is bfloat16 on some ranks' GPUs and float32 on others', which have no bfloat16; say "
            "float32, or run on GPUs of one kind"
        )


def _acquire(out: Path, world: World) -> Lease | None:
    """Rank 0 takes the lease; the others wait to hear whether it got it."""
    if not world.is_main:
        if not broadcast_int(0):
            raise TrocarError("rank 0 did not get the run folder; its message says why")
        return None
    try:
        lease = Lease.acquire(out)
    except BaseException:
        broadcast_int(0)
        raise
    broadcast_int(1)
    return lease


def _train(setup: Pretraining, lease: Lease | None, after_stop: AfterStop, stop: Stop) -> None:
    config, world, method = setup.config, setup.world, setup.placed()
    private = setup.private
    setup.say = aliases_of(config.run.out, private.names, private.cases, private.called).saying(setup.say)
    for line in describe(setup):
        setup.say(line)
    optimizer = build_optimizer(method, config.optim, staged=config.adapt is not None)
    start, state = _restore(setup, method, optimizer)
    setup.stage(start, stop)
    if world.is_main:
        config.run.out.mkdir(parents=True, exist_ok=True)
        withhold(
            config.run.out, private.names, private.cases, private.called
        )  # before anything that mlflow could pick up
    record = Run.open(config.run.out, config.model_dump(mode="json", by_alias=True)) if world.is_main else None
    if record is not None:
        update_record(config.run.out, total_steps=setup.total)
        if (leaks := setup.leaks()) is not None:
            write_json_atomic(config.run.out / "leaks.json", leaks)
    hooks = RunHooks(setup, method, optimizer, lease, record, start, state, after_stop, stop)
    trainer = Trainer(
        method,
        optimizer,
        setup.schedule,
        setup.resolved.train,
        config.optim,
        config.run.seed,
        world,
        setup.device,
        hooks,
        state,
    )
    with hooks:
        if not hooks.probed(start):  # the first weights begin the curve; a run that patience ended stays ended
            with closing(setup.batches(start)) as batches:  # an error's traceback would keep its workers
                trainer.fit(batches, setup.total, setup.epoch_steps)
        if state.skipped >= setup.total:  # a checkpoint of the last step, saved by a version that did not look
            raise TrocarError(f"none of the {setup.total} steps of {config.run.out} counted: start anew elsewhere")
        hooks.finish()
    setup.say(f"finished after {hooks.done} steps; the backbone is {config.run.out / 'backbone'}")


def _restore(setup: Pretraining, method: Method, optimizer: torch.optim.Optimizer) -> tuple[int, TrainState]:
    """Load the newest good checkpoint into method and optimizer; returns the first step and what was counted before."""
    config, out = setup.config, setup.config.run.out
    found = checkpoint.load_latest(out, setup.say) if setup.world.is_main else None
    step = broadcast_int(found.step if found is not None else -1)
    if step < 0:
        return 0, TrainState()
    if found is None:
        found = checkpoint.load(checkpoint.path_of(out, step))
    for line in checkpoint.check_same(found.manifest["identity"], setup.identity(), config.resume.allow, out):
        setup.say(f"resuming with an allowed difference: {line}")
    for key, now in setup.environment().items():
        if found.manifest["environment"].get(key) != now:
            setup.say(f"{key} differs from the last attempt: {found.manifest['environment'].get(key)} -> {now}")
    require_finite(found.state["method"], f"{found.path} (delete it to go on from the checkpoint before)")
    load_method(method, found.state["method"])
    setup.watch.restore(found.state.get("probe"), found.path / checkpoint.BEST)
    restore(optimizer, found.state["optimizer"])
    setup.say(f"resuming {out} after step {step} of {setup.total}")
    return step, TrainState(int(found.state["skipped"]))


def finished(out: Path, setup: Pretraining) -> bool:
    """Whether this run has reached its end before. Another configuration on a finished folder is refused."""
    try:
        record = json.loads((out / "finished.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise TrocarError(f"{out / 'finished.json'} is damaged ({error}); delete it and run again") from None
    # With allowed differences (a longer run) it is not the end yet: it resumes from its last checkpoint.
    return not checkpoint.check_same(record["identity"], setup.identity(), setup.config.resume.allow, out)
