"""The layout of blocks and threads that the layers choose."""

import itertools

import pytest

from pylayers.runtime import geometry


@pytest.mark.parametrize("processors", [1, 20, 132])
@pytest.mark.parametrize("inner", [1, 49, 65536])
def test_block_shape_fits_the_kernels(inner, processors):
    for outer, channels in itertools.product([1, 64, 100_000], [1, 2, 3, 10, 21, 1000, 100_000]):
        threads, rows = geometry.block_shape(outer * inner, channels, inner, processors)
        assert threads <= geometry.MAX_THREADS
        assert threads & (threads - 1) == rows & (rows - 1) == 0
        assert rows <= threads
        assert rows <= channels


@pytest.mark.parametrize(
    ("shape", "threads", "rows"),
    [
        ((256, 1000, 1), 256, 128),  # a position's classes side by side, eight for each thread
        ((128, 10000, 1), 512, 512),
        ((16, 1000, 49), 512, 64),  # eight positions side by side: 32 bytes
        ((2, 21, 65536), 256, 1),  # positions enough
        ((4, 150, 4096), 256, 8),
    ],
)
def test_block_shape_of_the_benchmarks_on_a_gpu_of_132_processors(shape, threads, rows):
    outer, channels, inner = shape
    assert geometry.block_shape(outer * inner, channels, inner, 132) == (threads, rows)


def test_blocks_are_not_more_than_the_gpu_can_run_at_once():
    assert geometry.blocks_for(7, 256, 132) == 7
    assert geometry.blocks_for(10**6, 256, 20) == 160
    assert geometry.blocks_for(10**6, 256, 160) == geometry.MAX_BLOCKS


def test_few_sums_are_cut_into_segments():
    assert geometry.segments_of(16, 3 * 128 * 128, 512, 132) == 8
    assert geometry.segments_of(8, 21 * 256 * 256, 512, 132) == 32
    assert geometry.segments_of(16 * 128 * 128, 3, 1, 132) == 1
    for positions, channels, rows, processors in itertools.product((1, 7, 1000, 4000), (1, 10**6), (1, 512), (1, 160)):
        segments = geometry.segments_of(positions, channels, rows, processors)
        assert segments == 1 or positions * segments <= geometry.TOTALS_OF_BLOCK * geometry.MAX_BLOCKS


def test_blobs_of_2_gib_are_indexed_with_64_bits():
    assert geometry.wide([(1, 2**29 - 1), (1,)]) == 0
    assert geometry.wide([(1,), (2**29, 1)]) == 1
