"""The documentation says what is true: commands and options exist, links lead somewhere, pages are listed."""

from __future__ import annotations

import dataclasses
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from noduscope.cli import app
from noduscope.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SPAN = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
CALL = re.compile(r"(?:^|[`\s])noduscope (?P<rest>[^`\n|]*)")
# options in the documentation that belong to other programs
FOREIGN = re.findall(r'"(--[a-z-]+)"', (ROOT / "bench" / "__main__.py").read_text(encoding="utf-8"))


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(command: Any) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")} | {"--help"}


def mistakes(text: str) -> list[str]:
    """Calls of ``noduscope`` in code spans and blocks that name a command or option that is not there."""
    found = []
    for span in (s for s in SPAN.findall(text) if not s.startswith("```python")):
        for call in CALL.finditer(span):
            words = re.sub(r"#.*", "", call["rest"]).split()
            command: Any = get_command(app)
            allowed = options_of(command)
            while words and words[0] in allowed:  # the common ones take no value
                words.pop(0)
            while words and hasattr(command, "commands") and not words[0].startswith("-"):
                if words[0] not in command.commands:
                    if words[0] not in ("COMMAND", "…"):
                        found.append(f"no command: noduscope {call['rest']}")
                    words = []
                    break
                command = command.commands[words.pop(0)]
                allowed |= options_of(command)
            found += [f"no option {w}: noduscope {call['rest']}" for w in words if is_option(w) and w not in allowed]
    return found


def is_option(word: str) -> bool:
    return re.fullmatch(r"--?[a-zA-Z][\w-]*", word) is not None


def every_option(command: Any) -> set[str]:
    names = options_of(command)
    for inner in getattr(command, "commands", {}).values():
        names |= every_option(inner)
    return names


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_exist(page: Path) -> None:
    assert mistakes(page.read_text(encoding="utf-8")) == []


def test_the_check_sees_what_is_wrong() -> None:
    text = "`noduscope detext x`, `noduscope detect x --treshold 1`, ``` \nnoduscope models show x --json\n```"
    assert len(mistakes(text)) == 3
    assert mistakes("`noduscope -v detect x -o y --threshold 0.5` and the noduscope project") == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_options_named_alone_exist_somewhere(page: Path) -> None:
    known = every_option(get_command(app)) | set(FOREIGN)
    spans = SPAN.findall(page.read_text(encoding="utf-8"))
    named = {s.strip("`").split()[0] for s in spans if re.fullmatch(r"`--[a-z][^`]*`", s)}
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_names_exist(page: Path) -> None:
    for span in SPAN.findall(page.read_text(encoding="utf-8")):
        names = re.findall(r"\bnoduscope(?:\.[A-Za-z_]\w*)+\b(?![/\w])", span)
        for module, listed in re.findall(r"^from (noduscope[\w.]*) import (.+)$", span, re.MULTILINE):
            names += [f"{module}.{name.strip()}" for name in listed.split(",")]
        for name in names:
            pkgutil.resolve_name(name)


def test_readme_lists_every_command() -> None:
    make = loaded("make_reference")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    leaves = [" ".join(path) for path, command in make.commands(get_command(app)) if not hasattr(command, "commands")]
    assert [c for c in leaves if not re.search(rf"^\| .*`noduscope {c}\b", text, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    text = SPAN.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page_id(page)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page_id(page)} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    """A page that is not listed is not found; add it to ``nav`` in mkdocs.yml."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": ([\w/.-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", ["settings.md", "commands.md", "models.md"])
def test_generated_pages_are_fresh(name: str) -> None:
    """Run ``python docs/make_reference.py`` after changing settings, commands or networks."""
    expected = loaded("make_reference").pages()[name]
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == expected


def test_every_setting_is_documented() -> None:
    docs = loaded("make_reference").field_docs()
    for table in dataclasses.fields(Settings):
        part = type(getattr(Settings(), table.name))
        fields = [f.name for f in dataclasses.fields(part)]
        assert [f for f in fields if not docs[part.__name__].get(f)] == [], part.__name__


def test_pictures_are_small_and_shown() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    pictures = [p for p in (DOCS / "images").iterdir() if p.suffix in (".png", ".jpg")]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture.name
        assert f"images/{picture.name})" in text, picture.name
