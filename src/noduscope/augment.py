"""Seeded augmentation of CT crops in HU: what differs between patients, scanners and protocols.

Every function takes a NumPy random generator, so that the same seed gives the same crop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Crop: TypeAlias = NDArray[np.float32]
"""HU, float32 (z, y, x)."""


@dataclass(frozen=True, slots=True)
class View:
    """How a crop is cut from a scan: centre, size, zoom per axis and in-plane turn.

    Parameters
    ----------
    centre_zyx : voxel of the scan that comes to the crop's middle.
    size : the crop's edge in voxels.
    zoom_zyx : magnification; 1.2 shows a 10 mm nodule as 12 mm.
    angle : turn in the axial plane, radians.
    """

    centre_zyx: tuple[float, float, float]
    size: int
    zoom_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    angle: float = 0.0

    def to_crop(self, points_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scan voxels ``(n, 3)`` to crop voxels."""
        rel = np.asarray(points_zyx, dtype=float) - self.centre_zyx
        c, s = np.cos(self.angle), np.sin(self.angle)
        turned = np.stack([rel[:, 0], c * rel[:, 1] - s * rel[:, 2], s * rel[:, 1] + c * rel[:, 2]], axis=1)
        return np.asarray(turned * self.zoom_zyx + (self.size - 1) / 2)


def random_view(rng: np.random.Generator, centre_zyx: tuple[float, float, float], size: int) -> View:
    """A view with a random turn and zoom (0.85 to 1.2, axes within 5 % of each other)."""
    zoom = np.exp(rng.uniform(-0.16, 0.18)) * np.exp(rng.uniform(-0.05, 0.05, 3))
    return View(centre_zyx, size, (float(zoom[0]), float(zoom[1]), float(zoom[2])), float(rng.uniform(-np.pi, np.pi)))


def cut(volume: NDArray[np.generic], view: View, fill: float) -> Crop:
    """The crop that a view shows of a volume ``(z, y, x)``, linear interpolation, `fill` outside."""
    block, inner = _surroundings(volume, view, fill)
    planes = turn_planes(block, inner)
    place = _planes_shown(inner)
    first = np.clip(np.floor(place).astype(int), 0, len(planes) - 2)
    made: Crop = planes[first]
    above = planes[first + 1]
    above -= made
    above *= (place - first).astype(np.float32)[:, None, None]
    made += above
    return made


def cut_mask(mask: NDArray[np.uint8], view: View) -> NDArray[np.bool_]:
    """Which of the crop is in a mask ``(z, y, x)``, by the nearest voxel; nothing is outside."""
    block, inner = _surroundings(mask, view, 0)
    shown = np.floor(_planes_shown(inner) + 0.5).astype(int)
    return turn_planes(block[shown], inner, np.uint8) > 0


def turn_planes(planes: NDArray[Any], view: View, dtype: type[np.float32 | np.uint8] = np.float32) -> NDArray[Any]:
    """Each axial plane of a stack ``(n, y, x)`` turned and zoomed as the view says, its edges repeated outside.

    As float32 by linear interpolation, as uint8 by the nearest pixel.
    """
    how = cv2.INTER_LINEAR if dtype is np.float32 else cv2.INTER_NEAREST
    _, zy, zx = view.zoom_zyx
    c, s, size = np.cos(view.angle), np.sin(view.angle), view.size
    # OpenCV wants (x, y)
    matrix = np.array([[c * zx, s * zx, 0], [-s * zy, c * zy, 0]], dtype=np.float64)
    matrix[:, 2] = (size - 1) / 2 - matrix[:, :2] @ (view.centre_zyx[2], view.centre_zyx[1])
    made = np.empty((len(planes), size, size), dtype)
    for plane, turned in zip(planes, made, strict=True):
        cv2.warpAffine(plane.astype(dtype), matrix, (size, size), turned, how, cv2.BORDER_REPLICATE)
    return made


def _surroundings(volume: NDArray[Any], view: View, fill: float) -> tuple[NDArray[Any], View]:
    """The part of a volume that a view shows, with a little around it, and the view on that part."""
    zz, zy, zx = view.zoom_zyx
    half_z = (view.size / 2) / zz + 1
    half = (view.size / 2) * (abs(np.cos(view.angle)) + abs(np.sin(view.angle))) / min(zy, zx) + 2
    around = list(zip(view.centre_zyx, (half_z, half, half), strict=True))
    low = [int(np.floor(c - h)) for c, h in around]
    high = [int(np.ceil(c + h)) + 1 for c, h in around]
    z, y, x = (c - a for c, a in zip(view.centre_zyx, low, strict=True))
    return _block(volume, low, high, fill), replace(view, centre_zyx=(z, y, x))


