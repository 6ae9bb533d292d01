"""Every criterion with every head: one step on a tiny backbone, or one line that says why not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.training.setup import class_vector_width
from losses import CRITERIA
from models.build import Architecture, build_model, require_head
from models.heads import HEADS
from models.heads.base import LabelInfo
from models.peers import build_peers
from tests.losses.fake_model import batch_of, info_for, random_labels
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

CLASSES = 5
SETTINGS = {
    **{name: {"expected_num_pos": 1.5} for name in ("epr", "role", "gpr")},
    **{name: {"candidate_rate": 0.2} for name in ("comes", "comes_rl")},
}
SMALL = {
    "pfc": {"neck_width": 8},
    "q2l": {"hidden_dim": 8, "nheads": 2},
    "gcn": {"gcn_width": 8},
    "ctran": {"hidden_dim": 8, "nheads": 2},
}


def labels_for(method):
    """Labels that a method takes: one present label per image, or all or none of each, or some unknown."""
    codes = random_labels(12, CLASSES)
    if method == "cap":
        return np.where(np.arange(12)[:, None] % 2 == 0, np.maximum(codes, ABSENT), UNKNOWN).astype(np.int8)
    if method in ("epr", "ignore"):
        codes = np.full_like(codes, UNKNOWN)
        codes[np.arange(12), np.arange(12) % CLASSES] = PRESENT
    return np.where(codes == UNKNOWN, ABSENT, codes).astype(np.int8) if method == "bce_ls" else codes


def built(method, head, codes):
    """The criterion, and the network or networks it trains."""
    kind = CRITERIA[method]
    architecture = Architecture.of(model="scenenet", weights="none", head=head, **SMALL.get(head, {}))
    needs = kind.criterion.needs
    require_head(architecture, needs, method)
    info = info_for(codes, width=96)
    info = replace(info, clean_counts=info.class_counts)
    build = build_peers if "peers" in needs else build_model
    model = build(architecture, CLASSES, seed=0, label_info=LabelInfo(info.classes, info.observed))
    info = replace(info, class_vector_width=class_vector_width(model, needs))
    return kind.criterion(kind.config(**SETTINGS.get(method, {})), info), model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", CRITERIA)
def test_one_step_or_a_refusal_by_name(method, head):
    codes = labels_for(method)
    if "labels" in CRITERIA[method].criterion.needs and not HEADS[head].takes_labels:
        with pytest.raises(UserError, match=f"^--head {head}: {method} [^\n]*$"):
            built(method, head, codes)
        return
    if "class_vectors" in CRITERIA[method].criterion.needs and not HEADS[head].class_vectors(HEADS[head].config()):
        with pytest.raises(UserError, match=f"^--head {head}: {method} [^\n]*$"):
            built(method, head, codes)
        return
    if "pooled" in CRITERIA[method].criterion.needs and not HEADS[head].pooled(HEADS[head].config()):
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
