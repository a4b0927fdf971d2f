"""Synthetic opacities in real lungs: what is dense and no nodule, for scans that hold little of it.

Pneumonia, oedema and fibrosis fill air over wide and ragged areas: as haze through which the vessels still show
(ground-glass), as nearly solid lung (consolidation), as a mesh of thickened septa. A detector that has not met them
marks their denser patches. Here they are drawn from smooth random fields; they are pictures of no disease, and serve
only as negatives for training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Lesion
from noduscope.data.crops import resize_linear
from noduscope.data.hosts import HostScan
from noduscope.data.implant import LUNG_HU, air_filled, near_in_plane
from noduscope.data.validation import KnownVolume
from noduscope.scan import HuVolume

_TISSUE_HU = 40.0
_RIM_VOXELS = 2
_SCALES_MM = ((1.0, 60.0), (0.35, 18.0), (0.25, 7.0))
"""Amplitude and grain of the fields whose sum says where opacities lie: the finer ones make their edges ragged."""
_LEAST_WIDTH_MM, _LEAST_MM3 = 20.0, 113_000.0
"""Of what is denser than its surroundings; the volume of a ball of 60 mm. Narrower or smaller, it could be called a
nodule or a mass, and to teach such a place as a mistake would teach the opposite of what is seen."""
_COARSE_MM, _LEVELS = 3.0, 12
"""Grid and steps of density on which that is looked for."""
_EDGE_REACH_MM = 20.0
_MESH_MM = 9.0
_CLEAR_MM, _FADE_MM = 4.0, 6.0
"""How far from a nodule's edge opacities stay, and over how much they begin."""


@dataclass(frozen=True, slots=True)
class Opacities:
    """How much of the lungs is opaque, and in what way.

    Parameters
    ----------
    extent : share of the lungs that they take, before narrow and small ones are taken away.
    haze, core : share of the air that they fill at the rim and in the middle.
    grain_mm, mottle : size and strength of what is uneven in that.
    mesh : what septa add to it.
    peripheral : how much they prefer the lung's edge.
    softness : width of their edge, in standard deviations of the field.
    """

    extent: float
    haze: float
    core: float
    grain_mm: float
    mottle: float
    mesh: float
    peripheral: float
    softness: float


def random_opacities(rng: np.random.Generator) -> Opacities:
    """From a few hazy patches to lungs that are half consolidated."""
    return Opacities(
        extent=float(rng.uniform(0.15, 0.5)),
        haze=float(rng.uniform(0.15, 0.4)),
        core=float(rng.uniform(0.4, 1.0)),
        grain_mm=float(rng.uniform(2.5, 6)),
        mottle=float(rng.uniform(0, 0.12)),
        mesh=float(rng.uniform(0, 0.3)) * float(rng.random() < 0.5),
        peripheral=float(rng.uniform(0, 2.5)),
        softness=float(rng.uniform(0.08, 0.5)),
    )


