"""The large parts of the synthetic chest: body, bones, mediastinum, diaphragm, lungs.

Each part is a signed distance field (mm, negative inside) on a coarse grid of about 2 mm. Such a
field is smooth, so it can be interpolated to any voxel size and turned into partial volume there;
that is far cheaper than drawing each organ at full resolution. The numbers below are millimetres in
LPS with the carina near the origin, after the proportions of an adult of average build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noduscope.scan import Geometry, Triple

Field: TypeAlias = NDArray[np.float32]
Knots: TypeAlias = tuple[tuple[float, float], ...]
Path: TypeAlias = Sequence[tuple[float, float, float]]

FAT_HU = -100.0
SOFT_HU = 42.0
FAR_MM = 60.0

# (z, value) knots; between them the profile is linear and then rounded over ±14 mm
_CAVITY_A: Knots = ((-190, 120), (-100, 128), (-60, 127), (0, 120), (40, 106), (70, 86), (100, 66), (120, 56))
_CAVITY_B: Knots = ((-190, 80), (-100, 88), (-60, 88), (0, 82), (40, 67), (70, 52), (100, 38), (120, 32))
_CAVITY_Y: Knots = ((-190, -2), (-60, -6), (0, -4), (40, 6), (70, 13), (100, 18), (120, 20))
_BODY_A: Knots = ((-190, 150), (-60, 157), (0, 157), (50, 163), (100, 186), (120, 190))
_BODY_B: Knots = ((-190, 108), (-60, 113), (0, 107), (50, 93), (100, 76), (120, 68))
_BODY_Y: Knots = ((-190, 0), (-60, -2), (0, 0), (50, 8), (100, 18), (120, 22))
_SPINE_Y: Knots = ((-190, 42), (-100, 50), (-30, 52), (20, 48), (70, 38), (100, 28), (120, 22))
_COLUMN_A: Knots = ((-190, 20), (-60, 14), (0, 17), (50, 27), (80, 31), (120, 36))

_VERTEBRA_PITCH_MM = 24.0
_RIB_PAIRS = 12
_FIRST_RIB_Z_MM = 90.0

_GREAT_VESSELS: tuple[tuple[Path, tuple[float, ...]], ...] = (
    # aorta: root, arch, descending
    (
        (
            (4, -22, -42),
            (-13, -32, -12),
            (-12, -28, 22),
            (-2, -12, 40),
            (14, 14, 42),
            (24, 36, 20),
            (23, 41, -40),
            (15, 42, -110),
            (4, 36, -190),
        ),
        (16, 15.5, 15, 14, 13, 12.5, 12, 11.5, 10),
    ),
    # pulmonary trunk, right and left pulmonary artery
    (
        ((20, -40, -32), (19, -30, -10), (14, -12, -3), (-6, -6, -5), (-34, 1, -9), (-44, 4, -14)),
        (14, 13, 11, 10, 9, 7),
    ),
    (((19, -30, -10), (22, -12, 3), (30, 6, 8), (38, 14, 2), (43, 14, -8)), (13, 12, 10.5, 9, 7)),
    # superior vena cava, brachiocephalic vessels, left carotid and subclavian artery
    (((-27, -12, 60), (-27, -15, 20), (-25, -18, -34)), (8.5, 8.5, 9)),
    (((46, -8, 96), (14, -22, 62), (-24, -14, 46)), (6, 6.5, 8)),
    (((-46, -6, 100), (-30, -12, 66), (-27, -13, 48)), (7, 7, 8)),
    (((-9, -16, 44), (-13, -4, 70), (-22, 4, 120)), (6.5, 6, 5.5)),
    (((4, -4, 46), (12, 2, 80), (20, 4, 120)), (5, 4.5, 4)),
    (((15, 14, 46), (24, 16, 80), (44, 6, 104)), (5.5, 5, 4.5)),
    # oesophagus
    (((2, 27, 120), (5, 29, 30), (4, 28, 0), (9, 24, -70), (14, 18, -120)), (6.5, 6.5, 6.5, 7, 8)),
    # inferior vena cava
    (((-22, 4, -60), (-24, 12, -110), (-20, 18, -190)), (12, 11, 11)),
)
_TRACHEA: Path = ((1, 2, 130), (0, 6, 80), (-1, 13, 40), (-1, 15, 3))
_HEART: tuple[tuple[Triple, Triple], ...] = (
    ((-20, -22, -56), (28, 31, 38)),  # right atrium
    ((3, 8, -42), (36, 19, 24)),  # left atrium
    ((12, -42, -62), (44, 30, 40)),  # right ventricle
)
_LEFT_VENTRICLE = ((26.0, -26.0, -70.0), (52.0, 36.0, 36.0))
_APEX_DIRECTION = np.array([0.74, -0.48, -0.47])


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The chest on a coarse grid; distances in mm, negative inside, float32 ``(z, y, x)``.

    Parameters
    ----------
    geometry : the coarse grid; shares its outer edges with the scan's.
    body, lungs, bone : signed distances to the skin, the pleura, the bone surface.
    tissue_hu : HU of what is neither lung nor bone (fat, muscle, organs).
    """

    geometry: Geometry
    body: Field
    lungs: Field
    bone: Field
    tissue_hu: Field

    def lung_distance(self, position_xyz_mm: NDArray[Any]) -> NDArray[np.float32]:
        """Signed distance of points ``(n, 3)`` to the pleura, mm (trilinear); negative in the lungs."""
        shape = np.asarray(self.lungs.shape)
        index = np.clip(self.geometry.to_index(position_xyz_mm), 0, shape - 1)
        low = np.minimum(index.astype(int), shape - 2)
        part = (index - low).astype(np.float32)
        made = np.zeros(len(index), np.float32)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, part, 1 - part), axis=1)
            made += weight * self.lungs[tuple((low + corner).T)]
        return made