def _planes_shown(view: View) -> NDArray[np.float64]:
    """Where along z the crop's planes lie."""
    return np.asarray((np.arange(view.size) - (view.size - 1) / 2) / view.zoom_zyx[0] + view.centre_zyx[0], np.float64)


def _block(volume: NDArray[Any], low: list[int], high: list[int], fill: float) -> NDArray[Any]:
    """``volume[low:high]``, `fill` where that reaches outside."""
    inside = tuple(slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(low, high, volume.shape, strict=True))
    held = volume[inside]
    if held.shape == tuple(b - a for a, b in zip(low, high, strict=True)):
        return held
    block = np.full([b - a for a, b in zip(low, high, strict=True)], fill, volume.dtype)
    if held.size:
        block[tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, low, strict=True))] = held
    return block


def noise_bank(rng: np.random.Generator, edge: int = 160) -> Crop:
    """A block of unit noise with the grain of a CT (correlated in the plane), to draw noise from."""
    white = rng.standard_normal((edge, edge, edge), dtype=np.float32)
    smooth = np.stack([cv2.GaussianBlur(p, (0, 0), 0.7) for p in white])
    bank: Crop = smooth / smooth.std()
    return bank


def degrade(rng: np.random.Generator, crop: Crop, bank: Crop) -> Crop:
    """Another scanner's view of the same tissue: kernel, slice thickness, dose, calibration.

    In random strength: contrast agent, blur or sharpening in the plane, averaging along z, correlated
    noise up to 50 HU, HU shift and gain.
    """
    if rng.random() < 0.25:
        crop = enhanced(crop, rng.uniform(0, 180))
    crop = other_kernel(rng, crop, (0.3, 0.9), (0.2, 1.0))
    if rng.random() < 0.35:
        crop = thick_slices(crop, np.exp(rng.uniform(np.log(1.2), np.log(5.5))))
    if rng.random() < 0.6:
        z, y, x = (int(rng.integers(0, b - n + 1)) for b, n in zip(bank.shape, crop.shape, strict=True))
        part = bank[z : z + crop.shape[0], y : y + crop.shape[1], x : x + crop.shape[2]]
        crop = crop + part * np.float32(rng.uniform(0, 50) * rng.random())
    return other_calibration(rng, crop, 0.07)


def other_kernel(
    rng: np.random.Generator, planes: Crop, blur: tuple[float, float], sharpen: tuple[float, float]
) -> Crop:
    """Planes ``(n, y, x)`` as a softer or a sharper kernel makes them, a quarter of the time each.

    Parameters
    ----------
    blur : range of the Gaussian's standard deviation, pixels.
    sharpen : range of the unsharp mask's amount.
    """
    kernel = rng.random()
    if kernel < 0.25:
        sigma = rng.uniform(*blur)
        return np.stack([cv2.GaussianBlur(p, (0, 0), sigma) for p in planes])
    if kernel < 0.5:
        amount = rng.uniform(*sharpen)
        soft = (cv2.GaussianBlur(p, (0, 0), 1.0) for p in planes)
        return np.stack([cv2.addWeighted(p, 1 + amount, s, -amount, 0) for p, s in zip(planes, soft, strict=True)])
    return planes


def other_calibration(rng: np.random.Generator, planes: Crop, gain: float) -> Crop:
    """Up to 25 HU more or less, and up to `gain` more or less of what is denser than lung."""
    factor, shift = rng.uniform(1 - gain, 1 + gain), rng.uniform(-25, 25)
    made: Crop = planes * np.float32(factor)
    made += np.float32(850 * (factor - 1) + shift)
    return made


def enhanced(crop: Crop, iodine_hu: float) -> Crop:
    """The crop with a contrast agent, in proportion to the share of tissue in a voxel.

    Parameters
    ----------
    iodine_hu : what it adds to blood; fat and bone take some, too.
    """
    made: Crop = (crop + np.float32(850)) * np.float32(iodine_hu / 890)
    np.clip(made, 0, iodine_hu, out=made)
    made += crop
    return made


def thick_slices(crop: Crop, thickness: float) -> Crop:
    """The crop as slices of `thickness` voxels would show it, back on its own grid."""
    z, y, x = crop.shape
    n = max(2, round(z / thickness))
    flat = cv2.resize(crop.reshape(z, y * x), (y * x, n), interpolation=cv2.INTER_AREA)
    made: Crop = cv2.resize(flat, (y * x, z), interpolation=cv2.INTER_LINEAR).reshape(z, y, x)
    return made
