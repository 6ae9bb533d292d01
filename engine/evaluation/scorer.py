"""A network that scores images of a dataset, or features that stand in for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from data.build import DatasetConfig
from data.features.reader import FeatureFile
from data.files.cache import Cache
from data.images.caching import keep_images
from data.loading.loader import LoaderConfig
from engine.core.distributed import Runtime
from engine.core.scoring import EvalResult, evaluate
from engine.core.settings import Settings
from engine.evaluation.features import measured_on
from utils.types import Annotations, Splits


@dataclass(frozen=True)
class Scorer:
    """A network with all that its evaluation needs.

    Args:
        model: wrapped for the runtime, its scores in the order of the dataset's classes.
        features: what stands in for images; None for images.
        settings: of the evaluation.
        runtime: where it computes.
    """

    model: nn.Module
    features: FeatureFile | None
    settings: Settings
    runtime: Runtime

    def measure(self, name: str, scored: Annotations, splits: Splits) -> EvalResult:
        """The result on some images of the dataset, which `name` is for messages of."""
        loader, runtime = self.settings.of(LoaderConfig), self.runtime
        if self.features is not None:
            return measured_on(self.features, self.model, scored, splits, loader, runtime)
        cache, processes = Cache(self.settings.of(DatasetConfig).cache_dir), runtime.local_world_size
        with runtime.main_first():
            kept = keep_images({name: scored}, loader.cache, cache, processes=processes, shown=runtime.is_main)
        workers = loader.workers(beside_gpu=runtime.device.type == "cuda", processes=processes)
        return evaluate(self.model, kept[name], loader, runtime, workers)