def grid_axes(geometry: Geometry) -> tuple[Field, Field, Field]:
    """World x, y, z of an axis-aligned grid, each shaped to broadcast to ``(z, y, x)``."""
    (nz, ny, nx), (sx, sy, sz), (ox, oy, oz) = geometry.shape_zyx, geometry.spacing_xyz_mm, geometry.origin_xyz_mm
    x = (ox + sx * np.arange(nx, dtype=np.float32))[None, None, :]
    y = (oy + sy * np.arange(ny, dtype=np.float32))[None, :, None]
    z = (oz + sz * np.arange(nz, dtype=np.float32))[:, None, None]
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def build_anatomy(geometry: Geometry, coarse_mm: float = 2.0) -> Anatomy:
    """The chest's large parts for a scan of this geometry."""
    extent = geometry.extent_zyx_mm
    nz, ny, nx = (max(2, round(e / coarse_mm)) for e in extent)
    coarse = geometry.resized((nz, ny, nx))
    x, y, z = axes = grid_axes(coarse)
    body = _superellipse(axes, (_BODY_A, _BODY_B, _BODY_Y), 2.5)
    cavity = _superellipse(axes, (_CAVITY_A, _CAVITY_B, _CAVITY_Y), 2.3)
    organs = _organs(coarse, axes)
    diaphragm = _diaphragm(axes)
    # the lung stops at the mediastinal pleura: organs with the fat that rounds them off
    mediastinum = _smooth_min(_smooth_min(organs - 2.5, _column(axes), 9.0), _septum(axes), 6.0)
    # each apex is a dome of its own, beside the midline
    dome = _ellipsoid((np.abs(x), y, z), ((46.0, 8.0, 20.0), (96.0, 110.0, 78.0)), half="upper")
    lungs = _smooth_max(_smooth_max(cavity, dome, 14.0), -mediastinum, 7.0)
    lungs = _unit_slope(_smooth_max(lungs, diaphragm, 4.0), coarse)
    bone, cartilage = _bones(coarse, axes)
    tissue = _tissue((x, y, z), {"body": body, "cavity": cavity, "organs": organs, "diaphragm": diaphragm})
    tissue += (95.0 - tissue) * _inside(cartilage, 2.0)
    return Anatomy(coarse, body, lungs, bone, tissue)


