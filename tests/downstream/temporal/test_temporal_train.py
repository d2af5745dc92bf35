"""Training: what it learns, what it keeps, what it leaves as it was, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from temporal_factory import accuracy, before_and_after, best_of_single_frames
from torch import nn

from trocar.core.config import validate
from trocar.downstream.temporal.heads.mstcn import MsTcn
from trocar.downstream.temporal.train import TemporalConfig, fit_temporal
from trocar.errors import ConfigError, TrocarError

TINY = {"name": "mstcn", "layers": 2, "maps": 4}
LEARNS = {
    "mstcn": ({"layers": 6, "maps": 16}, {"lr": 5e-3, "epochs": 25}),
    "mstcn++": ({"layers": 6, "refinement_layers": 4, "refinements": 1, "maps": 16}, {"lr": 5e-3, "epochs": 25}),
    "gru": ({"hidden": 24}, {"lr": 1e-2, "epochs": 25}),
    "transformer": ({"layers": 2, "width": 32, "feed_forward": 64}, {"lr": 3e-3, "epochs": 25}),
    "asformer": ({"layers": 5, "maps": 16, "decoders": 1}, {"lr": 5e-3, "epochs": 12}),
}


def settings(**values):
    return validate(TemporalConfig, {"head": TINY, "select": "fixed_epochs", "epochs": 2} | values, "test")


def fit(config, train=None, validation=None, score=None, seed=0, **values):
    train = before_and_after(3) if train is None else train
    return fit_temporal(config, train, validation, "multiclass", 3, seed, score, **values)


@pytest.mark.parametrize("name", sorted(LEARNS))
def test_a_head_knows_what_no_single_frame_tells(name):
    head, training = LEARNS[name]
    test = before_and_after(8, seed=1)
    fitted = fit(settings(head={"name": name, **head}, **training), before_and_after(10))
    assert best_of_single_frames(test) < 0.75
    assert accuracy(test, [fitted.predict(s) for s in test]) > 0.9


def test_several_labels_a_frame_are_learned_from_time_too():
    def both(sequence):  # the second label: phase 1 has been
        seen = np.maximum.accumulate(sequence.targets == 1)
        return replace(sequence, targets=np.stack([sequence.targets == 1, seen], axis=1).astype(np.int64))

    train, test = ([both(s) for s in before_and_after(n, seed)] for n, seed in ((10, 0), (8, 1)))
    config = settings(head={"name": "mstcn", "layers": 6, "maps": 16}, lr=5e-3, epochs=25)
    fitted = fit_temporal(config, train, None, "multilabel", 2, seed=0)
    right = [(fitted.predict(s) > 0.5) == (s.targets == 1) for s in test]
    assert np.concatenate(right).mean(0).min() > 0.9


def test_predictions_are_probabilities():
    fitted = fit(settings())
    scores = fitted.predict(before_and_after(1)[0])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)


def test_training_goes_on_in_training_mode_after_a_validation(monkeypatch):
    modes = []
    real = nn.Dropout.forward
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: modes.append(self.training) or real(self, x))
    head = {"name": "gru", "hidden": 4}  # one dropout, so one entry per forward
    fit(
        settings(head=head, select="validation", epochs=3),
        validation=before_and_after(2, seed=1),
        score=lambda scores: 0.0,
    )
    assert modes == ([True] * 3 + [False] * 2) * 3


def test_the_epoch_with_the_best_validation_score_is_kept_and_the_first_of_equals():
    given = iter([0.1, 0.5, 0.5, 0.3])
    seen = []

    def score(scores):
        seen.append(scores)
        return next(given)

    validation = before_and_after(2, seed=1)
    fitted = fit(settings(select="validation", epochs=4, lr=0.01), validation=validation, score=score)
    assert (fitted.epoch, fitted.scores) == (2, (0.1, 0.5, 0.5, 0.3))
    for sequence, then in zip(validation, seen[1], strict=True):
        np.testing.assert_array_equal(fitted.predict(sequence), then)
    assert not np.array_equal(seen[1][0], seen[3][0])


def test_a_score_that_is_nan_is_never_the_best():
    given = iter([float("nan"), 0.2, float("nan")])
    fitted = fit(settings(select="validation", epochs=3), validation=before_and_after(1), score=lambda _: next(given))
    assert fitted.epoch == 2


def test_patience_ends_the_training():
    given = iter([0.3, 0.2, 0.1, 0.9])
    config = settings(select="validation", epochs=4, patience=2)
    fitted = fit(config, validation=before_and_after(1), score=lambda _: next(given))
    assert (fitted.epoch, len(fitted.losses)) == (1, 3)


def test_fixed_epochs_never_look_at_the_validation_cases():
    def score(scores):
        raise AssertionError

    with_cases = fit(settings(epochs=3), validation=before_and_after(2, seed=1), score=score)
    assert (with_cases.epoch, with_cases.scores) == (3, ())


def test_the_same_seed_gives_the_same_head_and_another_one_another():
    config = settings(feature_noise=0.1, feature_dropout=0.2)
    sequence = before_and_after(1, seed=5)[0]
    one, same, other = (fit(config, seed=seed).predict(sequence) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_callers_random_numbers_and_threads_are_untouched():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    fit(settings(threads=threads + 1))
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == threads


def test_short_cases_run_on_one_thread_unless_told_otherwise():
    assert fit(settings()).threads == 1
    assert fit(settings(threads=2)).threads == 2


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_weight_decay_is_honoured(optimiser):
    def norm(decay):
        fitted = fit(settings(optimiser=optimiser, weight_decay=decay, epochs=20, lr=0.01))
        return sum(p.square().sum().item() for p in fitted.head.parameters())

    assert norm(10.0) < 0.1 * norm(0.0)


def test_feature_dropout_takes_whole_dimensions_of_a_case_in_training_alone(monkeypatch):
    seen = []
    real = MsTcn.stages
    monkeypatch.setattr(MsTcn, "stages", lambda self, x: seen.append((self.training, x[0])) or real(self, x))
    train = before_and_after(3)
    fitted = fit(settings(feature_dropout=0.5, epochs=8), train)
    fitted.predict(train[0])
    silent = [(x == 0).all(1) for training, x in seen if training]
    assert all(torch.equal(gone, (x == 0).any(1)) for gone, (_, x) in zip(silent, seen[:-1], strict=True))
    assert 0.3 < torch.stack(silent).float().mean() < 0.7
    assert not seen[-1][0]
    np.testing.assert_array_equal(seen[-1][1].T, fitted.standard(train[0].features))


def test_feature_noise_is_added_in_training_alone(monkeypatch):
    seen = []
    real = MsTcn.stages
    monkeypatch.setattr(MsTcn, "stages", lambda self, x: seen.append(x[0].T) or real(self, x))
    train = before_and_after(1)
    fitted = fit(settings(feature_noise=0.5, epochs=10), train)
    fitted.predict(train[0])
    clean = torch.from_numpy(fitted.standard(train[0].features))
    assert torch.stack([x - clean for x in seen[:-1]]).std().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(seen[-1], clean)


def test_the_gradient_is_clipped():
    def last_norm(clip):
        gradients = [p.grad.flatten() for p in fit(settings(clip=clip)).head.parameters()]
        return torch.cat(gradients).norm().item()

    assert last_norm(1e-3) == pytest.approx(1e-3, rel=1e-2)
    assert last_norm(0.0) > 1e-2


def test_features_are_standardised_over_the_training_frames():
    train = before_and_after(3)
    moved = [replace(s, features=s.features * 8 + 64) for s in train]
    for original, other in zip(train, moved, strict=True):
        np.testing.assert_allclose(
            fit(settings(), train).predict(original), fit(settings(), moved).predict(other), atol=1e-3
        )


def test_unlabelled_frames_are_context_and_their_labels_do_not_matter():
    train = before_and_after(3)
    hidden = [replace(s, targets=np.where(np.arange(len(s)) % 2, -1, s.targets)) for s in train]
    fitted = fit(settings(), hidden)
    assert fitted.predict(hidden[0]).shape == (len(train[0]), 3)
    blind = [replace(hidden[0], targets=np.full(len(hidden[0]), -1)), *hidden[1:]]
    assert np.isfinite(fit(settings(), blind).losses).all()


def test_the_detail_says_what_was_trained_and_is_json():
    detail = json.loads(json.dumps(fit(settings(lr=0.5)).detail()))
    assert (detail["online"], detail["recipe"]["lr"], detail["epoch"]) == (True, 0.5, 2)
    assert detail["head"]["maps"] == 4


def test_features_that_are_not_finite_are_refused_with_their_case_and_frame():
    train = before_and_after(2)
    train[1].features[5, 2] = np.nan
    with pytest.raises(TrocarError, match=r"case 'case1': the features of 1 frames .* frame 5 \(t = 5 s\)"):
        fit(settings(), train)
    with pytest.raises(TrocarError, match="case 'case1'"):
        fit(settings(), before_and_after(2)).predict(train[1])


def test_features_of_another_backbone_are_refused():
    sequence = before_and_after(1)[0]
    with pytest.raises(TrocarError, match="3 feature dimensions where the training has 4"):
        fit(settings()).predict(replace(sequence, features=sequence.features[:, :3]))


def test_a_loss_that_explodes_names_the_case():
    with pytest.raises(
        TrocarError, match=r"the loss of epoch \d+, case 'case\d' is (nan|inf); use a smaller lr or set clip: 1"
    ):
        fit(settings(lr=1e30, epochs=5))


def test_selection_on_validation_without_a_validation_is_refused():
    with pytest.raises(ConfigError, match="use select: fixed_epochs"):
        fit(settings(select="validation"))


def test_patience_without_validation_is_refused():
    with pytest.raises(ConfigError, match="patience needs select: validation"):
        fit(settings(patience=3))


def test_masks_are_refused():
    with pytest.raises(ConfigError, match="none for masks"):
        fit_temporal(settings(), before_and_after(1), None, "mask", 3, seed=0)


def test_scores_that_are_all_nan_are_refused():
    with pytest.raises(TrocarError, match="NaN in every epoch"):
        fit(settings(select="validation"), validation=before_and_after(1), score=lambda _: float("nan"))


def test_training_cases_without_any_label_are_refused():
    train = [replace(s, targets=np.full(len(s), -1)) for s in before_and_after(2)]
    with pytest.raises(TrocarError, match="none of the 2 training cases has a label"):
        fit(settings(), train)
    with pytest.raises(TrocarError, match="no training cases"):
        fit(settings(), [])
