"""Query2Label against published values, against plain loops, and properties that do not depend on the weights."""

import numpy as np
import pytest
import torch

from models.heads.query2label import (
    Encoder,
    GroupWiseLinear,
    Query2LabelConfig,
    Query2LabelHead,
    QueryDecoder,
    Transformer,
    build_q2l,
)
from models.heads.transformer import DecoderLayer, EncoderLayer, tokens_of
from tests.golden_files import load, part
from tests.models.heads.test_transformer import noise, numbers, shaken
from tests.oracles import transformers as oracle
from utils.checks import UserError

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def tensors(arrays):
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def head(width=8, classes=5, seed=0, **how):
    return shaken(Query2LabelHead(width, classes, **{"heads": 2, "inner": 12} | how), seed)


@pytest.fixture(scope="module")
def published():
    golden = load("q2l_head.npz")
    _, classes, _, hidden, heads, inner, _, encoders, decoders = golden["cfg"].tolist()
    built = Query2LabelHead(
        golden["feat"].shape[1],
        classes,
        hidden=hidden,
        inner=inner,
        heads=heads,
        encoder_layers=encoders,
        decoder_layers=decoders,
        projected=True,
    ).double()
    state = {f"transformer.{name}": value for name, value in part(golden, "T.").items()}
    state |= {"input_proj.weight": golden["proj_w"][:, :, None, None], "input_proj.bias": golden["proj_b"]}
    state |= {"query_embed.weight": golden["query"], "fc.W": golden["head_W"], "fc.b": golden["head_b"]}
    built.load_state_dict(tensors(state))
    return golden, built.eval()


def test_golden_group_wise_linear():
    golden = load("q2l_head.npz")
    layer = GroupWiseLinear(*golden["gwl_W"].shape[1:]).double()
    layer.load_state_dict(tensors({"W": golden["gwl_W"], "b": golden["gwl_b"]}))
    found = layer(torch.from_numpy(golden["gwl_in"]))
    np.testing.assert_allclose(found.detach().numpy(), golden["gwl_out"], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_golden_query2label_with_the_published_encoding(published):
    golden, built = published
    encoding, queries = tokens_of(torch.from_numpy(golden["pos"])), built.query_embed.weight[None]
    memory = built.transformer.encoder(tokens_of(built.input_proj(torch.from_numpy(golden["feat"]))), encoding)
    shape = golden["memory"].shape
    np.testing.assert_allclose(memory.transpose(1, 2).reshape(shape).numpy(), golden["memory"], **EXACT)
    tokens = torch.zeros_like(queries).expand(len(memory), -1, -1)
    layers = built.transformer.decoder.layers
    assert len(layers) == len(golden["cross_att"])
    for layer, expected in zip(layers, golden["cross_att"], strict=True):
        np.testing.assert_allclose(layer.cross_attention(tokens, queries, memory, encoding).numpy(), expected, **EXACT)
        tokens = layer(tokens, queries, memory, encoding)
    found, _ = built.transformer.decoder(queries, memory, encoding)
    np.testing.assert_allclose(found.numpy(), golden["hs"][-1], **EXACT)
    np.testing.assert_allclose(built.fc(found).numpy(), golden["logits"], **EXACT)


@torch.no_grad()
def test_golden_query2label_from_the_feature_map_on(published):
    golden, built = published
    logits, cam = built.with_cam(torch.from_numpy(golden["feat"]))
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cam.flatten(2).numpy(), golden["cross_att"][-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [None, 12])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("self_attention", [(False, False), (True, False), (False, True), (True, True)])
@torch.no_grad()
def test_it_equals_the_loops(hidden, pre_norm, self_attention):
    built = head(hidden=hidden, encoder_layers=2, decoder_layers=3, pre_norm=pre_norm, self_attention=self_attention)
    features = noise(2, 8, 3, 4)
    logits, cam = built.with_cam(features)
    encoding = tokens_of(torch.from_numpy(oracle.sine_positions(hidden or 8, 3, 4))[None])[0].numpy()
    for n in range(2):
        tokens = tokens_of(features)[n].numpy()
        expected, seen = oracle.query2label(numbers(built), tokens, encoding, 2, pre_norm)
        np.testing.assert_allclose(logits[n].numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cam[n].flatten(1).numpy(), seen, rtol=1e-4, atol=1e-6)


def test_logits_are_the_same_with_and_without_the_map():
    built, features = head(), noise(2, 8, 3, 4)
    assert torch.equal(built.with_cam(features)[0], built(features))
    assert torch.equal(built.with_cam(features)[1], built.cam(features))


def test_the_map_sums_to_one_over_positions_and_carries_no_gradient():
    built, features = head().train(), noise(2, 8, 3, 4).requires_grad_()
    logits, cam = built.with_cam(features)
    assert logits.requires_grad
    assert not cam.requires_grad
    assert cam.shape == (2, 5, 3, 4)
    torch.testing.assert_close(cam.sum(dim=(2, 3)), torch.ones(2, 5, dtype=torch.float64))


def test_permuted_classes_permute_logits_and_maps():
    built, features, order = head(), noise(2, 8, 3, 4), torch.tensor([3, 0, 4, 1, 2])
    before = built.with_cam(features)
    with torch.no_grad():
        built.query_embed.weight.copy_(built.query_embed.weight[order])
        built.fc.W.copy_(built.fc.W[:, order])
        built.fc.b.copy_(built.fc.b[:, order])
    for one, other in zip(before, built.with_cam(features), strict=True):
        torch.testing.assert_close(one[:, order], other)


def test_gradients_are_those_of_its_values():
    assert torch.autograd.gradcheck(head(), (noise(2, 8, 2, 2).requires_grad_(),))


def test_every_parameter_gets_a_gradient():
    built = head(self_attention=(True, True), projected=True)
    built(noise(2, 8, 2, 3)).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_any_size_of_map_will_do():
    built = head()
    assert built(noise(1, 8, 1, 1)).shape == built(noise(1, 8, 14, 14)).shape == built(noise(1, 8, 7, 3)).shape


def test_it_starts_as_published():
    torch.manual_seed(0)
    built = Query2LabelHead(64, 40, heads=4)
    bound = 1 / 8
    assert built.fc.W.abs().max() <= bound
    assert built.fc.W.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert built.query_embed.weight.std().item() == pytest.approx(1, rel=0.05)
    layer = built.transformer.decoder.layers[0]
    assert layer.linear1.weight.abs().max() <= (6 / (64 + 256)) ** 0.5
    assert layer.linear1.weight.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)
    assert layer.linear1.out_features == 256
    assert (layer.multihead_attn.num_heads, layer.dropout.p, layer.pre_norm) == (4, 0.1, False)
    assert not any(other.self_attention for other in built.transformer.decoder.layers)
    assert not list(built.input_proj.parameters())
    assert (len(built.transformer.encoder.layers), len(built.transformer.decoder.layers)) == (1, 2)


