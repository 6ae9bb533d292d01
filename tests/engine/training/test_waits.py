"""On a pretended GPU a step of every method waits for nothing but what is documented, and keeps to the device.

fp16, whose loss scale is read once per step, needs a card: benchmarks/gpu/waits.py.
"""

import io
import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from benchmarks.gpu.trainer import (
    CASES,
    EPOCHS,
    LATE,
    ON_HOST,
    VARIANTS,
    Case,
    FixedImages,
    Shape,
    Trainer,
    observed_codes,
)
from benchmarks.gpu.waits import ADAMW
from data.loading.splicemix import MixConfig, Splicer
from engine.core.distributed import Runtime
from engine.core.scoring import score
from engine.training.loop import Freezing, Hooks
from engine.training.recorder import RecordConfig, Recorder
from losses import CRITERIA, Method
from losses.assume_negative import AN, ANConfig
from losses.common.candidate_memory import CandidateMemory
from losses.group_means import GroupConfig, group_regularised
from models.heads import HEADS
from tests.pretended_device import DEVICE, ROOT, DeviceMismatchError, PretendedDevice, holds
from utils.types import LabelTable

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a real GPU tells more than a pretended one beside it: python -m benchmarks.gpu"
)
SHAPE = Shape("scenenet", 40, 4, classes=6)
SIZE_OF_SECOND_PASS = ["losses/ndlp.py:_mix_loss"]
DO_NETWORKS_DISAGREE = ["losses/co_teaching.py:no_step_without"]
KNOWN = {
    ("ndlp", LATE): SIZE_OF_SECOND_PASS,
    ("co-teaching+", LATE): DO_NETWORKS_DISAGREE,
    **{("decoupling", epoch): DO_NETWORKS_DISAGREE for epoch in (1, LATE)},
}
"""Waits of one step that no method of that name is without, by epoch."""


class PretendedRuntime(Runtime):
    """A runtime on the pretended device."""

    def __init__(self, precision="fp32"):
        super().__init__("cpu", precision)
        self.device = DEVICE

    def wrap(self, module):
        return super().wrap(module).to(DEVICE)

    def to_device(self, module):
        return super().to_device(module).to(DEVICE)


@pytest.fixture
def device():
    with PretendedDevice() as found:
        yield found


def trainer_of(case, precision="fp32", **options):
    shape = SHAPE._replace(size=64) if case.model else SHAPE
    return Trainer(case, PretendedRuntime(precision), shape, rows=16, **options)


def waits_of_step(device, trainer, epoch):
    trainer.start(epoch)
    trainer.images.to_batch(trainer.prepared[0], DEVICE)  # the first batch of a process makes the constants of it
    device.waits.clear()
    trainer.step()
    return list(device.waits)


def check(device, case, precision="fp32", **options):
    trainer = trainer_of(case, precision, **options)
    for epoch in (1, LATE):
        assert waits_of_step(device, trainer, epoch) == KNOWN.get((case.method, epoch), [])
    trainer.loop.save()
    return trainer


@pytest.mark.parametrize("case", [*CASES, *VARIANTS], ids=lambda case: case.name)
def test_a_step_of_a_method(case, device):
    check(device, case)


WAITS_FOR_THE_HOST = {
    "cones": [],
    "large_loss": [],
    "curriculum": [],
    "cap": [],
    "cdcr": [],
    "em_apl": [],
    "mime": [],
    "vlpl": [],
    "gpr": [],
    "transition": [],
    "ndlp": SIZE_OF_SECOND_PASS,
}
"""Waits of one step with the label memories on the host. ROLE's gradient reaches it by autograd, unseen here."""
CASES_ON_HOST = [case for case in ON_HOST if case.method in WAITS_FOR_THE_HOST]


@pytest.mark.parametrize("case", CASES_ON_HOST, ids=lambda case: case.name)
def test_label_memories_on_the_host_give_the_same_bits_without_a_wait(case, device):
    found = []
    for each in (case, replace(case, memories_on_host=False)):
        trainer = trainer_of(each)
        for epoch in (1, LATE):
            waits = waits_of_step(device, trainer, epoch)
            trainer.step()
        assert waits == (
            WAITS_FOR_THE_HOST[case.method] if each.memories_on_host else KNOWN.get((case.method, LATE), [])
        )
        memories = [getattr(trainer.criterion, name) for name in trainer.criterion.label_memories]
        memories = [each.values if isinstance(each, CandidateMemory) else each for each in memories]
        assert list(map(holds, memories)) == [not each.memories_on_host] * len(memories)
        found.append(trainer.loop.state_dict())
    for part in ("model", "criterion"):
        host, gpu = (
            {name: values for name, values in state[part].items() if torch.is_tensor(values)} for state in found
        )
        assert list(host) == list(gpu)
        assert all(torch.equal(host[name].cpu(), values.cpu()) for name, values in gpu.items())


