"What people have instead of a sound COCO file: `lightweight check` says what is wrong."
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO

import numpy as np
import pytest
from PIL import Image

from lightweight.data.coco import read_coco, summarise_findings
from lightweight.data.sample import make_sample
from lightweight.data.check import main


def run(*options):
    "Run `lightweight check` in this process: what it prints and its exit code."
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err): code = main([str(o) for o in options])
    return subprocess.CompletedProcess("check", code, out.getvalue(), err.getvalue())


def encode(width=64, height=48, color=(90, 140, 60), format="JPEG", **options):
    "A picture with something in it."
    pixels = np.full((height, width, 3), color, np.uint8)
    pixels[::7, ::3] = 255 - pixels[::7, ::3]
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def sound(tmp_path):
    "A sound file as a dict, and its folder with photos."
    path = make_sample(tmp_path/"sound", n_photos=8, faults=False)
    return json.loads(path.read_text()), path


def check(coco, path, *options):
    "Check a changed file; its tables come, too."
    path.write_text(json.dumps(coco))
    return run(path, *options), read_coco(path)


def change(coco, **fields):
    "Change fields of all annotations, each by a function."
    for entry in coco["annotations"]: entry |= {name: f(entry.get(name)) for name, f in fields.items()}
    return coco


@pytest.mark.parametrize("form", [str, float, lambda n: f" {n}.0"])
def test_ids_in_another_form(sound, form):
    coco, path = sound
    before = read_coco(path).objects
    change(coco, id=form, image_id=form, category_id=form, bbox=lambda box: [str(v) for v in box])
    for entry in coco["images"]: entry |= dict(id=form(entry["id"]), width=str(entry["width"]))
    for entry in coco["categories"]: entry["id"] = form(entry["id"])
    done, found = check(coco, path)
    assert done.returncode == 0 and "number in another form" in done.stdout, done.stdout + done.stderr
    assert found.objects.equals(before)


def to_corners(box): return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
def to_middle(box): return [box[0] + box[2]/2, box[1] + box[3]/2, *box[2:]]


@pytest.mark.parametrize("bbox, message", [
    (lambda box: [v/5000 for v in box], "shares of the photo"),
    (lambda box: [2*v for v in box], "pictures of another size"),
    (lambda box: [5*v for v in box], "pictures of another size"),
    (to_corners, "left, top, right, bottom"), (to_middle, "the middle of the box")])
def test_faults_of_the_whole_file(sound, bbox, message):
    coco, path = sound
    size = {e["id"]: (e["width"], e["height"]) for e in coco["images"]}
    for entry in coco["annotations"]:                                # boxes that fill their photo, so that each fault shows
        width, height = size[entry["image_id"]]
        entry["bbox"] = bbox([width//3 + entry["id"] % 7, height//3, 2*width//3 - 8, 2*height//3 - 1])
        entry.pop("segmentation", None); entry.pop("area", None)
    done, found = check(coco, path)
    assert done.returncode == 1 and message in done.stdout, done.stdout
    assert message in summarise_findings(found) or "shares" in summarise_findings(found)


def test_width_and_height_swapped_everywhere(sound):
    coco, path = sound
    for entry in coco["images"]: entry["width"], entry["height"] = entry["height"], entry["width"]
    done, _ = check(coco, path)
    assert done.returncode == 1 and "swapped in all 8 entries" in done.stdout and "Nothing can be used" in done.stdout


def test_categories_are_counted_by_id(sound):
    coco, path = sound
    counts = read_coco(path).categories.set_index("category_id").n_boxes
    for entry in coco["categories"][:2]: entry["name"] = "same"
    done, found = check(coco, path)
    assert found.categories.set_index("category_id").n_boxes.equals(counts)
    assert done.returncode == 0 and "shared category name" in done.stdout


def test_boxes_come_from_segmentations(sound):
    coco, path = sound
    before = read_coco(path).objects
    for entry in coco["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if entry["id"] % 3 == 0: del entry["bbox"]
        elif entry["id"] % 3 == 1: entry["bbox"] = [0, 0, 0, 0]
        else: entry["bbox"] = []
    done, found = check(coco, path)
    assert done.returncode == 0 and "box from segmentation" in done.stdout
    assert found.objects.equals(before)


@pytest.mark.parametrize("fields, kind, code", [
    (dict(iscrowd=lambda _: "1"), "crowd region", 1), (dict(iscrowd=lambda _: True), "crowd region", 1), (dict(iscrowd=lambda _: "many"), "iscrowd is 'many'", 1),
    (dict(iscrowd=lambda _: "0"), "number in another form", 0), (dict(area=lambda _: "large"), "area is 'large'", 0), (dict(area=lambda _: 1e9), "area is 1e+09", 0),
    (dict(segmentation=lambda _: [[0, 0, 2, 0, 2, 2]]), "the segmentation reaches", 0)])
def test_types_of_fields(sound, fields, kind, code):
    coco, path = sound
    done, _ = check(change(coco, **fields), path)
    assert done.returncode == code and kind in done.stdout, done.stdout


@pytest.mark.parametrize("rename", [str.upper, lambda n: n.replace("_", "%5F"), lambda n: f"data/{n}", lambda n: n.split("/")[-1],
                                    lambda n: n.replace(".jpg", ".png"), lambda n: f"D:\\photos\\{n}"])
def test_a_missing_photo_comes_with_the_nearest_name(sound, rename):
    coco, path = sound
    names = [entry["file_name"] for entry in coco["images"]]
    for entry in coco["images"]: entry["file_name"] = rename(entry["file_name"])
    done, _ = check(coco, path, "--examples", 99)
    assert done.returncode == 1
    for name in names: assert f"did you mean '{name}'" in done.stdout, done.stdout


@pytest.mark.parametrize("content, message", [
    (b"", "not a readable JSON"), (b"[]", "holds a list"), (b'{"images": [', "not a readable JSON"), ("{}".encode("utf-16"), "is not UTF-8"),
    ('{"images": "Müll"}'.encode("cp1252"), "is not UTF-8"), (b'{"images": {}, "annotations": [], "categories": []}', "images is")])
def test_errors_name_the_file(tmp_path, content, message):
    (tmp_path/"mine.json").write_bytes(content)
    done = run(tmp_path/"mine.json")
    assert done.returncode == 2 and message in done.stderr and "mine.json" in done.stderr


def test_limits_of_decoding(tmp_path):
    "A picture of too many pixels and a PostScript file that calls itself a photo are refused, and Ghostscript is not started."
    header = encode(format="BMP")
    (tmp_path/"huge.jpg").write_bytes(header[:18] + (12_000).to_bytes(4, "little")*2 + header[26:])
    (tmp_path/"eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    (tmp_path/"bin").mkdir()
    (tmp_path/"bin/gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path/"bin/gs").chmod(0o755)
    images = [dict(id=i, file_name=name) for i, name in enumerate(["huge.jpg", "eps.jpg"])]
    (tmp_path/"a.json").write_text(json.dumps(dict(images=images, annotations=[], categories=[])))
    command = [sys.executable, "-c", "import sys; from lightweight.data.check import main; sys.exit(main())", tmp_path/"a.json"]
    done = subprocess.run(command, env=os.environ | dict(PATH=f"{tmp_path}/bin:{os.environ['PATH']}"), capture_output=True, text=True)
    assert done.returncode == 1 and not (tmp_path/"started").exists()
    assert "128,000,000" in done.stdout, done.stdout
    assert "2  refused   undecodable photo" in done.stdout
