"The crop stage as a whole: what it tells, what it refuses, and that it touches nothing but its own."
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_house import ROOT

from lightweight.stages.crop import CropSettings, crop
from lightweight.data.crops import read_manifest
from lightweight.data.splits import SPLITS

BIN = Path(sys.executable).parent
CLASSES = ("can", "paper", "bag")


def draw(i, size=(96, 72)):
    "A photo like no other."
    coarse = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def make_photos(folder, n=30, name="{:03}.jpg", photo=draw, copies=1, **fields):
    "A COCO file beside its photos, each with a box of two classes in turn; `copies` gives every photo further files."
    images, boxes = [], []
    for i in range(n):
        for k in range(copies):
            made = photo(i) if copies == 1 else photo(i, k)
            file_name = name.format(i, k)
            (folder/file_name).parent.mkdir(parents=True, exist_ok=True)
            made.save(folder/file_name)
            images.append(dict(id=len(images), file_name=file_name, width=made.width, height=made.height) | {f: v(i) for f, v in fields.items()})
            for j in (0, 1): boxes.append(dict(id=len(boxes), image_id=len(images) - 1, category_id=(i + j) % 3, bbox=[8 + j, 8, 40, 30], area=1200, iscrowd=0))
    return write_coco(folder, images, boxes)


def write_coco(folder, images, boxes, names=CLASSES):
    coco = dict(images=images, annotations=boxes, categories=[dict(id=i, name=c) for i, c in enumerate(names)])
    (folder/"annotations.json").write_text(json.dumps(coco))
    (folder/"classes.csv").write_text("category,label\n" + "".join(f"{c},{c}\n" for c in names))
    return coco


def run(folder, **options):
    "The stage in this process, with the folder as root."
    options = dict(annotations="annotations.json", class_map="classes.csv", out="crops") | options
    return crop(CropSettings.check(options), folder)