def tube_points(path: Path, radii: Sequence[float], step_mm: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points ``(n, 3)`` and radii along a smooth (Catmull-Rom) curve through `path`."""
    p = np.asarray(path, dtype=float)
    ends = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    made, widths = [], []
    for i, (r0, r1) in enumerate(pairwise(radii)):
        a, b, c, d = ends[i : i + 4]
        n = max(2, int(np.ceil(np.linalg.norm(c - b) / step_mm)))
        t = (np.arange(n) / n)[:, None]
        made.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
        widths.append(r0 + (r1 - r0) * t[:, 0])
    return np.vstack([*made, p[-1:]]), np.concatenate([*widths, [radii[-1]]])


def trachea() -> tuple[NDArray[Any], NDArray[Any]]:
    """Centreline and lumen radius of the trachea down to the carina."""
    return tube_points(_TRACHEA, (8.2, 8.4, 8.6, 8.8))


def carve_tube(
    field: Field, geometry: Geometry, points: NDArray[Any], radii: NDArray[Any], z_scale: float = 1.0
) -> None:
    """Join a tube to a distance field in place; `z_scale` > 1 makes it taller than wide."""
    stretch = np.array([z_scale, 1.0, 1.0])
    spacing = np.asarray(geometry.spacing_zyx_mm)
    index = geometry.to_index(points)
    for centre, radius in zip(index, radii, strict=True):
        reach = (radius + 8.0) * stretch / spacing
        low = np.maximum(np.floor(centre - reach).astype(int), 0)
        high = np.minimum(np.ceil(centre + reach).astype(int) + 1, field.shape)
        if np.any(high <= low):
            continue
        squares = [
            ((np.arange(lo, hi, dtype=np.float32) - c) * (s / k)) ** 2
            for lo, hi, c, s, k in zip(low, high, centre, spacing, stretch, strict=True)
        ]
        squared = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
        box = field[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.minimum(box, np.sqrt(squared, dtype=np.float32) - np.float32(radius), out=box)


def profile(z: NDArray[Any], knots: Knots) -> Field:
    """A smooth curve through (z, value) knots."""
    zs, values = (np.array(k, dtype=float) for k in zip(*knots, strict=True))
    offsets = np.linspace(-14, 14, 13)
    return np.asarray(sum(np.interp(z + o, zs, values) for o in offsets) / len(offsets), np.float32)


def _inside(distance: NDArray[Any], width_mm: float) -> Field:
    """Share of a voxel of this width that is inside, 0 to 1."""
    return np.asarray(np.clip(0.5 - distance / width_mm, 0, 1), np.float32)


def _smooth_min(a: Field, b: Field, k: float) -> Field:
    """Union of two distance fields, rounded over about k mm (polynomial smooth minimum)."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(0.25 / k), np.float32)


def _smooth_max(a: Field, b: Field, k: float) -> Field:
    """Intersection of two distance fields, rounded over about k mm."""
    return -_smooth_min(-a, -b, k)


def _unit_slope(field: Field, geometry: Geometry) -> Field:
    """A field with the same zero surface whose slope there is 1, so that its values are millimetres."""
    slopes = np.gradient(field, *geometry.spacing_zyx_mm)
    steepness = np.sqrt(sum(s * s for s in slopes))
    return np.asarray(field / np.clip(steepness, 0.4, 2.5), np.float32)


def _superellipse(axes: tuple[Field, Field, Field], knots: tuple[Knots, Knots, Knots], power: float) -> Field:
    """Distance to a stack of superellipses whose half axes and y centre follow profiles of z."""
    x, y, z = axes
    a, b, cy = (profile(z, k) for k in knots)
    u, v = np.abs(x / a), np.abs((y - cy) / b)
    total = u**power + v**power + np.float32(1e-6)
    value = total ** np.float32(1 / power)
    # |gradient| of the implicit function, so that value - 1 becomes millimetres
    slope = value / total * np.sqrt((u ** (power - 1) / a) ** 2 + (v ** (power - 1) / b) ** 2)
    return np.asarray(np.clip((value - 1) / np.maximum(slope, 1e-3), -FAR_MM, FAR_MM), np.float32)


def _ellipsoid(axes: tuple[Field, Field, Field], ball: tuple[Triple, Triple], half: str = "") -> Field:
    """Distance to an ellipsoid (centre, half axes); with half "upper" it goes on downwards as a cylinder."""
    (x, y, z), (centre, radii) = axes, ball
    dz = z - centre[2]
    if half == "upper":
        dz = np.maximum(dz, 0)
    scaled = [(x - centre[0]) / radii[0], (y - centre[1]) / radii[1], dz / radii[2]]
    k0 = np.sqrt(sum(s * s for s in scaled))
    k1 = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return np.asarray(np.clip(k0 * (k0 - 1) / np.maximum(k1, 1e-4), -FAR_MM, FAR_MM), np.float32)


def _rise(values: Field, middle: float, width: float) -> Field:
    """A smooth step from 0 to 1."""
    return np.asarray(0.5 + 0.5 * np.tanh((values - np.float32(middle)) / np.float32(width)), np.float32)


def _organs(geometry: Geometry, axes: tuple[Field, Field, Field]) -> Field:
    """Heart, great vessels and oesophagus."""
    x, y, z = axes
    main = _APEX_DIRECTION / np.linalg.norm(_APEX_DIRECTION)
    side = np.cross(main, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    up = np.cross(side, main)
    centre, radii = _LEFT_VENTRICLE
    px, py, pz = x - centre[0], y - centre[1], z - centre[2]
    rotated = tuple(px * float(v[0]) + py * float(v[1]) + pz * float(v[2]) for v in (main, side, up))
    heart = _ellipsoid((rotated[0], rotated[1], rotated[2]), ((0.0, 0.0, 0.0), radii))
    for ball in _HEART:
        heart = _smooth_min(heart, _ellipsoid(axes, ball), 10.0)
    vessels = np.full(geometry.shape_zyx, FAR_MM, np.float32)
    for path, widths in _GREAT_VESSELS:
        carve_tube(vessels, geometry, *tube_points(path, widths, 2.5))
    return _smooth_min(heart, vessels, 4.0)


def _column(axes: tuple[Field, Field, Field]) -> Field:
    """The mediastinum's core from the spine to the trachea and the thymus."""
    x, y, z = axes
    back = profile(z, _SPINE_Y) + 24
    front = profile(z, ((-190, -30), (-60, -10), (0, -14), (40, -34), (80, -30), (120, -14)))
    a, b, cy = profile(z, _COLUMN_A), (back - front) / 2, (back + front) / 2
    k0 = np.sqrt((x / a) ** 2 + ((y - cy) / b) ** 2)
    k1 = np.sqrt((x / a**2) ** 2 + ((y - cy) / b**2) ** 2)
    column = k0 * (k0 - 1) / np.maximum(k1, 1e-4)
    spine = np.sqrt((x / 1.12) ** 2 + (y - profile(z, _SPINE_Y) - 4) ** 2) - 19
    return _smooth_min(column.astype(np.float32), spine.astype(np.float32), 6.0)


def _septum(axes: tuple[Field, Field, Field]) -> Field:
    """The anterior junction: the thin fat between the lungs behind the sternum, wider above and below."""
    x, y, z = axes
    width = profile(z, ((-190, 30), (-110, 16), (-60, 5), (0, 3.0), (30, 5), (60, 20), (120, 40)))
    front = profile(z, _CAVITY_Y) - profile(z, _CAVITY_B)
    fan = np.maximum(0, 22 - (y - front)) * 0.22
    return np.asarray(np.maximum(np.abs(x - 1.5) - width - fan, y - 10), np.float32)


def _diaphragm(axes: tuple[Field, Field, Field]) -> Field:
    """Distance to the two domes; negative above them."""
    x, y, z = axes
    top = -94 - 6 * np.tanh(x / 25)
    r2 = ((np.abs(x) - 56) / 80) ** 2 + ((y + 16) / 94) ** 2
    height = top - 14 * r2 - 34 * r2**2 - 0.16 * (y + 16)
    steep = np.sqrt(1 + (0.9 * np.minimum(r2, 1.5)) ** 2)
    return np.asarray(np.clip((height - z) / steep, -FAR_MM, FAR_MM), np.float32)


def _rib_path(number: int, side: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bony part and cartilage of one rib as points ``(n, 3)``, from the spine forwards."""
    back_z = _FIRST_RIB_Z_MM - _VERTEBRA_PITCH_MM * (number - 1)
    reach = 0.97 if number <= 7 else 0.97 - 0.12 * (number - 7)
    phi = np.linspace(0.13, reach, 90) * np.pi
    drop = np.interp(number, [1, 3, 7, 12], [26, 48, 62, 56])
    z = back_z + 4 - drop * (1 - np.cos(phi * 0.93)) / 2 - 8 * np.sin(phi) ** 2
    # the cartilages rise again to meet the sternum
    z += np.interp(number, [1, 4, 7, 12], [0, 6, 34, 30]) * np.clip(phi / np.pi - 0.74, 0, None) / 0.23
    a, b, cy = (profile(z, k) for k in (_CAVITY_A, _CAVITY_B, _CAVITY_Y))
    s, c = np.abs(np.sin(phi)) ** (2 / 2.3), np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** (2 / 2.3)
    points = np.stack([side * (a + 4.2) * s, cy + (b + 4.2) * c, z], axis=1)
    bony = phi < np.pi * min(0.76, reach)
    return points[bony], points[~bony]


def _bones(geometry: Geometry, axes: tuple[Field, Field, Field]) -> tuple[Field, Field]:
    """Distance to bone (spine, ribs, sternum, clavicles, scapulae) and to the rib cartilages."""
    x, y, z = axes
    ribs = np.full(geometry.shape_zyx, FAR_MM, np.float32)
    cartilage = ribs.copy()
    for side in (-1, 1):
        for number in range(1, _RIB_PAIRS + 1):
            bony, soft = _rib_path(number, side)
            carve_tube(ribs, geometry, bony, np.full(len(bony), 3.1), z_scale=1.9)
            carve_tube(cartilage, geometry, soft, np.full(len(soft), 3.4), z_scale=1.7)
        clavicle = tube_points(
            [(side * 19, -47, 64), (side * 60, -54, 78), (side * 110, -36, 92), (side * 165, -6, 104)], (6.5, 5, 5, 6)
        )
        carve_tube(ribs, geometry, *clavicle)
        _carve_processes(ribs, geometry, side)
    plate = (np.abs(x) - 110) * 0.83 - (y - 60) * 0.55, (np.abs(x) - 110) * 0.55 + (y - 60) * 0.83, z - 44
    scapula = _ellipsoid((plate[0] + 0 * z, plate[1] + 0 * z, plate[2]), ((0.0, 0.0, 0.0), (36.0, 3.6, 62.0)))
    bone = np.minimum(np.minimum(ribs, scapula), np.minimum(_spine(axes), _sternum(axes)))
    return bone, cartilage


def _carve_processes(field: Field, geometry: Geometry, side: int) -> None:
    """Transverse and spinous processes of each vertebra."""
    for number in range(_RIB_PAIRS + 1):
        z = _FIRST_RIB_Z_MM + 4 - _VERTEBRA_PITCH_MM * (number - 0.5)
        y = float(profile(np.array([z]), _SPINE_Y)[0])
        carve_tube(field, geometry, *tube_points([(side * 11, y + 20, z), (side * 32, y + 29, z + 5)], (4.2, 3.4)))
        if side > 0:
            carve_tube(field, geometry, *tube_points([(0, y + 31, z), (0, y + 50, z - 14)], (3.2, 3.4)))


def _spine(axes: tuple[Field, Field, Field]) -> Field:
    """Vertebral bodies with end plates and the arch round the canal; discs are left out."""
    x, y, z = axes
    cy = profile(z, _SPINE_Y)
    within = np.mod(z - _FIRST_RIB_Z_MM, _VERTEBRA_PITCH_MM) - _VERTEBRA_PITCH_MM / 2
    waist = 1.6 * np.cos(np.pi * within / _VERTEBRA_PITCH_MM) ** 2
    body = np.sqrt((x / 1.22) ** 2 + (y - cy) ** 2) - (14.2 - waist)
    body = _smooth_max(body.astype(np.float32), (np.abs(within) - 9.6).astype(np.float32) + 0 * body, 2.5)
    canal = np.sqrt(x**2 + (y - cy - 22) ** 2)
    arch = np.maximum(np.maximum(canal - 12.5, 8.8 - canal), np.abs(within) - 8.5)
    # nothing but the body in front of the canal: the arch ends at the pedicles
    return np.asarray(np.minimum(np.maximum(body, 8.8 - canal), arch), np.float32)


def _sternum(axes: tuple[Field, Field, Field]) -> Field:
    """Manubrium, body and a gap between them."""
    x, y, z = axes
    cy = profile(z, _CAVITY_Y) - profile(z, _CAVITY_B) - 6.5
    width = profile(z, ((-190, 8), (-100, 10), (-60, 17), (0, 14), (25, 17), (50, 27), (70, 24)))
    plate = np.maximum(np.abs(x) - width, np.abs(y - cy) - 5.2 + 0.0025 * x**2)
    ends = np.maximum(np.abs(z + 18) - 84, 2.0 - np.abs(z - 24))
    return _smooth_max(plate.astype(np.float32), ends.astype(np.float32) + 0 * plate, 3.0)


def _tissue(axes: tuple[Field, Field, Field], parts: dict[str, Field]) -> Field:
    """HU of fat, muscle and organs on the coarse grid."""
    x, y, z = axes
    cavity, diaphragm, body = parts["cavity"], parts["diaphragm"], parts["body"]
    hu = np.full(cavity.shape, FAT_HU, np.float32)
    cy = profile(z, _SPINE_Y)
    # paraspinal, pectoral and shoulder muscles over the intercostal layer
    thickness = 9.5 + 13.0 * _rise(y, 18.0, 14.0) * _rise(z, -40.0, 30.0)
    wall = np.maximum(cavity - thickness, -cavity - 1.0)
    back = _ellipsoid((np.abs(x), y - cy, 0 * z), ((27.0, 33.0, 0.0), (27.0, 17.0, 1.0)))
    breast = _ellipsoid((np.abs(x), y, z), ((66.0, -72.0, 42.0), (56.0, 15.0, 52.0)))
    shoulder = _ellipsoid((np.abs(x), y, z), ((138.0, 38.0, 100.0), (60.0, 34.0, 56.0)))
    muscle = np.minimum(np.minimum(wall, back), np.minimum(breast, shoulder))
    muscle = np.maximum(muscle, body + 5.0 + 5.0 * _rise(-y, 0.0, 40.0))
    hu += (55.0 - FAT_HU) * _inside(muscle, 2.0)
    # abdomen: liver right of the midline, spleen and stomach left of it, fat between
    abdomen = np.maximum(cavity + 1.0, 2.0 - diaphragm)
    edge = 20 - 0.25 * y + 8 * np.sin(y / 30) + 0.1 * (z + 100)
    liver = np.maximum(abdomen, x - edge)
    spleen = np.maximum(abdomen, edge + 5 + 4 * np.sin(y / 14) - x)
    hu += (58.0 - hu) * _inside(liver, 2.0)
    hu += (46.0 - hu) * _inside(spleen, 2.0)
    hu += (SOFT_HU - hu) * _inside(parts["organs"], 2.0)
    # cord and disc
    canal = np.sqrt(x**2 + (y - cy - 22) ** 2) - 8.8
    disc = np.sqrt((x / 1.22) ** 2 + (y - cy) ** 2) - 14.0
    hu += (30.0 - hu) * _inside(canal, 2.0)
    hu += (88.0 - hu) * _inside(disc, 2.0)
    return hu
