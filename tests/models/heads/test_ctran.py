"""C-Tran against published values, against plain loops, and what known labels do."""

import numpy as np
import pytest
import torch

from models.heads.ctran import CTranConfig, CTranHead, build_ctran
from models.heads.transformer import sine_position_encoding, tokens_of
from tests.golden_files import load, part
from tests.models.heads.test_transformer import noise, numbers, shaken
from tests.oracles import transformers as oracle
from utils.checks import UserError

CODES = torch.tensor([[-1, 0, 1, -1, 1], [0, 0, -1, 1, -1]])


def our_name(key):
    key = key.replace("self_attn_layers.", "layers.").replace("transformer_layer.", "")
    return key.replace("output_linear", "fc").replace("LayerNorm", "norm")


def head(seed=0, **how):
    return shaken(CTranHead(8, 5, **{"heads": 2, "layers": 2} | how), seed)


@torch.no_grad()
def test_golden_ctran():
    golden = load("ctran_head.npz")
    _, classes, width, heads, layers, _ = golden["cfg"].tolist()
    built = CTranHead(width, classes, heads=heads, layers=layers).double().eval()
    built.load_state_dict({our_name(key): torch.from_numpy(value) for key, value in part(golden, "P.").items()})
    features, state = torch.from_numpy(golden["feat"]), torch.from_numpy(golden["state"])
    exact = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(built.with_labels(features, state).numpy(), golden["logits"], **exact)
    np.testing.assert_allclose(built(features).numpy(), golden["logits_all_unknown"], **exact)
    np.testing.assert_allclose(built.with_cam(features)[0].numpy(), golden["logits_all_unknown"], **exact)


@pytest.mark.parametrize("encoded", [False, True])
@torch.no_grad()
def test_it_equals_the_loops(encoded):
    built, features = head(encode_positions=encoded), noise(2, 8, 3, 4)
    found = built.with_labels(features, CODES)
    encoding = tokens_of(sine_position_encoding(features))[0].numpy() if encoded else 0.0
    for n in range(2):
        tokens = tokens_of(features)[n].numpy()
        expected = oracle.ctran(numbers(built), tokens, CODES[n].tolist(), 2, encoding)
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=1e-8, atol=1e-9)


def test_the_order_of_positions_changes_nothing_without_their_encoding():
    features = noise(2, 8, 3, 4)
    turned = features.flip(2, 3)
    torch.testing.assert_close(head()(features), head()(turned))
    encoded = head(encode_positions=True)
    assert not torch.allclose(encoded(features), encoded(turned))


def test_an_unknown_label_adds_nothing_unless_it_is_to_be_random():
    built = CTranHead(8, 5, heads=2)
    assert not built.known_label_lt.weight[0].any()
    assert built.known_label_lt.weight[1:].all()
    assert CTranHead(8, 5, heads=2, unknown_zero=False).known_label_lt.weight.all()


@pytest.mark.parametrize("unknown_zero", [True, False])
def test_the_state_unknown_never_learns(unknown_zero):
    built = CTranHead(8, 5, heads=2, unknown_zero=unknown_zero)
    built.with_labels(noise(2, 8, 2, 2).float(), CODES).square().sum().backward()
    assert not built.known_label_lt.weight.grad[0].any()
    assert built.known_label_lt.weight.grad[1:].abs().sum() > 0


def test_every_parameter_gets_a_gradient():
    built = head(hidden=12)
    built.with_labels(noise(2, 8, 2, 2), CODES).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_nothing_known_is_all_unknown_and_every_parameter_takes_part():
    built, features = head(), noise(2, 8, 2, 2)
    torch.testing.assert_close(built(features), built.with_labels(features, torch.full_like(CODES, -1)))
    built(features).sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_a_known_label_changes_the_others():
    built, features = head(), noise(2, 8, 2, 2)
    one = built(features)
    for code in (0, 1):
        known = torch.full_like(CODES, -1)
        known[:, 0] = code
        assert not torch.isclose(built.with_labels(features, known), one).any()


@torch.no_grad()
def test_the_map_is_the_attention_of_label_tokens_to_the_image():
    built, features = head(layers=1), noise(2, 8, 3, 4)
    logits, cam = built.with_cam(features)
    torch.testing.assert_close(logits, built(features))
    assert torch.equal(cam, built.cam(features))
    labels = (built.label_lt.weight + built.known_label_lt.weight[0]).expand(2, -1, -1)
    tokens = built.norm(torch.cat([tokens_of(features), labels], dim=1))
    seen = built.layers[0].self_attn(tokens, tokens, tokens)[1]
    torch.testing.assert_close(cam.flatten(2), seen[:, 12:, :12])
    assert (cam >= 0).all()
    assert (cam.sum(dim=(2, 3)) < 1).all()


def test_gradients_are_those_of_its_values():
    built = head()
    assert torch.autograd.gradcheck(lambda x: built.with_labels(x, CODES), (noise(2, 8, 2, 2).requires_grad_(),))


def test_it_starts_as_published():
    torch.manual_seed(0)
    built = CTranHead(64, 40)
    for weight in (built.label_lt.weight, built.fc.weight, built.layers[0].linear1.weight):
        assert weight.abs().max() <= 1 / 8
        assert weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert built.fc.bias.abs().max() > 0
    assert (built.norm.weight == 1).all()
    assert (len(built.layers), built.layers[0].linear1.out_features) == (3, 64)
    assert (built.layers[0].self_attn.num_heads, built.layers[0].dropout.p) == (4, 0.1)


def test_settings_reach_the_head():
    config = CTranConfig(hidden_dim=24, dim_feedforward=10, nheads=3, enc_layers=2, dropout=0.3, pos_emb=True)
    built = build_ctran(96, 7, config, None)
    assert (len(built.layers), built.layers[0].linear1.weight.shape) == (2, (10, 24))
    layer = built.layers[0]
    assert (layer.self_attn.num_heads, layer.dropout.p, built.encode_positions) == (3, 0.3, True)
    assert len(build_ctran(96, 7, CTranConfig(), None).layers) == 3
    assert not build_ctran(96, 7, CTranConfig(), None).known_label_lt.weight[0].any()
    assert build_ctran(96, 7, CTranConfig(unknown_state="random"), None).known_label_lt.weight[0].all()


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"enc_layers": 0}, "--enc_layers 0"),
        ({"nheads": 0}, "--nheads 0"),
        ({"unknown_state": "ones"}, "--unknown_state"),
    ],
)
def test_wrong_settings_are_refused(settings, part):
    with pytest.raises(UserError, match=part):
        CTranConfig(**settings)