def command(folder, *words, **kwargs):
    files = ("--annotations", "annotations.json", "--class_map", "classes.csv")
    return subprocess.Popen([BIN/"lightweight", "crop", *files, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def read_tree(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(".lock")}


def test_nothing_is_left_out_silently(tmp_path, capsys):
    coco = make_photos(tmp_path)
    for image in coco["images"][:5]: (tmp_path/image["file_name"]).unlink()
    boxes = coco["annotations"]
    boxes[20]["bbox"], boxes[21]["bbox"], boxes[22]["bbox"] = [80, 50, 40, 40], [8, 8, 5, 5], [8, 8, 0, 5]
    write_coco(tmp_path, coco["images"], [*boxes, dict(boxes[30], id=99, category_id=3, bbox=[9, 9, 40, 30])], (*CLASSES, "other"))
    (tmp_path/"classes.csv").write_text("category,label\ncan,can\npaper,paper\nbag,bag\nother,\n")
    manifest = run(tmp_path).manifest
    said = capsys.readouterr().out
    for part in ("25 of 30 photos", "50 of 61 boxes", "5 × missing photo", "10 × photo refused", "1 × zero-area box", "1 × box partly outside",
                 "left out by class_map: other 1", "smaller than min_side = 24:", "lightweight check"): assert part in said, said
    assert len(manifest) == 47
    for label, rows in manifest.groupby("label"):
        n = [str((rows.split == s).sum()) for s in SPLITS]
        assert re.search(rf"^{label} +{' +'.join(n)}$", said, re.MULTILINE), said


def to_shares(x, y, w, h): return [x/96, y/72, w/96, h/72]
def to_corners(x, y, w, h): return [x, y, x + w, y + h]


@pytest.mark.parametrize("change,said", [(to_shares, "of 60 boxes lie within 0 to 1"), (to_corners, "of 60 boxes leave their photo: they would fit as left, top, right, bottom")])
def test_a_file_that_two_programs_wrote_is_suspect(tmp_path, capsys, change, said):
    coco = make_photos(tmp_path)
    for b in coco["annotations"]:
        b["bbox"] = [40 - b["id"] % 2, 30, 41 + b["id"] % 2, 35] if b["image_id"] % 2 else [50 + b["id"] % 2, 20, 30, 30]
    boxes = [dict(b, bbox=change(*b["bbox"])) if b["image_id"] % 2 else b for b in coco["annotations"]]
    write_coco(tmp_path, coco["images"], boxes)
    run(tmp_path)
    told = capsys.readouterr().out
    assert f"30 {said}" in told and "convert those boxes, or leave them out" in told, told


def test_too_few_groups_say_what_was_refused(tmp_path):
    coco = make_photos(tmp_path)
    for b in coco["annotations"][4:]: b["bbox"] = [v*10 for v in b["bbox"]]               # thousandths, say
    write_coco(tmp_path, coco["images"], coco["annotations"])
    with pytest.raises(ValueError) as error: run(tmp_path)
    for part in ("2 photo(s) with boxes are too few", "4 of 60 boxes", "belong to pictures of another size", "56 × box outside; for instance annotations[4]: bbox is"):
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize("out", [".", "..", "photos", "photos/crops", "link", "mine", "notes.txt", "classes.csv"])
def test_a_place_that_is_not_its_own_is_refused(tmp_path, out):
    root = tmp_path/"work"
    make_photos(root/"photos")
    for name in ("annotations.json", "classes.csv"): (root/"photos"/name).rename(root/name)
    (root/"link").symlink_to(root/"photos")
    for name in ("mine/notes.txt", "notes.txt"):
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_text("precious")
    before = read_tree(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(f"out = {root/out}: ")): run(root, photos="photos", out=out)
    assert read_tree(tmp_path) == before


def test_only_its_own_files_are_replaced(tmp_path):
    make_photos(tmp_path)
    first = run(tmp_path).manifest
    run(tmp_path, context=0.2)                                             # its own store
    for name in ("train/can/mine.jpg", "notes.txt", ".env"):
        (tmp_path/"crops"/name).write_text("precious")
        before = read_tree(tmp_path)
        with pytest.raises(OSError, match=re.escape(name)): run(tmp_path, context=0.3)
        assert read_tree(tmp_path) == before
        (tmp_path/"crops"/name).unlink()
    assert len(run(tmp_path, context=0.3).manifest) == len(first)


def orient(i, k): return draw(i) if not k else draw(i).transpose(list(Image.Transpose)[(i + 2*k) % 7])


@pytest.mark.parametrize("photo,name", [
    (orient, "x{1}/{0:03}{1}.jpg"),                                          # the pixels tell, the names do not
    (lambda i, k: draw(1000*(i + 1) + k), "{0:03}_jpg.rf.{1:06x}.jpg"),            # the names tell, the pixels do not
    (lambda i, k: draw(1000*(i + 1) + k), "IMG_{0:03}_aug{1}.png"),
    (lambda i, k: draw(1000*(i + 1) + k), "{0:03} - Copy ({1}).jpg"),
], ids=["turned", "roboflow", "augmented", "copy"])
def test_copies_of_a_photo_stay_in_one_split(tmp_path, photo, name):
    coco = make_photos(tmp_path, 20, name, photo, copies=3)
    if "Copy" in name:                                                      # such a name counts where its source is there
        for i in range(20):
            draw(i).save(tmp_path/f"{i:03}.jpg")
            coco["images"].append(dict(id=900 + i, file_name=f"{i:03}.jpg", width=96, height=72))
            coco["annotations"].append(dict(id=900 + i, image_id=900 + i, category_id=i % 3, bbox=[8, 8, 40, 30]))
        write_coco(tmp_path, coco["images"], coco["annotations"])
    manifest = run(tmp_path).manifest
    source = manifest.file_name.str.extract(r"(\d{3})")[0]
    assert source.nunique() == 20 and (manifest.groupby(source).split.nunique() == 1).all()
    assert manifest.groupby(source).group.nunique().eq(1).all() and manifest.group.nunique() == 20


def belt(i):
    "The same belt each time, and a little thing on it."
    pixels = np.array(draw(0))
    pixels[4:8, i:i + 4] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name,fields", [
    ("{:03}.jpg", {}), ("run {0:03}.png", {}), ("a{0}.jpg", dict(lane=lambda i: f"lane {i//6}")),
    ("cam-b.{0}-x.jpg", dict(date_captured=lambda i: f"2026-05-{1 + i//5:02} 10:00:{i % 5:02}")),
], ids=["numbered", "words", "field", "time"])
def test_every_remedy_for_a_belt_works(tmp_path, name, fields, capsys):
    make_photos(tmp_path, 48, name, belt, **fields)
    with pytest.raises(ValueError) as error: run(tmp_path)
    said = str(error.value)
    assert "48 photos look alike by group_by = alike:22 and are one group" in said, said
    offers = re.findall(r"--group_by ('[^']+'|\S+) \(", said)
    assert offers, said
    for field in fields: assert any(offer.startswith(("image:" + field, "time:")) for offer in offers), said
    for offer in offers:
        group_by, = shlex.split(offer)
        manifest = run(tmp_path, group_by=group_by).manifest
        assert set(manifest.split) == set(SPLITS) and (manifest.groupby("group").split.nunique() == 1).all()


