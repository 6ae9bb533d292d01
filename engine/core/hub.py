"""Models on the Hugging Face Hub: `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`, in the place of a file.

Only huggingface_hub knows tokens: no name here holds one, and of what a server answers only its number is told.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from utils.checks import UserError, require
from utils.console import say

MODEL_FILE = "model.safetensors"
"""The file of a model in its repository."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_ANSWERS = {401: "no access; set HF_TOKEN to a token that has it", 403: "no access with this token", 404: "not found"}
_REASONS = {
    "GatedRepoError": "its owner has not admitted you; ask on its page",
    "RepositoryNotFoundError": "there is none, or it is private and HF_TOKEN has no access",
    "RevisionNotFoundError": "there is no such revision",
    "RemoteEntryNotFoundError": f"has no {MODEL_FILE}, so it is no model that evaluate.py --push_to made",
    "LocalEntryNotFoundError": "the hub cannot be reached, and it is not in the cache",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE says to go without a network",
    "LocalTokenNotFoundError": "there is no token; set HF_TOKEN, or say `hf auth login`",
    "HFValidationError": "no name that a repository may have",
}


class HubAddress(NamedTuple):
    """A model on the hub."""

    repository: str
    """`OWNER/NAME`."""
    revision: str | None
    """A branch, tag or commit; None for the newest."""

    @classmethod
    def of(cls, path: Path) -> HubAddress | None:
        """The address that a path stands for, a slash shorter; None for a file. Raises: UserError for neither."""
        if path.parts[:1] != ("hf:",):
            return None
        repository, _, revision = "/".join(path.parts[1:]).partition("@")
        require(is_repository(repository), f"hf://{repository}: name a model as hf://OWNER/NAME")
        return cls(repository, revision or None)

    def __str__(self) -> str:
        return f"hf://{self.repository}" + ("" if self.revision is None else f"@{self.revision}")


def is_repository(name: str) -> bool:
    """True for a text of the form OWNER/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def hub_library(what: str) -> Any:
    """The library. Raises: UserError where it is not installed."""
    installed = importlib.util.find_spec("huggingface_hub") is not None
    require(installed, f"{what}: huggingface_hub is not installed; pip install huggingface_hub")
    return importlib.import_module("huggingface_hub")


def endpoint() -> str | None:
    """The address of the hub, of HF_ENDPOINT; None for the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def hub_reason(error: Exception) -> str:
    """The end of a sentence on what the library raised. Raises: the error itself where the disk refuses."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        raise error
    for kind in type(error).__mro__:
        if kind.__name__ in _REASONS:
            return _REASONS[kind.__name__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return _ANSWERS.get(status, f"the hub answers {status}")
    return f"the hub cannot be reached ({type(error).__name__})"


def local_file(path: Path) -> Path:
    """A path as it is, or the file of a model on the hub, fetched into the library's cache where it is not there.

    Raises: UserError when it cannot be had; nothing is left then but what the library goes on from.
    """
    address = HubAddress.of(path)
    if address is None:
        return path
    library = hub_library(str(address))
    try:
        file = library.hf_hub_download(
            address.repository, MODEL_FILE, revision=address.revision, endpoint=endpoint(), library_name="partial-truth"
        )
    except Exception as error:  # which errors there are depends on the version
        raise UserError(f"{address}: {hub_reason(error)}") from None
    say(f"{address}: commit {Path(file).parent.name[:12]}, {file}")
    return Path(file)
