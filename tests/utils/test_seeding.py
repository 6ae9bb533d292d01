import subprocess
import sys

import numpy as np
import pytest

from tests.commands.scene import ROOT
from utils.seeding import mix


def test_order_kind_and_grouping_of_the_parts_matter():
    seeds = [mix(1, 2), mix(2, 1), mix(12), mix("1", 2), mix(1, "2"), mix(1, 2, 0), mix(-1, 2), mix()]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numpy_numbers_are_numbers():
    assert mix(np.int64(3), np.uint8(4)) == mix(3, 4)


def test_the_same_in_another_process():
    words = [sys.executable, "-c", "from utils.seeding import mix; print(mix(5, 'order', 7))"]
    assert int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout) == mix(5, "order", 7)


def test_a_fraction_is_no_seed():
    with pytest.raises(TypeError):
        mix(0.5)
