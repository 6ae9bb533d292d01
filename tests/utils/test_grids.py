"""Tiles of feature maps against plain loops, and layouts on their device."""

import numpy as np
import pytest
import torch

from tests.oracles.splicemix import tiles
from utils.grids import NO_ROW, Layout, tile_maps


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (3, 3), (1, 2)])
@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)])
def test_tiles_of_maps_are_those_of_loops(size, grid):
    maps = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [tile for each in maps.numpy() for tile in tiles(each, *grid)]
    found = tile_maps(maps, *grid)
    assert found.shape == (2 * grid[0] * grid[1], 3, max(size[0] // grid[0], 1), max(size[1] // grid[1], 1))
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_map_that_its_grid_divides_is_cut_and_not_scaled(layout):
    maps = torch.arange(24.0).view(1, 1, 4, 6).contiguous(memory_format=layout)
    found = tile_maps(maps, 2, 3)
    assert found[:, 0].tolist()[0] == [[0, 1], [6, 7]]
    assert found[:, 0].tolist()[5] == [[16, 17], [22, 23]]
    assert torch.equal(tile_maps(maps, 1, 1), maps)


def test_of_no_grids_there_are_no_tiles():
    assert tile_maps(torch.zeros(0, 3, 4, 4), 2, 2).shape == (0, 3, 2, 2)


def test_a_layout_of_the_host_is_itself_there():
    layout = Layout(1, 2, torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))
    assert layout.on(torch.device("cpu")) is layout
    assert NO_ROW == -1
