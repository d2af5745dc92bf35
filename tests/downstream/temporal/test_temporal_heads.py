"""Each head: what a frame depends on, which lengths it takes, how it is asked for."""

import pytest
import torch
from torch import nn

from trocar.core.config import load
from trocar.downstream.temporal.head import HEADS
from trocar.downstream.temporal.heads import get_head
from trocar.downstream.temporal.heads.mstcn import MsTcnConfig
from trocar.downstream.temporal.heads.transformer import sinusoids
from trocar.downstream.temporal.train import TemporalConfig
from trocar.errors import ConfigError, TrocarError

SMALL = {
    "mstcn": {"layers": 4, "maps": 8},
    "mstcn++": {"layers": 4, "refinement_layers": 3, "maps": 8},
    "gru": {"hidden": 8, "layers": 2},
    "transformer": {"layers": 2, "width": 8, "heads": 2, "feed_forward": 16},
    "asformer": {"layers": 4, "maps": 8, "decoders": 2},
}
BOTH = [(name, causal) for name in SMALL if name != "asformer" for causal in (True, False)] + [("asformer", False)]


def built(name, kind="multiclass", **values):
    torch.manual_seed(0)
    return get_head(name, **(SMALL[name] | values)).build(6, 3, kind).eval()


def touched_frames(head, frames, perturbed):
    """Which outputs of the last stage change when one input frame does."""
    x = torch.randn(frames, 6, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[perturbed] += 5.0
    with torch.no_grad():
        difference = (head(x)[-1] - head(other)[-1]).abs().amax(1)
    return difference > 1e-7


def test_every_head_is_tried_here():
    assert set(SMALL) == set(HEADS.names())


@pytest.mark.parametrize(("name", "causal"), BOTH)
def test_an_online_head_does_not_see_the_future_and_an_offline_head_does(name, causal):
    head = built(name, causal=causal)
    assert head.causal is causal
    touched = touched_frames(head, frames=40, perturbed=20)
    assert touched[20:].any()
    assert bool(touched[:20].any()) is not causal


def test_a_windowed_causal_transformer_does_not_see_the_future():
    touched = touched_frames(built("transformer", window=5), frames=200, perturbed=100)
    # Two layers of a window of 5 reach 8 frames ahead of the one that changed.
    assert torch.nonzero(touched).flatten().tolist() == list(range(100, 109))


def test_an_offline_window_is_centred():
    touched = touched_frames(built("transformer", window=5, causal=False), frames=200, perturbed=100)
    assert torch.nonzero(touched).flatten().tolist() == list(range(96, 105))


def test_a_window_as_long_as_the_case_is_no_window():
    whole, windowed = built("transformer"), built("transformer", window=90)
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(90, 6)
    torch.testing.assert_close(windowed(x)[0], whole(x)[0])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("stages", "layers", "kernel", "field"), [(1, 3, 3, 15), (2, 3, 3, 29), (1, 2, 5, 13)])
def test_the_receptive_field_of_mstcn_is_the_one_computed_by_hand(causal, stages, layers, kernel, field):
    # One stage of dilations 1, 2, 4 with 3 taps: 1 + 2 * (1 + 2 + 4) = 15.
    config = MsTcnConfig(stages=stages, layers=layers, kernel=kernel, maps=4, causal=causal)
    assert config.receptive_field() == field
    torch.manual_seed(0)
    head = config.build(6, 3, "multiclass").double().eval()
    for module in head.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.uniform_(module.weight, 0.1, 0.5)  # positive: no path is cut by a ReLU
    x = torch.rand(80, 6, dtype=torch.float64, requires_grad=True)
    head(x)[-1][40].max().backward()
    seen = torch.nonzero(x.grad.abs().amax(1)).flatten()
    half = field // 2
    expected = range(41 - field, 41) if causal else range(40 - half, 40 + half + 1)
    assert seen.tolist() == list(expected)


def test_tecno_by_default_sees_2045_frames():
    assert MsTcnConfig().receptive_field() == 2045  # 1 + 2 stages * 2 * 511


