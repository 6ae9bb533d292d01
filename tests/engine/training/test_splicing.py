"""Spliced images in training: which methods learn from them, and what of a step is of the batch's own images."""

import io
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from benchmarks.gpu.trainer import CASES, VARIANTS, Case, Shape, Trainer
from data.loading.splicemix import MixConfig, Splicer
from engine.core.distributed import Runtime
from engine.training.finite import step_of
from engine.training.loop import Hooks
from engine.training.setup import splicer_of
from tests.engine.run_folders import settings_of
from tests.engine.training.test_loop import BATCH, ROWS, copied, make_loop
from utils.checks import UserError
from utils.grids import NO_ROW
from utils.types import LossOutput

MIX = MixConfig(mix="splice")
SHAPE = Shape("scenenet", 32, 4, classes=5)
RUNTIME = SimpleNamespace(rank=1, world_size=3)
MEMORY = "keeps something of each training image ({}), and a spliced image is none of them"
REFUSED = {
    "epr": "expects as many labels of every image, and a spliced image has those of several",
    "comes": "needs the class priors of what it learns from, and those of spliced images are others",
    "transition": "weighs labels by the chances that they are wrong, and those of spliced images are others",
    "ignore": "masks an image by its one observed positive, and a spliced image has several (--several union)",
    "role": MEMORY.format("estimates"),
    "curriculum": MEMORY.format("pseudo"),
    "em_apl": MEMORY.format("soft"),
    "vlpl": MEMORY.format("pseudo"),
    "cdcr": MEMORY.format("left_out"),
    "cones": MEMORY.format("confidence"),
    "ndlp": MEMORY.format("confidence"),
    "large_loss LL-Cp": MEMORY.format("corrected"),
}
REFUSED["comes_rl"] = REFUSED["comes"]
REFUSED["imcl"] = "keeps features of training images, and a spliced image is none of them"
MORE = [Case("ignore", {"several": "union"}, "union"), Case("ignore", {"ignore": False}, "nothing rejected")]
METHODS = [*CASES, *(case for case in VARIANTS if case.note in ("LL-R", "LL-Cp", "with priors")), *MORE]


def refused_for_memory(criterion):
    """What any other method says that has a row per training image."""
    names = sorted(name for name in criterion.label_memories if getattr(criterion, name) is not None)
    return MEMORY.format(", ".join(names)) if names else ""


@pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)
def test_a_method_refuses_spliced_images_or_learns_from_them_whatever_their_index(case):
    trainer = Trainer(case, Runtime("cpu", "fp32"), SHAPE, rows=4)
    expected = REFUSED.get(case.name) or refused_for_memory(trainer.criterion)
    assert trainer.criterion.refuses_spliced() == expected
    if expected:
        return
    given = []

    def no_rows(batch, rows):
        mixed = Splicer(MIX)(batch, rows)
        beyond = mixed.index.where(mixed.index != NO_ROW, 10**9)
        given.append(mixed._replace(index=beyond, host_index=beyond))
        return given[-1]

    outputs = []
    trainer.loop.hooks = Hooks(mix=no_rows, after_step=lambda epoch, batch, output: outputs.append((batch, output)))
    trainer.start(1)
    trainer.step()
    (batch, output), mixed = outputs[0], given[0]
    assert (len(batch.images), len(mixed.images), len(output.logits)) == (4, 5, 4)
    assert output.modified is None or len(output.modified) == 4
    assert output.total.isfinite()


def given_by_the_loop(**settings):
    """What the hooks of a loop over one epoch were given: batches, outputs, and the weights of their gradients."""
    seen, weights = [], []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"), frozen=0, epochs=1, after_step=lambda *step: seen.append(step), **settings
    )
    backward = loop.runtime.backward
    loop.runtime.backward = lambda total, weight: weights.append(weight) or backward(total, weight)
    steps = mock.Mock(side_effect=step_of)
    with mock.patch("engine.training.loop.step_of", steps):
        loop.run(lambda epoch, row: None)
    return loop, seen, weights, [call.args for call in steps.call_args_list]


def test_only_rows_of_the_batch_are_counted_recorded_and_named():
    loop, seen, weights, steps = given_by_the_loop(mix=Splicer(MIX))
    sizes = [4, 4, 4, ROWS - 3 * BATCH]
    assert [len(batch.images) for _, batch, _ in seen] == sizes
    assert [len(output.logits) for _, _, output in seen] == sizes
    assert [(index.tolist(), len(logits)) for _, index, logits, _ in steps] == [
        (batch.index.tolist(), size) for (_, batch, _), size in zip(seen, sizes, strict=True)
    ]
    assert all(batch.truth is not None for _, batch, _ in seen)
    assert weights == [1.0] * 4
    assert loop.state.images == ROWS


