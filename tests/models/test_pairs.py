"""Every criterion with every head: one step on a tiny backbone, or one line that says why not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import CRITERIA
from models.build import HEADS, TOLD, LabelInfo, ModelConfig, build_model, require_head
from models.peers import build_peers
from tests.losses.fake_model import batch_of, info_for, random_labels
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

CLASSES = 5
SETTINGS = {name: {"expected_num_pos": 1.5} for name in ("epr", "role")}


def labels_for(method):
    """Labels that a method takes: of one present label an image, or without unknown ones, or some unknown."""
    codes = random_labels(12, CLASSES)
    if method in ("epr", "ignore"):
        codes = np.full_like(codes, UNKNOWN)
        codes[np.arange(12), np.arange(12) % CLASSES] = PRESENT
    return np.where(codes == UNKNOWN, ABSENT, codes).astype(np.int8) if method == "bce_ls" else codes


def built(method, head, codes):
    """The criterion, and the network or networks it trains."""
    kind = CRITERIA[method]
    small = {"hidden_dim": 8, "nheads": 2} if head in ("q2l", "ctran") else {}
    config = ModelConfig(model="scenenet", weights="none", head=head, gcn_width=8, neck_width=8, **small)
    needs = kind.criterion.needs
    require_head(config, needs, method)
    info = info_for(codes, width=96)
    info = replace(info, clean_counts=info.class_counts)
    build = build_peers if "peers" in needs else build_model
    model = build(config, CLASSES, seed=0, facts=LabelInfo(info.classes, info.observed))
    return kind.criterion(kind.config(**SETTINGS.get(method, {})), info), model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", CRITERIA)
def test_one_step_or_a_refusal_by_name(method, head):
    codes = labels_for(method)
    if "labels" in CRITERIA[method].criterion.needs and head not in TOLD:
        with pytest.raises(UserError, match=f"^--head {head}: {method} [^\n]*$"):
            built(method, head, codes)
        return
    torch.manual_seed(0)
    criterion, model = built(method, head, codes)
    batch = batch_of(codes, [0, 1, 2, 3, 4, 5], size=32)
    if "second_view" in criterion.needs:
        batch = batch._replace(second_view=batch.images.flip(3))
    scores = torch.zeros(codes.shape) if "train_scores" in criterion.needs else None
    for epoch in (1, 2, criterion.info.epochs, 6):  # beyond it: what comes late of a method comes by then
        criterion.on_epoch_start(epoch, scores)
        loss = criterion(model.train(), batch)
        if loss.total.requires_grad:
            loss.total.backward()
    assert loss.total.isfinite()
    assert loss.logits.shape == (6, CLASSES)
    learnt = [parameter for parameter in model.parameters() if parameter.grad is not None]
    assert learnt or not loss.total.requires_grad
    assert all(parameter.grad.isfinite().all() for parameter in learnt)