HEAD_CASES = [Case("cones", note=head, head=head) for head in HEADS if head != "linear"]  # that also wants their maps
ONCE_MORE = [Case("bce", note="clip_grad adamw", optim=ADAMW), Case("bce", note="q2l", head="q2l")]


@pytest.mark.parametrize("case", [*HEAD_CASES, *ONCE_MORE], ids=lambda case: case.name)
def test_a_step_with_another_head_or_optimiser(case, device):
    check(device, case)


def test_a_step_with_averaged_weights(device):
    check(device, Case("bce"), ema=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tresnet_m", "resnet18"])
def test_a_step_of_another_network(model, device):
    check(device, Case("bce", model=model))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *VARIANTS, *HEAD_CASES, *ONCE_MORE], ids=lambda case: case.name)
def test_a_step_in_half_precision(case, device):
    check(device, case, "bf16")


def test_a_step_with_a_frozen_backbone(device):
    trainer = trainer_of(Case("an"))
    trainer.network.freeze_backbone(True)
    trainer.loop.freezing = Freezing(1, trainer.network.freeze_backbone)
    assert waits_of_step(device, trainer, 1) == []


@pytest.mark.parametrize("method", ["bce", "consistency", "splicemix_cl"])
def test_a_step_with_spliced_images(method, device):
    trainer = trainer_of(Case(method))
    splicer = Splicer(MixConfig(mix="splice", splice_drop=1.0))
    seen = []
    trainer.loop.hooks = Hooks(mix=lambda batch, rows: seen.append(splicer(batch, rows)) or seen[-1])
    assert waits_of_step(device, trainer, 1) == []
    assert len(seen[0].images) == SHAPE.batch + SHAPE.batch // 4
    assert holds(seen[0].images)
    assert not holds(seen[0].host_index)
    pinned = torch.arange(3).pin_memory()
    batch = seen[0]._replace(global_index=pinned, host_index=torch.arange(SHAPE.batch + 1))
    mixed = splicer(batch, SHAPE.batch + 1)
    assert (mixed.global_index.is_pinned(), mixed.host_index.is_pinned()) == (True, False)


@pytest.mark.parametrize("case", [Case("bce"), VARIANTS[1]], ids=lambda case: case.name)
def test_a_step_that_is_recorded(case, device):
    trainer = trainer_of(case)
    config, truth = RecordConfig(record="all"), LabelTable(observed_codes("full", 16, SHAPE.classes))
    recorder = Recorder(config, observed=trainer.observed, truth=truth, epochs=EPOCHS, device=DEVICE)
    trainer.loop.hooks = Hooks(after_step=recorder.step)
    trainer.start(1)
    trainer.step()  # starts the counts of the epoch
    device.waits.clear()
    trainer.step()
    assert device.waits == []
    assert recorder.epoch_end(1)


def test_a_step_that_is_recorded_on_the_host(device):
    found = []
    for place in ("cpu", DEVICE):
        trainer = trainer_of(VARIANTS[1])
        config, truth = RecordConfig(record="all"), LabelTable(observed_codes("full", 16, SHAPE.classes))
        recorder = Recorder(config, observed=trainer.observed, truth=truth, epochs=EPOCHS, device=place)
        trainer.loop.hooks = Hooks(after_step=recorder.step)
        trainer.start(1)
        trainer.step()
        device.waits.clear()
        trainer.step()
        assert device.waits == ["engine/training/recorder.py:_gathered"] * (place == "cpu")
        assert holds(recorder.highest.loss) == (place == DEVICE)
        found.append((recorder.epoch_end(1), recorder.highest.loss.cpu(), recorder.modifications.first.cpu()))
    (host, *tables), (gpu, *expected) = found
    assert host == gpu
    assert all(torch.equal(*pair) for pair in zip(tables, expected, strict=True))


RESUMED = [case for case in [*CASES, *VARIANTS] if case.name in ("cones", "large_loss LL-Cp", "role", "ndlp", "cls")]


