"""Training crops for the detector: implants, whole scans, real stacks, in seeded random mixture.

Five kinds of crop, in the shares of `SHARES`, those for which there is a source:

``implant``  a piece of a whole scan with two to five nodules set into it.
``host``     a piece of a whole scan as it is, half of the time around a hard negative or a known lesion.
``phantom``  a piece of a synthetic chest, mostly around one of its nodules.
``stack``    the slices of a real LIDC nodule in their own surroundings. Nothing is known above and
             below, so the end slices are repeated there and those cells carry no loss.
``slab``     a piece of a whole scan, often with an implant, cut to a few slices in just the same way,
             so that repeated slices say nothing about whether a nodule is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from noduscope.augment import Crop, View, cut, cut_mask, degrade, noise_bank, random_view, turn_planes
from noduscope.boxes import STRIDE, Lesion, encode
from noduscope.data.crops import CONSENSUS, NodulePatch, NoduleStack, resize_linear
from noduscope.data.hosts import HostScan
from noduscope.data.implant import draw_weights, drawn, implant, random_kind, random_place
from noduscope.preprocess import clip_normalise
from noduscope.settings import Settings

SHARES = {"implant": 0.4, "host": 0.2, "phantom": 0.05, "stack": 0.22, "slab": 0.13}
_AIR = -1000.0
_TIPPED = 0.2
"""Share of the pieces of scans that are laid on another side."""
_SOUGHT = 32
"""Planes among which a place for an implant is sought; `random_place` leaves a margin at either end."""
_MASS_MM = 35.0
_MASS_ZOOM = (0.45, 0.8)
"""Magnification of crops around a mass: at full size it fills the crop and shows no edge."""


@dataclass(frozen=True, slots=True, eq=False)
class CropSource:
    """What crops are made from; all of one side of a patient-level split.

    ``hard`` holds (host index, voxel) of places where an earlier network was wrong; ``phantoms`` are synthetic.
    """

    hosts: Sequence[HostScan]
    patches: Sequence[NodulePatch]
    stacks: Sequence[NoduleStack]
    hard: Sequence[tuple[int, tuple[float, float, float]]] = field(default=())
    phantoms: Sequence[HostScan] = field(default=())


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A crop in HU, its lesions in crop voxels, and the slices whose cells count."""

    crop: Crop
    lesions: list[Lesion]
    known_z: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A turned and zoomed piece of a scan, perhaps laid on another side and mirrored, and the known lesions in it."""

    host: HostScan
    view: View
    tipped: bool
    mirrored: tuple[int, ...]

    def crop(self) -> Crop:
        """Its HU, a copy."""
        return np.ascontiguousarray(self._laid(cut(self.host.hu, self.view, _AIR)))

    def lung(self) -> NDArray[np.bool_]:
        """Which of it is lung."""
        return self._laid(cut_mask(self.host.lungs, self.view))

    def lesions(self) -> list[Lesion]:
        """The known lesions that reach into it, in its voxels."""
        size, zoom = self.view.size, float(np.mean(self.view.zoom_zyx))
        held = []
        for known in self.host.lesions:
            z, y, x = self.view.to_crop(np.asarray([known.centre_zyx]))[0]
            if max(abs(v - size / 2) for v in (z, y, x)) < size / 2 + known.diameter_mm * zoom / 2:
                lesion = Lesion((x, z, y) if self.tipped else (z, y, x), known.diameter_mm * zoom, known.counts)
                for axis in self.mirrored:
                    lesion = lesion.mirrored(axis, size - 1)
                held.append(lesion)
        return held

    def _laid(self, made: NDArray[Any]) -> NDArray[Any]:
        return np.flip(made.transpose(2, 0, 1) if self.tipped else made, self.mirrored)


class CropMaker:
    """Makes the crop of a given seed; the same seed gives the same crop."""

    def __init__(self, source: CropSource, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.size = settings.train_detector.crop_voxels
        self.spacing_mm = settings.preprocess.spacing_mm
        self._bank = noise_bank(np.random.default_rng(settings.train_detector.seed))
        self._scans = _Scans(source.hosts, source.hard)
        self._phantoms = _Scans(source.phantoms, ())
        self._patch_weight = draw_weights([p.diameter_mm for p in source.patches], [p.type for p in source.patches])
        self._stack_weight = draw_weights([s.diameter_mm for s in source.stacks], [s.type for s in source.stacks])
        self._shares = _shares(source)

    def __call__(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Network input ``(size, size, size, 1)`` in 0…1 and target ``(size/4, size/4, size/4, 7)``."""
        kind = rng.choice(list(self._shares), p=list(self._shares.values()))
        sample = getattr(self, f"_{kind}")(rng)
        crop = degrade(rng, sample.crop, self._bank)
        weight = self._weight(sample.known_z)
        target = encode(sample.lesions, crop.shape, weight, self.spacing_mm)
        return clip_normalise(crop, self.settings.preprocess)[..., None], target

    def _weight(self, known_z: tuple[int, int]) -> NDArray[np.float32]:
        cells = self.size // STRIDE
        weight = np.zeros((cells, cells, cells), np.float32)
        weight[max(0, known_z[0] // STRIDE) : -(-known_z[1] // STRIDE)] = 1.0
        return weight

    def _host(self, rng: np.random.Generator) -> Sample:
        piece = self._piece(rng, self._scans, special=0.5)
        return Sample(piece.crop(), piece.lesions(), (0, self.size))

    def _phantom(self, rng: np.random.Generator) -> Sample:
        piece = self._piece(rng, self._phantoms, special=0.7)
        return Sample(piece.crop(), piece.lesions(), (0, self.size))

    def _implant(self, rng: np.random.Generator) -> Sample:
        piece = self._piece(rng, self._scans, special=0.0)
        crop, lung, lesions = piece.crop(), piece.lung(), piece.lesions()
        for _ in range(int(rng.integers(2, 6))):
            self._add(rng, crop, lung, lesions)
        return Sample(crop, lesions, (0, self.size))

    def _slab(self, rng: np.random.Generator) -> Sample:
        piece = self._piece(rng, self._scans, special=0.3)
        crop, lesions = piece.crop(), piece.lesions()
        if rng.random() < 0.5:
            self._add(rng, crop, piece.lung(), lesions)
        depth = int(rng.integers(5, 24))
        about = lesions[-1].centre_zyx[0] if lesions else self.size / 2
        low = int(np.clip(round(about - depth / 2), 0, self.size - depth))
        crop = crop[np.clip(np.arange(self.size), low, low + depth - 1)]
        return Sample(crop, lesions, (low, low + depth))

    def _stack(self, rng: np.random.Generator) -> Sample:
        stack = self.source.stacks[rng.choice(len(self.source.stacks), p=self._stack_weight)]
        return stack_sample(rng, stack, self.size, self.spacing_mm)

    def _piece(self, rng: np.random.Generator, scans: _Scans, special: float) -> _Piece:
        """A piece of a scan; with probability `special` it lies about a hard negative or a known lesion."""
        host, centre, size_mm = scans.spot(rng, self.size, special=rng.random() < special)
        view = random_view(rng, centre, self.size)
        if size_mm > _MASS_MM and rng.random() < 0.7:
            view = replace(view, zoom_zyx=(float(rng.uniform(*_MASS_ZOOM)),) * 3)
        tipped = rng.random() < _TIPPED  # the few vessels there are run in more directions
        return _Piece(host, view, tipped, tuple(axis for axis in range(3) if rng.random() < 0.5))

    def _add(self, rng: np.random.Generator, crop: Crop, lung: NDArray[np.bool_], lesions: list[Lesion]) -> None:
        """Implant one nodule, away from what is already known there; a few places are tried."""
        patch = drawn(rng, self.source.patches, self._patch_weight)
        for _ in range(4):
            # a place is sought in some of the planes: in all of them it takes three times as long
            low = int(rng.integers(0, max(1, self.size - _SOUGHT + 1)))
            part = slice(low, low + _SOUGHT)
            found = random_place(rng, crop[part], lung[part], patch.diameter_mm, random_kind(rng))
            if found is None:
                continue
            place = (found[0] + low, found[1], found[2])
            if any(
                np.linalg.norm(np.subtract(k.centre_zyx, place)) < (k.diameter_mm + patch.diameter_mm) / 2 + STRIDE
                for k in lesions
            ):
                continue
            lesion = implant(crop, patch, place)
            if lesion is not None:
                lesions.append(lesion)
                return


class _Scans:
    """Whole scans with the voxels that crops are cut around."""

    def __init__(self, hosts: Sequence[HostScan], hard: Sequence[tuple[int, tuple[float, float, float]]]) -> None:
        self._hosts = hosts
        lesions = [(i, k.centre_zyx, k.diameter_mm) for i, h in enumerate(hosts) for k in h.lesions if k.counts]
        # either kind is as likely, so that a few known lesions are not lost among hundreds of hard negatives
        self._special = [places for places in ([(i, place, 0.0) for i, place in hard], lesions) if places]

    def spot(
        self, rng: np.random.Generator, size: int, *, special: bool
    ) -> tuple[HostScan, tuple[float, float, float], float]:
        """A scan and a voxel of its lungs; if asked for, near a hard negative or a lesion, then with its diameter."""
        if special and self._special:
            places = self._special[rng.integers(len(self._special))]
            index, (z, y, x), diameter_mm = places[rng.integers(len(places))]
            jitter = rng.uniform(-size / 4, size / 4, 3)
            return self._hosts[index], (z + jitter[0], y + jitter[1], x + jitter[2]), diameter_mm
        index = int(rng.integers(len(self._hosts)))
        return self._hosts[index], _lung_voxel(rng, self._hosts[index].lungs), 0.0


def _lung_voxel(rng: np.random.Generator, lungs: NDArray[np.uint8]) -> tuple[float, float, float]:
    """A random voxel of the lungs, found by trying: a list of them would need more memory than all the scans."""
    for _ in range(1000):
        z, y, x = (int(v) for v in rng.integers(lungs.shape))
        if lungs[z, y, x]:
            break
    return float(z), float(y), float(x)


def _shares(source: CropSource) -> dict[str, float]:
    """The shares of the kinds of crop that this source can give."""
    held = {
        "implant": source.hosts and source.patches,
        "host": source.hosts,
        "phantom": source.phantoms,
        "stack": source.stacks,
        "slab": source.hosts and source.patches,
    }
    able = {kind: share for kind, share in SHARES.items() if held[kind]}
    total = sum(able.values())
    return {kind: share / total for kind, share in able.items()}


def stack_sample(rng: np.random.Generator, stack: NoduleStack, size: int, spacing_mm: float) -> Sample:
    """A real stack as a crop, end slices repeated above and below, turned and zoomed in the plane."""
    inside = stack.agreement >= CONSENSUS
    where = np.argwhere(inside)
    centre = where.mean(axis=0)
    dz, dy, _ = stack.spacing_zyx_mm
    zoom = float(np.exp(rng.uniform(-0.16, 0.18)))
    depth = min(size, max(2, round(stack.hu.shape[0] * dz * zoom / spacing_mm)))
    in_plane = dy * zoom / spacing_mm
    shift = rng.uniform(-size / 5, size / 5, 2) / in_plane
    middle = (0.0, float(centre[1] + shift[0]), float(centre[2] + shift[1]))
    view = View(middle, size, (1.0, in_plane, in_plane), float(rng.uniform(-np.pi, np.pi)))
    planes = resize_linear(turn_planes(stack.hu, view), (depth, size, size))
    scale = depth / stack.hu.shape[0]
    z_in = (centre[0] + 0.5) * scale - 0.5
    low = int(np.clip(round(size / 2 - z_in + rng.uniform(-size / 5, size / 5)), 0, size - depth))
    crop = planes[np.clip(np.arange(size) - low, 0, depth - 1)]
    _, y, x = view.to_crop(np.asarray([[0.0, centre[1], centre[2]]]))[0]
    diameter = (6 * inside.sum() * dz * dy * dy / np.pi) ** (1 / 3)
    lesion = Lesion((float(z_in + low), float(y), float(x)), float(diameter) * zoom)
    return Sample(crop, [lesion], (low, low + depth))


class DetectorBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches for ``model.fit``: batch `i` of epoch `e` is a function of (seed, e, i) alone.

    ``seconds`` adds up the processor time that making them took.
    """

    def __init__(self, maker: CropMaker, batches: int, batch_size: int, seed: int) -> None:
        # threads suffice: OpenCV and NumPy release the interpreter; few cores are left to the network
        workers = max(1, (os.cpu_count() or 1) // 4)
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=4 * workers)
        self.maker, self.batches, self.batch_size, self.seed = maker, batches, batch_size, seed
        self.epoch = 0
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        start = time.thread_time()
        pairs = [self.maker(rng) for _ in range(self.batch_size)]
        self.seconds += time.thread_time() - start
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