def test_a_later_stage_sees_the_probabilities_of_the_one_before_it():
    head = built("mstcn")
    received = []
    head.body[1].register_forward_hook(lambda _, inputs, __: received.append(inputs[0]))
    first, _ = head(torch.randn(12, 6))
    torch.testing.assert_close(received[0][0].T, first.softmax(1))


def test_a_later_stage_sees_sigmoids_where_a_frame_has_several_labels():
    head = built("mstcn", kind="multilabel")
    received = []
    head.body[1].register_forward_hook(lambda _, inputs, __: received.append(inputs[0]))
    first, _ = head(torch.randn(12, 6))
    torch.testing.assert_close(received[0][0].T, first.sigmoid())


@pytest.mark.parametrize(
    ("name", "stages"), [("mstcn", 2), ("mstcn++", 4), ("gru", 1), ("transformer", 1), ("asformer", 3)]
)
def test_a_case_may_have_one_frame(name, stages):
    head = built(name).train()
    found = head(torch.randn(1, 6))
    assert [tuple(logits.shape) for logits in found] == [(1, 3)] * stages
    sum(logits.sum() for logits in found).backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_both_layouts_of_a_case_are_the_same_case(name):
    head, x = built(name), torch.randn(9, 6)
    torch.testing.assert_close(head(x)[-1], head(x.T.unsqueeze(0))[-1])


def test_several_cases_at_once_are_refused():
    with pytest.raises(TrocarError, match=r"one case .* not \[2, 6, 9\]"):
        built("mstcn")(torch.randn(2, 6, 9))


@pytest.mark.parametrize("name", ["transformer", "asformer", "mstcn"])
def test_a_case_of_6000_frames_is_trained_on_without_a_matrix_of_its_square(name):
    # A float matrix of 6000 x 6000 takes 144 MB: no saved tensor may come near it.
    largest = 0

    def note(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    values = {"layers": 10} if name != "transformer" else {"heads": 1, "width": 16, "layers": 1}
    head = built(name, **values).train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = sum(logits.square().mean() for logits in head(torch.randn(6000, 6)))
    loss.backward()
    assert torch.isfinite(loss)
    assert largest < 6000 * 6000 / 4


def test_the_sinusoids_are_those_of_the_formula():
    found = sinusoids(3, 4)
    expected = [[0, 1, 0, 1], [0.841471, 0.540302, 0.01, 0.99995], [0.909297, -0.416147, 0.019999, 0.9998]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no temporal head 'mstnc' \(did you mean 'mstcn'\?\); heads: asformer, gru"):
        get_head("mstnc")


def test_an_unknown_setting_of_a_head_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key 'map' \(did you mean 'maps'\?\)"):
        get_head("mstcn", map=3)


def test_an_online_asformer_is_refused():
    with pytest.raises(ConfigError, match="causal = True"):
        get_head("asformer", causal=True)


@pytest.mark.parametrize("values", [{"name": "mstcn", "kernel": 4}, {"name": "transformer", "window": 6}])
def test_a_centred_window_without_a_centre_is_refused(values):
    with pytest.raises(ConfigError, match="has no centre"):
        get_head(**values, causal=False)


def test_a_head_is_chosen_in_a_file_by_its_name(tmp_path):
    path = tmp_path / "temporal.yaml"
    path.write_text("head: {name: gru, hidden: 32}\nlr: 0.01\n")
    config = load(TemporalConfig, path, ["head.layers=2"])
    assert config.head == get_head("gru", hidden=32, layers=2)
    assert (config.recipe().lr, config.recipe().epochs, config.recipe().clip) == (0.01, 25, 1.0)


def test_without_a_word_the_head_is_tecno():
    config = TemporalConfig()
    assert config.head.model_dump() == {
        "name": "mstcn", "causal": True, "stages": 2, "layers": 9, "maps": 64, "kernel": 3, "dropout": 0.5
    }  # fmt: skip
    recipe = config.recipe()
    assert (recipe.optimiser, recipe.lr, recipe.epochs, recipe.weight_decay) == ("adam", 7e-4, 100, 0.0)
    assert (config.loss.smoothing, config.loss.truncate) == (0.15, 16.0)
