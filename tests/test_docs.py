"""The documentation runs as printed, and every page can be found."""

import inspect
import re
from pathlib import Path

import pytest

import keras_tensornet
from tests import formats_table, reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"<!-- needs: ([\w ]+) -->")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    for needed in NEEDS.findall(text):
        for package in needed.split():
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__docs__"}
    for block in BLOCK.finditer(text):
        # blank lines in front, so that a traceback shows the line of the page
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), namespace)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/.-]+\.md)\s*$", navigation, re.MULTILINE))
    present = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert present - listed == set(), "add these pages to `nav` in mkdocs.yml"
    assert listed - present == set(), "`nav` in mkdocs.yml lists pages that do not exist"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_the_table_of_laws_is_the_one_that_is_tested():
    page = (DOCS / "laws.md").read_text(encoding="utf-8")
    assert formats_table.markdown() in page, "python -m tests.formats_table prints the new table"


def test_the_reference_names_everything_public():
    """Each name is a link, and the pages do not build where one leads nowhere."""
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: keras_tensornet\.([\w.]+)", written, re.MULTILINE))
    shown = {"keras_tensornet." + room for room in listed}
    for name in keras_tensornet.__all__:
        value = getattr(keras_tensornet, name)
        if inspect.ismodule(value):
            assert value.__name__ in shown, f"the reference has no section on {name}"
    assert reference.page() == written, "python -m tests.reference prints the new page"
