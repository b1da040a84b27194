"""The example notebook of the documentation runs from its first cell to its last, as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import ROOT, require


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError:
        require(False, "nbclient and ipykernel are not installed: pip install -e '.[docs]'")
    notebook = nbformat.read(ROOT / "docs" / "example.ipynb", 4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert printed
    assert "plan: 6 cells" in printed[0].text
    assert not [output for output in printed if output.get("name") == "stderr"]
