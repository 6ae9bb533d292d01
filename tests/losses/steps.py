"""What the tests of several methods do alike with training steps: take them, resume them, watch their operations."""

import io

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "is_nonzero", "lift_fresh", "item"}
"""Operations that wait for a GPU."""

EPOCHS = range(1, 5)


class Recorder(TorchDispatchMode):
    """Names of the operations of a step, and the number of elements of the largest result."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        self.names.add(func.overloadpacket.__name__)
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def trainer(order, batch):
    """A function that trains on `batch(index)` of each entry of `order`, every epoch alike, cut wherever one likes."""

    def train(criterion, model, optimizer, epochs, start=0, stop=None):
        """Totals of the steps numbered from `start` to before `stop` of these epochs, each with a seed of its own."""
        totals, number = [], 0
        for epoch in epochs:
            for at, index in enumerate(order):
                if number >= start and (stop is None or number < stop):
                    if at == 0:
                        criterion.on_epoch_start(epoch)
                    torch.manual_seed(number)
                    optimizer.zero_grad()
                    out = criterion(model, batch(index))
                    if out.total.requires_grad:
                        out.total.backward()
                        optimizer.step()
                    totals.append(float(out.total.detach()))
                number += 1
        return totals

    return train


def check_resume(parts, train, cut):
    """A run cut after `cut` steps, saved and loaded, must end bit for bit where one that is not cut does.

    `parts` makes a criterion, a model and an optimiser; returns those of the run that was not cut.
    """
    whole, first, second = parts(), parts(), parts()
    totals = train(*whole, EPOCHS)
    before = train(*first, EPOCHS, stop=cut)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, held in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(held)
    assert before + train(*second, EPOCHS, start=cut) == totals
    for one, other in zip(whole[:2], second[:2], strict=True):
        theirs = other.state_dict()
        for name, value in one.state_dict().items():
            same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            assert same, name
    return whole
