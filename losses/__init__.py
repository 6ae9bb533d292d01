"""The methods by name. Adding one: a module here, and a line below."""

from typing import Any, NamedTuple

from losses.assume_negative import BCE, BCEConfig
from losses.base import Criterion
from losses.cones import CoNeS, CoNeSConfig


class Method(NamedTuple):
    """A method's class and the dataclass of its settings."""

    criterion: type[Criterion]
    config: type[Any]


CRITERIA: dict[str, Method] = {
    "bce": Method(BCE, BCEConfig),
    "cones": Method(CoNeS, CoNeSConfig),
}
