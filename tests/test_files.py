"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from noduscope.errors import InputRefused
from noduscope.files import replace_files, replace_text


def test_files_are_written_into_a_new_folder(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    replace_files(folder, {"x.bin": b"\x00\x01", "y.txt": b"y"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"x.bin": b"\x00\x01", "y.txt": b"y"}


def test_text_is_utf8_with_its_line_ends_kept(tmp_path: Path):
    replace_text(tmp_path / "t.txt", "Knötchen\r\n")
    assert (tmp_path / "t.txt").read_bytes() == b"Kn\xc3\xb6tchen\r\n"


def test_when_one_cannot_be_written_none_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace_files(tmp_path, {"a.txt": b"old", "b.txt": b"old"})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "b.txt" in path.name:
            write(path, data[:1])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputRefused, match=r"cannot write to .*: No space left on device"):
        replace_files(tmp_path, {"a.txt": b"new", "b.txt": b"new"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.txt": b"old", "b.txt": b"old"}


def test_an_interrupt_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace_files(tmp_path, {"a.txt": b"old"})
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace_files(tmp_path, {"a.txt": b"new"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.txt": b"old"}


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(InputRefused, match="cannot write to"):
        replace_text(tmp_path / "f" / "t.txt", "x")
    assert (tmp_path / "f").read_bytes() == b"mine"
