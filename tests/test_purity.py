"Thresholds with promised purity: what would break a promise without anybody noticing."
import numpy as np
import pandas as pd
import pytest
from mapie.risk_control import BinaryClassificationController
from scipy import special, stats

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


@pytest.mark.filterwarnings("ignore::UserWarning:mapie")
def test_another_library_tests_the_same_hypotheses():
    "MAPIE computes the same p-values for the precision of a threshold; its correction for many thresholds accepts no lower one."
    rng, thresholds = np.random.default_rng(0), np.linspace(.999, .3, 200)
    for n in (400, 1000, 3000):
        evidence = 1.5 + 2*rng.normal(size=n)
        scores, right = special.expit(evidence), evidence + .8*rng.logistic(size=n) > 0
        mapie = BinaryClassificationController(lambda x: np.c_[1 - x[:, 0], x[:, 0]], "precision", .9, confidence_level=.95,
                                               list_predict_params=thresholds).calibrate(scores[:, None], right.astype(int))
        accepted = [scores >= t for t in thresholds]
        exact = [stats.binom.cdf((a & ~right).sum(), a.sum(), .1) for a in accepted]
        p = np.ravel(mapie.p_values)
        assert (p >= np.array(exact) - 1e-9).all() and np.isclose(p, exact).mean() > .3    # others: one error more, by rounding
        lowest = min(mapie.valid_predict_params, default=1)
        threshold, why = find_threshold(scores, right, np.arange(n), .9, .95)
        assert why == "" and threshold <= lowest
