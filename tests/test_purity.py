"Thresholds with promised purity: what would break a promise without anybody noticing."
import numpy as np
import pandas as pd
import pytest

from lightweight.core.files import MARKER
from lightweight.deploy.formats import CALIBRATION, TABLE, clear_stale
from lightweight.metrics.purity import accept, find_threshold, promise_purity


def test_thresholds_of_another_checkpoint_are_removed(tmp_path):
    "An export of a network that was trained again removes the thresholds with the old files; a second export of the same one keeps them."
    row = dict(variant="onnx", file="model.onnx", precision="f32", passed=True, checkpoint="old", why="", bytes=1, n=1)
    (tmp_path/MARKER).write_text("export\n")
    pd.DataFrame([row]).to_csv(tmp_path/TABLE, index=False)
    for name in ("model.onnx", CALIBRATION): (tmp_path/name).write_text("{}")
    clear_stale(tmp_path, "old")
    assert (tmp_path/CALIBRATION).is_file() and (tmp_path/"model.onnx").is_file()
    clear_stale(tmp_path, "new")
    assert not (tmp_path/CALIBRATION).exists() and not (tmp_path/"model.onnx").exists()


@pytest.mark.parametrize("seed", range(5))
def test_order_of_crops_and_names_of_photos_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    scores, photos = rng.random(600).round(2), rng.integers(150, size=600)
    right = rng.random(600) < scores + .3
    found = find_threshold(scores, right, photos, .8, .9)
    order = rng.permutation(600)
    names = np.array([f"photo {p}.jpg" for p in photos])
    assert find_threshold(scores[order], right[order], photos[order], .8, .9)[0] == found[0]
    assert find_threshold(scores, right, names, .8, .9) == found
    assert found[0] is None or right[scores >= found[0]].mean() >= .8


def test_copies_of_photos_are_no_evidence():
    "Ten copies of each crop, in the same photo, give no lower threshold, apart from the steps between thresholds."
    rng = np.random.default_rng(0)
    scores = rng.random(300)
    right, photos = rng.random(300) < scores + .5, np.arange(300)
    once, _ = find_threshold(scores, right, photos, .8, .9)
    tenfold, _ = find_threshold(*(np.repeat(v, 10) for v in (scores, right, photos)), .8, .9)
    assert once is not None and (tenfold is None or tenfold >= once - .05)


def test_probabilities_of_float32_are_accepted_at_their_own_threshold():
    "A threshold is the probability of a crop, and is written to JSON: that crop is accepted."
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([.2, .2, .2], size=900).astype(np.float32)
    targets = probs.argmax(1)
    table = promise_purity(targets, probs, np.arange(900), list("abc"), .9, .9)
    assert (table.recovery == 1).all() and (accept(probs, [float(repr(t)) for t in table.threshold]) == targets).all()
