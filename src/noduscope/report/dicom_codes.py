"""What the DICOM objects of a result have in common: codes, names of the maker, tracking identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from noduscope import __version__
from noduscope.findings import Nodule, ScanResult
from noduscope.report.dicom_source import uid_of

MAKER = "noduscope"
SERIAL = "0"
SHORT_NOTICE = "Research software. Not a medical device."
"""The notice where an attribute holds no more than 64 characters."""
SEG_SERIES, SR_SERIES, CAD_SERIES = 9701, 9702, 9703
"""Series numbers well above those that scanners give."""

NODULE = codes.SCT.Nodule
ABNORMAL_STRUCTURE = codes.SCT.MorphologicallyAbnormalStructure
LUNG = codes.SCT.Lung
ZONES = {"upper": codes.SCT.UpperZoneOfLung, "middle": codes.SCT.MiddleZoneOfLung, "lower": codes.SCT.LowerZoneOfLung}
SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
MILLIMETRE = codes.UCUM.Millimeter
CUBIC_MILLIMETRE = codes.UCUM.CubicMillimeter
PERCENT = codes.UCUM.Percent
QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")

PRIVATE_SCHEME = "99NODUSCOPE"
"""For what the standard's context groups have no code for."""
TYPES = {
    "solid": Code("SOLID", PRIVATE_SCHEME, "Solid nodule"),
    "part-solid": Code("PARTSOLID", PRIVATE_SCHEME, "Part-solid nodule"),
    "ground-glass": Code("NONSOLID", PRIVATE_SCHEME, "Non-solid nodule"),
}
NODULE_TYPE = Code("NODULETYPE", PRIVATE_SCHEME, "Nodule type")
LUNG_RADS = Code("LUNGRADS2022", PRIVATE_SCHEME, "Lung-RADS v2022 category")


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A result as the objects tell it: what every one of them is written from."""

    result: ScanResult

    def tracking(self, nodule: Nodule) -> tuple[str, str]:
        """UID and name by which a finding is the same in all objects, and in a second run on the scan."""
        place = [round(p, 1) for p in nodule.position_xyz_mm]
        return uid_of(self.result.scan.source.series_uid, *place), f"nodule {nodule.id}"

    def outlined(self) -> tuple[Nodule, ...]:
        """The nodules with at least one voxel, in the order of their segments."""
        return tuple(n for n in self.result.nodules if n.mask is not None and n.mask.mask.any())

    def parameters(self) -> tuple[str, ...]:
        """Which models spoke, and from which probability on a finding is one."""
        models = tuple(f"{m.name} {m.version} sha256 {m.sha256}" for m in self.result.models)
        return (*models, f"threshold {self.result.threshold:.3f}")


def version() -> str:
    """The software version as DICOM's LO holds it."""
    return __version__


def lung_rads(nodule: Nodule) -> str | None:
    """The Lung-RADS category of a nodule, where guidelines were asked."""
    answer = (nodule.guidelines or {}).get("lung_rads_2022")
    category = answer.get("category") if isinstance(answer, Mapping) else None
    return str(category) if category else None


def percent(probability: float) -> float:
    """Of a probability, to a tenth."""
    return round(100 * min(max(probability, 0.0), 1.0), 1)
