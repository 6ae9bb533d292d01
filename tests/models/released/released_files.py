"""Files as the published codes write them, each made of the networks they were made of, with the logits these give.

torchvision's and timm's own modules stand for the published networks; nothing of `models/` takes part.
"""

import argparse
import sys
import types
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CLASSES = 20


class Munch(dict):
    """Stands in for the package munch: a dictionary that pickles as `munch.Munch`, its content twice."""

    def __getstate__(self):
        return dict(self)

    def __setstate__(self, state):
        self.update(state)


Munch.__module__ = "munch"


def save(content, path, **how):
    """`torch.save` where munch is importable, as it was for the authors."""
    module = types.ModuleType("munch")
    module.Munch = Munch
    sys.modules["munch"] = module
    try:
        torch.save(content, path, **how)
    finally:
        del sys.modules["munch"]


class Made(NamedTuple):
    """The content of a file, and the published network from images to logits."""

    content: object
    logits: object
    state: dict


def lively(module, seed=0):
    """A network in evaluation mode all of whose tensors differ from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=generator)
        elif value.ndim == 1:
            value.uniform_(0.6, 1.2, generator=generator)
    return module.eval()


def resnet(depth=18):
    return lively(torchvision.models.get_model(f"resnet{depth}", weights=None))


def features(whole, images):
    return nn.Sequential(*list(whole.children())[:-2]).eval()(images)


def without_fc(whole, prefix=""):
    return OrderedDict((prefix + k, v) for k, v in whole.state_dict().items() if not k.startswith("fc."))


def layer(width=512, classes=CLASSES):
    torch.manual_seed(3)
    return nn.Linear(width, classes)


def fc_all(selectors=0, classes=CLASSES):
    whole, linear = resnet(), layer(classes=classes)
    state = without_fc(whole)
    for number in range(selectors):
        state[f"contrastive_class_selector_{number}.0.weight"] = torch.randn(4, 4)
        state[f"contrastive_class_selector_{number}.1.num_batches_tracked"] = torch.tensor(3)
    state |= {f"fc_all.{k}": v for k, v in linear.state_dict().items()}
    return Made(state, lambda images: linear(features(whole, images).mean((2, 3))), state)


def csra_logits(maps, weights, temperatures, lam):
    """Sum over heads of mean + lam * attention (Zhu and Wu, ICCV 2021); temperature 99 takes the maximum."""
    total = 0
    for weight, temperature in zip(weights, temperatures, strict=True):
        scores = F.conv2d(maps, weight) / weight.norm(dim=1, keepdim=True).transpose(0, 1)
        scores = scores.flatten(2)
        share = (temperature * scores).softmax(2)
        seen = scores.amax(2) if temperature == 99 else (share * scores).sum(2)
        total = total + scores.mean(2) + lam * seen
    return total


def csra(heads=2, lam=0.1):
    whole = resnet()
    weights = [torch.randn(CLASSES, 512, 1, 1) for _ in range(heads)]
    state = without_fc(whole)
    state |= {f"classifier.multi_head.{n}.head.weight": weight for n, weight in enumerate(weights)}
    temperatures = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99]}[heads]
    return Made(state, lambda images: csra_logits(features(whole, images), weights, temperatures, lam), state)


def vit_csra(lam=0.1):
    """timm's ViT-B/16, of whose code CSRA's is a copy: the same names."""
    import timm

    torch.manual_seed(0)
    vit = lively(timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0))
    weight = torch.randn(14, 768, 1, 1)
    state = OrderedDict(vit.state_dict()) | {"classifier.multi_head.0.head.weight": weight}

    def logits(images):
        tokens = vit.forward_features(images)[:, 1:]
        maps = tokens.transpose(1, 2).reshape(len(images), 768, 14, 14)
        return csra_logits(maps, [weight], [1], lam)

    return Made(state, logits, state)


def sequence(whole):
    body = nn.Sequential(*list(whole.children())[:-2])
    return OrderedDict((f"feature_extractor.{k}", v) for k, v in body.state_dict().items())


def linear_classifier(layered=False, options=None):
    whole, linear = resnet(), layer()
    name = "linear_classifier.fc." if layered else "linear_classifier."
    state = sequence(whole) | {name + k: v for k, v in linear.state_dict().items()}
    content = state if options is None else (state, options)
    return Made(content, lambda images: linear(features(whole, images).mean((2, 3))), state)


def large_loss():
    options = Munch(dataset="pascal", clean_rate=np.float64(0.991), num_classes=CLASSES, lr=1e-5, more=Munch(a=1))
    return linear_classifier(options=options)


def convolution(options, alpha=1.0):
    whole = resnet()
    torch.manual_seed(4)
    conv = nn.Conv2d(512, CLASSES, 1)
    state = sequence(whole) | {f"onebyone_conv.{k}": v for k, v in conv.state_dict().items()}

    def logits(images):
        scores = conv(features(whole, images))
        return torch.where(scores > 0, alpha * scores, scores).mean((2, 3))

    return Made(state if options is None else (state, options), logits, state)


def boostlu():
    return convolution(Munch(alpha=5, scheme="LL-R"), alpha=5)


def ignore():
    return convolution(argparse.Namespace(dataset="pascal", warm_up=3, lr=1e-5))


def neck():
    whole = resnet()
    torch.manual_seed(5)
    fc, bn, dead, last = nn.Linear(512, 32), lively(nn.BatchNorm1d(32), 1), nn.Linear(32, 32), nn.Linear(32, CLASSES)
    state = without_fc(whole, "backbone.")
    for name, part in {"neck.fc": fc, "neck.bn": bn, "neck.fc_hidden_1": dead, "head.fc_cls": last}.items():
        state |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
    return Made(state, lambda images: last(bn(fc(features(whole, images).mean((2, 3))))), state)


def ndlp():
    made = neck()
    return made._replace(content=OrderedDict((f"module.{k}", v) for k, v in made.state.items()))


def distribution_balanced():
    made = neck()
    names = tuple(f"class {n}" for n in range(CLASSES))
    content = {
        "meta": {"mllt_version": "0.6", "CLASSES": names},
        "state_dict": made.state,
        "optimizer": {"state": {}},
    }
    return made._replace(content=content)


def position_encoding(channels, height, width):
    """Query2Label's fixed position encoding, number by number."""
    table, half = torch.zeros(1, channels, height, width), channels // 2
    for channel in range(channels):
        c = channel % half
        scale = 10000 ** (2 * (c // 2) / half)
        for row in range(height):
            for column in range(width):
                index, count = (row, height) if channel < half else (column, width)
                angle = 2 * np.pi * (index + 1) / (count + 1e-6) / scale
                table[0, channel, row, column] = np.sin(angle) if c % 2 == 0 else np.cos(angle)
    return table


def query2label(kept=True, size=64, network=None):
    """Query2Label of torch's own attention layers on a ResNet-18 without batch counters (FrozenBatchNorm)."""
    width, heads = 512, 4
    whole, prefix, maps = network or (resnet(), "backbone.0.body.", None)
    maps = maps or (lambda images: features(whole, images))
    torch.manual_seed(6)
    encoder = lively(nn.TransformerEncoderLayer(width, heads, 64, 0.0, batch_first=True), 2)
    decoders = [lively(nn.TransformerDecoderLayer(width, heads, 64, 0.0, batch_first=True), 3 + n) for n in range(2)]
    norm, proj = lively(nn.LayerNorm(width), 9), nn.Conv2d(width, width, 1)
    queries, weight, bias = torch.randn(CLASSES, width), torch.randn(1, CLASSES, width), torch.randn(1, CLASSES)
    pe = position_encoding(width, size // 32, size // 32)
    body = {k: v for k, v in without_fc(whole).items() if not k.endswith("num_batches_tracked")}
    state = OrderedDict((prefix + k, v) for k, v in body.items())
    state["backbone.1.pe"] = pe
    state |= {f"transformer.encoder.layers.0.{k}": v for k, v in encoder.state_dict().items()}
    for n, decoder in enumerate(decoders):
        used = {k: v for k, v in decoder.state_dict().items() if not k.startswith(("self_attn.", "norm1."))}
        state |= {f"transformer.decoder.layers.{n}.{k}": v for k, v in used.items()}
    state |= {f"transformer.decoder.norm.{k}": v for k, v in norm.state_dict().items()}
    state |= {f"input_proj.{k}": v for k, v in proj.state_dict().items()} if kept else {}
    state |= {"query_embed.weight": queries, "fc.W": weight, "fc.b": bias}

    def logits(images):
        x = maps(images)
        x = (proj(x) if kept else x).flatten(2).transpose(1, 2)
        pos = pe.flatten(2).transpose(1, 2)
        x = encoder.norm1(x + encoder.self_attn(x + pos, x + pos, x)[0])
        x = encoder.norm2(x + encoder.linear2(encoder.linear1(x).relu()))
        t = torch.zeros(len(images), CLASSES, width)
        for d in decoders:
            t = d.norm2(t + d.multihead_attn(t + queries, x + pos, x)[0])
            t = d.norm3(t + d.linear2(d.linear1(t).relu()))
        return (weight * norm(t)).sum(2) + bias

    content = {"epoch": 7, "arch": "Q2L", "state_dict": state, "best_mAP": 84.9, "optimizer": {}}
    return Made(content, logits, state)


def published_tresnet(name="tresnet_m"):
    """timm's TResNet, and its tensors under the names and in the form of the published code."""
    import timm

    torch.manual_seed(7)
    whole = lively(timm.create_model(name, pretrained=False, num_classes=CLASSES), 7)
    with torch.no_grad():
        for module in whole.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(1e-5)
    return whole, OrderedDict(_in_published_form(whole.state_dict()))


def _in_published_form(state):
    """Names of the published code; scales less 1e-5 and every second one negative, which inplace_abn does not mind."""
    blurred = {f"body.layer{n}.0.conv{1 if n == 2 else 2}" for n in (2, 3, 4)}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.startswith("head."):
            yield key, value
            continue
        module, _, last = key.rpartition(".")
        part, _, kind = module.rpartition(".")
        if kind in ("conv", "bn"):
            inside = f"{part}.0" if part in blurred else part
            signs = torch.ones_like(value)
            signs[::2] = -1
            stored = signs * (value - 1e-5) if (kind, last) == ("bn", "weight") else value
            yield f"{inside}.{0 if kind == 'conv' else 1}.{last}", stored
        else:
            yield key, value


def asl():
    whole, state = published_tresnet()
    names = {n: f"class {n}" for n in range(CLASSES)}
    return Made({"model": state, "num_classes": CLASSES, "idx_to_class": names}, whole, state)


FILES = {
    "cones": lambda: fc_all(selectors=3),
    "bce": fc_all,
    "csra": csra,
    "large_loss": large_loss,
    "single_positive": linear_classifier,
    "boostlu": boostlu,
    "ignore": ignore,
    "distribution_balanced": distribution_balanced,
    "ndlp": ndlp,
    "query2label": query2label,
    "vit_csra": vit_csra,
    "asl": asl,
}
"""Family -> one file of it."""

NEED_TIMM = {"vit_csra", "asl"}
