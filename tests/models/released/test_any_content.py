"""Files of any content end in a network or in one line, never otherwise."""

import random
from pathlib import Path

import pytest
import torch

from models.backbones.build import BACKBONES
from models.backbones.weights_file import backbone_state
from models.released import read_released
from utils.checks import UserError

FILE = Path("x.pth")
KEYS = (
    *("state_dict", "model", "model_ema", "ema", "state_dict_ema", "net", "swa", "optimizer", "shadow_params"),
    *("student", "teacher", "current_model_state", "ema_state_dict", "meta", "CLASSES", "epoch", "backbone", 1, None),
)
PREFIXES = ("", "", "", "module.", "model.", "backbone.", "ema_model.", "_orig_mod.")
NAMES = (
    *("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.running_mean", "4.0.conv1.weight"),
    *("fc_all.weight", "fc_all.bias", "classifier.multi_head.0.head.weight", "linear_classifier.weight"),
    *("feature_extractor.0.weight", "feature_extractor.4.0.conv1.weight", "onebyone_conv.weight", "patch_embed.a"),
    *("transformer.decoder.layers.0.linear1.weight", "query_embed.weight", "body.conv1.0.weight", "head.fc.weight"),
    *("neck.fc.weight", "head.fc_cls.weight", "total_ops", "n_averaged", "ema_conv1_weight", "", ".", "module."),
)
TENSORS = (
    *(torch.ones(()), torch.ones(2), torch.ones(0), torch.ones(64, 3, 7, 7), torch.ones(1).expand(9, 9)),
    *(torch.ones(1, dtype=torch.int64), torch.full((3,), float("nan")), torch.ones(2, dtype=torch.complex64)),
)


def content(chance, depth=0):
    """Something that a file may hold."""
    kind = chance.random()
    if depth and kind < 0.4:
        names = chance.sample(NAMES, chance.randint(1, len(NAMES)))
        return {chance.choice(PREFIXES) + name: chance.choice(TENSORS) for name in names}
    if depth and kind < 0.55:
        return chance.choice((1, "x", None, 1.5, True, b"z", 10**400, torch.ones(2)))
    inside = [content(chance, depth + 1) for _ in range(chance.randint(0, 3))] if depth < 4 else []
    if kind < 0.7:
        return inside if kind < 0.62 else tuple(inside)
    return {chance.choice(KEYS): each for each in inside}


def outcome(read, made):
    """The line of a refusal; nothing where a network was read."""
    try:
        read(made, FILE)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(10))
def test_no_content_ends_in_a_traceback(seed):
    chance = random.Random(seed)
    with torch.device("meta"):
        own = BACKBONES["resnet18"]().state_dict()
    for _ in range(60):
        made = content(chance)
        for read in (read_released, lambda made, file: backbone_state(made, file, own, chance.choice((None, "ema")))):
            assert "\n" not in outcome(read, made)
