"""The GIF holds what it was given."""

import io

import numpy as np
import pytest
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting import animation, new_figure


def plain(colour: str, width: float = 2):
    """A figure of one colour."""
    figure = new_figure(width, 1)
    figure.set_facecolor(colour)
    return figure


def test_one_frame_per_figure_in_order_with_its_duration():
    """Colours come back in the order given; the GIF repeats for ever."""
    with Image.open(io.BytesIO(animation([plain("red"), plain("lime"), plain("blue")], seconds=0.5, dpi=50))) as gif:
        assert gif.n_frames == 3
        assert gif.size == (100, 50)
        assert gif.info["loop"] == 0
        for index, expected in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
            gif.seek(index)
            assert gif.info["duration"] == 500
            pixel = np.asarray(gif.convert("RGB"))[25, 50]
            assert np.abs(pixel.astype(int) - expected).max() <= 4


def test_figures_must_exist_and_share_a_size():
    """Nothing, or two sizes, is an error with one clear line."""
    with pytest.raises(DataError, match="at least one"):
        animation([])
    with pytest.raises(DataError, match="one size"):
        animation([plain("red"), plain("red", width=3)])