@pytest.mark.parametrize("case", RESUMED, ids=lambda case: case.name)
def test_a_step_after_a_run_was_taken_up_from_a_file(case):
    file = io.BytesIO()
    with PretendedDevice():
        trainer = trainer_of(case, ema=0.9)
        trainer.start(1)
        trainer.step()
        state = trainer.loop.state_dict()
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with PretendedDevice() as device:
        again = trainer_of(case, ema=0.9)
        again.loop.load_state_dict(state)
        assert waits_of_step(device, again, LATE) == KNOWN.get((case.method, LATE), [])
        assert all(map(holds, [*again.network.parameters(), *again.criterion.buffers()]))


class Epoch(FixedImages):
    """All rows in order, four at a time."""

    def __iter__(self):
        return (self.batch(np.arange(first, first + 4)) for first in range(0, len(self.observed), 4))


@pytest.mark.parametrize("method", ["bce", "cls"])
def test_scores_are_fetched_once_however_many_batches_there_are(method, device):
    trainer = trainer_of(Case(method))
    loader = Epoch(trainer.observed, SHAPE, 1, pinned=True)
    loader.to_batch(loader.batch(np.arange(4)), DEVICE)
    device.waits.clear()
    scores = score(trainer.loop.learner.model, loader, 16, trainer.runtime)
    assert scores.shape == (16, SHAPE.classes)
    assert device.waits == ["engine/core/scoring.py:rows_in_order"] * 2  # the rows and their scores


def test_the_pretended_device_computes_what_the_cpu_computes(device):
    pretended, plain = trainer_of(Case("an")), Trainer(Case("an"), Runtime("cpu", "fp32"), SHAPE, rows=16)
    for trainer in (pretended, plain):
        trainer.start(1)
        trainer.step()
    assert pretended.losses() == plain.losses()


FAULTS = {
    "reads a value": lambda logits: logits.sum().item(),
    "takes a mask": lambda logits: logits[logits > 0].sum(),
    "makes a tensor of a list": lambda logits: logits * torch.tensor([0.5, 2.0], device=logits.device).mean(),
    "indexes by a list": lambda logits: logits[:, [0, 1]],
}


def method_with(fault, monkeypatch):
    """Case of a method that is assume negative but for a fault."""

    class Faulty(AN):
        def forward(self, model, batch):
            found = super().forward(model, batch)
            return found._replace(total=found.total + 0 * torch.as_tensor(fault(found.logits)).sum())

    monkeypatch.setitem(CRITERIA, "faulty", Method(Faulty, ANConfig))
    return Case("faulty")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_method_that_waits_is_found(fault, device, monkeypatch):
    trainer = trainer_of(method_with(fault, monkeypatch))
    assert waits_of_step(device, trainer, 1) == ["tests/engine/training/test_waits.py:<lambda>"]


def test_a_method_that_leaves_a_tensor_on_the_host_is_found(device, monkeypatch):
    trainer = trainer_of(method_with(lambda logits: logits * torch.ones(SHAPE.classes), monkeypatch))
    with pytest.raises(DeviceMismatchError, match=r"mul: .* in tests/engine/training/test_waits\.py:<lambda>"):
        waits_of_step(device, trainer, 1)


def test_what_was_compared_with_a_card_is_what_that_card_waited_for():
    """Methods that came after that measurement are in the next one."""
    found = json.loads((ROOT / "benchmarks" / "results" / "gpu" / "waits.json").read_text())
    measured = [case for case in [*CASES, *VARIANTS] if f"{case.name} fp32" in found]
    assert len(measured) > 30
    for case in measured:
        late = found[f"{case.name} fp32"].get(str(LATE), {})
        known = [place.partition(":")[0] for place in KNOWN.get((case.method, LATE), [])]
        assert [place.partition(":")[0] for place in late] == known, case.name


@pytest.mark.parametrize("control", ["none", "half"])
def test_a_step_with_means_of_groups(control, device):
    kind = group_regularised("an", AN, GroupConfig(group_weight=0.5, group_control=control))

    class Grouped(kind):
        """Two images in a group."""

        def __init__(self, config, info):
            super().__init__(config, replace(info, groups=np.arange(len(info.observed)) // 2))

    with mock.patch.dict(CRITERIA, {"an": Method(Grouped, ANConfig)}):
        check(device, Case("an"))
