"A run that starts from a checkpoint: a pruned network is trained on, and what cannot be together is refused."
import pytest
import torch
from test_house import ROOT

from lightweight.compression.pruning import prune_blocks, prune_network
from lightweight.core.records import hash_file
from lightweight.deploy.runtime import find_bundled, open_model
from lightweight.metrics.purity import scale_probabilities
from lightweight.models.build import keep_centre
from lightweight.stages.export import ExportSettings, export
from lightweight.stages.train import TrainSettings, apply_preset, prepare_run, train
from lightweight.training.checkpoint import load_checkpoint, predict_images, read_checkpoint_info, save_checkpoint
from lightweight.models.surgery import list_widths

QUICK = dict(img_size=32, epochs=1, precision="fp32", channels_last=False, n_threads=1)


@pytest.fixture(scope="module", autouse=True)
def train_on_sample(sample_crops): QUICK["crops"] = str(sample_crops)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    "The checkpoint of a short run with half of its channels and one block less."
    folder = tmp_path_factory.mktemp("start")
    train(TrainSettings(network="timm:tf_efficientnet_lite0", cut=3, out=str(folder/"whole"), **QUICK), ROOT, say=lambda line: None)
    network, info = load_checkpoint(folder/"whole/model.safetensors")
    return save_checkpoint(folder/"pruned/model.safetensors", prune_network(prune_blocks(network, [3]), 0.5), info)


def test_pruned_network_is_trained_on(pruned, tmp_path):
    lines, (before, _) = [], load_checkpoint(pruned)
    settings = TrainSettings(start=str(pruned), out=str(tmp_path/"tuned"), lr=1e-9, **QUICK | dict(img_size=64))
    result = train(settings, ROOT, say=lines.append)
    after, info = load_checkpoint(tmp_path/"tuned/model.safetensors")
    assert list_widths(after) == list_widths(before) and after.recipe == before.recipe and after.recipe["dropped"] == [3]
    weights = dict(before.named_parameters())
    assert all(p.allclose(weights[name], atol=1e-5) for name, p in after.named_parameters())    # its weights, hardly moved
    assert info["mean"] == read_checkpoint_info(pruned)["mean"] == [0.5] * 3                    # and its normalisation
    assert result.record["hashes"]["start"] == info["start"]["checkpoint"] == hash_file(pruned)
    assert "start was trained at 32 px, this run at 64 px" in lines and not any("another split" in line for line in lines)


@pytest.mark.parametrize("options, message", [
    (dict(network="sampler"), "network = 'sampler'"), (dict(cut=2), "cut = 2"), (dict(pretrained=True), "pretrained = True"),
    (dict(dropout=0.1), "dropout = 0.1"), (dict(head_width=8), "head_width = 8")])
def test_a_start_has_its_own_network(pruned, tmp_path, options, message):
    with pytest.raises(ValueError, match=f"{message}: start = .* has its own network"):
        train(TrainSettings(start=str(pruned), out=str(tmp_path/"run"), **options, **QUICK), ROOT)


def test_a_preset_leaves_the_network_to_the_start(pruned, tmp_path):
    settings = apply_preset(TrainSettings(preset="recommended", start=str(pruned), out=str(tmp_path/"run"), **QUICK))
    assert settings.lr == 2.02e-3 and list_widths(prepare_run(settings, ROOT).network) == list_widths(load_checkpoint(pruned)[0])


def test_a_start_that_cannot_be(pruned, tmp_path):
    with pytest.raises(ValueError, match="start .* lies in it"): train(TrainSettings(start=str(pruned), out=str(pruned.parent), **QUICK), ROOT)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"): train(TrainSettings(start=str(tmp_path/"none.safetensors"), out=str(tmp_path/"run"), **QUICK), ROOT)
    network, info = load_checkpoint(pruned)
    other = save_checkpoint(tmp_path/"other.safetensors", network, info | dict(classes=list("abcdef"), split="another"))
    with pytest.raises(ValueError, match="was trained on the classes a, b, c, d, e, f; the crops have"):
        train(TrainSettings(start=str(other), out=str(tmp_path/"run"), **QUICK), ROOT)
    assert not (tmp_path/"run").exists()


def test_another_split_is_told(pruned, tmp_path):
    network, info = load_checkpoint(pruned)
    moved, lines = save_checkpoint(tmp_path/"moved.safetensors", network, info | dict(split="another")), []
    train(TrainSettings(start=str(moved), out=str(tmp_path/"run"), **QUICK), ROOT, say=lines.append)
    assert lines[0].startswith("start was trained on another split")


def test_the_model_of_the_package_as_a_start(pruned, tmp_path):
    "Body and normalisation are those of the package, the classifier is new; a network beside it is refused."
    known, info = load_checkpoint(find_bundled().with_suffix(".safetensors"))
    run = prepare_run(TrainSettings(preset="recommended", pretrained="waste", out=str(tmp_path/"run"), **QUICK), ROOT)
    own = known.state_dict()
    same = [name for name, value in run.network.state_dict().items() if name in own and own[name].shape == value.shape and own[name].equal(value)]
    assert {name for name in own if name not in same} == {name for name in own if name.startswith("linear.")} and run.info["mean"] == info["mean"]
    for given in (dict(network="sampler"), dict(cut=3)):
        with pytest.raises(ValueError, match="pretrained = waste has its own network"):
            prepare_run(TrainSettings(pretrained="waste", out=str(tmp_path/"run"), **given, **QUICK), ROOT)


def test_the_centre_is_used_in_the_checkpoint_and_in_the_files(pruned, tmp_path):
    "With `crop_pct` a checkpoint and its files take whole crops and answer like the plain network for their centre; a run that starts from it is told."
    train(TrainSettings(start=str(pruned), crop_pct=0.75, zoom=0.7, out=str(tmp_path/"run"), **QUICK), ROOT, say=lambda line: None)
    network, info = load_checkpoint(tmp_path/"run/model.safetensors")
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    kept = predict_images(network, images, info["mean"], info["std"])
    plain = predict_images(keep_centre(network, 1), images[..., 4:28, 4:28], info["mean"], info["std"])
    assert info["crop_pct"] == 0.75 and kept == pytest.approx(plain, abs=1e-5)
    export(ExportSettings(run=str(tmp_path/"run"), formats=["onnx", "openvino", "torchscript"]), ROOT)
    for name in ("model.onnx", "model.xml", "model.torchscript.pt"):
        model = open_model(tmp_path/"run/export"/name)
        assert model(images.permute(0, 2, 3, 1).numpy()) == pytest.approx(scale_probabilities(kept, model.info["temperature"]), abs=1e-3)
        assert model.info["crop_pct"] == 0.75
    train(TrainSettings(start=str(tmp_path/"run/model.safetensors"), out=str(tmp_path/"next"), **QUICK), ROOT, say=(lines := []).append)
    assert "start has crop_pct = 0.75, this run 1" in lines and "crop_pct" not in read_checkpoint_info(tmp_path/"next/model.safetensors")
    with pytest.raises(ValueError, match="crop_pct = 0.75: training enlarges objects only if zoom is below 1"):
        prepare_run(TrainSettings(start=str(pruned), crop_pct=0.75, out=str(tmp_path/"none"), **QUICK), ROOT)
