"""Training views for the grader: planes of labelled nodules, and planes through places in whole scans.

``nodule``   an axial plane of an LIDC stack, with its readers' outlines and, where the planes above and
             below it are hidden, with every rating: nothing is known beyond the end slices, and where they end
             says how large the nodule is, so no grade is learned from a view that shows it.
``found``    a plane, of any of three directions, through a real nodule set into a whole scan: nodule.
``false``    the same through a place where the detector was wrong, or anywhere in the lung: no nodule. Of either
             kind what is large is shown at half size, as it is when a mark is judged.
``outline``  an axial plane at, above or below an implanted nodule, with its outline there, which may be
             empty: what the stacks cannot show.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from noduscope.augment import Crop, View, cut, cut_mask, other_calibration, other_kernel
from noduscope.boxes import Lesion
from noduscope.data.crops import CONSENSUS, NodulePatch, NoduleStack
from noduscope.data.hosts import HostScan
from noduscope.data.implant import draw_weights, drawn, implant, random_kind, random_place, scaled
from noduscope.heads import ATTRIBUTE, ATTRIBUTES, MALIGNANCY, NODULE, SUBPIXELS, TYPE, channels
from noduscope.preprocess import half_size
from noduscope.settings import GraderSettings, Settings
from noduscope.views import LARGE_MM, Planes, Turn, axial_view, encode, in_plane

_SUSPICION = {1: 0.0, 2: 0.15, 3: 0.5, 4: 0.85, 5: 1.0}
"""A reader's malignancy rating as a probability: less than sure at 2 and 4, undecided at 3."""
_MALIGNANCY_WEIGHT, _TYPE_WEIGHT, _FOUND_WEIGHT = 8.0, 0.5, 6.0
_ALONE = 0.75
"""Share of the views of labelled nodules whose neighbours are hidden."""
_EDGE_SHARE = 0.25
"""Of the largest outline; planes with less show too little of a nodule to be graded by it."""
_THICK = 0.2
"""Share of the views of labelled nodules that show thicker slices than there are."""
_SYNTHETIC = 0.1
"""Share of the views of whole scans that are of synthetic chests, where there are such."""
_LARGE_ANYWHERE = 0.2
"""Share of the views of anywhere in the lung that are of half size."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledNodule:
    """A nodule ready to be drawn from.

    Parameters
    ----------
    hu : int16 (n, y, x).
    agreement : float32 (n, y, x), share of the readers whose outline holds each pixel; below 0: unknown.
    area : float (n,), pixels inside the consensus outline per slice: how often each slice is drawn.
    centre_yx : centre of the nodule, pixels.
    labels : float32 (2, heads): labels and their weights.
    """

    hu: NDArray[np.int16]
    spacing_zyx_mm: tuple[float, float, float]
    agreement: NDArray[np.float32]
    area: NDArray[np.float64]
    centre_yx: tuple[float, float]
    labels: NDArray[np.float32]


def labelled_nodules(stacks: Sequence[NoduleStack], settings: GraderSettings) -> list[LabelledNodule]:
    """Stacks with what a training view of them needs; those without a consensus are left out."""
    made = []
    for stack in stacks:
        agreement = stack.agreement
        inside = agreement >= CONSENSUS
        if not inside.any():
            continue
        _, y, x = np.argwhere(inside).mean(axis=0)
        area = inside.sum(axis=(1, 2)).astype(float)
        held = agreement, area, (float(y), float(x)), labels_of(stack, settings)
        made.append(LabelledNodule(stack.hu, stack.spacing_zyx_mm, *held))
    return made


def labels_of(stack: NoduleStack, settings: GraderSettings) -> NDArray[np.float32]:
    """Soft labels of the readers' individual ratings, and weights, float32 (2, heads)."""
    made = np.zeros((2, channels(settings.opinions)), np.float32)
    texture = np.asarray(stack.ratings["texture"])
    made[0, TYPE] = [(texture >= 4).mean(), ((texture == 2) | (texture == 3)).mean(), (texture == 1).mean()]
    made[1, TYPE] = _TYPE_WEIGHT
    for i, (name, top) in enumerate(ATTRIBUTES.items()):
        made[0, ATTRIBUTE.start + i] = (np.mean(stack.ratings[name]) - 1) / (top - 1)
        made[1, ATTRIBUTE.start + i] = 1.0
    made[0, MALIGNANCY] = np.mean([_SUSPICION[r] for r in stack.ratings["malignancy"]])
    made[1, MALIGNANCY] = opinion_weights(stack.patient_id, settings.opinions)
    return made


