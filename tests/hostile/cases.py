"One case: a small sound set, one change, a command, and what it must say. The general rules are checked for every case."
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from lightweight.core.cli import main

NAMES = ("can", "paper", "bag")
WIDTH, HEIGHT = 96, 72


# -- sound sets --------------------------------------------------------------------------------------------------------

def draw(i, size=(WIDTH, HEIGHT)):
    "A photo like no other."
    coarse = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def list_boxes(i): return [(NAMES[(i + j) % 3], 8 + 2*j + i % 5, 9 + j, 40 + i % 3, 30 + i % 7) for j in (0, 1)]


def write(path, content):
    "Write a text or bytes, with folders."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def make_coco(folder, n=12):
    "A COCO file beside the folder of its photos, and a class map."
    images, boxes = [], []
    (folder/"photos").mkdir(parents=True)
    for i in range(n):
        draw(i).save(folder/f"photos/{i:03}.jpg", quality=92)
        images.append(dict(id=i, file_name=f"photos/{i:03}.jpg", width=WIDTH, height=HEIGHT))
        boxes += [dict(id=2*i + j, image_id=i, category_id=NAMES.index(c), bbox=box, area=box[2]*box[3], iscrowd=0, segmentation=[])
                  for j, (c, *box) in enumerate(list_boxes(i))]
    categories = [dict(id=i, name=c) for i, c in enumerate(NAMES)]
    write(folder/"annotations.json", json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    write(folder/"classes.csv", "category,label\n" + "".join(f"{c},{c}\n" for c in NAMES))


def make_yolo(folder, n=9):
    "A YOLO data set of train, val and test."
    for i in range(n):
        part, lines = "train" if i < n - 4 else "val" if i < n - 2 else "test", []
        (folder/f"images/{part}").mkdir(parents=True, exist_ok=True)
        draw(i).save(folder/f"images/{part}/{i}.jpg")
        for c, x, y, w, h in list_boxes(i):
            lines.append(f"{NAMES.index(c)} {(x + w/2)/WIDTH} {(y + h/2)/HEIGHT} {w/WIDTH} {h/HEIGHT}")
        write(folder/f"labels/{part}/{i}.txt", "\n".join(lines) + "\n")
    write(folder/"data.yaml", f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames: [{', '.join(NAMES)}]\n")


def make_voc(folder, n=9):
    "A Pascal VOC data set with lists of the splits."
    (folder/"JPEGImages").mkdir(parents=True)
    for i in range(n):
        draw(i).save(folder/f"JPEGImages/{i}.jpg")
        nodes = [f"<object><name>{c}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>\n"
                 for c, x, y, w, h in list_boxes(i)]
        write(folder/f"Annotations/{i}.xml", f"<annotation>\n<filename>{i}.jpg</filename>\n{''.join(nodes)}</annotation>\n")
    for part, stems in dict(train="0 1 2 3 4", val="5 6", test="7 8").items(): write(folder/f"ImageSets/Main/{part}.txt", stems.replace(" ", "\n"))


def make_folders(folder, n=4):
    "Photos in a folder per class."
    for k, name in enumerate(NAMES):
        (folder/name).mkdir(parents=True)
        for i in range(n): draw(10*k + i).save(folder/name/f"{i}.jpg")


# -- changes: each takes the folder of a set -----------------------------------------------------------------------------

def same(folder): "Nothing is changed."


def coco(change):
    "Change the content of annotations.json in place, or give another one."
    def make(folder):
        path = folder/"annotations.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))
    return make


def every(field, **fields):
    "Change fields of every entry of a list of annotations.json; a function gets the old value, Ellipsis removes the field."
    def change(content):
        for entry in content[field]:
            for name, value in fields.items():
                if value is ...: entry.pop(name, None)
                else: entry[name] = value(entry.get(name)) if callable(value) else value
    return coco(change)


def first(field, **fields):
    "Set fields of the first entry of a list of annotations.json."
    return coco(lambda content: content[field][0].update(fields))


def put(name, content):
    "Write a file: a text, bytes, or a function of the bytes that are there."
    return lambda folder: write(folder/name, content((folder/name).read_bytes()) if callable(content) else content)


def swap(name, old, new):
    "Replace a text in a file."
    return put(name, lambda data: data.replace(old.encode(), new.encode()))


def rename(old, new):
    "Move a file or folder."
    def make(folder):
        (folder/new).parent.mkdir(parents=True, exist_ok=True)
        (folder/old).rename(folder/new)
    return make


def remove(name): return lambda folder: shutil.rmtree(folder/name) if (folder/name).is_dir() else (folder/name).unlink()


def both(*makes):
    "One change after the other."
    def make(folder):
        for one in makes: one(folder)
    return make


def save(name, image, **options):
    "Write a picture; `image` may be a function."
    def make(folder):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (image() if callable(image) else image).save(folder/name, **options)
    return make


# -- running a case ------------------------------------------------------------------------------------------------------

class Case(NamedTuple):
    "One change and what must come of it."
    name: str
    make: object       # changes the set
    command: str       # without `lightweight`
    code: int          # exit code
    says: tuple        # parts of the output


class Hang(BaseException):
    "A command took too long."


@contextmanager
def limit(seconds):
    "Raise `Hang` in a block that takes longer."
    def stop(*_): raise Hang(f"not done after {seconds} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Done(NamedTuple):
    "How a command ended."
    code: int
    out: str
    err: str
    warnings: list


def run(command, folder=None, text="", seconds=600):
    "Run `lightweight COMMAND` in this process, in a folder."
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    out, err, before = io.StringIO(), io.StringIO(), (os.getcwd(), sys.argv, sys.stdin)
    os.chdir(folder or before[0])
    sys.stdin = io.StringIO(text)
    try:
        with limit(seconds), warnings.catch_warnings(record=True) as said, redirect_stdout(out), redirect_stderr(err):
            try: code = main(words)
            except SystemExit as end: code = end.code or 0
    finally:
        os.chdir(before[0])
        sys.argv, sys.stdin = before[1:]
    shown = [f"{w.filename}:{w.lineno}: {w.message}" for w in said if not issubclass(w.category, (DeprecationWarning, FutureWarning, ResourceWarning))]
    return Done(code, out.getvalue(), err.getvalue(), shown)


def read_tree(folder, out="out"):
    "Content of all files below a folder but those of `out`, of its locks and of its unfinished copies."
    own = (f"{out}/", f".{out}.", ".lock")
    return {name: path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None for path in sorted(folder.rglob("*"))
            if not (name := path.relative_to(folder).as_posix()).startswith(own) and name != out and not path.is_dir()}


def run_case(case, folder, sound):
    "Change the set, run the command and check it: the case's own expectations and the rules for all."
    case.make(folder)
    before = read_tree(folder)
    names = {part for name in before.keys() | sound.keys() for part in Path(name).parts}
    done = run(case.command, folder)
    said = done.out + done.err
    assert "Traceback" not in said and not done.warnings, (said, done.warnings)
    assert done.code == case.code, said
    for part in case.says: assert part in said, said
    assert read_tree(folder) == before, "a file outside `out` was changed"
    if case.code == 2:
        assert not (folder/"out").exists(), "a refused command left something behind"
        told = re.split(r"^lightweight[ \w-]*: ", done.err, flags=re.MULTILINE)[1:]
        words = names | {Path(word).stem.strip("-").replace("-", "_") for word in shlex.split(case.command)}
        assert told and any(word in told[-1] for word in words), f"names neither file nor field: {done.err}"


def suite(make_sound, *rows):
    "A test of a table of cases: name, change, command, exit code, parts of what is said."
    cases = [Case(*row[:4], row[4:]) for row in rows]
    assert len({case.name for case in cases}) == len(cases), "two cases have one name"
    sound = {}

    @pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])
    def test(case, tmp_path, tmp_path_factory):
        if not sound:
            sound["folder"] = tmp_path_factory.mktemp("sound")/"set"
            make_sound(sound["folder"])
            sound["files"] = read_tree(sound["folder"])
        folder = shutil.copytree(sound["folder"], tmp_path/"set", symlinks=True)
        run_case(case, folder, sound["files"])
    return test
