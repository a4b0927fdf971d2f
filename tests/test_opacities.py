"""Synthetic opacities: air is filled in the lungs and nowhere else, tissue and nodules stay as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from noduscope.boxes import Lesion
from noduscope.data import synthetic
from noduscope.data.hosts import HostScan
from noduscope.data.opacities import Opacities, opacified, random_opacities
from noduscope.data.synthetic import opacified_hosts
from noduscope.scan import Geometry
from noduscope.settings import Settings

HALF = Opacities(extent=0.5, haze=0.3, core=0.9, grain_mm=4.0, mottle=0.05, mesh=0.2, peripheral=0.5, softness=0.2)
VOXEL_ML = 0.008
NODULE, OTHER = Lesion((48.0, 30.0, 48.0), 10.0), Lesion((48.0, 66.0, 48.0), 10.0, counts=False)


@pytest.fixture(scope="module")
def host() -> HostScan:
    """A block of lung in tissue, with a vessel through it, 2 mm voxels."""
    hu = np.full((96, 96, 96), 40, np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[10:-10, 10:-10, 10:-10] = 1
    hu[lungs > 0] = -850
    hu[:, 20:23, 20:23] = 40
    geometry = Geometry(hu.shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    return HostScan("Block", hu, lungs, geometry, (NODULE, OTHER))


def changed(host: HostScan, how: Opacities, seed: int = 0) -> np.ndarray:
    return opacified(np.random.default_rng(seed), host, how).astype(int) - host.hu


def test_only_air_is_filled_and_by_less_than_tissue_has(host: HostScan) -> None:
    added = changed(host, HALF)
    assert added.min() == 0
    assert added[host.hu == 40].max() == 0
    assert (host.hu + added).max() <= 41
    # the wanted half of the lung, less the patches that are too small and what lies by the nodule
    assert 0.3 < (added[host.lungs > 0] > 50).mean() < 0.6


def test_a_nodule_is_spared_and_what_counts_neither_way_is_not(host: HostScan) -> None:
    full = dataclasses.replace(HALF, extent=0.98, haze=0.6, mottle=0.0, mesh=0.0)
    added = changed(host, full)
    index = np.indices(host.hu.shape)
    away = {k: np.linalg.norm(index - np.reshape(k.centre_zyx, (3, 1, 1, 1)), axis=0) * 2.0 for k in (NODULE, OTHER)}
    assert added[away[NODULE] < 5 + 4].max() == 0
    assert added[away[OTHER] < 5].min() > 200


def test_more_extent_is_more_and_core_is_denser(host: HostScan) -> None:
    little, much = (np.mean(changed(host, dataclasses.replace(HALF, extent=e)) > 50) for e in (0.2, 0.6))
    assert much > 1.5 * little
    thin, dense = (changed(host, dataclasses.replace(HALF, core=c)).max() for c in (0.4, 1.0))
    assert dense > thin + 200


@pytest.mark.parametrize("seed", range(6))
def test_nothing_stands_out_that_could_be_called_a_nodule_or_a_mass(host: HostScan, seed: int) -> None:
    how = random_opacities(np.random.default_rng(seed))
    added = changed(dataclasses.replace(host, lesions=()), dataclasses.replace(how, mottle=0.0, mesh=0.0), seed)
    for above_hu in range(50, 850, 100):
        lumps, bits = (_smaller(added > above_hu, ml) for ml in (60, 0.5))
        patches = added > max(0, above_hu - 80)
        patches &= ~_smaller(patches, 60)
        # a lump of 10 mm and more hardly stands out of the patch that it lies in; smaller bits are its ragged edge
        assert not (lumps & ~bits & ~patches).any()
        assert not (bits & ~ndimage.binary_dilation(patches, iterations=6)).any()


def _smaller(patches: np.ndarray, ml: float) -> np.ndarray:
    """The patches that are smaller than that."""
    label, _ = ndimage.label(patches)
    small: np.ndarray = patches & (np.bincount(label.ravel()) * VOXEL_ML < ml)[label]
    return small


def test_small_patches_are_left_out(host: HostScan) -> None:
    # one two-hundredth of the lung is no patch of 113 ml
    assert changed(host, dataclasses.replace(HALF, extent=0.005)).max() == 0


def test_the_same_seed_gives_the_same_opacities(host: HostScan) -> None:
    made = [random_opacities(np.random.default_rng(s)) for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert np.array_equal(changed(host, HALF, 3), changed(host, HALF, 3))
    assert not np.array_equal(changed(host, HALF, 3), changed(host, HALF, 4))


def test_copies_are_made_once_under_a_name_of_their_own(host: HostScan, tmp_path: Path, monkeypatch) -> None:
    (copy,) = opacified_hosts([host, host], 1, tmp_path, Settings())
    assert copy.name == "Block+opacities"
    assert copy.lesions == host.lesions
    assert not np.array_equal(copy.hu, host.hu)
    monkeypatch.setattr(synthetic, "opacified", lambda *_: pytest.fail("made again"))
    (again,) = opacified_hosts([host], 1, tmp_path, Settings())
    assert np.array_equal(again.hu, copy.hu)
    assert opacified_hosts([host], 0, tmp_path, Settings()) == []
