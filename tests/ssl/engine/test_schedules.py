import numpy as np
import pytest

from trocar.core.config import Config, validate
from trocar.errors import ConfigError
from trocar.ssl.engine.method import Progress
from trocar.ssl.engine.optimizer import Duration, OptimConfig, Schedule, cosine, stairs, steps_in
from trocar.ssl.methods import default


def published_cosine(base, final, epochs, steps_per_epoch, warmup_epochs=0, start=0.0):
    """The array of DINO's reference code, written from its description in float64."""
    warm = warmup_epochs * steps_per_epoch
    i = np.arange(epochs * steps_per_epoch - warm)
    cosines = final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate([np.linspace(start, base, warm), cosines])


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_cosine_with_warmup_is_the_published_array(warmup):
    expected = published_cosine(2e-3, 1e-6, 10, 7, warmup)
    ours = [cosine(step, 2e-3, 1e-6, 70, warmup * 7) for step in range(70)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-18)


def test_a_warmup_of_one_step_starts_where_the_reference_does():
    expected = np.concatenate([np.linspace(0, 1.0, 1), [1.0]])
    assert [cosine(step, 1.0, 0.0, 3, 1) for step in range(2)] == expected.tolist()


def test_teacher_temperature_is_one_value_per_epoch():
    expected = np.repeat(np.concatenate([np.linspace(0.04, 0.07, 4), np.full(2, 0.07)]), 5)
    np.testing.assert_allclose([stairs(step, 0.04, 0.07, 20, 5) for step in range(30)], expected, rtol=1e-12)


def test_teacher_temperature_is_one_value_per_step_where_its_warmup_is_given_in_steps():
    dino = default("dino", teacher_temperature=0.07, teacher_temperature_warmup="12 steps")
    expected = np.concatenate([np.linspace(0.04, 0.07, 12), np.full(8, 0.07)])
    ours = [dino.temperature_at(Progress(step, 20, epoch_steps=5)) for step in range(20)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_dino_s_learning_rate_weight_decay_and_momentum():
    schedule = Schedule(OptimConfig(warmup="10 epochs"), batch=1024, total=100 * 50, epoch_steps=50)
    assert schedule.peak_lr == pytest.approx(5e-4 * 1024 / 256)
    lr = published_cosine(2e-3, 1e-6, 100, 50, 10)
    decay = published_cosine(0.04, 0.4, 100, 50)
    for step in (0, 1, 250, 499, 500, 501, 2500, 4999):
        assert schedule.lr(step) == pytest.approx(lr[step], rel=1e-12, abs=1e-18)
        assert schedule.weight_decay(step) == pytest.approx(decay[step], rel=1e-12)
    momentum = published_cosine(0.996, 1.0, 100, 50)
    assert cosine(4999, 0.996, 1.0, 5000) == pytest.approx(momentum[-1], rel=1e-12)


def test_durations_are_read_in_their_unit():
    assert steps_in("500 steps", 20, 1000) == 500
    assert steps_in("1.5 epochs", 20, 1000) == 30
    assert steps_in("10 %", 20, 1000) == 100


def test_a_duration_without_unit_is_refused():
    class Holder(Config):
        warmup: Duration

    with pytest.raises(ConfigError, match="'500 steps', '10 epochs' or '10 %'"):
        validate(Holder, {"warmup": "500"}, "x.yaml")


def test_the_warmup_is_never_longer_than_the_run():
    assert Schedule(OptimConfig(warmup="10 epochs"), 64, total=30, epoch_steps=20).warmup_steps == 30