def opinion_weights(patient_id: str, opinions: int) -> NDArray[np.float64]:
    """How much each malignancy head learns from a patient: a bootstrap of patients, Poisson with mean one."""
    draws = np.random.default_rng(zlib.crc32(patient_id.encode())).poisson(1.0, opinions)
    return np.asarray(draws * _MALIGNANCY_WEIGHT / opinions)


@dataclass(frozen=True, slots=True, eq=False)
class PlaceSource:
    """What views of whole scans are made from.

    Parameters
    ----------
    patches : nodules to set in, on the grid of the views.
    false_places : (host index, voxel, diameter in mm that it gave) where a detector was wrong.
    own : share of the nodules that are the scans' own instead of set in, where there are any.
    """

    hosts: Sequence[HostScan]
    patches: Sequence[NodulePatch]
    false_places: Sequence[tuple[int, tuple[float, float, float], float]]
    spacing_mm: float
    own: float


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One view with its labels, weights and outline (below 0: unknown)."""

    view: NDArray[np.float32]
    labels: NDArray[np.float32]
    outline: NDArray[np.float32]


def nodule_sample(rng: np.random.Generator, nodule: LabelledNodule, settings: GraderSettings) -> Sample:
    """A plane of a labelled nodule, larger outlines more often."""
    weight = np.sqrt(nodule.area) if rng.random() < 0.85 else np.ones(len(nodule.area))
    z = int(rng.choice(len(weight), p=weight / weight.sum()))
    zoom = float(np.exp(rng.uniform(-0.12, 0.12)))
    shift = (float(rng.uniform(-2.5, 2.5)), float(rng.uniform(-2.5, 2.5)))
    turn = Turn(float(rng.uniform(-np.pi, np.pi)), zoom, shift, bool(rng.random() < 0.5))
    spacing = nodule.spacing_zyx_mm
    alone = bool(rng.random() < _ALONE)
    hu = thicker(rng, nodule.hu, z) if rng.random() < _THICK else nodule.hu
    planes = axial_view(hu, spacing, (z, *nodule.centre_yx), settings, turn, alone=alone)
    outline = in_plane(nodule.agreement[z], spacing[1:], nodule.centre_yx, settings, turn)
    labels = nodule.labels.copy()
    if nodule.area[z] < _EDGE_SHARE * nodule.area.max():
        labels[1] *= 0.3
    labels[1] *= float(alone)
    return Sample(encode(degraded(rng, planes)), labels, subpixels(outline))


def thicker(rng: np.random.Generator, hu: NDArray[np.int16], z: int) -> NDArray[np.int16]:
    """The stack with slice `z` averaged with those beside it; as it is where one of them is missing."""
    if not 0 < z < len(hu) - 1:
        return hu
    share = rng.uniform(0.2, 1.0)
    made = hu.copy()
    made[z] = np.rint((hu[z] + share * (hu[z - 1] + hu[z + 1].astype(np.float32))) / (1 + 2 * share))
    return made


def degraded(rng: np.random.Generator, planes: Planes) -> Planes:
    """The planes as another scanner would show them: kernel, dose, calibration."""
    planes = other_kernel(rng, planes, (0.4, 1.0), (0.2, 0.8))
    if rng.random() < 0.5:
        grain = cv2.GaussianBlur(rng.standard_normal(planes.shape[1:]).astype(np.float32), (0, 0), 0.7)
        planes = planes + grain * np.float32(rng.uniform(0, 60))
    return other_calibration(rng, planes, 0.05)


def subpixels(outline: NDArray[np.float32]) -> NDArray[np.float32]:
    """A plane ``(y, x)`` as the network answers it, ``(y/2, x/2, 4)``."""
    half, step = outline.shape[0] // 2, int(SUBPIXELS**0.5)
    made = outline.reshape(half, step, half, step).transpose(0, 2, 1, 3).reshape(half, half, SUBPIXELS)
    return np.ascontiguousarray(made)


class PlaceSamples:
    """Views of whole scans: found, false and outline."""

    def __init__(self, source: PlaceSource, settings: Settings) -> None:
        self.source, self.settings = source, settings.grader
        self.zoom = settings.preprocess.spacing_mm / settings.grader.spacing_mm
        self._lung = [np.flatnonzero(h.lungs) for h in source.hosts]
        self._weight = draw_weights([p.diameter_mm for p in source.patches], [p.type for p in source.patches])
        self._real = [(i, k) for i, h in enumerate(source.hosts) for k in h.lesions if k.counts]

    def found(self, rng: np.random.Generator) -> Sample | None:
        """A plane through a nodule, off its centre by as much as a detector is."""
        if self._real and rng.random() < self.source.own:
            index, lesion = self._real[rng.integers(len(self._real))]
            jitter = rng.normal(0, 0.08 * lesion.diameter_mm, 3)
            z, y, x = (c + j for c, j in zip(lesion.centre_zyx, jitter, strict=True))
            crop, _ = self._crop(rng, index, (z, y, x), half=_taken_for_large(rng, lesion.diameter_mm))
            return self._judged(rng, crop, nodule=True)
        patch = self._patch(rng)
        held = self._implanted(rng, patch, half=_taken_for_large(rng, patch.diameter_mm))
        return None if held is None else self._judged(rng, held[0], nodule=True)

    def false(self, rng: np.random.Generator) -> Sample | None:
        """A plane through a place that holds no nodule."""
        if self.source.false_places and rng.random() < 0.85:
            index, place, diameter_mm = self.source.false_places[int(rng.integers(len(self.source.false_places)))]
            half = _taken_for_large(rng, diameter_mm)
        else:
            index, place = self._anywhere(rng)
            half = rng.random() < _LARGE_ANYWHERE
        if any(_near(k, place) for k in self.source.hosts[index].lesions):
            return None
        z, y, x = (p + j for p, j in zip(place, rng.normal(0, 1.0, 3), strict=True))
        crop, _ = self._crop(rng, index, (z, y, x), half=half)
        return self._judged(rng, crop, nodule=False)

    def outline(self, rng: np.random.Generator) -> Sample | None:
        """An axial plane at or beyond a nodule's end, with its outline there."""
        held = self._implanted(rng, self._patch(rng), half=False)
        if held is None:
            return None
        crop, shape, diameter_mm = held
        reach = diameter_mm / 2 / self.settings.spacing_mm + 5
        z = (len(crop) - 1) / 2 + rng.uniform(-reach, reach)
        z = int(np.clip(round(z), 2, len(crop) - 3))
        labels = np.zeros((2, channels(self.settings.opinions)), np.float32)
        return Sample(encode(degraded(rng, self._planes(crop, z, 0))), labels, subpixels(shape[z]))

    def _judged(self, rng: np.random.Generator, crop: Crop, *, nodule: bool) -> Sample:
        axis = int(rng.integers(3))
        labels = np.zeros((2, channels(self.settings.opinions)), np.float32)
        labels[:, NODULE] = float(nodule), _FOUND_WEIGHT
        edge = self.settings.view_voxels
        unknown = np.full((edge // 2, edge // 2, SUBPIXELS), -1, np.float32)
        return Sample(encode(degraded(rng, self._planes(crop, len(crop) // 2, axis))), labels, unknown)

    def _planes(self, crop: Crop, index: int, axis: int) -> Planes:
        step = round(self.settings.neighbour_mm / self.settings.spacing_mm)
        return np.ascontiguousarray(np.stack([crop.take(index + k * step, axis) for k in (-1, 0, 1)]))

    def _patch(self, rng: np.random.Generator) -> NodulePatch:
        return drawn(rng, self.source.patches, self._weight)

    def _implanted(
        self, rng: np.random.Generator, patch: NodulePatch, *, half: bool
    ) -> tuple[Crop, Crop, float] | None:
        """A crop with a nodule near its middle, its shape there (1 inside), and the diameter that it shows, mm."""
        index, place = self._anywhere(rng)
        crop, lung = self._crop(rng, index, place, half=half)
        if half:
            patch = scaled(patch, 0.5)
        at = random_place(rng, crop, lung, patch.diameter_mm, random_kind(rng), margin=20)
        if at is None:
            return None
        shape = np.full(crop.shape, -1000, np.float32)
        lesion = implant(crop, patch, at)
        if lesion is None:
            return None
        implant(shape, replace(patch, hu=np.zeros_like(patch.hu), type="solid"), at)
        off = rng.normal(0, 0.08 * patch.diameter_mm / self.source.spacing_mm, 3)
        moved = [round(c + o - (n - 1) / 2) for c, o, n in zip(lesion.centre_zyx, off, crop.shape, strict=True)]
        return _rolled(crop, moved), 1 + _rolled(shape, moved) / np.float32(1000), patch.diameter_mm

    def _crop(
        self, rng: np.random.Generator, index: int, place: tuple[float, float, float], *, half: bool
    ) -> tuple[Crop, NDArray[np.bool_]]:
        """A turned, magnified and mirrored cube around a voxel of a host, perhaps of half size; which of it is lung."""
        host, size = self.source.hosts[index], self.settings.view_voxels * (2 if half else 1)
        zoom = self.zoom * float(np.exp(rng.uniform(-0.12, 0.12)))
        view = View(place, size, (zoom, zoom, zoom), float(rng.uniform(-np.pi, np.pi)))
        crop, lung = cut(host.hu, view, -1000.0), cut_mask(host.lungs, view)
        if half:
            crop, lung = half_size(np.rint(crop).astype(np.int16)).astype(np.float32), lung[::2, ::2, ::2]
        for axis in range(3):
            if rng.random() < 0.5:
                crop, lung = np.flip(crop, axis), np.flip(lung, axis)
        return np.ascontiguousarray(crop), lung

    def _anywhere(self, rng: np.random.Generator) -> tuple[int, tuple[float, float, float]]:
        index = int(rng.integers(len(self.source.hosts)))
        voxels = self._lung[index]
        z, y, x = np.unravel_index(voxels[rng.integers(len(voxels))], self.source.hosts[index].lungs.shape)
        return index, (float(z), float(y), float(x))


def _near(lesion: Lesion, place: tuple[float, float, float]) -> bool:
    return bool(np.linalg.norm(np.subtract(lesion.centre_zyx, place)) < lesion.diameter_mm / 2 + 6)


def _taken_for_large(rng: np.random.Generator, diameter_mm: float) -> bool:
    """Whether a mark there would be judged at half size; a detector's diameters are off by some per cent."""
    return bool(diameter_mm * np.exp(rng.normal(0, 0.1)) >= LARGE_MM)


def _rolled(crop: Crop, by: Sequence[int]) -> Crop:
    """The crop moved so that what lies `by` voxels from its middle comes there; its edges are repeated."""
    index = [np.clip(np.arange(n) + b, 0, n - 1) for n, b in zip(crop.shape, by, strict=True)]
    return crop[np.ix_(*index)]


class GraderBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches for ``model.fit``: batch `i` of epoch `e` is a function of (seed, e, i) alone.

    Every labelled nodule comes once per epoch; each batch holds `TrainGraderSettings.places` views of whole scans
    beside them, when there are any.

    Parameters
    ----------
    places : views of patients' scans, and then perhaps of synthetic chests.
    """

    def __init__(self, nodules: Sequence[LabelledNodule], places: Sequence[PlaceSamples], settings: Settings) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=4)
        self.nodules, self.places, self.settings = nodules, places, settings
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, len(self.nodules) // self.settings.train_grader.batch_size)

    def on_epoch_end(self) -> None:
        """Count the epochs, so that each shows other planes under other turns."""
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        train = self.settings.train_grader
        order = np.random.default_rng((train.seed, self.epoch)).permutation(len(self.nodules))
        rng = np.random.default_rng((train.seed, self.epoch, index))
        first = index * train.batch_size
        chosen = [self.nodules[order[i % len(order)]] for i in range(first, first + train.batch_size)]
        samples = [nodule_sample(rng, n, self.settings.grader) for n in chosen]
        if self.places:
            samples += self._of_places(rng, train.places)
        targets = {"grade": np.stack([s.labels for s in samples]), "mask": np.stack([s.outline for s in samples])}
        return np.stack([s.view for s in samples]), targets

    def _of_places(self, rng: np.random.Generator, count: int) -> list[Sample]:
        kinds = ("found", "false", "found", "false", "outline")
        made: list[Sample] = []
        tries = 0
        while len(made) < count:
            tries += 1
            synthetic = len(self.places) > 1 and rng.random() < _SYNTHETIC
            sample = getattr(self.places[int(synthetic)], kinds[tries % len(kinds)])(rng)
            if sample is not None:
                made.append(sample)
        return made
