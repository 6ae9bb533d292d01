import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tests.commands.scene import ROOT
from utils.seeding import derive_seed


def test_order_kind_and_grouping_of_the_parts_matter():
    seeds = [
        derive_seed(1, 2),
        derive_seed(2, 1),
        derive_seed(12),
        derive_seed("1", 2),
        derive_seed(1, "2"),
        derive_seed(1, 2, 0),
        derive_seed(-1, 2),
        derive_seed(),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_63_bits_of_blake2b_of_its_parts_as_json():
    digest = hashlib.blake2b(b'[5, "order", 7]', digest_size=8).hexdigest()
    assert derive_seed(5, "order", 7) == int(digest, 16) // 2 == 6696065169057145697


def test_numpy_numbers_are_numbers():
    assert derive_seed(np.int64(3), np.uint8(4)) == derive_seed(3, 4)


@pytest.mark.slow
def test_the_same_in_another_process():
    words = [sys.executable, "-c", "from utils.seeding import derive_seed as d; print(d(5, 'order', 7))"]
    assert int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout) == derive_seed(
        5, "order", 7
    )


def test_a_fraction_is_no_seed():
    with pytest.raises(TypeError):
        derive_seed(0.5)