@pytest.mark.parametrize("group_by", [r"name:run(\d+)_", "image:run", "time:60", "alike:0"])
def test_copies_on_a_belt_stay_in_one_split_whatever_keeps_photos_together(tmp_path, group_by):
    fields = dict(run=lambda i: i//4, date_captured=lambda i: f"2026-05-{1 + i//4:02} 10:00:{i % 4:02}")
    coco = make_photos(tmp_path, 48, "run{0:03}_.png", lambda i: belt(i % 24).resize((384, 288)), **fields)
    for i, image in enumerate(coco["images"]):                               # runs 6 to 11 hold the photos of runs 0 to 5 once more
        image.update(file_name=f"run{i//4}_{i:02}.{'png' if i < 24 else 'jpg'}")
        photo = belt(i % 24).resize((384, 288))
        if i >= 24: photo = photo.transpose(list(Image.Transpose)[i % 7])
        image.update(width=photo.width, height=photo.height)
        photo.save(tmp_path/image["file_name"], **(dict(quality=50) if i >= 24 else {}))
    (tmp_path/"annotations.json").write_text(json.dumps(coco))
    manifest = run(tmp_path, group_by=group_by).manifest
    assert (manifest.groupby(manifest.photo_id % 24).split.nunique() == 1).all()
    if group_by != "alike:0": assert manifest.group.nunique() == 6            # other photos of the belt stay apart


def test_numbered_runs_work_as_the_message_says(tmp_path):
    coco = make_photos(tmp_path, 48, photo=belt)
    for image in coco["images"]: image["run"] = image["id"]//8
    (tmp_path/"annotations.json").write_text(json.dumps(coco))
    manifest = run(tmp_path, group_by="image:run").manifest
    assert (manifest.groupby(manifest.photo_id//8).split.nunique() == 1).all() and manifest.group.nunique() == 6


def test_a_frozen_split_that_tears_look_alike_photos_is_used_with_a_warning(tmp_path, capsys):
    make_photos(tmp_path)
    run(tmp_path)
    frozen = (tmp_path/"crops/splits.csv").read_bytes()
    (tmp_path/"frozen.csv").write_bytes(frozen)
    manifest = run(tmp_path, splits="frozen.csv", out="again").manifest
    assert "WARNING" not in capsys.readouterr().out
    sides = dict(zip(manifest.file_name, manifest.split))
    train, test = (next(f for f, s in sides.items() if s == side) for side in ("train", "test"))
    shutil.copy(tmp_path/train, tmp_path/test)
    again = run(tmp_path, splits="frozen.csv", out="torn").manifest
    assert "WARNING: 1 of these groups" in capsys.readouterr().out
    assert dict(zip(again.file_name, again.split)) == sides


def test_any_category_and_file_name_comes_back_as_it_was(tmp_path):
    names = ["NA", "null", "nan", "1", "pred", "=1+1", "a, b", " spaced ", "ünï", "split", "-x", "#", "it's"]
    images, boxes = [], []
    for i in range(39):
        file_name = f"{names[i % 13].strip()} {i}.jpg"
        draw(i).save(tmp_path/file_name)
        images.append(dict(id=i, file_name=file_name, width=96, height=72))
        boxes += [dict(id=2*i + k, image_id=i, category_id=(i + 5*k) % 13, bbox=[8 + k, 8, 40, 30]) for k in (0, 1)]
    write_coco(tmp_path, images, boxes, names)
    (tmp_path/"classes.csv").write_text("category,label\n" + "".join(f'"{n}","{n}"\n' for n in names))
    run(tmp_path, splits="")
    manifest = read_manifest(tmp_path/"crops", SPLITS)
    for row in manifest.itertuples():
        assert row.file_name == images[row.photo_id]["file_name"] and row.category == names[boxes[row.annotation_id]["category_id"]]
        assert row.label == row.category.strip() and (tmp_path/"crops"/row.crop).parts[-2] == row.label
    again = run(tmp_path, splits="crops/splits.csv", out="again").manifest
    assert again.split.tolist() == manifest.split.tolist()


def test_two_crops_at_once_both_end_well(tmp_path):
    make_photos(tmp_path, 60)
    both = [command(tmp_path, "--out", "crops") for _ in range(2)]
    said = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert all("crops: " in out and "Traceback" not in err for out, err in said)
    assert not list(tmp_path.glob(".crops.*part"))


def test_full_disk_is_one_sentence_and_the_next_start_goes_on(tmp_path):
    make_photos(tmp_path)
    full = command(tmp_path, "--out", "crops", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    out, err = full.communicate()
    assert full.returncode == 2 and "Traceback" not in err and "File too large" in err and str(tmp_path) in err, err
    assert not (tmp_path/"crops/crops.json").exists()
    done = command(tmp_path, "--out", "crops")
    assert done.communicate()[0] and done.returncode == 0


def test_no_photo_is_opened_before_all_files_have_been_read(tmp_path):
    make_photos(tmp_path)
    for name, content in {"classes.csv": "category,label\ncan,Dosen für Bier\n".encode("cp1252"), "splits.csv": b"photo;side\n"}.items():
        kept = (tmp_path/name).read_bytes() if (tmp_path/name).exists() else None
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError, match=name): run(tmp_path, **(dict(splits=name) if name == "splits.csv" else {}))
        if kept: (tmp_path/name).write_bytes(kept)
    for field in ("annotations", "class_map", "splits", "photos"):
        with pytest.raises(OSError, match=f"{field}.*nowhere"): run(tmp_path, **{field: "nowhere"})
    assert not (tmp_path/"crops").exists()


def sort_photos(folder, tops=("",), names=("glass", "metal", "paper"), n=8):
    "Photos of noise in a folder per class, perhaps below those of a split."
    rng = np.random.default_rng(0)
    for top in tops:
        for name in names:
            (folder/top/name).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder/top/name/f"{i}.png")


def test_photos_in_a_folder_per_class_are_crops_as_they_are(tmp_path, capsys):
    sort_photos(tmp_path/"mine")
    manifest = run(tmp_path, annotations="mine", class_map="").manifest
    assert manifest.label.value_counts().to_dict() == dict(glass=8, metal=8, paper=8) and set(manifest.split) == set(SPLITS)
    with Image.open(tmp_path/"crops"/manifest.crop[0]) as crop, Image.open(tmp_path/"mine"/manifest.file_name[0]) as photo:
        assert crop.size == photo.size == (40, 30) and np.abs(np.asarray(crop, int) - np.asarray(photo, int)).mean() < 12     # JPEG
    assert "mine: a folder per class, 3 classes (no annotation file); 24 of 24 photos and 24 of 24 boxes can be used" in capsys.readouterr().out
    (tmp_path/"map.csv").write_text("category,label\nglass,hard\nmetal,hard\npaper,soft\n")
    assert set(run(tmp_path, annotations="mine", class_map="map.csv", out="mapped").manifest.label) == {"hard", "soft"}
    with pytest.raises(ValueError, match="photos = .*mine: belongs to a COCO file"): run(tmp_path, annotations="mine", class_map="", photos="mine")
    done = subprocess.run([BIN/"lightweight", "crop", "mine", "--out", "typed"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path/"typed/crops.json").exists(), done.stderr


def test_the_split_of_the_folders_is_kept(tmp_path, capsys):
    sort_photos(tmp_path/"mine", ("train", "val", "test"))
    manifest = run(tmp_path, annotations="mine", class_map="").manifest
    assert (manifest.split == manifest.file_name.str.split("/").str[0].replace("val", "valid")).all()
    assert "WARNING" not in capsys.readouterr().out
    shutil.copy(tmp_path/"mine/train/glass/0.png", tmp_path/"mine/test/glass/copy.png")
    run(tmp_path, annotations="mine", class_map="")
    assert "WARNING: 1 of these groups are divided by the split of the folders (used unchanged; data leakage)" in capsys.readouterr().out


@pytest.mark.parametrize("tops, drawn", [(("train", "test"), "valid"), (("train", "valid"), "test"), (("train",), "valid test")])
def test_a_missing_split_is_drawn_from_train(tmp_path, tops, drawn):
    sort_photos(tmp_path/"mine", tops, n=20)
    manifest = run(tmp_path, annotations="mine", class_map="").manifest
    top = manifest.file_name.str.split("/").str[0]
    assert set(manifest.split) == set(SPLITS) and (manifest.split == top)[top != "train"].all()
    for split in drawn.split(): assert (top[manifest.split == split] == "train").all() and (manifest.split == split).mean() < .25


@pytest.mark.parametrize("tops", [("",), ("train", "val", "test"), ("train", "test")])
def test_without_a_test_split_every_photo_is_for_train_or_valid(tmp_path, tops, capsys):
    sort_photos(tmp_path/"mine", tops, n=20)
    manifest = run(tmp_path, annotations="mine", class_map="", test=0).manifest
    said, top = capsys.readouterr().out, manifest.file_name.str.split("/").str[0]
    assert set(manifest.split) == {"train", "valid"} and len(manifest) == 60*len(tops)
    if "val" in tops: assert (manifest.split == top.replace(dict(val="valid", test="train"))).all()
    assert f"{tmp_path/'crops'}: no crop is held out for test (crop --test 0)" in said
    assert ("test used for train (test = 0)" in said) == ("test" in tops) and "test drawn" not in said


def test_training_without_a_test_split_says_so_and_evaluation_refuses(tmp_path):
    from lightweight.stages.evaluate import EvaluateSettings, evaluate
    from lightweight.stages.train import TrainSettings, train
    make_photos(tmp_path)
    run(tmp_path, test=0)
    said, options = [], dict(crops="crops", out="run", network="tiny", epochs=1, img_size=32, n_threads=1, device="cpu")
    train(TrainSettings.check(options), tmp_path, say=said.append)
    assert [line for line in said if "no crop is held out for test (crop --test 0)" in line] == said[-1:]
    with pytest.raises(ValueError, match=re.escape(f"crops: {tmp_path/'crops'}: no crop is held out for test (crop --test 0)")):
        evaluate(EvaluateSettings.check(dict(run="run", out="evaluated")), tmp_path)
    assert not (tmp_path/"evaluated").exists()


@pytest.mark.skipif(not (ROOT.parent/"shared/data/trashnet").exists(), reason="no photos of TrashNet")
def test_trashnet_is_read_as_it_lies(tmp_path):
    result = run(tmp_path, annotations=str(ROOT.parent/"shared/data/trashnet"), class_map="")
    assert result.coco.n_photos == 2040 and len(result.manifest) == 2034                        # three photos lie in two classes
    assert (result.coco.findings.kind == "contradicting labels").sum() == 6


def test_yolo_and_voc_are_read_like_coco(tmp_path):
    coco = make_photos(tmp_path, n=40)
    for image in coco["images"]:
        boxes = [(CLASSES[a["category_id"]], *a["bbox"]) for a in coco["annotations"] if a["image_id"] == image["id"]]
        for top in ("yolo/images", "voc/JPEGImages"): (tmp_path/top).mkdir(parents=True, exist_ok=True); shutil.copy(tmp_path/image["file_name"], tmp_path/top)
        lines = [f"{CLASSES.index(c)} {(x + w/2)/96} {(y + h/2)/72} {w/96} {h/72}" for c, x, y, w, h in boxes]
        nodes = [f"<object><name>{c}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>" for c, x, y, w, h in boxes]
        for name, text in {f"yolo/labels/{image['file_name']}": "\n".join(lines), f"voc/Annotations/{image['file_name']}": f"<annotation>{''.join(nodes)}</annotation>"}.items():
            path = (tmp_path/name).with_suffix(".txt" if name[:4] == "yolo" else ".xml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (tmp_path/"yolo/data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\ntrain: images\n")
    columns = ["category", "x", "y", "w", "h"]
    wanted = run(tmp_path).manifest.assign(name=lambda m: m.file_name).sort_values(["name", *columns])[["name", *columns]].values.tolist()
    for place in ("yolo", "voc"):
        found = run(tmp_path, annotations=place, class_map="", out=f"{place}-crops").manifest
        assert found.assign(name=found.file_name.str.split("/").str[-1]).sort_values(["name", *columns])[["name", *columns]].values.tolist() == wanted


def test_only_the_split_of_folders_and_lists_counts(tmp_path):
    coco = make_photos(tmp_path, split=lambda i: "karpathy")
    assert all(image["split"] == "karpathy" for image in coco["images"])
    assert set(run(tmp_path).manifest.split) == set(SPLITS)                      # a field of COCO, whatever it means
    (tmp_path/"voc/ImageSets/Main").mkdir(parents=True)
    for i in range(2):
        draw(i).save(tmp_path/f"voc/{i}.jpg")
        (tmp_path/f"voc/{i}.xml").write_text(f"<annotation><object><name>{CLASSES[i]}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>")
    (tmp_path/"voc/ImageSets/Main/train.txt").write_text("0\n")
    with pytest.raises(ValueError, match="1 photos are in no list of a split, such as 1.jpg"): run(tmp_path, annotations="voc", class_map="", out="other")
