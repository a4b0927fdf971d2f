"""The synthetic chest: what it says is in it is in it, and its files read back as they were."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from noduscope.errors import InputRefused, SettingsError
from noduscope.io.read import read_scan
from noduscope.phantom import (
    Phantom,
    PhantomSettings,
    PlantedNodule,
    make_phantom,
    write_dicom,
    write_mhd,
    write_nifti,
)

SPACING = (1.3, 1.3, 1.6)
COARSE = PhantomSettings(seed=5, spacing_xyz_mm=(3.0, 3.0, 4.0), nodules=())
# CT Image IOD, PS3.3 A.3.3
TYPE_1 = (
    *("ImageType", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope"),
    "PixelData",
)
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "SeriesNumber", "PatientPosition", "Manufacturer", "PositionReferenceIndicator"),
    *("SliceThickness", "KVP", "AcquisitionNumber", "InstanceNumber"),
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(PhantomSettings(seed=1, spacing_xyz_mm=SPACING))


@pytest.fixture(scope="module")
def quiet() -> Phantom:
    """The same chest as `phantom` without noise."""
    return make_phantom(PhantomSettings(seed=1, spacing_xyz_mm=SPACING, noise_hu=0.0))


@pytest.fixture(scope="module")
def empty() -> Phantom:
    """The same chest as `quiet` without nodules."""
    return make_phantom(PhantomSettings(seed=1, spacing_xyz_mm=SPACING, noise_hu=0.0, nodules=()))


@pytest.fixture(scope="module")
def coarse() -> Phantom:
    return make_phantom(COARSE)


def hu_at(phantom: Phantom, *points: tuple[float, float, float]) -> list[float]:
    """Mean HU of the 3×3×3 voxels round each LPS point."""
    made = []
    for point in points:
        k, j, i = np.rint(phantom.scan.geometry.to_index(point)).astype(int)
        made.append(float(phantom.scan.hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean()))
    return made


def box_round(phantom: Phantom, nodule: PlantedNodule, reach_mm: float) -> tuple[slice, slice, slice]:
    geometry = phantom.scan.geometry
    centre = np.rint(geometry.to_index(nodule.position_xyz_mm)).astype(int)
    half = np.ceil(reach_mm / np.asarray(geometry.spacing_zyx_mm)).astype(int)
    z, y, x = (slice(max(0, c - h), c + h + 1) for c, h in zip(centre, half, strict=True))
    return z, y, x


def test_same_settings_same_bytes_and_another_seed_other_vessels(coarse: Phantom) -> None:
    again = make_phantom(COARSE)
    other = make_phantom(replace(COARSE, seed=6, noise_hu=0.0))
    assert hashlib.sha256(again.scan.hu).digest() == hashlib.sha256(coarse.scan.hu).digest()
    assert again.scan.source == coarse.scan.source
    assert other.scan.source.series_uid != coarse.scan.source.series_uid
    inner = (coarse.lungs > 0) & (other.lungs > 0)
    quiet = make_phantom(replace(COARSE, noise_hu=0.0))
    assert np.abs(quiet.scan.hu[inner].astype(float) - other.scan.hu[inner]).max() > 300


def test_noise_seed_changes_the_noise_alone(coarse: Phantom) -> None:
    other = make_phantom(replace(COARSE, noise_seed=77))
    difference = other.scan.hu[:, 40:50, 40:60].astype(float) - coarse.scan.hu[:, 40:50, 40:60]
    # two independent noises of 20 HU differ by 20 * sqrt(2)
    assert difference.std() == pytest.approx(20 * np.sqrt(2), rel=0.1)
    assert abs(difference.mean()) < 1.0


def test_nodules_leave_the_rest_of_the_chest_as_it_is(quiet: Phantom, empty: Phantom) -> None:
    changed = quiet.scan.hu != empty.scan.hu
    for nodule in quiet.nodules:
        changed[box_round(quiet, nodule, 1.3 * nodule.diameter_mm + 5.0)] = False
    assert not changed.any()


def test_one_seed_is_one_chest_at_any_spacing(phantom: Phantom) -> None:
    thick = make_phantom(replace(phantom.settings, spacing_xyz_mm=(2.6, 2.6, 4.8)))
    assert thick.nodules == phantom.nodules
    for nodule in thick.nodules:
        if nodule.type == "solid" and nodule.diameter_mm >= 6:
            assert thick.scan.hu[box_round(thick, nodule, 2.0)].max() > -400, nodule


def test_tissues_have_their_hu(quiet: Phantom) -> None:
    liver, heart, aorta, trachea, room = hu_at(
        quiet, (-60, -10, -120), (12, -35, -62), (23, 41, -40), (-0.5, 10, 60), (0, -126, 0)
    )
    assert liver == pytest.approx(58, abs=8)
    assert heart == pytest.approx(42, abs=8)
    assert aorta == pytest.approx(42, abs=8)
    assert trachea == pytest.approx(-980, abs=25)
    assert room == pytest.approx(-1000, abs=2)
    fat, muscle = hu_at(quiet, (146, -5, -60), (26, 88, -20))
    assert fat == pytest.approx(-100, abs=25)
    assert muscle == pytest.approx(55, abs=15)
    # trabecular bone inside, cortical bone far denser
    vertebrae = quiet.scan.hu[:, :, quiet.scan.hu.shape[2] // 2]
    assert 150 < np.median(vertebrae[vertebrae > 120]) < 600
    assert quiet.scan.hu.max() > 500


def test_lungs_are_aerated_two_and_of_adult_size(quiet: Phantom) -> None:
    geometry = quiet.scan.geometry
    for label, side in ((1, 1), (2, -1)):
        where = np.argwhere(quiet.lungs == label)
        litres = len(where) * geometry.voxel_volume_mm3 / 1e6
        assert 1.5 < litres < 3.5
        assert np.all(geometry.to_world(where)[:, 0] * side >= 0)
        assert np.median(quiet.scan.hu[quiet.lungs == label]) == pytest.approx(-860, abs=15)


def test_the_back_of_the_lung_is_denser(empty: Phantom) -> None:
    y = empty.scan.geometry.to_world(np.argwhere(empty.lungs > 0))[:, 1]
    hu = empty.scan.hu[empty.lungs > 0]
    assert np.median(hu[y > 40]) - np.median(hu[y < -40]) > 15


def test_vessels_branch_and_thin_out_towards_the_pleura(empty: Phantom) -> None:
    """Soft tissue in the lung: plenty near the hilum, thin and little under the pleura."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(empty.lungs > 0, sampling=empty.scan.geometry.spacing_zyx_mm)
    dense = empty.scan.hu > -500
    outer, inner = (depth > 4) & (depth < 12), depth > 35
    assert 0.02 < dense[inner].mean() < 0.25
    assert 0.0005 < dense[outer].mean() < 0.5 * dense[inner].mean()


