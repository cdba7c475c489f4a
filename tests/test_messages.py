"What functions say of wrong input, where no page shows it: the argument or file is named, and what would be right."
import json
import re
import shutil

import numpy as np
import pytest
from test_house import ROOT

from lightweight.core.files import Store
from lightweight.data.annotation import describe_value
from lightweight.data.class_map import read_class_map
from lightweight.data.sample import make_sample
from lightweight.data.sources import read_source
from lightweight.data.splits import read_folds
from lightweight.deploy.runtime import find_bundled
from lightweight.deploy.web import make_page
from lightweight.evaluation.result_plots import plot_worst
from lightweight.models.genotype import parse_genotype
from lightweight.models.surgery import rebuild_network
from lightweight.stages.compare import check_plan
from lightweight.stages.crop import CropSettings, crop
from lightweight.stages.teach import TeachSettings, open_teacher
from lightweight.stages.train import TrainSettings, apply_preset, find_teacher

CONV, POOL, LAST = dict(op="conv", kernel=3, out=8, act="relu", stride=1), dict(op="global_pool"), dict(op="linear", act="none", dropout=0.)


def make_genotype(*layers): return parse_genotype(dict(name="mine", about="", layers=list(layers)))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("call, said", [
    (lambda: parse_genotype("- conv"), "a genotype has fields name, about, in_channels and layers"),
    (lambda: make_genotype(CONV, POOL, LAST, LAST), "row 3 (linear), out: only the last row may leave it away"),
    (lambda: plot_worst(["a.jpg"], [0], [1], np.array([.5]), ["a", "b"]), "probs: shape (1,) for 1 targets and 1 preds; expected (n, n_classes)"),
    (lambda: apply_preset(TrainSettings(preset="quick", pretrained="waste")), "preset = quick: it fits the features of its own network"),
    (lambda: find_teacher(TrainSettings(teacher="run", teacher_view="crop", mix="mixup"), ROOT), "teacher_view = crop: the teacher outputs are cached for plain crops, not for mix = mixup"),
    (lambda: open_teacher(TeachSettings(teacher="run", teacher_cut=3), "split", ROOT), "teacher_cut = 3: only an ImageNet teacher can be cut"),
    (lambda: check_plan(dict(base=dict(refit=True), groups={}), "plan.yaml"), "plan.yaml: refit = true: trainings are compared on the validation crops"),
    (lambda: rebuild_network(dict(n_classes=6)), "recipe: missing name"),
    (lambda: Store("nowhere://place"), "nowhere://place: "),
], ids=lambda value: re.sub(r"\W+", "-", value)[:30] if isinstance(value, str) else "")
def test_arguments(call, said):
    with pytest.raises((ValueError, ImportError), match=re.escape(said)): call()


def test_a_number_of_too_many_digits(): assert describe_value(10**5000) == "a very large int"


def test_a_table_with_an_endless_cell(tmp_path):
    path = write(tmp_path/"classes.csv", f"category,label\n{'x'*200_000},Metal\n")
    with pytest.raises(ValueError, match="classes.csv: not readable as CSV: field larger than"): read_class_map(path)


def test_a_class_map_with_labels_for_other_categories(tmp_path):
    annotations = make_sample(tmp_path/"mine")
    names = {c["name"] for c in json.loads(annotations.read_text())["categories"]}
    path = write(tmp_path/"classes.csv", "category,label\nanother,Metal\n" + "".join(f"{name},\n" for name in sorted(names)))
    with pytest.raises(ValueError, match=f"class_map = {path}: no category of the \\d+ boxes has a label: "): crop(CropSettings(annotations=str(annotations), class_map=str(path), out=str(tmp_path/"crops")), ROOT)
    assert not (tmp_path/"crops").exists()


def test_splits_with_too_many_or_too_few_annotation_files(tmp_path):
    text = make_sample(tmp_path/"drawn", n_photos=4).read_text()
    for name in ("a", "b"): write(tmp_path/f"two/train/{name}.json", text)
    with pytest.raises(ValueError, match="train: which annotation file\\? a.json, b.json; keep one of them"): read_source(tmp_path/"two")
    write(tmp_path/"none/train/a.json", text)
    (tmp_path/"none/valid").mkdir()
    shutil.copy(next((tmp_path/"drawn").rglob("*.jpg")), tmp_path/"none/valid")
    with pytest.raises(ValueError, match="valid: it has photos but, unlike the other folders of a split, no COCO file"): read_source(tmp_path/"none")


def test_folds_with_a_photo_twice(tmp_path):
    text = (ROOT/"configs/race/sample-3fold.csv").read_text()
    path = write(tmp_path/"folds.csv", text + "another/" + text.splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match="folds.csv: the photo id \\S+ has two rows"): read_folds(path, None)


def test_a_page_with_the_result_of_another_network(tmp_path):
    record = ROOT/"results/taco-quick.json"
    with pytest.raises(ValueError, match="taco-quick.json: it is the result of another checkpoint"): make_page(find_bundled().with_suffix(".onnx"), tmp_path/"page", record=record)
    assert not (tmp_path/"page").exists()
