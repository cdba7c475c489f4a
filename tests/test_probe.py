"A linear probe as an answer, as a start and as a teacher, on crops whose classes have finer categories."
import json

import numpy as np
import papermill
import pytest
from PIL import Image
from test_house import ROOT

from lightweight.compression.pruning import cut_after
from lightweight.core.files import list_files
from lightweight.core.records import hash_file
from lightweight.data.crops import read_manifest
from lightweight.data.loaders import list_categories
from lightweight.deploy.runtime import Predictor
from lightweight.metrics.purity import scale_probabilities
from lightweight.stages.compress import CompressSettings, compress
from lightweight.stages.crop import CropSettings, crop
from lightweight.stages.export import ExportSettings, export
from lightweight.stages.train import TrainSettings, apply_preset, train
from lightweight.training.checkpoint import load_checkpoint, read_checkpoint_info

CLASSES = {"Plastic film": "Plastic", "Clear plastic bottle": "Plastic", "Drink can": "Metal", "Normal paper": "Paper", "Drink carton": "Paperpack",
           "Foam food container": "Styrofoam", "Cigarette": ""}
FAST = dict(precision="fp32", channels_last=True, n_threads=1)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    "Crops of five classes with six categories, and a run of the quick preset on them with small views."
    folder = tmp_path_factory.mktemp("probe")
    rows = [f"{category},{label}" for category, label in CLASSES.items()]
    (folder/"classes.csv").write_text("\n".join(["category,label", *rows, ""]))
    cut(folder)
    parts = [dict(network="timm:tf_efficientnet_lite0", size=128, view=view, pool=["mean", "centre"]) for view in (1, .8)]
    (folder/"views.yaml").write_text(json.dumps(dict(parts=parts)))
    settings = TrainSettings(crops=str(folder/"crops"), preset="quick", network=str(folder/"views.yaml"), img_size=160, out=str(folder/"run"), **FAST)
    lines = []
    result = train(apply_preset(settings), ROOT, say=lines.append)
    return folder, result, lines


def cut(folder):
    crop(CropSettings(out=str(folder/"crops"), class_map=str(folder/"classes.csv")), ROOT)


def run(folder, out, **options):
    settings = TrainSettings(crops=str(folder/"crops"), out=str(folder/out), **dict(img_size=64, epochs=1) | FAST | options)
    return train(settings, ROOT, say=lambda line: None)


def test_quick_fits_a_probe_of_categories(probe):
    folder, result, lines = probe
    _, class_of, names = list_categories(read_manifest(folder/"crops"))
    network, info = load_checkpoint(folder/"run/model.safetensors")
    assert len(class_of) > len(info["classes"]) and network.recipe["class_of"] == class_of and info["categories"] == names
    assert network.classifier.out_features == len(class_of) and len(result.history) == 1
    assert any(line.startswith("probe: macro-F1 in cross-validation") for line in lines) and result.record["metrics"]["valid"]["macro_f1"] > 0.5
    assert any(name.startswith("probe-") for name in list_files(folder/"crops"))       # the features are kept
    cut(folder)                                                                         # and belong to the crops


def test_its_file_answers_like_the_checkpoint(probe):
    folder, result, _ = probe
    export(ExportSettings(run=str(folder/"run"), formats=["onnx"]), ROOT)
    predictor = Predictor(next(folder.glob("run/export/*.onnx")))
    columns = [f"p({name})" for name in result.classes]
    rows = result.valid.head(20)
    known = scale_probabilities(rows[columns].to_numpy(), predictor.info["temperature"])
    for path, probabilities in zip(rows.path, known):
        with Image.open(path) as photo: answer = predictor(photo)
        assert np.abs(np.array([answer.probabilities[name] for name in result.classes]) - probabilities).max() < 0.02


def test_a_student_may_be_trained_on_both_splits(probe):
    folder, lines = probe[0], []
    options = dict(network="tiny", img_size=32, bs=16, epochs=2, labels="categories", refit=True, teacher_view="crop", temperature=1) | FAST
    settings = TrainSettings(crops=str(folder/"crops"), out=str(folder/"both"), teacher=str(folder/"run"), **options)
    result = train(settings, ROOT, say=lines.append)
    info, manifest = read_checkpoint_info(folder/"both/model.safetensors"), read_manifest(folder/"crops")
    assert info["refit"] and info["epoch"] == 2 and "trained on them, too; last epoch 2" in lines[-1]
    known = set(manifest.category[manifest.split == "train"])
    assert len(result.learn.dls.train_ds) == manifest.category.isin(known).sum() > (manifest.split == "train").sum()
    with pytest.raises(ValueError, match="with refit = true the teacher must be a probe"):
        run(folder, "other", network="tiny", labels="categories", refit=True, teacher=str(folder/"both"), teacher_view="crop")


