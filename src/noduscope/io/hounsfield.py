"""From stored numbers to Hounsfield units, and the check that they are Hounsfield units.

A CT number is defined by air at -1000 HU and water at 0 HU. Scanners store nothing below -1024 on
purpose; what lies lower (-2000, -3024, …) marks pixels outside the reconstructed circle and is set
to `AIR_HU`, so that no later filter smears it into the body.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.scan import HuVolume

AIR_HU: Final = -1024
"""What padding becomes, and the lowest value that a scan holds."""
MAX_VOXELS: Final = 2_000_000_000
"""Largest volume that is read: 7600 slices of 512 × 512."""

_AIR_ABOVE: Final = -600
"""A chest CT has voxels below this (lung, or the air around the patient)."""
_BONE_BELOW: Final = 100
"""... and some above this (bone, or contrast)."""


def rescale_into(out: HuVolume, stored: NDArray[np.int16] | NDArray[np.uint16], slope: float, intercept: float) -> None:
    """Write ``stored * slope + intercept`` to ``out`` as int16 HU, nothing below `AIR_HU`.

    DICOM PS3.3 C.11.1.1.2 (Rescale Slope, Rescale Intercept). Rounds to the nearest integer and
    saturates at the ends of int16.
    """
    if slope == 1.0 and float(intercept).is_integer() and abs(intercept) < 2**15:
        shift = int(intercept)
        info = np.iinfo(stored.dtype)
        # clipped first, the sum fits int16, so that 16-bit wrap-around arithmetic gives it without a wider copy
        np.clip(stored, max(AIR_HU - shift, info.min), min(32767 - shift, info.max), out=out.view(stored.dtype))
        np.add(out, np.int16(shift), out=out)
        return
    np.copyto(out, round_to_hu(stored * slope + intercept))


def round_to_hu(values: NDArray[Any]) -> HuVolume:
    """Any real numbers as int16 HU: rounded, saturated, nothing below `AIR_HU`; NaN becomes `AIR_HU`."""
    if values.dtype == np.int16:
        raised: HuVolume = np.maximum(values, np.int16(AIR_HU))
        return raised
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, nan=AIR_HU, posinf=32767, neginf=AIR_HU))
    hu: HuVolume = np.clip(values, AIR_HU, 32767).astype(np.int16)
    return hu


def require_hu(hu: HuVolume, name: str) -> None:
    """Refuse a volume whose numbers cannot be Hounsfield units of a chest.

    Raises
    ------
    InputRefused
        When no voxel is as dark as lung or air, or none as bright as soft tissue: a windowed
        picture, a mask, an MR.
    """
    step = max(1, round((hu.size / 4e6) ** (1 / 3)))
    sample = hu[::step, ::step, ::step]
    low, high = int(sample.min()), int(sample.max())
    if low < _AIR_ABOVE and high > -200:
        return
    if step > 1:
        low, high = int(hu.min()), int(hu.max())
        if low < _AIR_ABOVE and high > -200:
            return
    if low == high:
        raise InputRefused(f"{name}: every voxel holds the same value ({low}); expected a chest CT")
    if low >= 0 and high <= 255:
        raise InputRefused(
            f"{name}: the values run from {low} to {high}, which is a windowed 8-bit picture or a mask; "
            "expected Hounsfield units: convert again from the original DICOM"
        )
    raise InputRefused(
        f"{name}: the values run from {low} to {high}; expected Hounsfield units of a chest "
        f"(air and lung below {_AIR_ABOVE}, tissue near 0): convert again from the original CT"
    )


def require_size(shape: tuple[int, ...], name: str) -> None:
    """Refuse a volume above `MAX_VOXELS` before memory is taken for it."""
    voxels = 1
    for n in shape:
        voxels *= int(n)
    if voxels > MAX_VOXELS:
        size = " × ".join(str(n) for n in shape)
        raise InputRefused(f"{name}: {size} voxels are more than any chest CT has (limit {MAX_VOXELS:,}): not read")
