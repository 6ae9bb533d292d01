"""Released CoNeS, BCE and CSRA networks against ours: every key has a place, equal weights give equal outputs."""

import functools
import re
import zlib

import numpy as np
import pytest
import torch

from models.build import ModelConfig, build_model
from tests.golden_files import load, load_json, meta

NAMES = ("checkpoint_cones.json", "checkpoint_cones_logits.npz")


def our_key(key):
    """Where a published tensor lies in our networks; None for the selectors, which never ran."""
    if key.startswith("contrastive_class_selector_"):
        return None
    if head := re.fullmatch(r"classifier\.multi_head\.(\d+)\.head\.weight", key):
        return f"head.weights.{head[1]}"
    return "head." + key.replace("fc_all", "fc") if key.startswith("fc_all.") else f"backbone.{key}"


def configured(depth, heads, lam):
    """Settings of a published network; `heads` is None for the linear ones."""
    settings = {"head": "csra", "num_heads": heads, "lam": lam} if heads else {}
    return ModelConfig(model=f"resnet{depth}", weights="none", **settings)


@functools.cache
def recipe_tensor(salt, key, shape):
    """The tensor that the recipe of the golden file fills under `key`."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    z = np.random.RandomState(zlib.crc32((salt + key).encode())).standard_normal(shape)
    values = 0.05 * z
    if key.endswith("running_var"):
        values = 1 + np.abs(z)
    elif len(shape) == 1 and not key.endswith(("running_mean", "bias")):
        values = 1 + 0.05 * z
    return torch.from_numpy(values.astype(np.float32))


def filled(golden, rows, config, classes):
    """Our network holding the recipe's weights for the published `rows` (key, shape, dtype)."""
    salt = meta(golden)["salt"]
    state = {our_key(key): recipe_tensor(salt, key, tuple(shape)) for key, shape, _ in rows if our_key(key)}
    model = build_model(config, classes, seed=0)
    model.load_state_dict(state)
    return model.eval()


def published(listed, depth, classes, **wanted):
    """The rows of the one listed network with that depth, number of classes, and heads or selectors."""
    rows = [
        entry["state_dict"]
        for entry in listed["models"].values()
        if (entry["depth"], entry["num_classes"], entry.get("heads")) == (depth, classes, wanted.get("heads"))
        and any(our_key(key) is None for key, *_ in entry["state_dict"]) == wanted.get("selectors", False)
    ]
    assert len(rows) == 1
    return rows[0]


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@pytest.fixture(scope="module")
def files():
    return load_json(NAMES[0]), load(NAMES[1])


def test_golden_every_published_key_has_its_place_and_shape(files):
    listed, _ = files
    for name, entry in listed["models"].items():
        with torch.device("meta"):
            config = configured(entry["depth"], entry.get("heads"), entry.get("lam"))
            ours = build_model(config, entry["num_classes"], seed=0).state_dict()
        places = {our_key(key): [shape, dtype] for key, shape, dtype in entry["state_dict"] if our_key(key)}
        assert places == {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in ours.items()}, name


@pytest.mark.parametrize("family, selectors", [("cam", True), ("bce", False)])
@torch.no_grad()
def test_golden_linear_networks(files, family, selectors):
    listed, golden = files
    depth, classes = int(re.search(r"depth (\d+)", meta(golden)["model"])[1]), golden[f"{family}_logits"].shape[1]
    rows = published(listed, depth, classes, selectors=selectors)
    model = filled(golden, rows, configured(depth, None, None), classes)
    found = model(torch.from_numpy(golden["input"]), frozenset({"cam"}))
    close(found.logits, golden[f"{family}_logits"])
    if f"{family}_heatmap" in golden:
        close(found.features, golden[f"{family}_feature"])
        close(found.cam, golden[f"{family}_heatmap"])


@torch.no_grad()
def test_golden_csra_networks(files):
    listed, golden = files
    depth = int(re.search(r"depth (\d+)", meta(golden)["model"])[1])
    keys = {key: int(match[1]) for key in golden if (match := re.fullmatch(r"csra_h(\d+)_logits", key))}
    assert keys
    for key, heads in keys.items():
        classes = golden[key].shape[1]
        rows = published(listed, depth, classes, heads=heads)
        model = filled(golden, rows, configured(depth, heads, meta(golden)["lam"]), classes)
        close(model(torch.from_numpy(golden["input"])).logits, golden[key])
