"""SpliceMix: golden values of the published mixer, its layouts, the labels of grids, and how rows are dealt out."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.loading.splicemix import (
    GRIDS,
    MixConfig,
    Splicer,
    draw_layout,
    spliced_images,
    spliced_labels,
    spliced_targets,
)
from tests.golden_files import each_case
from tests.oracles.splicemix import corner_aligned
from utils.checks import UserError
from utils.grids import NO_ROW, Layout
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch

SPLICE = MixConfig(mix="splice")


def layout_of(rows, columns, tiles, empty=()):
    tiles = torch.tensor(tiles).view(-1, rows * columns)
    shown = torch.ones_like(tiles, dtype=torch.bool)
    for place in empty:
        shown.view(-1)[place] = False
    return Layout(rows, columns, tiles, shown)


def of_grids(case, arrays):
    """True of a case of the mixer; those of the loss are compared in tests/losses/test_splicemix_cl.py."""
    return case is None or case["kind"] != "consistency"


@pytest.mark.parametrize(("case", "arrays"), [each for each in each_case("splicemix.npz") if of_grids(*each.values)])
def test_golden_grids(case, arrays):
    images, codes = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"])
    empty = arrays["drop"].nonzero()[0]
    layout = layout_of(case["rows"], case["cols"], list(range(len(images))), empty)
    assert layout.tiles.shape == (case["n_grid"], case["rows"] * case["cols"])
    np.testing.assert_allclose(spliced_images(images, layout), arrays["mixed"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(spliced_labels(codes, layout), arrays["mixed_targets"])


def test_pixels_are_those_of_a_slow_oracle():
    images = torch.randn(4, 3, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layout = layout_of(2, 3, [3, 1, 0, 0, 2, 1, 1, 1, 2, 3, 0, 3], empty=[4, 11])
    found = spliced_images(images, layout)
    for each, (tiles, shown) in enumerate(zip(layout.tiles.tolist(), layout.shown.tolist(), strict=True)):
        small = [corner_aligned(images[tile].numpy(), 3, 3) * kept for tile, kept in zip(tiles, shown, strict=True)]
        grid = np.concatenate([np.concatenate(small[row : row + 3], axis=2) for row in (0, 3)], axis=1)
        assert grid.shape == (3, 6, 9)
        np.testing.assert_allclose(found[each], corner_aligned(grid, 7, 11), atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_grid_that_fits_is_not_scaled_again():
    images = torch.randn(2, 3, 4, 6)
    found = spliced_images(images, layout_of(1, 2, [1, 0]))
    small = F.interpolate(images, (4, 3), mode="bilinear", align_corners=True)
    assert torch.equal(found[0], torch.cat([small[1], small[0]], dim=2))


@pytest.mark.parametrize("codes", list(itertools.product((PRESENT, ABSENT, UNKNOWN), repeat=2)))
def test_labels_of_a_grid_are_the_union_in_three_values(codes):
    union = PRESENT if PRESENT in codes else UNKNOWN if UNKNOWN in codes else ABSENT
    column = torch.tensor(codes, dtype=torch.float32)[:, None]
    found = spliced_labels(column, layout_of(1, 2, [0, 1]))
    assert (found.tolist(), found.dtype) == ([[union]], torch.float32)
    first = spliced_labels(column, layout_of(2, 1, [0, 1], empty=[1]))  # of an empty tile every class is absent
    assert first.tolist() == [[codes[0]]]


def test_soft_targets_of_a_grid_are_the_largest_and_unknown_where_its_codes_are():
    soft = torch.tensor([[0.2, 0.9, -1.0, 0.4], [0.3, -1.0, 0.1, 0.0], [1.0, 1.0, 1.0, 1.0]])
    codes = torch.tensor([[0.0, 1, -1, 0], [0, -1, 0, 0], [1, 1, 1, 1]])
    layout = layout_of(1, 2, [0, 1, 1, 2], empty=[3])
    union = spliced_labels(codes, layout)
    assert union.tolist() == [[0, 1, -1, 0], [0, -1, 0, 0]]
    found = spliced_targets(soft, layout, union)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.9, -1.0, 0.4], [0.3, -1.0, 0.1, 0.0]]))


def layouts(config, count=400, images=8, spliced=2):
    torch.manual_seed(3)
    return [draw_layout(config, images, spliced) for _ in range(count)]


def test_grids_are_drawn_by_their_chances_and_turned_half_of_the_time():
    drawn = [(each.rows, each.columns) for each in layouts(SPLICE, 2000)]
    shares = {grid: drawn.count(grid) / len(drawn) for grid in set(drawn)}
    expected = {(1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.4, (2, 3): 0.15, (3, 2): 0.15}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[grid] - share) < 0.04 for grid, share in expected.items())  # 4 deviations


@pytest.mark.parametrize(("number", "grid"), list(enumerate(GRIDS)))
def test_a_chance_of_1_is_always_that_grid(number, grid):
    chances = tuple(float(each == number) for each in range(3))
    found = {(each.rows, each.columns) for each in layouts(MixConfig(mix="splice", splice_grids=chances), 30)}
    assert found == {grid, grid[::-1]}


def test_empty_tiles_are_as_many_in_each_image_of_a_batch_and_never_all():
    counts = {grid: set() for grid in ((1, 2), (2, 2), (2, 3))}
    places = set()
    for each in layouts(MixConfig(mix="splice", splice_drop=1.0)):
        empty = (~each.shown).sum(dim=1)
        assert empty.min() == empty.max()
        counts[min(each.rows, each.columns), max(each.rows, each.columns)].add(int(empty[0]))
        places.add(tuple(map(tuple, (~each.shown).tolist())))
    assert counts == {(1, 2): {1}, (2, 2): {1, 2, 3}, (2, 3): {1, 2, 3, 4, 5}}
    assert any(first != second for first, second in places)
    share = sum(bool((~each.shown).any()) for each in layouts(SPLICE, 2000)) / 2000
    assert abs(share - 0.3) < 0.04
    assert all(each.shown.all() for each in layouts(MixConfig(mix="splice", splice_drop=0.0), 50))


def test_every_image_is_taken_once_before_any_is_taken_again():
    two_by_three = MixConfig(mix="splice", splice_grids=(0.0, 0.0, 1.0))
    for each in layouts(two_by_three, 20, images=5, spliced=2):
        order = each.tiles.flatten().tolist()
        assert (each.tiles.shape, each.tiles.dtype) == ((2, 6), torch.long)
        assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
        assert len(set(order[10:])) == 2
    assert len({tuple(each.tiles.flatten().tolist()) for each in layouts(two_by_three, 20)}) == 20


def batch_of(rows, **more):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 8, 8, generator=generator)
    observed = torch.randint(-1, 2, (rows, 4), generator=generator).float()
    index = torch.arange(rows) + 10
    return Batch(images, observed, index, host_index=index, truth=observed.to(torch.int8), **more)


def test_a_batch_keeps_its_rows_and_has_spliced_ones_behind_them():
    second = torch.randn(9, 3, 8, 8)
    batch = batch_of(9, second_view=second, soft=torch.full((9, 4), 0.25))
    torch.manual_seed(0)
    mixed = Splicer(SPLICE)(batch, 9)
    torch.manual_seed(0)
    layout = draw_layout(SPLICE, 9, 2)
    assert torch.equal(mixed.images, torch.cat([batch.images, spliced_images(batch.images, layout)]))
    assert torch.equal(mixed.second_view, torch.cat([second, spliced_images(second, layout)]))  # of the same tiles
    assert torch.equal(mixed.observed, torch.cat([batch.observed, spliced_labels(batch.observed, layout)]))
    assert mixed.soft.shape == (11, 4)
    assert torch.equal(mixed.soft[:9], batch.soft)
    assert (mixed.layout[:2], batch.layout) == (layout[:2], None)
    assert torch.equal(mixed.layout.tiles, layout.tiles)
    assert torch.equal(mixed.layout.shown, layout.shown)
    assert mixed.index.tolist() == mixed.host_index.tolist() == [*range(10, 19), NO_ROW, NO_ROW]
    assert (mixed.truth, mixed.global_index, NO_ROW) == (None, None, -1)


@pytest.mark.parametrize(("config", "rows"), [(MixConfig(), 9), (SPLICE, 3)])
def test_without_spliced_images_a_batch_is_itself_and_nothing_is_drawn(config, rows):
    batch, state = batch_of(rows), torch.get_rng_state()
    assert Splicer(config)(batch, rows) is batch
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("share", "rows", "spliced"), [(0.25, 4, 1), (0.25, 7, 1), (0.29, 100, 29), (1.0, 5, 5)])
def test_spliced_images_are_a_share_of_the_batch_rounded_down(share, rows, spliced):
    config = MixConfig(mix="splice", splice_share=share)
    assert config.spliced_rows(rows) == spliced
    mixed = Splicer(config)(batch_of(rows), rows)
    assert len(mixed.images) == len(mixed.observed) == len(mixed.index) == rows + spliced


@pytest.mark.parametrize(("rows", "processes"), [(4, 4), (9, 2), (10, 4), (13, 3), (16, 4), (23, 5)])
def test_processes_deal_out_the_rows_that_one_alone_has(rows, processes):
    everyone, dealt = torch.arange(rows) + 10, {}
    for rank in range(processes):
        own = everyone[rank::processes]
        batch = batch_of(len(own))._replace(index=own, host_index=own, global_index=everyone)
        mixed = Splicer(SPLICE, rank, processes)(batch, rows)
        assert mixed.global_index.tolist() == [*everyone.tolist(), *[NO_ROW] * (rows // 4)]
        assert torch.equal(mixed.global_index[rank::processes], mixed.index)
        assert len(mixed.index) == len(mixed.images) == len(mixed.observed)
        dealt[rank] = len(mixed.index)
    assert sum(dealt.values()) == rows + rows // 4


def test_a_batch_smaller_than_the_processes_is_left_as_it_is():
    batch = batch_of(1)._replace(global_index=torch.arange(7))
    assert Splicer(SPLICE, 2, 8)(batch, 7) is batch


@pytest.mark.parametrize("chances", [(1.0,), (0.5, 0.5), (0.5, 0.5, 0.5), (-0.1, 0.6, 0.5), (0.3, 0.4, 0.2, 0.1)])
def test_chances_of_grids_are_three_whose_sum_is_1(chances):
    words = ",".join(f"{chance:g}" for chance in chances)
    with pytest.raises(UserError, match=f"^--splice_grids {words}: give three chances, of 1x2, 2x2 and 2x3, whose"):
        MixConfig(splice_grids=chances)


def test_an_unknown_mix_is_refused():
    with pytest.raises(UserError, match=r"^--mix cut: choose from none, splice$"):
        MixConfig(mix="cut")
