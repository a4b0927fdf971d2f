"""Settings: what is written is read back, and what is misspelt or of the wrong kind is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from noduscope.errors import SettingsError
from noduscope.settings import (
    DetectSettings,
    Settings,
    load_settings,
    settings_from_dict,
    settings_hash,
    settings_to_dict,
    settings_to_toml,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# TOML integers have 64 bits
INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=6)


def values_like(default: Any) -> st.SearchStrategy[Any]:
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return INTEGERS
    if isinstance(default, float):
        return FINITE
    if default is None:
        return st.none() | FINITE
    if isinstance(default, tuple):
        return st.lists(values_like(default[0]), max_size=3).map(tuple)
    return TEXT


@st.composite
def any_settings(draw: st.DrawFn) -> Settings:
    """Settings with a few fields of every kind of value changed."""
    made = Settings()
    fields = [(t.name, f.name) for t in dataclasses.fields(made) for f in dataclasses.fields(getattr(made, t.name))]
    for table, name in draw(st.lists(st.sampled_from(fields), max_size=6)):
        part = getattr(made, table)
        value = draw(values_like(getattr(getattr(Settings(), table), name)))
        with contextlib.suppress(SettingsError):  # some tables know what cannot be run
            made = dataclasses.replace(made, **{table: dataclasses.replace(part, **{name: value})})
    return made


@hypothesis_settings(max_examples=25)
@given(any_settings())
def test_toml_is_read_back_to_an_equal_object(settings):
    again = settings_from_dict(tomllib.loads(settings_to_toml(settings)))
    assert again == settings
    assert settings_hash(again) == settings_hash(settings)


def test_toml_with_names_of_every_alphabet(tmp_path: Path):
    names = ("Patient \U0001fac1", 'a "quoted" \\ name', "line\nbreak", "\x7f", "Żółć")
    settings = dataclasses.replace(Settings(), split=dataclasses.replace(Settings().split, test_scans=names))
    file = tmp_path / "settings.toml"
    file.write_text(settings_to_toml(settings), encoding="utf-8")
    assert load_settings(file) == settings


def test_no_file_is_the_defaults():
    assert load_settings(None) == Settings()


def test_what_is_absent_keeps_its_default(tmp_path: Path):
    file = tmp_path / "s.toml"
    file.write_text("[detect]\nthreshold = 0.25\n\n[detector]\nfilters = [8, 12]\n", encoding="utf-8")
    settings = load_settings(str(file))
    assert settings.detect == DetectSettings(threshold=0.25)
    assert settings.detector.filters == (8, 12)
    assert settings.preprocess == Settings().preprocess


def test_a_whole_number_may_stand_for_a_float():
    value = settings_from_dict({"preprocess": {"spacing_mm": 2}}).preprocess.spacing_mm
    assert (value, type(value)) == (2.0, float)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"detection": {}}, r"unknown settings table \[detection\]; known: .*detect.*preprocess"),
        ({"detect": {"treshold": 0.5}}, r"unknown setting detect\.treshold; known: .*threshold"),
        ({"detect": 0.5}, r"\[detect\] must be a table"),
        ({"detect": {"threshold": "0.5"}}, r"detect\.threshold"),
        ({"detect": {"threshold": True}}, r"detect\.threshold"),
        ({"detect": {"max_candidates": 10.5}}, r"detect\.max_candidates must be like 100; got 10\.5"),
        ({"detect": {"max_candidates": False}}, r"detect\.max_candidates"),
        ({"preprocess": {"spacing_mm": [1.0]}}, r"preprocess\.spacing_mm"),
        ({"preprocess": {"spacing_mm": float("nan")}}, r"preprocess\.spacing_mm"),
        ({"preprocess": {"hu_low": float("-inf")}}, r"preprocess\.hu_low"),
        ({"detector": {"filters": 40}}, r"detector\.filters"),
        ({"detector": {"filters": [40, "64"]}}, r"detector\.filters"),
        ({"split": {"test_scans": "LIDC-IDRI-0001"}}, r"split\.test_scans"),
    ],
)
def test_what_is_wrong_is_refused_by_name(tables, named):
    with pytest.raises(SettingsError, match=named):
        settings_from_dict(tables)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"[detect\n", "not valid TOML"), (b"\xff\xfe\x00", "not valid TOML"), (None, "cannot read the settings file")],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content, named):
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=named) as refused:
        load_settings(file)
    assert "broken.toml" in str(refused.value)


def test_the_hash_follows_every_value():
    other = dataclasses.replace(Settings(), detect=DetectSettings(max_candidates=99))
    assert settings_hash(other) != settings_hash(Settings())
    assert settings_hash(Settings()) == settings_hash(Settings())
    assert len(settings_hash(Settings())) == 16


def test_only_settings_become_tables():
    with pytest.raises(SettingsError, match="not a settings object"):
        settings_to_dict(3)


def test_none_is_left_out_because_toml_has_no_null():
    assert "threshold" not in settings_to_dict(Settings())["detect"]
