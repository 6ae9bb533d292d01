"""IGNORE against the numbers of its published code, and against the masks that are meant."""

import re

import numpy as np
import pytest
import torch

from losses.ignore_gap import class_maps, kept_pixels, normalised
from tests import golden_files
from tests.losses.test_ignore import build, step
from utils.types import ModelOutput

GOLDEN = "ignore.npz"
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def ours(golden_targets):
    """In the file 1 is present, 0 assumed absent."""
    return np.where(golden_targets == 1, 1, -1).astype(np.int8)


def run_steps(golden, **settings):
    """For each of the file's steps: what the criterion returned, its logits with their gradients, and itself."""
    names = ("spbc_weight", "ignore_weight", "reg_weight", "gap_lambda", "avg_lambda")
    said = dict(zip(names, map(float, [*golden["weights"], *golden["lambdas"]]), strict=True))
    codes = ours(golden["targets"])
    criterion = build(codes[0], reject_after=int(golden["warm_up"]), variant="reference", **said, **settings)
    for number, epoch in enumerate(golden["epoch"]):
        criterion.on_epoch_start(int(epoch))
        logits = torch.tensor(np.stack([golden[f"{name}logits"][number] for name in ("", "strong_", "mask_")]))
        out, inputs, _ = step(criterion, codes[number], logits)
        yield number, out, inputs, criterion


def test_golden_steps_of_the_published_code():
    golden = golden_files.load(GOLDEN)
    for number, out, (weak, strong, _), criterion in run_steps(golden):
        np.testing.assert_allclose(criterion.gap_threshold, golden["gap_threshold"][number], **TOLERANCE)
        np.testing.assert_allclose(criterion.average_threshold, golden["avg_threshold"][number].ravel(), **TOLERANCE)
        np.testing.assert_array_equal(out.modified, golden["rejected"][number])
        np.testing.assert_allclose(out.total.detach(), golden["loss"][number], **TOLERANCE)
        np.testing.assert_allclose(weak.grad, golden["grad_logits"][number], **TOLERANCE)
        np.testing.assert_allclose(strong.grad, golden["grad_strong"][number], **TOLERANCE)


def test_golden_steps_without_the_average_threshold():
    golden = golden_files.load(GOLDEN)
    for number, out, _, _ in run_steps(golden, lat=False):
        np.testing.assert_allclose(out.total.detach(), golden["loss_no_avg"][number], **TOLERANCE)


def mask_cases(golden):
    """The masks in the file: name, normalisation, network, targets, threshold."""
    for name in golden:
        found = re.fullmatch(r"(release|spatial)_(resnet|q2l)_(full|empty)_([\d.]+)", name)
        if found:
            targets = golden["cam_targets" if found[3] == "full" else "cam_targets_one_empty"]
            yield name, found[1], found[2], targets == 1, float(found[4])


def golden_maps(golden, network):
    """The maps of all classes (B, K, h, w), from what either network offers; its logits are the means of its map."""
    cam = torch.tensor(golden["cam"])
    if network == "resnet":
        return class_maps(ModelOutput(cam.mean(dim=(2, 3)), None, cam), "activation")
    attention = torch.tensor(golden["att"]).view_as(cam)
    return class_maps(ModelOutput(cam.mean(dim=(2, 3)), torch.tensor(golden["feat"]), attention), "attention")


def scores_of_pixels(scaled, shown, size):
    """(B, H, W) what is compared with the threshold."""
    labels = shown.to(torch.uint8).argmax(dim=1)
    picked = scaled[torch.arange(len(labels)), labels][:, None]
    return torch.nn.functional.interpolate(picked, size, mode="bilinear", align_corners=False)[:, 0]


def test_golden_masks():
    golden = golden_files.load(GOLDEN)
    size, checked = golden["image"].shape[2:], 0
    for name, kind, network, targets, threshold in mask_cases(golden):
        maps, shown = golden_maps(golden, network), torch.tensor(targets)
        scaled = normalised(maps, shown, kind)
        kept = kept_pixels(scaled, shown, threshold, size)
        close = (scores_of_pixels(scaled, shown, size) - threshold).abs() < 1e-9
        np.testing.assert_array_equal(kept | close, torch.tensor(golden[name]) | close, err_msg=name)
        assert kept[~shown.any(dim=1)].all()
        checked += 1
    if not checked:
        pytest.skip(f"no masks in the golden file {GOLDEN}")