def test_noise_is_as_told_and_correlated(phantom: Phantom, quiet: Phantom) -> None:
    noise = (phantom.scan.hu.astype(float) - quiet.scan.hu)[40:60, 60:140, 80:180]
    assert noise.std() == pytest.approx(20, rel=0.1)
    neighbours = np.mean(noise[..., 1:] * noise[..., :-1]) / noise.var()
    assert neighbours > 0.03
    slices = np.mean(noise[1:] * noise[:-1]) / noise.var()
    assert abs(slices) < 0.05


def test_default_nodules_cover_types_shapes_places_and_both_lungs(phantom: Phantom) -> None:
    solid = [n for n in phantom.nodules if n.type == "solid" and n.diameter_mm >= 6]
    assert {n.shape for n in solid} == {"round", "lobulated", "spiculated"}
    assert {n.place for n in solid} == {"free", "vessel", "pleura"}
    assert {n.type for n in phantom.nodules} == {"solid", "part-solid", "ground-glass"}
    x, z = (np.array([n.position_xyz_mm[a] for n in phantom.nodules]) for a in (0, 2))
    for group in (x > 0, x < 0, z > -20, z < -20):
        assert np.count_nonzero(group) >= 3


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_default_nodules_lie_apart_and_inside_the_lungs(seed: int) -> None:
    made = make_phantom(replace(COARSE, seed=seed, nodules=None))
    positions = np.array([n.position_xyz_mm for n in made.nodules])
    index = tuple(np.rint(made.scan.geometry.to_index(positions)).astype(int).T)
    assert np.array_equal(made.lungs[index], np.where(positions[:, 0] > 0, 1, 2))
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 20