def opacified(rng: np.random.Generator, scan: HostScan | KnownVolume, how: Opacities) -> HuVolume:
    """The scan with opacities in its lungs, away from the lesions that count."""
    lung, spacing_mm = scan.lungs > 0, scan.geometry.spacing_xyz_mm[0]

    def smooth(grain_mm: float) -> NDArray[np.float32]:
        return _smooth(rng, lung.shape, max(1.0, grain_mm / spacing_mm))

    field = sum(np.float32(a) * smooth(mm) for a, mm in _SCALES_MM)
    field -= np.float32(how.peripheral) * _depth(lung, spacing_mm)
    sample = field[lung][:: max(1, int(lung.sum()) // 100_000)]
    above = (field - np.float32(np.quantile(sample, 1 - how.extent))) / np.float32(sample.std())
    del field
    share = np.clip(above / np.float32(how.softness) + np.float32(0.5), 0, 1)
    share *= np.float32(how.haze) + np.float32(how.core - how.haze) * np.clip(above, 0, 1)
    del above
    _flatten_lumps(share, lung, spacing_mm)
    # voxels at the lung's edge are partly air and would else stay dark
    share *= near_in_plane(lung, _RIM_VOXELS)
    uneven = np.float32(how.mottle) * smooth(how.grain_mm)
    if how.mesh:
        uneven += np.float32(how.mesh) * np.exp(-((smooth(_MESH_MM) / np.float32(0.12)) ** 2))
    share += uneven * np.clip(share / np.float32(how.haze), 0, 1)
    np.clip(share, 0, 1, out=share)
    for lesion in scan.lesions:
        if lesion.counts:
            _spare(share, lesion, spacing_mm)
    hu: HuVolume = np.rint(air_filled(scan.hu, share, np.float32(_TISSUE_HU - LUNG_HU))).astype(np.int16)
    return hu


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> NDArray[np.float32]:
    """A smooth random field of unit spread, `grain` voxels from one independent value to the next."""
    z, y, x = shape
    coarse = rng.standard_normal([int(n / grain) + 3 for n in shape], dtype=np.float32)
    planes = np.stack([cv2.resize(p, (x, y), interpolation=cv2.INTER_CUBIC) for p in coarse])
    made = cv2.resize(planes.reshape(len(coarse), y * x).T, (z, y * x), interpolation=cv2.INTER_CUBIC)
    made = np.ascontiguousarray(made.T).reshape(shape)
    made /= np.float32(made[::4, ::4, ::4].std())
    return made


def _depth(lung: NDArray[np.bool_], spacing_mm: float) -> NDArray[np.float32]:
    """How deep in the lung each voxel lies, in its axial plane: about a half at the edge, 1 in the middle."""
    edge = 2 * round(_EDGE_REACH_MM / spacing_mm) + 1
    return np.stack([cv2.blur(p, (edge, edge)) for p in lung.astype(np.float32)])


def _flatten_lumps(share: NDArray[np.float32], lung: NDArray[np.bool_], spacing_mm: float) -> None:
    """Take from the opacities, in place, what stands out of them and is narrow, or small within the lung."""
    from scipy import ndimage  # noqa: PLC0415  (a third of a second to import)

    size = tuple(max(1, round(n * spacing_mm / _COARSE_MM)) for n in share.shape)
    radius = int(_LEAST_WIDTH_MM / 2 / _COARSE_MM)
    axis = np.arange(-radius, radius + 1)
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= (radius + 0.5) ** 2
    # beyond the lung the fields go on, so that what lies along the pleura is not narrow
    coarse = ndimage.grey_opening(resize_linear(share, size), footprint=ball)
    coarse *= resize_linear(lung.astype(np.float32), size) > 0.5
    ceiling = np.zeros_like(coarse)
    step = float(coarse.max()) / _LEVELS
    for level in range(_LEVELS):
        label, _ = ndimage.label(coarse > level * step)
        large = np.bincount(label.ravel()) >= _LEAST_MM3 / _COARSE_MM**3
        large[0] = False
        ceiling[large[label]] = (level + 1) * step
    ceiling = ndimage.gaussian_filter(ndimage.grey_dilation(ceiling, 3), 0.8)  # ragged edges stay, no steps arise
    np.minimum(share, resize_linear(ceiling, share.shape), out=share)


def _spare(share: NDArray[np.float32], lesion: Lesion, spacing_mm: float) -> None:
    """Take the opacities away from around a lesion, in place."""
    reach = (lesion.diameter_mm / 2 + _CLEAR_MM + _FADE_MM) / spacing_mm
    box = tuple(slice(max(0, int(c - reach)), max(0, int(c + reach) + 2)) for c in lesion.centre_zyx)
    around = share[box]
    axes = [np.arange(s.start, s.start + n) - c for s, n, c in zip(box, around.shape, lesion.centre_zyx, strict=True)]
    away = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2) * spacing_mm
    around *= np.clip((away - lesion.diameter_mm / 2 - _CLEAR_MM) / _FADE_MM, 0, 1).astype(np.float32)