def test_the_criterion_learns_from_all_rows():
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, mix=Splicer(MIX))
    given, forward = [], loop.learner.criterion.forward
    loop.learner.criterion.forward = lambda model, batch: given.append(batch) or forward(model, batch)
    loop.run(lambda epoch, row: None)
    assert [len(batch.images) for batch in given] == [5, 5, 5, 2]
    assert [batch.index.tolist().count(NO_ROW) for batch in given] == [1, 1, 1, 0]


@pytest.mark.parametrize(("rank", "own"), [(0, 3), (1, 2)])
def test_a_process_counts_by_its_share_of_all_rows(rank, own):
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, mix=Splicer(MIX, rank, 2))
    weights, everyone = [], torch.arange(4)
    loop.runtime.backward = lambda total, weight: weights.append(weight)
    loop._update = lambda batch, average: weights.append(len(batch.index))
    loop._global_index = lambda: everyone
    raw = next(iter(loop.loader))
    loop.step(raw._replace(**{name: getattr(raw, name)[rank:4:2] for name in ("features", "observed", "index")}), 4)
    assert weights == [own / 5, own]


def test_a_run_that_goes_on_within_an_epoch_splices_the_same():
    saved = []

    def save(state):
        saved.append(io.BytesIO())
        torch.save(state, saved[-1])

    loop, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2, save=save, mix=Splicer(MIX))
    loop.run(lambda epoch, row: None)
    again, resumed = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2, mix=Splicer(MIX))
    saved[1].seek(0)
    again.load_state_dict(torch.load(saved[1]))
    assert (again.state.epoch, again.state.step) == (1, 2)
    again.run(lambda epoch, row: None)
    assert all(torch.equal(value, copied(network)[name]) for name, value in copied(resumed).items())
    plain, other = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2)
    plain.run(lambda epoch, row: None)
    assert not torch.equal(copied(other)["head.fc.weight"], copied(network)["head.fc.weight"])


def test_the_first_rows_of_an_output():
    output = LossOutput(torch.tensor(1.0), torch.arange(6.0).view(3, 2), {"bce": torch.tensor(2.0)})
    assert torch.equal(output.of_first(2).logits, output.logits[:2])
    assert output.of_first(2).modified is None
    marked = output._replace(modified=torch.tensor([[True, False]] * 3))
    assert (marked.of_first(1).modified.tolist(), marked.of_first(1).parts) == ([[True, False]], output.parts)


def criterion(reason="", needs=frozenset()):
    return SimpleNamespace(refuses_spliced=lambda: reason, needs=needs)


def test_settings_make_the_splicer_of_a_process():
    words = ["--mix", "splice", "--splice_share", "0.5", "--splice_grids", "0,1,0", "--splice_drop", "0"]
    found = splicer_of(settings_of("bce", words), criterion(), RUNTIME)
    config = MixConfig(mix="splice", splice_share=0.5, splice_grids=(0.0, 1.0, 0.0), splice_drop=0.0)
    assert found == Splicer(config, 1, 3)
    plain = splicer_of(settings_of("bce", ["--train_mode", "linear_fixed_features"]), criterion("cannot"), RUNTIME)
    assert plain == Splicer(
        replace(config, mix="none", splice_share=0.25, splice_grids=(0.3, 0.4, 0.3), splice_drop=0.3), 1, 3
    )


def test_a_method_that_learns_from_grids_wants_them():
    line = r"^bce: holds images against grids of them, and there are none; give --mix splice, or --loss bce$"
    with pytest.raises(UserError, match=line):
        splicer_of(settings_of("bce", []), criterion(needs=frozenset({"grids"})), RUNTIME)
    wanted = splicer_of(settings_of("bce", ["--mix", "splice"]), criterion(needs=frozenset({"grids"})), RUNTIME)
    assert wanted == Splicer(MIX, 1, 3)


def test_what_cannot_be_spliced_is_refused():
    with pytest.raises(UserError, match=r"^--mix splice: bce keeps a list; leave it out, or take another method$"):
        splicer_of(settings_of("bce", ["--mix", "splice"]), criterion("keeps a list"), RUNTIME)
    words = ["--mix", "splice", "--train_mode", "linear_fixed_features"]
    with pytest.raises(UserError, match=r"^--mix splice: there are no images to splice, features stand in for them"):
        splicer_of(settings_of("bce", words), criterion(), RUNTIME)
