"""From distances on a grid to a map over the image, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mvtec_ad.methods.maps import enlarge, smooth


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5, 4.0, 16.0])
def test_smoothing_equals_scipy(sigma: float) -> None:
    """Truncated at 4σ and mirrored at the edges, also where the kernel is larger than the map."""
    maps = np.random.default_rng(0).gamma(2.0, 3.0, (2, 40, 56)).astype(np.float32)
    found = smooth(maps, sigma)
    assert found.dtype == np.float32
    expected = np.stack([ndimage.gaussian_filter(one.astype(np.float64), sigma) for one in maps])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_no_smoothing_on_request(sigma: float) -> None:
    """σ = 0 leaves the map as it is."""
    maps = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(smooth(maps, sigma), maps)


def test_smoothing_leaves_its_input_alone() -> None:
    """The raw map may be needed again."""
    maps = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    before = maps.copy()
    smooth(maps, 2.0)
    np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("factors", [(1, 1), (4, 4), (8, 2)], ids=str)
def test_enlarging_equals_scipy(factors: tuple[int, int]) -> None:
    """Linear between the centres of the cells, constant outside of the outermost ones."""
    grids = np.random.default_rng(0).gamma(2.0, 3.0, (3, 5, 7)).astype(np.float32)
    found = enlarge(torch.from_numpy(grids), (5 * factors[0], 7 * factors[1]))
    assert found.dtype == np.float32
    expected = ndimage.zoom(grids.astype(np.float64), (1, *factors), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