def test_widths_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match="--nheads 3"):
        Query2LabelHead(8, 5, heads=3)
    with pytest.raises(UserError, match="--hidden_dim 10"):
        Query2LabelHead(8, 5, hidden=10)


def test_names_are_those_of_the_published_network():
    names = set(Query2LabelHead(8, 5, heads=2, projected=True).state_dict())
    layer = EncoderLayer(8, 2, 12, 0.0)
    transformer = Transformer(Encoder([layer], 8, False), QueryDecoder([DecoderLayer(8, 2, 12, 0.0, False, False)], 8))
    assert {"encoder.layers.0.self_attn.in_proj_weight", "decoder.layers.0.norm3.bias"} <= set(transformer.state_dict())
    assert {"query_embed.weight", "input_proj.weight", "input_proj.bias", "fc.W", "fc.b"} <= names
    assert not any("norm1" in name or "self_attn" in name for name in names if "decoder" in name)


def test_settings_reach_the_head():
    config = Query2LabelConfig(hidden_dim=24, dim_feedforward=10, nheads=3, enc_layers=2, dec_layers=3, dropout=0.3)
    built = build_q2l(96, 7, config, None)
    layers = built.transformer.encoder.layers
    assert (len(layers), len(built.transformer.decoder.layers)) == (2, 3)
    assert layers[0].linear1.weight.shape == (10, 24)
    assert (layers[0].self_attn.num_heads, layers[0].dropout.p) == (3, 0.3)
    assert built.input_proj.weight.shape == (24, 96, 1, 1)
    config = Query2LabelConfig(keep_first_self_attn_dec=True, pre_norm=True, keep_input_proj=True)
    built = build_q2l(96, 7, config, None)
    assert [layer.self_attention for layer in built.transformer.decoder.layers] == [True, False]
    assert all(layer.pre_norm for layer in built.transformer.decoder.layers)
    assert built.input_proj.weight.shape == (96, 96, 1, 1)
    other = build_q2l(96, 7, Query2LabelConfig(keep_other_self_attn_dec=True), None)
    assert [layer.self_attention for layer in other.transformer.decoder.layers] == [False, True]


@pytest.mark.parametrize("name", ["enc_layers", "dec_layers", "nheads"])
def test_wrong_settings_are_refused(name):
    with pytest.raises(UserError, match=f"^--{name} 0: must be at least 1$"):
        Query2LabelConfig(**{name: 0})
