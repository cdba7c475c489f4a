"Thresholds with promised purity: what would break a promise without anybody noticing, and how a report compares promises with the test crops."
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from forked import run_script
from mapie.risk_control import BinaryClassificationController
from scipy import special, stats
from test_house import BIN, ROOT

from lightweight.core.files import MARKER
from lightweight.deploy.formats import CALIBRATION, TABLE, clear_stale
from lightweight.metrics.purity import accept, find_limit, find_threshold, promise_purity


def test_a_new_export_removes_thresholds(tmp_path):
    "Of the record and of files that are kept; files of another network are removed, and a damaged file hinders nobody."
    row = dict(variant="executorch", file="model.pte", precision="f32", passed=True, checkpoint="old", why="", bytes=1, n=1)
    pd.DataFrame([row, row | dict(variant="onnx", file="model.onnx")]).to_csv(tmp_path/TABLE, index=False)
    (tmp_path/MARKER).write_text("export\n")
    for name in ("model.onnx", "model.pte", CALIBRATION): (tmp_path/name).write_text("{}")
    (tmp_path/"model.pte.json").write_text(json.dumps(dict(checkpoint="old", calibration=dict(checkpoint="old"))))
    clear_stale(tmp_path, "old")
    assert not (tmp_path/CALIBRATION).exists() and json.loads((tmp_path/"model.pte.json").read_text()) == dict(checkpoint="old")
    assert (tmp_path/"model.pte").is_file() and (tmp_path/"model.onnx").read_text() == "{}"
    clear_stale(tmp_path, "new")
    assert not any(path.suffix in (".onnx", ".pte", ".json") for path in tmp_path.iterdir())


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
    "A threshold is written to JSON, and the crops above it are accepted in both precisions."
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([.2, .2, .2], size=900).astype(np.float32)
    targets = probs.argmax(1)
    table = promise_purity(targets, probs, np.arange(900), list("abc"), .9, .9)
    assert (table.recovery == 1).all() and (accept(probs, [float(repr(t)) for t in table.threshold]) == targets).all()


def test_other_runtimes_make_the_same_decisions():
    "Differences of the seventh decimal flip no crop, also if many probabilities are nearly 1."
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([.03, .03, .03], size=2000).astype(np.float32)
    targets = np.where(rng.random(2000) < .98, probs.argmax(1), rng.integers(3, size=2000))
    table = promise_purity(targets, probs, np.arange(2000), list("abc"), .9, .9)
    assert table.threshold.notna().all()
    for _ in range(20):
        other = probs + rng.uniform(-2e-6, 2e-6, probs.shape).astype(np.float32)
        assert (accept(other, table.threshold) == accept(probs, table.threshold)).all()
    strangeness = rng.permutation(2000)/2000
    limit = find_limit(strangeness)
    assert (strangeness > limit).sum() == 20
    assert ((strangeness + rng.uniform(-2e-6, 2e-6, 2000) > limit) == (strangeness > limit)).all()


def run_command(*words): return run_script(BIN/"lightweight", *words, folder=ROOT)


def test_evaluate_compares_promises_with_the_test_crops(sample_run, tmp_path):
    "A calibrated run is judged at its thresholds, another one says how to choose them, and thresholds of another checkpoint are refused."
    run, out = tmp_path/"train", tmp_path/"evaluate"
    shutil.copytree(sample_run, run)
    assert run_command("export", run, "--formats", "[onnx]")[0] == 0
    assert run_command("calibrate", run, "--purity", "0.6", "--confidence", "0.8")[0] == 0
    path = run/"export/calibration.json"
    found = json.loads(path.read_text())
    thresholds = found["metrics"]["thresholds"]
    never, given = list(thresholds)[0], {name for name, threshold in thresholds.items() if threshold is not None}
    changed = found["metrics"] | dict(thresholds=thresholds | {never: 1.})          # the files hold other ones
    path.write_text(json.dumps(found | dict(metrics=changed)))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 2 and "its thresholds are not those of calibration.json; run lightweight calibrate again" in said, said
    path.write_text(json.dumps(found))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 0 and re.search("^promise    A purity of 0.6 is promised with confidence 0.8 for", said, re.M), said
    sorting = json.loads((out/"record.json").read_text())["metrics"]["sorting"]
    assert {row["class"] for row in sorting["per_class"] if row["verdict"] != "no promise"} == given
    assert "### Sorting" in (out/"README.md").read_text() and "Test crops at the calibrated thresholds" in (out/"report.html").read_text()
    path.unlink()
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 0 and "promise    Not calibrated: `lightweight calibrate RUN`" in said and "confidence AUGRC" in said, said
    assert "Not calibrated" in (out/"report.html").read_text() and run_command("summary", out/"record.json") == (0, said[said.index("promise "):said.index("report  ")])
    ledger = sample_run.with_name("crops-openings.csv").read_text()
    path.write_text(json.dumps(found | dict(hashes=found["hashes"] | dict(checkpoint="0"*64))))
    code, said = run_command("evaluate", run, "--out", out, "--n-rounds", "5")
    assert code == 2 and "calibration.json: it belongs to another checkpoint; run lightweight calibrate" in said, said
    assert sample_run.with_name("crops-openings.csv").read_text() == ledger
