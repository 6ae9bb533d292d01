"""Settings that are choices, and those that a variant of the method decides where they are left None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, get_type_hints

from utils.checks import require
from utils.options import choices_of

Options = TypeVar("Options", bound=NamedTuple)


def variant_options(config: Any, variants: Mapping[str, Options]) -> Options:
    """Current options of a variant: each as it was set, or else that of `config.variant`.

    Raises: UserError if there is no such variant.
    """
    _require_choice("variant", config.variant, variants)
    options = variants[config.variant]
    given = {name: getattr(config, name) for name in options._fields}
    return options._replace(**{name: value for name, value in given.items() if value is not None})


def fill_variant_options(config: Any, variants: Mapping[str, Options]) -> None:
    """Set the fields of a frozen config to its `variant_options`; for `__post_init__`."""
    for name, value in variant_options(config, variants)._asdict().items():
        object.__setattr__(config, name, value)


def require_choices(config: Any) -> None:
    """Raise UserError unless every setting that is a `Literal` has one of its values."""
    for name, annotation in get_type_hints(type(config)).items():
        choices = choices_of(annotation)
        if choices:
            _require_choice(name, getattr(config, name), choices)


def _require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    names = list(choices)
    require(value in names, f"--{name} {value}: must be one of {', '.join(names)}")
