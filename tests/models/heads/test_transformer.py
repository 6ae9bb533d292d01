"""Position encodings, attention maps and layers against plain loops and published values."""

import numpy as np
import pytest
import torch

from models.heads.transformer import (
    DecoderLayer,
    EncoderLayer,
    TransformerConfig,
    attention_map,
    check_width,
    input_projection,
    sine_position_encoding,
    tokens_of,
)
from tests.golden_files import load, part
from tests.oracles import transformers as oracle
from utils.checks import UserError


def numbers(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module, seed=0):
    """The module in double precision with every parameter random, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module.eval()


def test_golden_sine_position_encoding():
    tables = part(load("q2l_head.npz"), "pos")
    for expected in tables.values():
        np.testing.assert_allclose(sine_position_encoding(torch.empty(expected.shape)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("channels, height, width", [(8, 3, 5), (16, 1, 1), (4, 2, 7), (96, 5, 5)])
@pytest.mark.parametrize("dtype, atol", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_the_sine_position_encoding_equals_the_loops(channels, height, width, dtype, atol):
    found = sine_position_encoding(torch.empty(2, channels, height, width, dtype=dtype))
    assert found.shape == (1, channels, height, width)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0].numpy(), oracle.sine_positions(channels, height, width), atol=atol)


def test_encodings_of_a_transposed_map_swap_their_halves():
    one, other = (sine_position_encoding(torch.empty(1, 8, *size))[0] for size in ((3, 5), (5, 3)))
    torch.testing.assert_close(torch.cat([one[4:], one[:4]]), other.transpose(1, 2))


def test_tokens_go_row_by_row():
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert tokens_of(maps)[0, :, 0].tolist() == list(range(12))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_map_is_what_the_layer_weighs_by(heads):
    layer = shaken(torch.nn.MultiheadAttention(8, heads, dropout=0.5, batch_first=True))
    query, key = noise(2, 5, 8), noise(2, 7, 8, seed=1)
    found = attention_map(layer, query, key)
    torch.testing.assert_close(found, layer(query, key, key)[1])
    torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(attention_map(layer.train(), query, key), found)
    for n in range(2):
        seen = oracle.attention(numbers(layer), query[n].numpy(), key[n].numpy(), key[n].numpy(), heads)[1]
        np.testing.assert_allclose(found[n].detach().numpy(), seen, rtol=1e-9)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("encoded", [False, True])
def test_encoder_layer_equals_the_loops(pre_norm, encoded):
    layer, tokens, pos = shaken(EncoderLayer(8, 2, 12, 0.1, pre_norm)), noise(2, 6, 8), noise(1, 6, 8, seed=1)
    found = layer(tokens, pos) if encoded else layer(tokens)
    for n in range(2):
        encoding = pos[0].numpy() if encoded else 0.0
        expected = oracle.encoder_layer(numbers(layer), tokens[n].numpy(), encoding, 2, pre_norm)
        np.testing.assert_allclose(found[n].detach().numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
def test_decoder_layer_equals_the_loops(pre_norm, self_attention):
    layer = shaken(DecoderLayer(8, 2, 12, 0.1, pre_norm, self_attention))
    tokens, queries, memory, pos = (
        noise(2, 4, 8),
        noise(1, 4, 8, seed=1),
        noise(2, 6, 8, seed=2),
        noise(1, 6, 8, seed=3),
    )
    found, seen = layer(tokens, queries, memory, pos), layer.cross_attention(tokens, queries, memory, pos)
    assert not seen.requires_grad
    for n in range(2):
        expected, where = oracle.decoder_layer(
            numbers(layer), tokens[n].numpy(), queries[0].numpy(), memory[n].numpy(), pos[0].numpy(), 2, pre_norm
        )
        np.testing.assert_allclose(found[n].detach().numpy(), expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(seen[n].numpy(), where, rtol=1e-8)


def test_layers_drop_in_training_only():
    layer, tokens = EncoderLayer(8, 2, 12, 0.5).double(), noise(2, 6, 8)
    assert not torch.equal(layer(tokens), layer(tokens))
    assert torch.equal(layer.eval()(tokens), layer(tokens))


def test_layers_keep_no_attention_weights():
    encoder, decoder = EncoderLayer(8, 2, 12, 0.0), DecoderLayer(8, 2, 12, 0.0, False, True)
    kept = []
    for attention in (encoder.self_attn, decoder.self_attn, decoder.multihead_attn):
        attention.register_forward_hook(lambda _module, _inputs, output: kept.append(output[1]))
    tokens = torch.rand(2, 6, 8)
    decoder(tokens, tokens[:1], encoder(tokens), tokens[:1])
    assert kept == [None, None, None]


def test_there_is_a_projection_where_widths_differ_or_it_is_asked_for():
    assert not list(input_projection(8, 8).parameters())
    assert input_projection(8, 8, projected=True)(torch.rand(1, 8, 2, 3)).shape == (1, 8, 2, 3)
    assert input_projection(6, 8)(torch.rand(1, 6, 2, 3)).shape == (1, 8, 2, 3)


@pytest.mark.parametrize("hidden, heads, flag", [(6, 2, "--hidden_dim 6"), (8, 3, "--nheads 3")])
def test_widths_that_cannot_work_are_refused(hidden, heads, flag):
    with pytest.raises(UserError, match=flag):
        check_width(hidden, heads)


@pytest.mark.parametrize(
    "settings, part",
    [
        *(({name: 0}, f"^--{name} 0: must be at least 1$") for name in ("hidden_dim", "dim_feedforward", "nheads")),
        ({"dropout": 1.0}, "--dropout"),
        ({"dropout": -0.1}, "--dropout"),
    ],
)
def test_wrong_settings_are_refused(settings, part):
    with pytest.raises(UserError, match=part):
        TransformerConfig(**settings)
