"""Attention and layers of a transformer with plain loops, for the heads that are built of them."""

import numpy as np


def layer_norm(x, weight, bias, eps=1e-5):
    mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def attention(state, query, key, value, heads):
    """What each query (K, d) takes of values (L, d), and the weights averaged over heads, (K, L)."""
    width = query.shape[1]
    size = width // heads
    weight, bias = state["in_proj_weight"], state["in_proj_bias"]
    q, k, v = (
        x @ weight[n * width : (n + 1) * width].T + bias[n * width : (n + 1) * width]
        for n, x in enumerate((query, key, value))
    )
    taken, seen = np.zeros_like(q), np.zeros((len(q), len(k)))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(q)):
            score = np.array([q[row, part] @ k[column, part] for column in range(len(k))]) / np.sqrt(size)
            share = np.exp(score - score.max())
            share /= share.sum()
            taken[row, part] = share @ v[:, part]
            seen[row] += share / heads
    return taken @ state["out_proj.weight"].T + state["out_proj.bias"], seen


def below(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def feed_forward(state, x):
    inner = np.maximum(x @ state["linear1.weight"].T + state["linear1.bias"], 0)
    return inner @ state["linear2.weight"].T + state["linear2.bias"]


def norm(state, name, x):
    return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"])


def added(state, name, x, branch, pre_norm):
    return x + branch(norm(state, name, x)) if pre_norm else norm(state, name, x + branch(x))


def encoder_layer(state, x, pos, heads, pre_norm=False):
    def look(x):
        return attention(below(state, "self_attn."), x + pos, x + pos, x, heads)[0]

    return added(state, "norm2", added(state, "norm1", x, look, pre_norm), lambda x: feed_forward(state, x), pre_norm)


def decoder_layer(state, t, queries, memory, pos, heads, pre_norm=False):
    """Tokens (K, d), and where they looked in the memory, (K, L)."""
    seen = []

    def ask(t):
        return attention(below(state, "self_attn."), t + queries, t + queries, t, heads)[0]

    def look(t):
        found, where = attention(below(state, "multihead_attn."), t + queries, memory + pos, memory, heads)
        seen.append(where)
        return found

    if "norm1.weight" in state:
        t = added(state, "norm1", t, ask, pre_norm)
    t = added(state, "norm2", t, look, pre_norm)
    return added(state, "norm3", t, lambda t: feed_forward(state, t), pre_norm), seen[0]


def layers(state, prefix):
    count = len({key.split(".")[0] for key in below(state, prefix)})
    return [below(state, f"{prefix}{number}.") for number in range(count)]


def query2label(state, features, pos, heads, pre_norm=False):
    """Logits (K,) and the attention of the last layer, (K, h * w), of one image's tokens (h * w, D)."""
    x = features
    if "input_proj.weight" in state:
        x = x @ state["input_proj.weight"][:, :, 0, 0].T + state["input_proj.bias"]
    for layer in layers(state, "transformer.encoder.layers."):
        x = encoder_layer(layer, x, pos, heads, pre_norm)
    if pre_norm:
        x = norm(state, "transformer.encoder.norm", x)
    queries = state["query_embed.weight"]
    t = np.zeros_like(queries)
    for layer in layers(state, "transformer.decoder.layers."):
        t, seen = decoder_layer(layer, t, queries, x, pos, heads, pre_norm)
    t = norm(state, "transformer.decoder.norm", t)
    return (state["fc.W"][0] * t).sum(axis=1) + state["fc.b"][0], seen


def ctran(state, features, known, heads, pos=0.0):
    """Logits (K,) of one image's tokens (h * w, D) with labels known as 1, 0, -1."""
    labels = state["label_lt.weight"] + np.array([state["known_label_lt.weight"][int(code) + 1] for code in known])
    x = norm(state, "norm", np.concatenate([features + pos, labels]))
    for layer in layers(state, "layers."):
        x = encoder_layer(layer, x, 0.0, heads)
    return (x[len(features) :] * state["fc.weight"]).sum(axis=1) + state["fc.bias"]


def sine_positions(width, height, breadth):
    """(d, h, w) entry by entry."""
    half, table = width // 2, np.zeros((width, height, breadth))
    for row in range(height):
        for column in range(breadth):
            u, v = 2 * np.pi * (row + 1) / (height + 1e-6), 2 * np.pi * (column + 1) / (breadth + 1e-6)
            for channel in range(half):
                scale = 10000 ** (2 * (channel // 2) / half)
                wave = np.cos if channel % 2 else np.sin
                table[channel, row, column] = wave(u / scale)
                table[half + channel, row, column] = wave(v / scale)
    return table
