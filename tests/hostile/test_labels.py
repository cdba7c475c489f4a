"What to label next, and suspicious labels: every mistake is named, and no table of labels is overwritten."
import json

import pandas as pd
from cases import both, coco, draw, every, make_coco, put, remove, rename, run, same, save, suite, write

from lightweight.core.settings import find_root
from lightweight.data.crops import read_crops_info
from lightweight.models.build import build_network
from lightweight.training.checkpoint import save_checkpoint

NEXT, ERRORS = "label-next run photos --n 5 --out out/next.csv", "label-errors run --out out/errors.csv"


def make_run(folder):
    "Photos, crops of them, and a network of random weights that says of itself that it is a probe; its features are kept with the crops."
    make_coco(folder)
    done = run("crop --annotations annotations.json --class_map classes.csv --out crops", folder)
    assert done.code == 0, done.err
    info = dict(img_size=32, resize="squish", mean=[.5]*3, std=[.5]*3, crops="crops", split=read_crops_info(folder/"crops")["splits"],
                classes=["bag", "can", "paper"], C=1, epoch=1, settings={})
    (folder/"run").mkdir()
    save_checkpoint(folder/"run/model.safetensors", build_network("tiny", 3, root=find_root()), info)
    done = run("label-errors run --out first.csv", folder)
    assert done.code == 0, done.err


def manifest(change):
    "Change the table of the crops."
    def make(folder):
        path = folder/"crops/manifest.csv"
        change(pd.read_csv(path)).to_csv(path, index=False)
    return make


def keep(folder): run("label-errors run --out second.csv", folder)   # the features, which lie with the crops


def info(**fields):
    "Change what the checkpoint says of itself."
    def make(folder):
        known = json.loads((folder/"run/model.json").read_text()) | fields
        network = build_network("tiny", len(known["classes"]), root=find_root())
        save_checkpoint(folder/"run/model.safetensors", network, {k: v for k, v in known.items() if v is not None})
    return make


test_next = suite(make_run,
    ("sound", same, NEXT, 0, "5 crops to label next: out/next.csv and out/next.png"),
    ("boxes", same, "label-next run annotations.json --out out/next.csv", 0, "24 crops to label next (there are no more"),
    ("boxes of photos elsewhere", rename("photos", "other/photos"), "label-next run annotations.json --photos other --out out/next.csv", 0, "24 crops"),
    ("boxes without categories", every("annotations", category_id=...), "label-next run annotations.json --n 3 --out out/next.csv", 0, "3 crops to label next"),
    ("more than there are", same, "label-next run photos --n 1000 --out out/next.csv", 0, "12 crops to label next (there are no more"),
    ("none", same, "label-next run photos --n 0 --out out/next.csv", 2, "n = 0: expected a number from 1 up"),
    ("no photos", lambda folder: (folder/"empty").mkdir(), "label-next run empty --out out/next.csv", 2, "empty: there is no image or box in it"),
    ("no folder", same, "label-next run photoes --out out/next.csv", 2, "photoes: No such file or directory; check the name"),
    ("an image", same, "label-next run photos/000.jpg --out out/next.csv", 2, "photos/000.jpg, line 1: this is not UTF-8 text"),
    ("a photo that is none", put("photos/002.jpg", "no photo"), NEXT, 1, "5 crops", "1 could not be read, for instance photos/002.jpg: not readable as an image"),
    ("no photo is one", lambda folder: write(folder/"bad/a.jpg", "no photo"), "label-next run bad --out out/next.csv", 2, "bad/a.jpg: not readable as an image"),
    ("copies of one photo", lambda folder: [save(f"copies/{i}.png", draw(0))(folder) for i in range(4)], "label-next run copies --out out/next.csv", 0,
     "1 crops to label next (there are no more"),
    ("no boxes", coco(lambda content: content | dict(annotations=[])), "label-next run annotations.json --out out/next.csv", 2, "annotations.json: there is no image or box"),
    ("boxes as shares", every("annotations", bbox=[.1, .1, .5, .5]), "label-next run annotations.json --out out/next.csv", 2, "annotations.json: ", "shares of the photo"),
    ("boxes of a missing photo", remove("photos/000.jpg"), "label-next run annotations.json --out out/next.csv", 1, "2 could not be read, for instance photos/000.jpg"),
    ("boxes, but no crops", remove("crops"), "label-next run annotations.json --out out/next.csv", 2, "crops is not a finished crop store"),
    ("no run", remove("run"), NEXT, 2, "run/model.safetensors: no such checkpoint; train first"),
    ("a run that is cut off", put("run/model.safetensors", lambda data: data[:1000]), NEXT, 2, "run/model.safetensors: not a complete safetensors file"),
    ("a table that is there", put("mine.csv", "rank,label\n"), "label-next run photos --out mine.csv", 2, "mine.csv is there; move it away"),
    ("a picture that is there", save("mine.png", draw(0)), "label-next run photos --out mine.csv", 2, "mine.png is there; move it away"),
    ("a table among the photos", same, "label-next run photos --out photos/next.csv", 2, "photos/next.csv: this lies in photos"),
    ("a folder", lambda folder: (folder/"mine.csv").mkdir(), "label-next run photos --out mine.csv", 2, "mine.csv: this is a folder"),
    ("another kind of table", same, "label-next run photos --out next.xlsx", 2, "next.xlsx: expected the name of a .csv file"))

test_errors = suite(make_run,
    ("sound", same, ERRORS, 0, "that the network contradicts; the most suspicious first: out/errors.csv and out/errors.png"),
    ("of other crops", rename("crops", "moved"), ERRORS + " --crops moved", 0, "the most suspicious first"),
    ("no crops", remove("crops"), ERRORS, 2, "crops is not a finished crop store"),
    ("no manifest", remove("crops/manifest.csv"), ERRORS, 2, "crops/manifest.csv is missing"),
    ("a fine-tuned run", info(epoch=3), ERRORS, 2, "run/model.safetensors: this network was trained on the labels", "--preset quick --crops crops"),
    ("a run of other classes", info(classes=["bag", "can", "tin"]), ERRORS, 2, "crops has classes that the network was not trained on: paper"),
    ("a run of another split", info(split="other"), ERRORS, 2, "crops has another split"),
    ("one class", manifest(lambda t: t.assign(label="can", category="can")), ERRORS, 2, "crops: two classes with crops of two groups of photos are needed"),
    ("unlabelled crops", manifest(lambda t: t.assign(label="")), ERRORS, 2, "crops has classes that the network was not trained on"),
    ("a class of one group", both(manifest(lambda t: t.assign(group=t.group.where(t.label != "bag", 1))), keep), ERRORS, 0, "not judged, as all photos are of one group: bag"),
    ("one group", manifest(lambda t: t.assign(group=1)), ERRORS, 2, "crops: two classes with crops of two groups of photos are needed"),
    ("a missing crop", both(remove("crops/train/can"), lambda folder: [p.unlink() for p in (folder/"crops").glob("*.npy")]), ERRORS, 2, "crops/train/can"),
    ("a table that is there", put("mine.csv", "rank,given\n"), "label-errors run --out mine.csv", 2, "mine.csv is there; move it away"))
