"""Notebooks run from top to bottom in a kernel of their own, and are found by readers."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_every_notebook_is_linked_from_the_readme_and_the_pages():
    assert NOTEBOOKS
    for page in ("README.md", "examples/README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for notebook in NOTEBOOKS:
            assert notebook.name in text, f"{page} does not link {notebook.name}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    book = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}  # what it writes stays out of the tree
    client.NotebookClient(book, timeout=300, resources=resources).execute()
    ran = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1))
