"The stages in the order of the walk."
import pytest
from test_house import STAGES, name_page
from test_notebooks import run_notebook

ORDER = ["eda", "crop", "train", "export", "calibrate", "evaluate", "compare", "teach", "compress", "race", "tune", "measure", "benchmark"]  # each finds what the one before it left


@pytest.mark.parametrize("path", sorted(STAGES, key=lambda p: (ORDER.index(p.stem) if p.stem in ORDER else 99)), ids=name_page)
def test_stage_notebook(path, request):
    run_notebook(path, request)
