"""One thread for every test, and no new interpreter outside of the slow tests."""

import gc
import subprocess
import sys

import pytest
import torch

# These tensors are too small to share, and another busy process would stall all of them.
torch.set_num_threads(1)


def pytest_collection_finish():
    """Leave what was imported out of every collection of garbage, of which each run of a command makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fast_tests_start_no_interpreter(request, monkeypatch):
    """A start costs seconds: such tests are marked slow, and others call the command as a function (`scene.run`)."""
    if request.node.get_closest_marker("slow"):
        return
    start = subprocess.Popen.__init__

    def checked(self, args, *rest, **named):
        if sys.executable in ([args] if isinstance(args, str) else list(map(str, args))):
            pytest.fail("a test that starts an interpreter is marked with pytest.mark.slow")
        start(self, args, *rest, **named)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)
