"""A second scan of the same patient with a known truth: breathed differently, moved on the table, noisy anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from noduscope.findings import Candidate, Nodule, NoduleMask, ScanResult
from noduscope.lungs import Lungs
from noduscope.measure import measure_nodule
from noduscope.registration import Registration, RegistrationQuality
from noduscope.scan import Geometry, Scan, ScanSource

GOOD = RegistrationQuality(0.3, 1.2, 0.98, 0.95, 0.0, 0.9, 1.2)


@dataclass(frozen=True)
class Breath:
    """A smooth, invertible map between two breath holds: the bases sink, the front moves, the body is turned.

    ``low`` and ``high`` are opposite corners of the lungs' box, LPS mm.
    """

    low: np.ndarray
    high: np.ndarray
    depth_mm: float = 15.0
    turn_degrees: float = 3.0
    shift_mm: tuple[float, float, float] = (5.0, -8.0, 12.0)

    @classmethod
    def of(cls, lungs: Lungs, **how) -> Breath:
        where = lungs.geometry.to_world(np.argwhere(lungs.labels > 0))
        return cls(where.min(0), where.max(0), **how)

    def _turn(self):
        a = np.deg2rad(self.turn_degrees)
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def back(self, current):
        """Current to prior, LPS mm."""
        middle = (self.low + self.high) / 2
        p = (np.asarray(current, float) - middle - self.shift_mm) @ self._turn() + middle
        _, y, z = np.moveaxis((p - self.low) / (self.high - self.low), -1, 0)
        base = np.clip(1 - z, 0, 1.3)
        moved = np.zeros_like(p)
        moved[..., 2] = self.depth_mm * base**1.5
        moved[..., 1] = -0.25 * self.depth_mm * np.clip(1 - y, 0, 1.3) * base
        return p + moved + 1.5 * np.sin(p[..., [1, 2, 0]] / 40.0)

    def forward(self, prior):
        """Prior to current, LPS mm: `back` undone by iteration to 0.01 mm."""
        prior = np.asarray(prior, float)
        middle = (self.low + self.high) / 2
        found = (prior - middle) @ self._turn().T + middle + self.shift_mm
        for _ in range(300):
            found = found - 0.7 * ((self.back(found) - prior) @ self._turn().T)
        assert np.abs(self.back(found) - prior).max() < 0.01
        return found

    def growth(self, prior):
        """Local change of volume, current over prior, at prior points ``(n, 3)``."""
        steps = [(self.forward(prior + e) - self.forward(prior - e)) / 2 for e in np.eye(3)]
        return np.linalg.det(np.stack(steps, axis=-1))

    def scan(self, prior: Scan, noise_hu: float = 25.0, seed: int = 1) -> Scan:
        """The canonical prior scan as it looks after the breath, with noise of its own."""
        geometry, hu = prior.geometry, prior.hu.astype(np.float32)
        made = np.empty(prior.hu.shape, np.int16)
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[: made.shape[1], : made.shape[2]]
        for k, plane in enumerate(made):
            index = geometry.to_index(self.back(geometry.to_world(np.stack([rows * 0 + k, rows, columns], -1))))
            moved = map_coordinates(hu, np.moveaxis(index, -1, 0), order=1, cval=-1000.0)
            noise = gaussian_filter(rng.normal(size=moved.shape), 0.7)
            plane[:] = np.clip(moved + noise_hu / noise.std() * noise, -1024, 3071)
        return Scan(made, geometry, ScanSource(prior.source.series_uid + ".1", prior.source.reader))


@dataclass(frozen=True)
class GrowingBreath(Breath):
    """A breath during which one nodule grew: all within its radius swells alike, the lung around it gives way.

    ``factor`` is that of its volume, what breathing does to it aside; `growth` at its centre has both.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius_mm: float = 10.0
    factor: float = 2.0

    def back(self, current):
        """Current to prior, LPS mm."""
        place = super().back(current)
        away = place - self.centre
        r = np.linalg.norm(away, axis=-1, keepdims=True)
        swell = self.factor ** (1 / 3)
        edge, reach = swell * self.radius_mm, 2.5 * swell * self.radius_mm
        outer = self.radius_mm + (r - edge) * (reach - self.radius_mm) / (reach - edge)
        before = np.where(r <= edge, r / swell, np.where(r < reach, outer, r))
        return self.centre + away * (before / np.maximum(r, 1e-9))


def result_of(scan: Scan, marks, labels) -> ScanResult:
    """What detection would give at these ``(position, diameter)`` marks of a canonical scan."""
    nodules = []
    for number, (point, diameter) in enumerate(marks, start=1):
        place = tuple(float(p) for p in point)
        measured = measure_nodule(scan, place, diameter, labels)
        voxel = tuple(float(v) for v in scan.geometry.to_index(place))
        sizes = (measured.diameter_mm, measured.volume_mm3) if measured else (None, None)
        mask = NoduleMask(measured.mask.box, measured.mask.mask) if measured else None
        nodules.append(Nodule(number, 0.9, place, voxel, round(voxel[0]) + 1, None, *sizes, mask=mask))
    candidates = tuple(Candidate(n.position_xyz_mm, 0.9, 5.0) for n in nodules)
    return ScanResult(scan, labels, tuple(nodules), candidates, 0.5, ())


def shifted(shift=(0.0, 0.0, 0.0), quality: RegistrationQuality = GOOD) -> Registration:
    """A registration that only shifts."""
    grid = Geometry((2, 2, 2), (100.0, 100.0, 100.0))
    return Registration(np.eye(3), np.asarray(shift, float), np.zeros((2, 2, 2, 3), np.float32), grid, quality)
