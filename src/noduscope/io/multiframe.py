"""Enhanced multi-frame CT: one file, many slices (DICOM PS3.3 C.7.6.16, functional groups)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noduscope.io.headers import Slice


def split_frames(whole: Slice, dataset: Any) -> list[Slice]:
    """One image per frame, with position, orientation, spacing and rescale from the functional groups.

    Parameters
    ----------
    whole : what the top level of the file says.
    dataset : the parsed header, with the shared and the per-frame functional groups.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    return [_frame(whole, number, groups, shared) for number, groups in enumerate(per_frame)] or [whole]


def _frame(whole: Slice, number: int, groups: Any, shared: Any) -> Slice:
    position = _values(groups, shared, "PlanePositionSequence", "ImagePositionPatient")
    orientation = _values(groups, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _values(groups, shared, "PixelMeasuresSequence", "PixelSpacing")
    slope = _values(groups, shared, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _values(groups, shared, "PixelValueTransformationSequence", "RescaleIntercept")
    kind = _item(groups, shared, "CTImageFrameTypeSequence")
    texts = dict(whole.texts)
    if kind is not None and kind.get("FrameType"):
        texts["ImageType"] = "\\".join(str(word) for word in kind.FrameType)
    return replace(
        whole,
        frame=number,
        position=(position[0], position[1], position[2]) if len(position) == 3 else whole.position,
        orientation=orientation if len(orientation) == 6 else whole.orientation,
        spacing_yx=(spacing[0], spacing[1]) if len(spacing) == 2 else whole.spacing_yx,
        slope=slope[0] if slope else whole.slope,
        intercept=intercept[0] if intercept else whole.intercept,
        texts=texts,
    )


def _item(groups: Any, shared: Any, sequence: str) -> Any:
    """First item of a functional group: the frame's own, else the shared one, else None."""
    for level in (groups, shared):
        items = level.get(sequence) if level is not None else None
        if items:
            return items[0]
    return None


def _values(groups: Any, shared: Any, sequence: str, keyword: str) -> tuple[float, ...]:
    item = _item(groups, shared, sequence)
    value = item.get(keyword) if item is not None else None
    if value is None:
        return ()
    values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    return tuple(float(v) for v in values)
