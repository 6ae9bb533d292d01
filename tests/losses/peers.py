"""Two networks for tests: stand-ins whose images are the logits already, and two small ones that learn."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from data.loading.samplers import ShuffledBatches
from tests.losses.fake_model import FakeModel, info_for
from utils.types import Batch, ModelOutput


def echo_peers():
    """Networks for images (B, 2C, 1, 1), which hold the logits of f and behind them those of g."""

    def network(half):
        return lambda images, want=frozenset(): ModelOutput(images.flatten(1).chunk(2, dim=1)[half])

    return SimpleNamespace(f=network(0), g=network(1))


def batch_with(f, g, codes, index=None, whole=None):
    """A batch for `echo_peers`; gradients of the logits gather in its images."""
    images = torch.cat([torch.as_tensor(f), torch.as_tensor(g)], dim=1)[:, :, None, None].detach().requires_grad_()
    index = torch.arange(len(codes)) if index is None else torch.as_tensor(index)
    return Batch(images, torch.tensor(np.asarray(codes)).float(), index, global_index=whole)


def step(criterion, f, g, codes, epoch=1, index=None):
    """(the output of one call in `epoch`, gradient at f's logits, gradient at g's)."""
    criterion.on_epoch_start(epoch)
    batch = batch_with(f, g, codes, index)
    out = criterion(echo_peers(), batch)
    if not out.total.requires_grad:
        return out, None, None
    out.total.backward()
    return out, *batch.images.grad.flatten(1).chunk(2, dim=1)


def slopes(criterion, f, g, codes, width=1e-6):
    """The total's slopes at f's logits and at g's, each (B, C), by differences; so small a step changes no choice."""
    found = np.zeros((2, *f.shape))
    for at in np.ndindex(*found.shape):
        ends = []
        for sign in (1, -1):
            moved = np.stack([f, g])
            moved[at] += sign * width
            ends.append(float(step(criterion, *moved, codes)[0].total.detach()))
        found[at] = (ends[0] - ends[1]) / (2 * width)
    return found


def build(method, codes, **settings):
    """The criterion of a `Method` for labels like `codes`."""
    return method.criterion(method.config(**settings), info_for(np.asarray(codes, np.int8)))


def random_case(rows, classes, seed, spread=2.0):
    """(logits of f, logits of g, codes): few positives, the rest unknown but for some labels known to be absent."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, classes)) < 0.1, 0, -1)
    codes[np.arange(rows), rng.integers(0, classes, rows)] = 1
    f, g = rng.normal(0, spread, (2, rows, classes))
    return f, g, codes.astype(np.int8)


class SmallPeers(nn.Module):
    """Two small networks, differently initialised."""

    def __init__(self, classes):
        super().__init__()
        self.f, self.g = FakeModel(classes, seed=0), FakeModel(classes, seed=1)


def dealt_out(rank, world_size, rows, batch_size, epoch=1, told=True):
    """An epoch's batches as the sampler deals them out: (this process's rows, how much its loss weighs, all rows).

    Where the rows of all are not told, a batch smaller than the number of processes has one row for each.
    """
    sampler = ShuffledBatches(rows, batch_size, seed=3, rank=rank, world_size=world_size)
    sampler.set_epoch(epoch)
    for number, samples in enumerate(sampler):
        size = min(batch_size, rows - number * batch_size)
        whole = torch.from_numpy(sampler.order(epoch)[number * batch_size :][:size])
        own = [sample.row for sample in samples]
        if not told and size < world_size:
            own = [int(whole[rank % size])]
        share = 1 / world_size if size < world_size else len(own) / size  # as in the loop
        yield own, share, whole
