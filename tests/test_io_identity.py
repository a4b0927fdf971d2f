"""Same patient or not, and when: from the tags of one file, without their values coming out."""

from __future__ import annotations

from datetime import date

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from noduscope.io.identity import same_patient, study_date
from noduscope.scan import ScanSource


@pytest.fixture
def source(tmp_path):
    """Writes a header with these tags and gives a scan's source that points to it."""

    def make(**tags):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.PatientName = "Doe^Jane"
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        path = tmp_path / f"{generate_uid()}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return ScanSource("1.2", "dicom", files=(str(path),))

    return make


def test_the_same_id_is_the_same_patient(source):
    one, two = source(PatientID="A-17", PatientSex="F"), source(PatientID="a-17 ", PatientSex="F")
    assert same_patient(one, two).verdict == "same"


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"PatientID": "A-18"}, "patient ID"),
        ({"PatientBirthDate": "19520101"}, "birth date"),
        ({"PatientSex": "M"}, "sex"),
    ],
)
def test_one_fact_that_differs_is_another_patient(source, tags, name):
    facts = {"PatientID": "A-17", "PatientBirthDate": "19510101", "PatientSex": "F"}
    check = same_patient(source(**facts), source(**(facts | tags)))
    assert check.verdict == "different"
    assert check.differs == (name,)
    for value in (*facts.values(), *tags.values()):
        assert str(value) not in repr(check) or len(value) == 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({}, {}),
        ({"PatientID": "A-17"}, {"PatientID": ""}),
        ({"PatientSex": "F"}, {"PatientSex": "F"}),
        ({"PatientSex": "O"}, {"PatientSex": "F"}),
    ],
)
def test_what_is_not_told_decides_nothing(source, one, two):
    assert same_patient(source(**one), source(**two)).verdict == "unknown"


def test_files_without_tags_decide_nothing(source, tmp_path):
    known = source(PatientID="A-17")
    gone = ScanSource("1.2", "dicom", files=(str(tmp_path / "gone.dcm"),))
    for other in (ScanSource("scan", "nifti", files=("scan.nii",)), ScanSource("1.2", "dicom"), gone):
        assert same_patient(known, other).verdict == "unknown"
        assert study_date(other) is None


@pytest.mark.parametrize(
    ("tags", "day"),
    [
        ({"StudyDate": "20240229"}, date(2024, 2, 29)),
        ({"StudyDate": "", "AcquisitionDate": "20240301"}, date(2024, 3, 1)),
        ({"StudyDate": "2024.02.29"}, date(2024, 2, 29)),
        ({}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_study_date(source, tags, day):
    assert study_date(source(**tags)) == day
