"""NoduleMNIST3D, a second data set of the same nodules: cubes of 28 mm with the official split (Yang et al. 2023).

The file is ``nodulemnist3d.npz`` of MedMNIST v2: ``{train,val,test}_images`` uint8 (n, 28, 28, 28) and
``{train,val,test}_labels`` (n, 1), 1 for malignant. It names no patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noduscope.data.grader_batches import LabelledNodule, opinion_weights
from noduscope.errors import InputRefused
from noduscope.heads import MALIGNANCY, channels
from noduscope.settings import GraderSettings

PARTS = ("train", "val", "test")
_LOW_HU, _RANGE_HU = -1000.0, 1400.0
"""What 0 and the step to 255 are taken to be: the file does not say, and the network learns on what it is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class CubePart:
    """One part of the official split.

    Parameters
    ----------
    hu : int16 (n, edge, edge, edge), voxels of 1 mm.
    labels : bool (n,), True for malignant.
    """

    name: str
    hu: NDArray[np.int16]
    labels: NDArray[np.bool_]


def read_nodulemnist(path: Path) -> dict[str, CubePart]:
    """The three parts by name.

    Raises
    ------
    InputRefused
        When the file is not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: _part(name, held[f"{name}_images"], held[f"{name}_labels"]) for name in PARTS}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputRefused(f"{path} is not nodulemnist3d.npz of MedMNIST: {error}") from error


def _part(name: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> CubePart:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels) or not len(images):
        raise ValueError(f"{name}_images is {images.dtype} {images.shape}; expected uint8 (n, 28, 28, 28)")
    hu = np.rint(images * (_RANGE_HU / 255) + _LOW_HU).astype(np.int16)
    return CubePart(name, hu, np.asarray(labels).reshape(len(labels), -1)[:, 0] > 0)


def labelled_cubes(part: CubePart, settings: GraderSettings) -> list[LabelledNodule]:
    """Cubes ready to be drawn from: no outline and no rating but benign or malignant is known."""
    edge = part.hu.shape[1]
    middle = (edge - 1) / 2
    # a nodule fills the middle of its cube: planes near it are drawn more often
    area = np.exp(-0.5 * ((np.arange(edge) - middle) / 2.5) ** 2)
    unknown = np.full(part.hu.shape[1:], -1, np.float32)
    made = []
    for number, (cube, malignant) in enumerate(zip(part.hu, part.labels, strict=True)):
        labels = np.zeros((2, channels(settings.opinions)), np.float32)
        labels[0, MALIGNANCY] = float(malignant)
        labels[1, MALIGNANCY] = opinion_weights(f"{part.name}-{number}", settings.opinions)
        made.append(LabelledNodule(cube, (1.0, 1.0, 1.0), unknown, area, (middle, middle), labels))
    return made
