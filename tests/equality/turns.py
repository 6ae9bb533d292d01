"""Several processes in one: threads that take turns, each with random numbers of its own, and talk without a network.

They run one at a time, rank 0 first, until each comes to an exchange: what happens is the same every time, and a start
costs nothing. What `utils.collectives` asks of torch.distributed is here; gradients are to be averaged by it too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = 60  # seconds after which ranks are taken to wait for each other for ever


class RankFailedError(Exception):
    """Another rank has failed."""


class Turns:
    """The group of all ranks, in the place of the module torch.distributed."""

    ReduceOp, group = dist.ReduceOp, dist.group

    def __init__(self, size: int) -> None:
        self._size, self._turn, self._failed = size, 0, False
        self._done = [False] * size
        self._changed = threading.Condition()
        self._sent: list[list[Any]] = []
        """What each rank has sent, by exchange."""
        self._own = threading.local()

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """`work(rank, *args)` of every rank. Raises: what the first rank that fails raises."""
        found: list[Any] = [None] * self._size
        threads = [threading.Thread(target=self._serve, args=(found, rank, work, args)) for rank in range(self._size)]
        with mock.patch("utils.collectives.dist", self), torch.random.fork_rng(devices=[]):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for failure in found:
            if isinstance(failure, BaseException) and not isinstance(failure, RankFailedError):
                raise failure
        return found

    def _serve(self, found: list[Any], rank: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._own.rank, self._own.exchanges, self._own.random = rank, 0, torch.Generator().manual_seed(0).get_state()
        try:
            self._wait()
            found[rank] = work(rank, *args)
        except BaseException as error:
            found[rank], self._failed = error, True
        self._done[rank] = True
        self._pass_on()

    def _wait(self) -> None:
        """Wait for this rank's turn. Raises: RankFailedError when it will not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._turn == self._own.rank, _PATIENCE)
            if self._failed or self._turn != self._own.rank:
                self._failed = True
                raise RankFailedError
        torch.set_rng_state(self._own.random)

    def _pass_on(self) -> None:
        self._own.random = torch.get_rng_state()
        with self._changed:
            following = [(self._own.rank + step) % self._size for step in range(1, self._size + 1)]
            self._turn = next((rank for rank in following if not self._done[rank]), self._turn)
            self._changed.notify_all()

    def _exchange(self, sent: Any) -> list[Any]:
        """What all ranks send in this exchange."""
        number, self._own.exchanges = self._own.exchanges, self._own.exchanges + 1
        if len(self._sent) == number:
            self._sent.append([None] * self._size)
        self._sent[number][self._own.rank] = sent
        self._pass_on()
        self._wait()
        return self._sent[number]

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self._own, "rank")

    def get_world_size(self) -> int:
        return self._size

    def get_rank(self) -> int:
        return int(self._own.rank)

    def get_backend_config(self) -> str:
        return "cpu:gloo"

    def barrier(self) -> None:
        self._exchange(None)

    def all_reduce(self, values: Tensor, how: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        everyone = torch.stack(self._exchange(values.clone()))
        values.copy_(everyone.sum(dim=0) if how == dist.ReduceOp.SUM else everyone.amax(dim=0))

    def broadcast(self, values: Tensor, src: int, group: Any = None) -> None:
        values.copy_(self._exchange(values.clone())[src])

    def all_gather(self, parts: list[Tensor], values: Tensor) -> None:
        for part, sent in zip(parts, self._exchange(values.clone()), strict=True):
            part.copy_(sent)

    def all_to_all_single(self, found: Tensor, own: Tensor, received: Sequence[int], sent: Sequence[int]) -> None:
        everyone = self._exchange(own.clone().split(list(sent)))
        parts = [each[self._own.rank] for each in everyone]
        assert [len(part) for part in parts] == list(received)
        found.copy_(torch.cat(parts))
