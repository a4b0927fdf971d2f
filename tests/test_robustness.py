"""The altered volumes are what they are called, and their lesions stay with the tissue."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras")

from bench.robustness import CHANGES

from noduscope.boxes import Lesion
from noduscope.data.validation import KnownVolume
from noduscope.scan import Geometry

CENTRE = (14, 20, 33)


def volume() -> KnownVolume:
    hu = np.full((40, 44, 48), -850, np.int16)
    z, y, x = (g - c for g, c in zip(np.ogrid[:40, :44, :48], CENTRE, strict=True))
    hu[z**2 + y**2 + x**2 <= 16] = 40
    lesion = Lesion(tuple(float(c) for c in CENTRE), 8.0)
    return KnownVolume("v", hu, np.ones(hu.shape, np.uint8), Geometry(hu.shape), (lesion,), ("solid",), ("free",))


@pytest.mark.parametrize("name", CHANGES)
def test_the_lesion_stays_where_the_tissue_is(name: str):
    changed = CHANGES[name](volume())
    assert changed.hu.dtype == np.int16
    assert changed.hu.shape == changed.lungs.shape
    tissue = np.argwhere(changed.hu > -450).mean(axis=0)
    assert np.linalg.norm(tissue - changed.lesions[0].centre_zyx) < 0.8


@pytest.mark.parametrize(("name", "axes"), [("left and right exchanged", (2,)), ("upside down", (0,))])
def test_mirrored_is_mirrored(name: str, axes: tuple[int, ...]):
    assert np.array_equal(CHANGES[name](volume()).hu, np.flip(volume().hu, axes))


def test_noise_and_contrast_are_as_strong_as_told():
    plain = volume().hu.astype(float)
    noise = CHANGES["a quarter of the dose"](volume()).hu - plain
    assert noise.std() == pytest.approx(40.0, rel=0.15)
    brighter = CHANGES["contrast agent"](volume()).hu - plain
    assert brighter[CENTRE] == pytest.approx(150, abs=1)
    assert brighter[0, 0, 0] == 0


def test_thick_slices_blur_along_z_alone():
    changed = CHANGES["slices of 5 mm"](volume()).hu
    z, y, x = CENTRE
    assert changed[z - 6, y, x] > -850  # 6 mm below a nodule of 4 mm radius
    assert changed[z, y - 6, x] == -850
