"""A result in other systems' JSON: grand-challenge points, LUNA25 likelihoods, FHIR R4."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from noduscope.errors import InputRefused, SettingsError
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Nodule, ScanResult
from noduscope.words import counted

GRAND_CHALLENGE, FHIR = "grand-challenge", "fhir"
KINDS = (GRAND_CHALLENGE, FHIR)
POINTS, LIKELIHOODS, BUNDLE = "nodules.json", "lung-nodule-malginancy-likelihoods.json", "fhir.json"
"""The second is spelt as LUNA25 spells it."""

_SNOMED, _DICOM, _UCUM = (
    "http://snomed.info/sct",
    "http://dicom.nema.org/resources/ontology/DCM",
    "http://unitsofmeasure.org",
)


def exchange_files(result: ScanResult, kinds: Collection[str]) -> dict[str, bytes]:
    """The asked-for files by name.

    Parameters
    ----------
    kinds : of ``grand-challenge`` (``nodules.json``; with malignancies also LUNA25's likelihoods) and ``fhir``
        (``fhir.json``: an R4 Bundle of a DiagnosticReport and one Observation per nodule).

    Raises
    ------
    SettingsError
        For an unknown kind, or FHIR without the ``fhir`` extra.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SettingsError(f"unknown exchange form {', '.join(unknown)}; known: {', '.join(KINDS)}")
    made: dict[str, bytes] = {}
    if GRAND_CHALLENGE in kinds:
        made[POINTS] = _bytes(_points("Lung nodules", [(n, n.probability) for n in result.nodules]))
        judged = [(n, n.grade.malignancy.value) for n in result.nodules if n.grade is not None]
        if judged:
            made[LIKELIHOODS] = _bytes(_points("Points of interest", judged))
    if FHIR in kinds:
        made[BUNDLE] = _fhir(result)
    return made


def _points(name: str, marks: list[tuple[Nodule, float]]) -> dict[str, Any]:
    """grand-challenge's "Multiple points", LPS mm."""
    points = [
        {
            "name": f"nodule {n.id}",
            "point": [round(p, 3) for p in n.position_xyz_mm],
            "probability": round(probability, 6),
        }
        for n, probability in marks
    ]
    return {"name": name, "type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}


def _fhir(result: ScanResult) -> bytes:
    """The bundle, checked against the resource definitions. R4B's definitions of these resources are R4's."""
    try:
        from fhir.resources.R4B.bundle import Bundle  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError("FHIR needs the fhir extra: pip install 'noduscope[fhir]'") from error
    try:
        text: str = Bundle.model_validate(_bundle(result)).model_dump_json(indent=2)
    except ValueError as error:
        raise InputRefused(f"the scan's identifiers make no valid FHIR: {error}") from error
    return text.encode() + b"\n"


def _bundle(result: ScanResult) -> dict[str, Any]:
    """The report and its observations; identifiers are the same as in the DICOM objects of the result."""
    from noduscope.report.dicom_codes import Told  # noqa: PLC0415
    from noduscope.report.dicom_source import study_uid, uid_of  # noqa: PLC0415

    told, study = Told(result), study_uid(result.scan)
    found = len(result.nodules)
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _concept("http://loinc.org", "24627-2", "CT Chest"),
        "conclusion": f"{counted(found, 'lung nodule')} at or above probability "
        f"{result.threshold:.2f}. {NOT_A_MEDICAL_DEVICE}",
    }
    entries: list[dict[str, Any]] = []
    for nodule in result.nodules:
        uid = f"urn:oid:{told.tracking(nodule)[0]}"
        seen = _observation(nodule)
        seen["identifier"] = [{"system": "urn:dicom:uid", "value": uid}]
        if study:
            image = {"system": "urn:dicom:uid", "value": f"urn:oid:{study}"}
            seen["derivedFrom"] = [{"identifier": image, "type": "ImagingStudy"}]
        entries.append({"fullUrl": uid, "resource": seen})
    if entries:
        report["result"] = [{"reference": entry["fullUrl"]} for entry in entries]
    whole = {"fullUrl": f"urn:oid:{uid_of(result.scan.source.series_uid, 'report')}", "resource": report}
    return {"resourceType": "Bundle", "type": "collection", "entry": [whole, *entries]}


def _observation(nodule: Nodule) -> dict[str, Any]:
    """One nodule. It names no patient: the receiver knows whose series it is."""
    parts = [_part(_DICOM, "111012", "Certainty of Finding", 100 * nodule.probability, "%")]
    diameter, volume = nodule.diameter_mm, nodule.volume_mm3
    if diameter is not None:
        parts += [
            _part(_SNOMED, "81827009", "Diameter", diameter.mean, "mm"),
            _part(_SNOMED, "103339001", "Long axis", diameter.long, "mm"),
            _part(_SNOMED, "103340004", "Short axis", diameter.short, "mm"),
        ]
    if volume is not None:
        parts.append(_part(_SNOMED, "118565006", "Volume", volume.value, "mm3"))
    if nodule.grade is not None:
        parts.append(_part(_DICOM, "111047", "Probability of cancer", 100 * nodule.grade.malignancy.value, "%"))
    side = f"{nodule.side.capitalize()} lung" if nodule.side else "Lung"
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": _concept(_SNOMED, "27925004", "Nodule"),
        "bodySite": {"coding": [{"system": _SNOMED, "code": "39607008", "display": "Lung"}], "text": side},
        "component": parts,
        "note": [{"text": f"nodule {nodule.id}, slice {nodule.slice_number}. {NOT_A_MEDICAL_DEVICE}"}],
    }


def _part(system: str, code: str, display: str, value: float, unit: str) -> dict[str, Any]:
    quantity = {"value": round(value, 2), "unit": unit, "system": _UCUM, "code": unit}
    return {"code": _concept(system, code, display), "valueQuantity": quantity}


def _concept(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
