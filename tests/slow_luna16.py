"""LUNA16's rules a second time: plain loops over plain rows, no arrays, exact fractions for the curve.

Written from the rules' text alone, to be compared with the package. Speed is no aim.
Rows are tuples ``(seriesuid, x, y, z, value)``; the value is a probability or a diameter.
"""

from __future__ import annotations

from fractions import Fraction


def marks_of_scan(marks, uid, limit):
    """The marks of a scan that count: with more than `limit`, those above the (limit + 1)-th score."""
    own = [row for row in marks if row[0] == uid]
    if limit and len(own) > limit:
        scores = sorted((row[4] for row in own), reverse=True)
        own = [row for row in own if row[4] > scores[limit]]
    return own


def inside(mark, finding):
    """Strictly nearer to the centre than the radius; a negative diameter means 10 mm."""
    diameter = finding[4] if finding[4] >= 0 else 10.0
    return sum((mark[i] - finding[i]) ** 2 for i in (1, 2, 3)) < (diameter / 2) ** 2


def evaluate_scan(marks, nodules, excluded):
    """What one scan adds: scores of found nodules, number missed, scores of false positives, tallies."""
    left = list(range(len(marks)))
    found, missed, ignored, double = [], 0, 0, 0
    for nodule in nodules:
        hits = [i for i, mark in enumerate(marks) if inside(mark, nodule)]
        left = [i for i in left if i not in hits]
        if hits:
            found.append(max(marks[i][4] for i in hits))
            double += len(hits) - 1
        else:
            missed += 1
    for finding in excluded:
        hits = [i for i in left if inside(marks[i], finding)]
        left = [i for i in left if i not in hits]
        ignored += len(hits)
    return {
        "marks": len(marks),
        "found": found,
        "missed": missed,
        "false": [marks[i][4] for i in left],
        "ignored": ignored,
        "double": double,
    }


def evaluate_scans(marks, nodules, excluded, series, limit):
    """One entry per listed scan, in ascending order of id."""
    return [
        evaluate_scan(
            marks_of_scan(marks, uid, limit),
            [row for row in nodules if row[0] == uid],
            [row for row in excluded if row[0] == uid],
        )
        for uid in sorted(set(series))
    ]


def counts(scans):
    """The totals that LUNA16's script prints."""
    return {
        "scans": len(scans),
        "nodules": sum(len(s["found"]) + s["missed"] for s in scans),
        "candidates": sum(s["marks"] for s in scans),
        "true_positives": sum(len(s["found"]) for s in scans),
        "false_positives": sum(len(s["false"]) for s in scans),
        "false_negatives": sum(s["missed"] for s in scans),
        "ignored_excluded": sum(s["ignored"] for s in scans),
        "ignored_double": sum(s["double"] for s in scans),
    }


def points(scans):
    """Operating points (false positives, true positives) for each threshold, from (0, 0) on."""
    false = [score for s in scans for score in s["false"]]
    found = [score for s in scans for score in s["found"]]
    thresholds = sorted(set(false) | set(found), reverse=True)
    return [(0, 0)] + [(sum(score >= t for score in false), sum(score >= t for score in found)) for t in thresholds]


def interpolated(curve, scans, nodules, rate):
    """Sensitivity at a rate: the line between the last point at or left of it and the next one."""
    target = Fraction(rate) * scans
    for i in reversed(range(len(curve))):
        if curve[i][0] <= target:
            if i == len(curve) - 1:
                return Fraction(curve[i][1], nodules)
            (x0, y0), (x1, y1) = curve[i], curve[i + 1]
            return (y0 + (y1 - y0) * (target - x0) / (x1 - x0)) / nodules
    raise AssertionError("a curve starts at no false positives")


def nearest(curve, scans, nodules, rate):
    """Sensitivity at the first of the nearest bends; at the last point beyond the end."""
    target = Fraction(rate) * scans
    after_origin = curve[1:]
    kept = [curve[0]]
    for i, (x, y) in enumerate(after_origin):
        if 0 < i < len(after_origin) - 1:
            (x0, y0), (x1, y1) = after_origin[i - 1], after_origin[i + 1]
            if x - x0 == x1 - x and y - y0 == y1 - y:
                continue
        kept.append((x, y))
    if target > kept[-1][0]:
        return Fraction(kept[-1][1], nodules)
    best = min(kept, key=lambda point: abs(point[0] - target))
    return Fraction(best[1], nodules)
