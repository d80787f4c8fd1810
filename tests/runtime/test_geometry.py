"""The layout of blocks and threads that the layers choose."""

import itertools

import numpy as np
import pytest

from pylayers.runtime import geometry


@pytest.mark.parametrize("processors", [1, 20, 132])
@pytest.mark.parametrize("inner", [1, 49, 65536])
def test_rows_fit_the_kernels(inner, processors):
    for outer, channels in itertools.product([1, 64, 100_000], [1, 2, 3, 8, 9, 21, 1000, 100_000]):
        rows = geometry.rows_of(outer * inner, channels, inner, processors)
        assert rows & (rows - 1) == 0
        assert rows <= geometry.THREADS
        assert rows <= channels
        assert rows == 1 or channels > geometry.CHUNK


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((256, 1000, 1), 128),  # a position's classes side by side, eight for each thread
        ((128, 10000, 1), 256),
        ((4096, 50257, 1), 32),
        ((16, 1000, 49), 32),  # eight positions side by side: 32 bytes
        ((2, 21, 65536), 1),  # positions enough
        ((4, 150, 4096), 8),
        ((256, 2, 1), 1),
    ],
)
def test_rows_of_the_benchmarks_on_a_gpu_of_132_processors(shape, rows):
    outer, channels, inner = shape
    assert geometry.rows_of(outer * inner, channels, inner, 132) == rows


def test_a_kernel_divides_exactly():
    numbers = np.unique(np.concatenate([np.arange(300), 2 ** np.arange(31), 2 ** np.arange(1, 32) - 1, [10**9]]))
    for divisor in np.unique(np.concatenate([np.arange(1, 300), 2 ** np.arange(31) + 1, [2**31 - 1, 2**31, 3 * 7**9]])):
        multiplier, shift = geometry.division_by(int(divisor))
        assert multiplier < 2**32
        # The multiples, and those one less, are where a rounding shows.
        multiples = np.minimum(numbers // divisor * divisor, 2**31 - 1)
        for dividend in (numbers, multiples, np.maximum(multiples - 1, 0)):
            found = (dividend.astype(np.uint64) * np.uint64(multiplier)) >> np.uint64(shift)
            np.testing.assert_array_equal(found, dividend // divisor)


def test_few_sums_are_cut_into_segments():
    assert geometry.segments_of(16, 3 * 128 * 128, 256, 132) == 16
    assert geometry.segments_of(8, 21 * 256 * 256, 256, 132) == 64
    assert geometry.segments_of(16 * 128 * 128, 3, 1, 132) == 1
    for positions, channels, rows, processors in itertools.product((1, 7, 1000, 4000), (1, 10**6), (1, 256), (1, 160)):
        segments = geometry.segments_of(positions, channels, rows, processors)
        assert segments == 1 or positions * segments <= geometry.TOTALS_OF_BLOCK * geometry.MAX_BLOCKS


def test_blobs_of_2_gib_are_indexed_with_64_bits():
    assert geometry.wide([(1, 2**29 - 1), (1,)]) == 0
    assert geometry.wide([(1,), (2**29, 1)]) == 1
