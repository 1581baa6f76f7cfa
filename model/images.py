"""Images from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .network import ImageFormat

__all__ = ["load_image"]


def load_image(path: Path, image: ImageFormat) -> NDArray[np.uint8]:
    """One image of a ``.npy`` file as (1, channels, size, size) uint8; in the file one channel may be left out."""
    pixels = _load_array(path)
    shape = (image.channels, image.size, image.size)
    if pixels.dtype != np.uint8 or pixels.shape not in ((shape, shape[1:]) if image.channels == 1 else (shape,)):
        raise ValueError(f"{path} is {pixels.dtype} of shape {pixels.shape}; the network takes uint8 of shape {shape}")
    return pixels.reshape(1, *shape)


def _load_array(path: Path) -> NDArray:
    """The array in a ``.npy`` file."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError):
        raise ValueError(f"{path} is not a .npy file of numbers") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays; a .npy file of one is wanted")
    return array
