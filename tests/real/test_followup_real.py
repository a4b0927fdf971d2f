"""Registration on a real scan that was made to breathe in a known way and given new noise."""

from __future__ import annotations

import numpy as np
import pytest

from helpers_followup import Breath
from noduscope.io.read import read_scan
from noduscope.lungs import find_lungs
from noduscope.preprocess import resample
from noduscope.registration import register_lungs
from noduscope.scan import Scan
from noduscope.settings import LungSettings, RegistrationSettings


@pytest.mark.slow
def test_vessels_of_a_real_scan_are_mapped_to_two_millimetres(shared_data):
    whole = read_scan(shared_data / "scans" / "LIDC-IDRI-0002").canonical()
    # 2 mm voxels: a quarter of the time, and the registration itself works on 2.5 mm
    hu, geometry = resample(whole.hu, whole.geometry, 2.0)
    prior = Scan(hu, geometry, whole.source)
    lungs = find_lungs(prior, LungSettings())
    breath = Breath.of(lungs, depth_mm=20.0)
    current = breath.scan(prior)
    registration = register_lungs(prior, current, lungs, find_lungs(current, LungSettings()), RegistrationSettings())
    dense = np.argwhere((lungs.on(geometry) > 0) & (hu > -400))
    points = geometry.to_world(dense[np.random.default_rng(0).choice(len(dense), 500, replace=False)])
    truth = breath.forward(points)
    error = np.linalg.norm(registration.map(points) - truth, axis=1)
    linear = np.linalg.norm(points @ registration.matrix.T + registration.shift_xyz_mm - truth, axis=1)
    assert linear.mean() > 2 * error.mean()
    assert error.mean() < 1.2
    assert np.percentile(error, 90) < 2.0
    assert not registration.warnings
    # what block matching finds afterwards is no more than what is truly left
    assert registration.quality.residual_mm < np.median(error) + 0.5
    np.testing.assert_allclose(registration.inverse(registration.map(points)), points, atol=0.1)