def test_volume_and_centre_are_as_told(quiet: Phantom, empty: Phantom) -> None:
    """Excess HU over the contrast is the volume whatever the blur; see also the half-contrast volume."""
    geometry = quiet.scan.geometry
    for nodule in quiet.nodules:
        if nodule.type == "part-solid" or nodule.place == "vessel":
            continue  # two densities; a vessel takes a share of the volume
        box = box_round(quiet, nodule, 1.3 * nodule.diameter_mm + 3.0)
        full = 35.0 if nodule.type == "solid" else -600.0
        before, after = (p.scan.hu[box].astype(float) for p in (empty, quiet))
        lung = empty.lungs[box] > 0
        share = np.where(lung, (after - before) / np.where(before < full - 100, full - before, np.inf), 0)
        volume = float(share.sum()) * geometry.voxel_volume_mm3
        # the strands of a spiculated nodule are extra
        slack = 0.12 if nodule.shape == "spiculated" else 0.04
        assert volume == pytest.approx(nodule.volume_mm3, rel=slack), nodule
        half = share > 0.5
        if nodule.diameter_mm >= 6:
            assert np.count_nonzero(half) * geometry.voxel_volume_mm3 == pytest.approx(nodule.volume_mm3, rel=0.12)
        centre = geometry.to_world(np.argwhere(half).mean(axis=0) + [b.start for b in box])
        assert np.linalg.norm(centre - nodule.position_xyz_mm) < 0.6, nodule


def test_centre_hu_follows_the_type(quiet: Phantom) -> None:
    for nodule in quiet.nodules:
        hu = quiet.scan.hu[tuple(np.rint(quiet.scan.geometry.to_index(nodule.position_xyz_mm)).astype(int))]
        expected = {"solid": 35.0, "part-solid": 20.0, "ground-glass": -600.0}[nodule.type]
        if nodule.diameter_mm >= 6:
            assert hu == pytest.approx(expected, abs=60), nodule
    part_solid = next(n for n in quiet.nodules if n.type == "part-solid")
    box = quiet.scan.hu[box_round(quiet, part_solid, 0.6 * part_solid.diameter_mm)]
    assert np.count_nonzero((box > -700) & (box < -400)) > np.count_nonzero(box > -200)


def test_places_are_as_told(quiet: Phantom, empty: Phantom) -> None:
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(quiet.lungs > 0, sampling=quiet.scan.geometry.spacing_zyx_mm)
    for nodule in quiet.nodules:
        radius = nodule.diameter_mm / 2
        at = tuple(np.rint(quiet.scan.geometry.to_index(nodule.position_xyz_mm)).astype(int))
        if nodule.place == "pleura":
            assert depth[at] < radius
        else:
            assert depth[at] > radius + 2
        box = box_round(empty, nodule, radius)
        there = empty.scan.geometry.to_world(np.argwhere(np.ones_like(empty.scan.hu[box])) + [b.start for b in box])
        near = empty.scan.hu[box].ravel()[np.linalg.norm(there - nodule.position_xyz_mm, axis=1) <= radius]
        if nodule.place == "vessel":
            assert near.max() > -450
        elif nodule.place == "free":
            # thin twigs may run through it
            assert np.mean(near > -300) < 0.02


def test_explicit_nodules_are_planted_as_given() -> None:
    wanted = (PlantedNodule((70.0, 10.0, -30.0), 20.0), PlantedNodule((-70.0, 10.0, -40.0), 16.0, "ground-glass"))
    made = make_phantom(replace(COARSE, nodules=wanted))
    assert made.nodules == wanted
    assert hu_at(made, wanted[0].position_xyz_mm)[0] > -50
    grown = make_phantom(replace(COARSE, nodules=(replace(wanted[0], diameter_mm=26.0), wanted[1])))
    assert np.count_nonzero(grown.scan.hu > made.scan.hu + 200) > 50


