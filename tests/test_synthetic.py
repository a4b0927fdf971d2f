"""Synthetic chests for training: many known nodules, made once, never the demo's chest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noduscope.data import synthetic
from noduscope.data.synthetic import FIRST_SEED, phantom_hosts
from noduscope.phantom import PhantomSettings, make_phantom, plan_nodules
from noduscope.settings import PreprocessSettings, Settings


def test_a_plan_holds_many_nodules_of_all_kinds_apart_from_each_other():
    planned = plan_nodules(FIRST_SEED, 3)
    assert len(planned) >= 12
    assert {n.type for n in planned} == {"solid", "part-solid", "ground-glass"}
    assert {n.place for n in planned} == {"free", "vessel", "pleura"}
    places = np.array([n.position_xyz_mm for n in planned])
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    assert apart[np.triu_indices(len(places), 1)].min() >= 20.0
    assert plan_nodules(FIRST_SEED, 3) == planned


def test_a_chest_is_made_once_and_each_planted_nodule_is_a_lesion_there(tmp_path: Path, monkeypatch):
    def coarse(settings: PhantomSettings):
        return make_phantom(PhantomSettings(settings.seed, (2.5, 2.5, 2.5), nodules=settings.nodules))

    monkeypatch.setattr(synthetic, "make_phantom", coarse)
    settings = Settings(preprocess=PreprocessSettings(spacing_mm=2.5))
    (host,) = phantom_hosts(1, tmp_path, settings)
    assert len(host.lesions) == len(plan_nodules(FIRST_SEED, synthetic._ROUNDS))
    assert all(k.counts for k in host.lesions)
    solid = [k for k, n in zip(host.lesions, plan_nodules(FIRST_SEED, synthetic._ROUNDS), strict=True)
             if n.type == "solid" and n.diameter_mm > 7]  # fmt: skip
    for lesion in solid:
        assert host.hu[tuple(np.rint(lesion.centre_zyx).astype(int))] > -300

    monkeypatch.setattr(synthetic, "make_phantom", lambda _: pytest.fail("made again"))
    (again,) = phantom_hosts(1, tmp_path, settings)
    assert np.array_equal(again.hu, host.hu)


def test_the_demo_s_chest_is_not_among_them():
    assert PhantomSettings().seed < FIRST_SEED
