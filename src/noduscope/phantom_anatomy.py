"""The large parts of the synthetic chest: body, bones, mediastinum, diaphragm, lungs.

Each part is a signed distance field (mm, negative inside) on a coarse grid of about 2 mm. Such a
field is smooth, so it can be interpolated to any voxel size and turned into partial volume there;
that is far cheaper than drawing each organ at full resolution. The numbers below are millimetres in
LPS with the carina near the origin, after the proportions of an adult of average build.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noduscope.phantom_fields import (
    FAR_MM,
    Axes,
    Field,
    Knots,
    Path,
    carve_tube,
    ellipsoid,
    grid_axes,
    profile,
    rise,
    share_inside,
    smooth_max,
    smooth_min,
    superellipse,
    tube_points,
    unit_slope,
)
from noduscope.scan import Geometry, Triple

FAT_HU = -100.0
SOFT_HU = 42.0
_COARSE_MM = 2.0
_FIELD_XYZ_MM = (340.0, 280.0, 280.0)
_LOW_CORNER_XYZ_MM = (-170.0, -132.0, -166.0)

# (z, value) knots; between them the profile is linear and then rounded over ±14 mm
_CAVITY_A: Knots = ((-190, 120), (-100, 128), (-60, 127), (0, 120), (40, 106), (70, 86), (100, 66), (120, 56))
_CAVITY_B: Knots = ((-190, 84), (-100, 92), (-60, 92), (0, 87), (40, 72), (70, 55), (100, 39), (120, 32))
_CAVITY_POWER = 2.5
_CAVITY_Y: Knots = ((-190, -2), (-60, -6), (0, -4), (40, 6), (70, 13), (100, 18), (120, 20))
_BODY_A: Knots = ((-190, 150), (-60, 157), (0, 157), (50, 163), (100, 186), (120, 190))
_BODY_B: Knots = ((-190, 111), (-60, 117), (0, 112), (50, 97), (100, 77), (120, 68))
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
    geometry : the coarse grid; it covers the field of view of every phantom.
    body, lungs, bone : signed distances to the skin, the pleura, the bone surface.
    tissue_hu : HU of what is neither lung nor bone (fat, muscle, organs).
    """

    geometry: Geometry
    body: Field
    lungs: Field
    bone: Field
    tissue_hu: Field

    def on_slice(self, field: Field, geometry: Geometry, k: int) -> Field:
        """One of the fields (or another on their grid) on slice k of a scan, ``(y, x)``, by linear interpolation."""
        import cv2  # noqa: PLC0415

        _, ny, nx = geometry.shape_zyx
        start, second = self.geometry.to_index(geometry.to_world(((0, 0, 0), (1, 1, 1))))
        step = second - start
        at = float(np.clip(start[0] + k * step[0], 0, len(field) - 1))
        low = min(int(at), len(field) - 2)
        part = np.float32(at - low)
        blended = field[low] * (1 - part) + field[low + 1] * part
        matrix = np.array([[step[2], 0, start[2]], [0, step[1], start[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        made = cv2.warpAffine(blended, matrix, (nx, ny), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(made, np.float32)

    def lung_distance(self, position_xyz_mm: NDArray[Any]) -> NDArray[np.float32]:
        """Signed distance of points ``(n, 3)`` to the pleura, mm (trilinear); negative in the lungs."""
        shape, spacing = np.asarray(self.lungs.shape), np.asarray(self.geometry.spacing_zyx_mm, np.float32)
        offset = np.asarray(position_xyz_mm - np.asarray(self.geometry.origin_xyz_mm), np.float32)
        index = np.clip(offset[:, ::-1] / spacing, 0, (shape - 1).astype(np.float32))
        low = np.minimum(index.astype(np.int32), shape - 2)
        part = (index - low).astype(np.float32).T
        flat = np.ravel_multi_index(tuple(low.T), self.lungs.shape)
        values, steps = self.lungs.reshape(-1), (shape[1] * shape[2], shape[2], 1)
        made = np.zeros(len(index), np.float32)
        for corner in np.ndindex(2, 2, 2):
            weights = [p if c else 1 - p for p, c in zip(part, corner, strict=True)]
            made += weights[0] * weights[1] * weights[2] * values[flat + int(np.dot(corner, steps))]
        return made


def field_of_view(spacing_xyz_mm: Triple) -> Geometry:
    """The grid of voxels over the phantom's field of view, whose outer edges are fixed (but for rounding)."""
    nx, ny, nz = (round(f / s) for f, s in zip(_FIELD_XYZ_MM, spacing_xyz_mm, strict=True))
    x, y, z = (c + s / 2 for c, s in zip(_LOW_CORNER_XYZ_MM, spacing_xyz_mm, strict=True))
    return Geometry((nz, ny, nx), spacing_xyz_mm, (x, y, z))


@lru_cache(maxsize=1)
def build_anatomy() -> Anatomy:
    """The chest's large parts; the same for every phantom, so made once (read-only, 53 MB)."""
    coarse = field_of_view((_COARSE_MM, _COARSE_MM, _COARSE_MM))
    x, y, z = axes = grid_axes(coarse)
    body = superellipse(axes, (_BODY_A, _BODY_B, _BODY_Y), 2.5)
    cavity = superellipse(axes, (_CAVITY_A, _CAVITY_B, _CAVITY_Y), _CAVITY_POWER)
    organs = _organs(coarse, axes)
    diaphragm = _diaphragm(axes)
    # the lung stops at the mediastinal pleura: organs with the fat that rounds them off
    mediastinum = smooth_min(smooth_min(organs - 2.5, _column(axes), 9.0), _septum(axes), 6.0)
    # each apex is a dome of its own, beside the midline
    dome = ellipsoid((np.abs(x), y, z), ((46.0, 8.0, 20.0), (96.0, 110.0, 78.0)), half="upper")
    lungs = smooth_max(smooth_max(cavity, dome, 14.0), -mediastinum, 7.0)
    lungs = unit_slope(smooth_max(lungs, diaphragm, 4.0), coarse)
    bone, cartilage = _bones(coarse, axes)
    tissue = _tissue((x, y, z), {"body": body, "cavity": cavity, "organs": organs, "diaphragm": diaphragm})
    tissue += (95.0 - tissue) * share_inside(cartilage, 2.0)
    for part in (body, lungs, bone, tissue):
        part.setflags(write=False)
    return Anatomy(coarse, body, lungs, bone, tissue)


def trachea() -> tuple[NDArray[Any], NDArray[Any]]:
    """Centreline and lumen radius of the trachea down to the carina."""
    return tube_points(_TRACHEA, (8.2, 8.4, 8.6, 8.8))


def _organs(geometry: Geometry, axes: Axes) -> Field:
    """Heart, great vessels and oesophagus."""
    x, y, z = axes
    main = _APEX_DIRECTION / np.linalg.norm(_APEX_DIRECTION)
    side = np.cross(main, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    up = np.cross(side, main)
    centre, radii = _LEFT_VENTRICLE
    px, py, pz = x - centre[0], y - centre[1], z - centre[2]
    rotated = tuple(px * float(v[0]) + py * float(v[1]) + pz * float(v[2]) for v in (main, side, up))
    heart = ellipsoid((rotated[0], rotated[1], rotated[2]), ((0.0, 0.0, 0.0), radii))
    for ball in _HEART:
        heart = smooth_min(heart, ellipsoid(axes, ball), 10.0)
    vessels = np.full(geometry.shape_zyx, FAR_MM, np.float32)
    for path, widths in _GREAT_VESSELS:
        carve_tube(vessels, geometry, *tube_points(path, widths, 2.5))
    return smooth_min(heart, vessels, 4.0)


def _column(axes: Axes) -> Field:
    """The mediastinum's core from the spine to the trachea and the thymus."""
    x, y, z = axes
    back = profile(z, _SPINE_Y) + 24
    front = profile(z, ((-190, -30), (-60, -10), (0, -14), (40, -34), (80, -30), (120, -14)))
    a, b, cy = profile(z, _COLUMN_A), (back - front) / 2, (back + front) / 2
    k0 = np.sqrt((x / a) ** 2 + ((y - cy) / b) ** 2)
    k1 = np.sqrt((x / a**2) ** 2 + ((y - cy) / b**2) ** 2)
    column = k0 * (k0 - 1) / np.maximum(k1, 1e-4)
    spine = np.sqrt((x / 1.12) ** 2 + (y - profile(z, _SPINE_Y) - 4) ** 2) - 19
    return smooth_min(column.astype(np.float32), spine.astype(np.float32), 6.0)


def _septum(axes: Axes) -> Field:
    """The anterior junction: the thin fat between the lungs behind the sternum, wider above and below."""
    x, y, z = axes
    width = profile(z, ((-190, 30), (-110, 16), (-60, 4), (0, 1.6), (30, 4), (60, 18), (120, 40)))
    front = profile(z, _CAVITY_Y) - profile(z, _CAVITY_B)
    fan = np.maximum(0, 16 - (y - front)) * 0.25
    return np.asarray(np.maximum(np.abs(x - 1.5) - width - fan, y - 10), np.float32)


def _diaphragm(axes: Axes) -> Field:
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
    s, c = np.abs(np.sin(phi)) ** (2 / _CAVITY_POWER), np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** (2 / _CAVITY_POWER)
    points = np.stack([side * (a + 4.2) * s, cy + (b + 4.2) * c, z], axis=1)
    bony = phi < np.pi * min(0.76, reach)
    return points[bony], points[~bony]


def _bones(geometry: Geometry, axes: Axes) -> tuple[Field, Field]:
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
    scapula = ellipsoid((plate[0] + 0 * z, plate[1] + 0 * z, plate[2]), ((0.0, 0.0, 0.0), (36.0, 3.6, 62.0)))
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


def _spine(axes: Axes) -> Field:
    """Vertebral bodies with end plates and the arch round the canal; discs are left out."""
    x, y, z = axes
    cy = profile(z, _SPINE_Y)
    within = np.mod(z - _FIRST_RIB_Z_MM, _VERTEBRA_PITCH_MM) - _VERTEBRA_PITCH_MM / 2
    waist = 1.6 * np.cos(np.pi * within / _VERTEBRA_PITCH_MM) ** 2
    body = np.sqrt((x / 1.22) ** 2 + (y - cy) ** 2) - (14.2 - waist)
    body = smooth_max(body.astype(np.float32), (np.abs(within) - 9.6).astype(np.float32) + 0 * body, 2.5)
    canal = np.sqrt(x**2 + (y - cy - 22) ** 2)
    arch = np.maximum(np.maximum(canal - 12.5, 8.8 - canal), np.abs(within) - 8.5)
    # nothing but the body in front of the canal: the arch ends at the pedicles
    return np.asarray(np.minimum(np.maximum(body, 8.8 - canal), arch), np.float32)


def _sternum(axes: Axes) -> Field:
    """Manubrium, body and a gap between them."""
    x, y, z = axes
    cy = profile(z, _CAVITY_Y) - profile(z, _CAVITY_B) - 6.5
    width = profile(z, ((-190, 8), (-100, 10), (-60, 17), (0, 14), (25, 17), (50, 27), (70, 24)))
    plate = np.maximum(np.abs(x) - width, np.abs(y - cy) - 5.2 + 0.0025 * x**2)
    ends = np.maximum(np.abs(z + 18) - 84, 2.0 - np.abs(z - 24))
    return smooth_max(plate.astype(np.float32), ends.astype(np.float32) + 0 * plate, 3.0)


def _tissue(axes: Axes, parts: dict[str, Field]) -> Field:
    """HU of fat, muscle and organs on the coarse grid."""
    x, y, z = axes
    cavity, diaphragm, body = parts["cavity"], parts["diaphragm"], parts["body"]
    hu = np.full(cavity.shape, FAT_HU, np.float32)
    cy = profile(z, _SPINE_Y)
    # paraspinal, pectoral and shoulder muscles over the intercostal layer
    thickness = 9.5 + 13.0 * rise(y, 18.0, 14.0) * rise(z, -40.0, 30.0)
    wall = np.maximum(cavity - thickness, -cavity - 1.0)
    back = ellipsoid((np.abs(x), y - cy, 0 * z), ((27.0, 33.0, 0.0), (27.0, 17.0, 1.0)))
    breast = ellipsoid((np.abs(x), y, z), ((66.0, -72.0, 42.0), (56.0, 15.0, 52.0)))
    shoulder = ellipsoid((np.abs(x), y, z), ((138.0, 38.0, 100.0), (60.0, 34.0, 56.0)))
    muscle = np.minimum(np.minimum(wall, back), np.minimum(breast, shoulder))
    muscle = np.maximum(muscle, body + 5.0 + 5.0 * rise(-y, 0.0, 40.0))
    hu += (55.0 - FAT_HU) * share_inside(muscle, 2.0)
    # abdomen: liver right of the midline, spleen and stomach left of it, fat between
    abdomen = np.maximum(cavity + 1.0, 2.0 - diaphragm)
    edge = 20 - 0.25 * y + 8 * np.sin(y / 30) + 0.1 * (z + 100)
    liver = np.maximum(abdomen, x - edge)
    spleen = np.maximum(abdomen, edge + 5 + 4 * np.sin(y / 14) - x)
    hu += (58.0 - hu) * share_inside(liver, 2.0)
    hu += (46.0 - hu) * share_inside(spleen, 2.0)
    hu += (SOFT_HU - hu) * share_inside(parts["organs"], 2.0)
    # cord and disc
    canal = np.sqrt(x**2 + (y - cy - 22) ** 2) - 8.8
    disc = np.sqrt((x / 1.22) ** 2 + (y - cy) ** 2) - 14.0
    hu += (30.0 - hu) * share_inside(canal, 2.0)
    hu += (88.0 - hu) * share_inside(disc, 2.0)
    return hu