def test_volume_is_that_of_the_sphere() -> None:
    # pi / 6 * 10 mm ** 3
    assert PlantedNodule((0.0, 0.0, 0.0), 10.0).volume_mm3 == pytest.approx(523.599, abs=1e-3)


@pytest.mark.parametrize(
    ("position", "message"), [((0.0, -20.0, -60.0), "outside the lungs"), ((900.0, 0.0, 0.0), "field of view")]
)
def test_a_nodule_outside_the_lungs_is_refused(position: tuple[float, float, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_phantom(replace(COARSE, nodules=(PlantedNodule(position, 8.0),)))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"0\.4 to 5 mm"):
        PhantomSettings(spacing_xyz_mm=(0.0, 1.0, 1.0))
    with pytest.raises(SettingsError, match="negative"):
        PhantomSettings(noise_hu=-1.0)
    with pytest.raises(SettingsError, match="1 to 60 mm"):
        PlantedNodule((0.0, 0.0, 0.0), 0.1)
    with pytest.raises(SettingsError, match="shape"):
        PlantedNodule((0.0, 0.0, 0.0), 5.0, shape="square")  # type: ignore[arg-type]


def test_dicom_reads_back_with_equal_hu_and_positions(coarse: Phantom, tmp_path: Path) -> None:
    folder = write_dicom(coarse, tmp_path / "series")
    back = read_scan(folder)
    assert np.array_equal(back.hu, coarse.scan.hu)
    corners = [(0, 0, 0), tuple(n - 1 for n in back.hu.shape)]
    np.testing.assert_allclose(back.geometry.to_world(corners), coarse.scan.geometry.to_world(corners), atol=1e-3)
    assert back.source.series_uid == coarse.scan.source.series_uid
    assert not back.warnings
    assert [p.name for p in tmp_path.iterdir()] == ["series"]


def test_dicom_is_a_whole_ct_image(coarse: Phantom, tmp_path: Path) -> None:
    files = sorted(write_dicom(coarse, tmp_path / "a").iterdir())
    assert len(files) == coarse.scan.hu.shape[0]
    first, last = (pydicom.dcmread(f) for f in (files[0], files[-1]))
    assert first.SOPClassUID == pydicom.uid.CTImageStorage
    assert first.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID != last.SOPInstanceUID
    # type 1: must have a value
    for keyword in TYPE_1:
        assert first[keyword].value not in (None, "")
    # type 2: must be there, may be empty
    for keyword in TYPE_2:
        assert keyword in first
    assert str(first.PatientName) == "Phantom^Chest"
    again = sorted(write_dicom(coarse, tmp_path / "b").iterdir())
    assert [f.read_bytes() for f in again[:3]] == [f.read_bytes() for f in files[:3]]


def test_dicom_does_not_mix_with_other_files(coarse: Phantom, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputRefused, match="not an empty folder"):
        write_dicom(coarse, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("name", ["chest.mhd", "chest.mha", "chest.nii", "chest.nii.gz"])
def test_volumes_read_back_with_equal_hu_and_positions(coarse: Phantom, tmp_path: Path, name: str) -> None:
    write = write_nifti if "nii" in name else write_mhd
    path = write(coarse, tmp_path / name)
    back = read_scan(path).canonical()
    assert np.array_equal(back.hu, coarse.scan.hu)
    corners = [(0, 0, 0), tuple(n - 1 for n in back.hu.shape)]
    np.testing.assert_allclose(back.geometry.to_world(corners), coarse.scan.geometry.to_world(corners), atol=1e-3)
    expected = {"chest.mhd", "chest.raw"} if name == "chest.mhd" else {name}
    assert {p.name for p in tmp_path.iterdir()} == expected


def test_an_unknown_ending_is_refused(coarse: Phantom, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="must end in"):
        write_mhd(coarse, tmp_path / "chest.png")
    with pytest.raises(InputRefused, match="must end in"):
        write_nifti(coarse, tmp_path / "chest.mhd")
    assert not list(tmp_path.iterdir())


def test_import_is_light() -> None:
    """The module loads neither SimpleITK, pydicom, OpenCV nor SciPy until they are needed."""
    import subprocess
    import sys

    code = "import sys, noduscope.phantom; print({'SimpleITK', 'pydicom', 'cv2', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
