"""Registration: maps both ways, its figures, and its error on a chest that breathed in a known way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers_followup import GOOD, Breath, result_of, shifted
from noduscope.errors import InputRefused
from noduscope.growth import compare
from noduscope.lungs import Lungs, find_lungs
from noduscope.phantom import PhantomSettings, make_phantom
from noduscope.registration import Registration, jacobian_determinant, register_lungs
from noduscope.scan import Geometry
from noduscope.settings import GrowthSettings, LungSettings, RegistrationSettings

DAYS, DOUBLING_DAYS = 120, 45
"""The second nodule's volume grows by 2^(120/45) = 6.35."""
COARSE = RegistrationSettings(spacing_mm=3.0, iterations=(40, 25, 10))


# --- maps -------------------------------------------------------------------------------------------


def turned(amplitude_mm: float) -> Registration:
    """A turn, a shift and a wave."""
    grid = Geometry((20, 20, 20), (5.0, 5.0, 5.0), (-50.0, -50.0, -50.0))
    world = grid.to_world(np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1))
    wave = (amplitude_mm * np.sin(world[..., [1, 2, 0]] / 12.0)).astype(np.float32)
    matrix = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    return Registration(matrix, np.array([7.0, -3.0, 20.0]), wave, grid, GOOD)


@pytest.mark.parametrize("amplitude", [0.0, 4.0, 10.0])
def test_inverse_undoes_map(amplitude):
    registration = turned(amplitude)
    points = np.random.default_rng(0).uniform(-70, 70, (200, 3))
    np.testing.assert_allclose(registration.inverse(registration.map(points)), points, atol=0.1)


def test_map_turns_after_it_deforms():
    registration = turned(4.0)
    # at the grid's own point (-5, 10, 0): 4 sin of (y, z, x) / 12 = (2.9607, 0, -1.6189)
    x, y, z = -5.0 + 2.9607, 10.0, -1.6189
    expected = (0.96 * x - 0.28 * y + 7, 0.28 * x + 0.96 * y - 3, z + 20)
    np.testing.assert_allclose(registration.map((-5.0, 10.0, 0.0)), expected, atol=1e-3)


def test_jacobian_of_a_stretch():
    x = np.arange(6.0) * 2.0
    field = np.zeros((6, 6, 6, 3), np.float32)
    field[..., 0] = 0.1 * x
    field[..., 2] = -0.2 * x[:, None, None]
    # (1 + 0.1) * 1 * (1 - 0.2)
    np.testing.assert_allclose(jacobian_determinant(field, 2.0), 0.88, atol=1e-5)


# --- a breathing phantom ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def breathed():
    """Two scans of a phantom: the second nodule grows, the others stay; their places in both."""
    spacing = (2.0, 2.0, 2.5)
    before = make_phantom(PhantomSettings(spacing_xyz_mm=spacing))
    solid = [n for n in before.nodules if n.type == "solid" and n.diameter_mm >= 7]
    grown = replace(solid[1], diameter_mm=solid[1].diameter_mm * 2 ** (DAYS / DOUBLING_DAYS / 3))
    now = make_phantom(PhantomSettings(spacing_xyz_mm=spacing, noise_hu=0.0, nodules=(solid[0], grown, *solid[2:])))
    lungs = find_lungs(before.scan, LungSettings())
    breath = Breath.of(lungs)
    after = breath.scan(now.scan)
    return before.scan, after, lungs, find_lungs(after, LungSettings()), breath, solid, grown


@pytest.fixture(scope="module")
def registered(breathed):
    prior, current, prior_lungs, current_lungs, *_ = breathed
    return register_lungs(prior, current, prior_lungs, current_lungs, COARSE)


def places(nodules):
    return np.array([n.position_xyz_mm for n in nodules])


def test_nodules_are_mapped_to_two_millimetres(breathed, registered):
    *_, breath, solid, _ = breathed
    truth = breath.forward(places(solid))
    error = np.linalg.norm(registered.map(places(solid)) - truth, axis=1)
    assert error.max() < 2.0
    # nothing of it was there before
    assert np.linalg.norm(places(solid) - truth, axis=1).max() > 15.0


def test_a_good_registration_says_so(registered):
    quality = registered.quality
    assert not registered.warnings
    assert quality.residual_mm < 1.0
    assert quality.overlap > 0.95
    assert quality.folded == 0.0
    assert 0.3 < quality.jacobian_low < 1.0 < quality.jacobian_high < 3.0


def test_another_chest_is_called_poor(breathed):
    prior, _, prior_lungs, *_ = breathed
    mirrored = replace(prior, hu=np.ascontiguousarray(prior.hu[:, :, ::-1]))
    stiff = RegistrationSettings(spacing_mm=4.0, iterations=(0, 0, 0))
    poor = register_lungs(prior, mirrored, prior_lungs, find_lungs(mirrored, LungSettings()), stiff)
    assert poor.quality.correlation < 0.5
    assert [w.code for w in poor.warnings] == ["registration-poor"]


def test_the_same_input_gives_the_same_map(breathed):
    prior, current, prior_lungs, current_lungs, *_ = breathed
    quick = RegistrationSettings(spacing_mm=5.0, iterations=(5, 5, 2))
    one, two = (register_lungs(prior, current, prior_lungs, current_lungs, quick) for _ in range(2))
    np.testing.assert_array_equal(one.displacement_xyz_mm, two.displacement_xyz_mm)
    np.testing.assert_array_equal(one.matrix, two.matrix)


def test_doubling_time_lies_within_its_interval(breathed, registered):
    prior, current, prior_lungs, current_lungs, breath, solid, grown = breathed
    before = result_of(prior, [(n.position_xyz_mm, n.diameter_mm) for n in solid], prior_lungs.on(prior.geometry))
    sizes = [n.diameter_mm for n in (solid[0], grown, *solid[2:])]
    marks = list(zip(breath.forward(places(solid)), sizes, strict=True))
    after = result_of(current, marks, current_lungs.on(current.geometry))
    made = compare(before, after, registered, DAYS, GrowthSettings())
    assert len(made.rows) == len(solid)
    assert all(r.prior.nodule_id == r.current.nodule_id for r in made.rows)
    row = next(r for r in made.rows if r.prior.nodule_id == 2)
    # the breath itself changes volumes a little
    stretch = float(breath.growth(places(solid[1:2]))[0])
    truth = DAYS / (DAYS / DOUBLING_DAYS + np.log2(stretch))
    assert row.status == "grown"
    assert row.doubling.low < truth < row.doubling.high
    assert "grown" not in {r.status for r in made.rows if r is not row}


def test_lungs_that_are_not_there_are_refused(breathed):
    prior, current, prior_lungs, *_ = breathed
    empty = Lungs(np.zeros_like(prior_lungs.labels), prior_lungs.geometry)
    with pytest.raises(InputRefused, match="no lungs"):
        register_lungs(prior, current, prior_lungs, empty, COARSE)


def test_a_shift_alone():
    np.testing.assert_allclose(shifted((1.0, 2.0, 3.0)).map((10.0, 0.0, 0.0)), (11.0, 2.0, 3.0))
