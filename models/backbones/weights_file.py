"""The backbone in a file of weights: under which entry and prefix it is, and today's names of its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from models.backbones.feature_extractors import CLASSIFYING
from utils.foreign_states import CheckpointWeights, choose_state
from utils.safe_files import require_plain_tensors
from utils.state_names import without_wrappers

_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)"), r"\1"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
"""Names in torchvision's published files that its networks no longer have, and today's."""

_FIRST_BLOCK = "layer1.0.conv1.weight"
_NUMBERED_BLOCK = "4.0.conv1.weight"
_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Parts of a ResNet by their number in a Sequential of all but the last two."""


class BackboneState(NamedTuple):
    """Tensors of a backbone by today's names."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    """What has been chosen or left out, one line each."""
    classified: bool
    """True if layers that classify stood beside them, as in the published file of a network."""


def backbone_state(
    content: Any, file: Path, own: Mapping[str, Tensor], wanted: CheckpointWeights | None = None
) -> BackboneState:
    """Find a backbone in the content of a file: a state_dict, bare or wrapped, of the backbone or of a whole network.

    Layers that classify are left out, unless the backbone has them in `own`; of a whole network in which the backbone
    has a prefix, all else is.

    Args:
        content: the file as `utils.safe_files.load_tensors` returns it.
        file: the file, for messages.
        own: the tensors of the backbone.
        wanted: averaged or raw weights where the file holds both; None: the averaged ones.

    Raises: UserError when there are no weights, or not the wanted ones, or when they are damaged.
    """
    found = choose_state(content, file, wanted, lambda state: max(_prefixes(_named(state), own).values(), default=0))
    named = _named(found.state)
    prefix, note = _prefix(named, own)
    state = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    kept = {name: value for name, value in state.items() if name in own or name.split(".")[0] not in CLASSIFYING}
    require_plain_tensors(kept, file)
    return BackboneState(kept, (*found.notes, *note), len(kept) < len(state))


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by today's names, whatever prefixes they have."""
    numbered = _numbered_prefix(state)
    return {_present_name(name, numbered): value for name, value in state.items()}


def _present_name(name: str, numbered: str | None) -> str:
    """Today's name of a published tensor; `numbered` is the prefix of a ResNet whose parts are numbers."""
    if numbered is not None and name.startswith(numbered):
        number, _, rest = name.removeprefix(numbered).partition(".")
        name = f"{numbered}{_NUMBERED.get(number, number)}.{rest}"
    name = without_wrappers(name)
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return name


def _numbered_prefix(names: Collection[str]) -> str | None:
    """The prefix of a ResNet that is a Sequential; None where there is none."""
    if any(name.endswith(_FIRST_BLOCK) for name in names):
        return None
    blocks = [name for name in names if f".{name}".endswith(f".{_NUMBERED_BLOCK}")]
    return blocks[0].removesuffix(_NUMBERED_BLOCK) if blocks else None


def _prefixes(names: Collection[str], own: Collection[str]) -> Counter[str]:
    """Prefixes behind which names of the backbone are found, with how many."""
    found: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in own:
                found[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return found


def _prefix(names: Collection[str], own: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The prefix behind which most of the backbone is, the first of several, and a note if there is one."""
    found = _prefixes(names, own)
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if not best or most < len(own) / 2:
        return "", ()  # another network: what does not fit is named with the names of the file
    if best[0] == "":
        return "", ()
    outside = sum(not name.startswith(best[0]) for name in names)
    others = f", nor are those of {', '.join(best[1:4])}" if best[1:] else ""
    left = f"; {outside} tensors outside it are no part of it{others}" if outside else ""
    return best[0], (f"the backbone is taken from {best[0]}*{left}",)