def test_a_refit_has_seen_valid_and_says_so(probe):
    folder, quick, _ = probe
    again = run(folder, "refit", network=str(folder/"views.yaml"), pretrained=True, labels="categories", img_size=160, probe=True, epochs=0, refit=True)
    assert again.record["metrics"]["valid"] == quick.record["metrics"]["valid"]          # of the fit on train alone
    assert read_checkpoint_info(folder/"refit/model.safetensors")["refit"]
    assert again.record["hashes"]["checkpoint"] == hash_file(folder/"refit/model.safetensors")
    before, after = (load_checkpoint(folder/name/"model.safetensors")[0].classifier.weight for name in ("run", "refit"))
    assert not before.equal(after)
    for options in (dict(start=str(folder/"refit/model.safetensors")), dict(network="tiny", teacher=str(folder/"refit"))):
        with pytest.raises(ValueError, match="it has seen the validation crops"): run(folder, "refused", **options)
    assert not (folder/"refused").exists()
    with pytest.raises(ValueError, match="it has seen the validation crops"): compress(CompressSettings(run=str(folder/"refit"), out=str(folder/"small")), ROOT)


def test_a_student_learns_its_categories(probe):
    folder, _, _ = probe
    result = run(folder, "student", network="tiny", labels="categories", teacher=str(folder/"run"), teacher_view="crop")
    info = read_checkpoint_info(folder/"student/model.safetensors")
    assert info["recipe"]["class_of"] == read_checkpoint_info(folder/"run/model.safetensors")["recipe"]["class_of"]
    assert np.isfinite(result.history.train_loss).all() and info["teacher"]
    short = cut_after(load_checkpoint(folder/"student/model.safetensors")[0], 1)
    assert short.classifier.out_features == len(info["recipe"]["class_of"]) and short.recipe["class_of"] == info["recipe"]["class_of"]


def test_a_student_of_classes_gets_classes(probe):
    folder, _, _ = probe
    assert run(folder, "plain", network="tiny", teacher=str(folder/"run"), teacher_view="crop").history.train_loss.notna().all()
    assert run(folder, "same", network="tiny", teacher=str(folder/"run")).history.train_loss.notna().all()


@pytest.mark.parametrize("options, message", [
    (dict(network="torchvision:squeezenet1_1", probe=True), "probe = true: the classifier of .* is not a linear layer"),
    (dict(network="tiny", teacher="{run}", teacher_view="crop+mirror"), "a probe answers plain crops only; choose teacher_view = crop")])
def test_what_cannot_be_is_refused_before_any_work(probe, options, message):
    folder, _, _ = probe
    options = {k: v.format(run=folder/"run") if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message): run(folder, "refused", **options)
    assert not (folder/"refused").exists()


def test_options_that_nothing_would_use_are_refused():
    for options in (dict(teacher="x"), dict(find_lr=True)):
        with pytest.raises(ValueError, match="nothing is trained with epochs = 0"): TrainSettings.check(dict(probe=True, epochs=0) | options)


def test_a_teacher_without_categories_is_refused(probe):
    folder, _, _ = probe
    run(folder, "classes", network="tiny")
    with pytest.raises(ValueError, match="teacher = .* has not learnt the categories of these crops; choose labels = classes"):
        run(folder, "refused", network="tiny", labels="categories", teacher=str(folder/"classes"))
    assert not (folder/"refused").exists()


def test_fine_tuning_starts_from_the_probe(probe):
    folder, quick, _ = probe
    options = dict(network="timm:tf_efficientnet_lite0", pretrained=True, probe=True, freeze_bn=True, optimizer="adamw", lr=1e-5)
    history = run(folder, "tuned", **options).history
    assert len(history) == 2 and history.macro_f1[0] > 0.5 and abs(history.valid_loss[1] - history.valid_loss[0]) < 0.1


def test_the_page_runs_a_probe(probe):
    folder, _, _ = probe
    options = dict(crops=str(folder/"crops"), preset="quick", network=str(folder/"views.yaml"), img_size=160, out=str(folder/"page"))
    papermill.execute_notebook(ROOT/"nbs/train.ipynb", folder/"page.ipynb", options, cwd=ROOT, progress_bar=False)
    assert read_checkpoint_info(folder/"page/model.safetensors")["C"] > 0
