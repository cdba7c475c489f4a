"An exported file is used in an environment without PyTorch: the answers are those of the environment it was made in."
import csv
import io
import json
import os
import re
import shutil
import subprocess
import time
import venv
from pathlib import Path

import pytest
from forked import run_script
from test_house import BIN, ROOT

from lightweight.data.coco import read_coco
from lightweight.data.crops import read_manifest
from lightweight.deploy.predict import list_folder
from lightweight.deploy.runtime import Predictor, find_bundled
from lightweight.data.sample import make_sample


def make(stage, *options):
    "Run a stage of the checkout."
    code, said = run_script(BIN/"lightweight", stage, *options, folder=ROOT)
    assert code == 0, said


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "A sample of our own: photos, crops, a short training, the exported files."
    folder = tmp_path_factory.mktemp("predict")
    make_sample(folder/"sample", n_photos=40)
    make("crop", "--annotations", folder/"sample/annotations.json", "--out", folder/"crops")
    make("train", "--crops", folder/"crops", "--out", folder/"run", "--img_size", 32, "--epochs", 4)
    make("export", "--run", folder/"run", "--formats", "[onnx, openvino]")
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    "The folder of commands of a fresh environment with what `predict` needs and no more."
    folder = tmp_path_factory.mktemp("bare")
    source = folder/"checkout"                       # a copy, because building a wheel leaves folders where it is done
    for name in ("lightweight", "setup.py", "settings.ini", "pyproject.toml", "README.md"):
        copy = shutil.copytree if (ROOT/name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT/name, source/name)
    venv.create(folder/"venv", with_pip=True)
    bin = folder/"venv"/("Scripts" if os.name == "nt" else "bin")
    install(bin, f"{source}[predict]")
    yield bin
    shutil.rmtree(folder)                            # some 200 MB, with the faster runtime 500


def install(bin, package):
    done = subprocess.run([bin/"python", "-m", "pip", "install", "--quiet", package], cwd=bin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def fast(bare):
    "The same environment with OpenVINO and OpenCV; tests that use it come last."
    install(bare, f"{bare.parents[1]/'checkout'}[fast]")
    return bare


def predict(bare, *options, **kwargs):
    "Run `lightweight predict` there, in a folder that is not the checkout."
    return subprocess.run([bare/"lightweight", "predict", *map(str, options)], cwd=bare, capture_output=True, text=True, **kwargs)


def read_table(text): return list(csv.DictReader(io.StringIO(text)))


def model_of(made, name="model.onnx"): return made/"run/export"/name


def test_no_torch_there(bare):
    listed = json.loads(subprocess.run([bare/"python", "-m", "pip", "list", "--format", "json"], capture_output=True, text=True).stdout)
    names = {p["name"].lower() for p in listed}
    assert {"lightweight", "onnxruntime"} <= names and not names & {"torch", "pandas", "fastai", "timm", "matplotlib", "openvino", "opencv-python-headless"}
    for module in ("torch", "pandas"):
        done = subprocess.run([bare/"python", "-c", f"import {module}"], capture_output=True, text=True)
        assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_the_environment_is_small(bare):
    [packages] = bare.parent.glob("[Ll]ib/**/site-packages")
    own = [p for p in packages.iterdir() if not p.name.startswith(("pip", "setuptools", "pkg_resources"))]
    n_bytes = sum(f.stat().st_blocks*512 for p in own for f in (p, *p.rglob("*")) if f.is_file())
    assert n_bytes < 250e6, f"{n_bytes/1e6:.0f} MB"


def check_answers(made, bin, name, *options):
    "Every valid crop, in the order of the names, with the same probabilities to the third decimal place."
    crops = made/"crops/valid"
    done = predict(bin, model_of(made, name), crops, *options)
    assert done.returncode == 0, done.stderr
    rows, here = read_table(done.stdout), Predictor(model_of(made, name), precision="bf16" if "bf16" in options else "f32")
    assert [r["path"] for r in rows] == list_folder(crops).images and len(rows) == len(read_manifest(made/"crops", "valid"))
    for row in rows:
        answer = here(row["path"])
        assert [float(row[f"p_{c}"]) for c in here.classes] == pytest.approx(list(answer.probabilities.values()), abs=1e-2 if here.model.precision == "bf16" else 1e-3)
        ahead = sorted(answer.probabilities.values())[-1] - sorted(answer.probabilities.values())[-2]
        assert row["label"] == answer.label or ahead < 1e-2
    assert len({r["label"] for r in rows}) > 1, "a network that always says the same shows nothing"


@pytest.mark.parametrize("options", [[], ["--batch", 7, "--threads", 2]])
def test_crops_get_the_answers_of_here(made, bare, options): check_answers(made, bare, "model.onnx", *options)


PHOTOS = ROOT.parent/"shared/data/taco_fullsize/batch_1"


def test_the_model_of_the_package(made, bare):
    "Without a model that of the package answers: it is in the wheel, and answers for real photos where there are some."
    photos = list_folder(PHOTOS if PHOTOS.exists() else made/"crops/valid").images[:10]
    done, here = predict(bare, *photos), Predictor(find_bundled())
    assert done.returncode == 0 and done.stderr.startswith("lightweight predict: no model given; waste.onnx of the package: Metal, ")
    tested = predict(bare, "--self-test")
    assert tested.returncode == 0 and "waste.onnx  ONNX Runtime f32" in tested.stdout and "pip install 'lightweight[fast]'" in tested.stdout, tested.stdout
    rows = read_table(done.stdout)
    assert [row["path"] for row in rows] == photos and all(row["label"] in find_classes(row) for row in rows)
    for row in rows: assert [float(row[f"p_{c}"]) for c in here.classes] == pytest.approx(list(here(row["path"]).probabilities.values()), abs=2e-3)


def find_classes(row): return {name.removeprefix("p_") for name in row if name.startswith("p_")}


def test_coco_file_comes_back_labelled(made, bare, tmp_path):
    "The annotations that can be used, with their ids and boxes, in the order of the file; those that cannot are told."
    annotations, out = made/"sample/annotations.json", tmp_path/"labelled.json"
    done = predict(bare, model_of(made), annotations, "--out", out)
    assert done.returncode == 1 and done.stdout == "", "the sample holds faulty photos and boxes"
    asked, told = json.loads(annotations.read_text()), json.loads(out.read_text())
    n, faults = len(told["annotations"]), [int(k) for k in re.findall(r": (\d+) × ", done.stderr)]
    assert n + sum(faults) == len(asked["annotations"]) and len(faults) == len(done.stderr.splitlines()) - 1 < 12
    assert done.stderr.splitlines()[-1].endswith(f": {n} of {len(asked['annotations'])} boxes are classified")
    assert told["images"] == asked["images"]
    kept = iter(asked["annotations"])
    for a in told["annotations"]: assert any(a == b | {k: a[k] for k in ("category_id", "score")} for b in kept), a     # each is found after the one before
    # the usual reader accepts the file, finds the objects it found before, and their labels are those of the crop files
    before, after = read_coco(annotations).objects, read_coco(out, annotations.parent).objects
    box = ["photo_id", "x", "y", "w", "h"]                                        # a box without a known category is answered too, and may be the same as another
    assert len(before.merge(after, on=box)) == len(before)
    found = read_coco(annotations).findings                                    # what is wrong with boxes is said as `lightweight check` says it
    for kind in ("crowd region", "zero-area box"):
        assert f": {(found.kind == kind).sum()} × {kind} (" in done.stderr and found.detail[found.kind == kind].iloc[0] in done.stderr, done.stderr
    crops = read_manifest(made/"crops", "valid")
    of_crops = {r["path"]: r["label"] for r in read_table(predict(bare, model_of(made), made/"crops/valid").stdout)}
    both = crops.assign(said=[of_crops[str(made/"crops"/c)] for c in crops.crop]).merge(after, on=box, suffixes=("", "_told"))
    assert len(both) == len(crops) and (both.said == both.category_told).mean() > 0.9, "the crops were saved as JPEG once more, no other difference"


def test_photos_from_elsewhere(made, bare, tmp_path):
    "`--photos` names the folder; without it no photo is found, and nothing is answered."
    annotations = shutil.copy(made/"sample/annotations.json", tmp_path)
    lost = predict(bare, model_of(made), annotations, "--format", "csv")
    assert lost.returncode == 1 and len(read_table(lost.stdout)) == 0 and "there is no such file" in lost.stderr
    found = predict(bare, model_of(made), annotations, "--format", "csv", "--photos", made/"sample")
    beside = predict(bare, model_of(made), made/"sample/annotations.json", "--format", "csv")
    assert found.stdout == beside.stdout and len(read_table(found.stdout)) > 100


def test_unreadable_files_are_told_and_skipped(made, bare, tmp_path):
    image = list_folder(made/"crops/valid").images[0]
    words, half = tmp_path/"words.jpg", tmp_path/"half.jpg"
    words.write_text("no picture")
    half.write_bytes(Path(image).read_bytes()[:600])
    done = predict(bare, model_of(made), words, image, half, tmp_path/"none.png", tmp_path/"model.onnx", "--format", "json")
    assert done.returncode == 1 and [r["path"] for r in json.loads(done.stdout)] == [image]
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [str(p) for p in (words, half, tmp_path/"none.png", tmp_path/"model.onnx")]
    assert predict(bare, model_of(made), image).returncode == 0


def test_result_file_is_whole_or_not_there(made, bare, tmp_path):
    "Killed half-way through, the command leaves the result of before and nothing else."
    out, images = tmp_path/"answers.csv", list_folder(made/"crops").images
    assert predict(bare, model_of(made), images[0], "--out", out).returncode == 0
    before = out.read_text()
    run = subprocess.Popen([bare/"lightweight", "predict", model_of(made), "-", "--out", out], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdin.write("\n".join([*images, "none.jpg", ""]))
    run.stdin.flush()
    assert "none.jpg" in run.stderr.readline(), "it is told in its turn, so the images before it are answered"
    run.kill()
    run.communicate()
    assert out.read_text() == before and {p.name for p in tmp_path.iterdir()} == {out.name, f".{out.name}.sha256"}
    done = predict(bare, model_of(made), *images, "--out", out)
    assert done.returncode == 0 and done.stdout == "" and len(read_table(out.read_text())) == len(images)


def test_edited_result_is_kept(made, bare, tmp_path):
    "A result that was corrected by hand is not replaced; one that nobody touched is."
    out, image = tmp_path/"answers.csv", list_folder(made/"crops/valid").images[0]
    for _ in range(2): assert predict(bare, model_of(made), image, "--out", out).returncode == 0
    out.write_text(edited := out.read_text() + "mine\n")
    done = predict(bare, model_of(made), image, "--out", out)
    assert done.returncode == 2 and "was edited" in done.stderr and out.read_text() == edited


def test_nothing_of_the_users_is_replaced(made, bare, tmp_path):
    "Photos, annotations, the model, tables and notes stay as they are, and the network is not even opened."
    annotations, image = shutil.copy(made/"sample/annotations.json", tmp_path), list_folder(made/"crops/valid").images[0]
    for name, text in {"notes.csv": "my notes", "table.csv": "path,label\n", "model.json": "{}", "list.json": "[1]", "photo": "x"}.items(): (tmp_path/name).write_text(text)
    (tmp_path/"link.json").symlink_to(annotations)
    kept = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for path in kept:
        done = predict(bare, model_of(made), image, "--out", path)
        assert done.returncode == 2 and path.name in done.stderr and done.stdout == "", (path, done.stderr)
    assert predict(bare, model_of(made), annotations, "--out", annotations).returncode == 2
    assert kept == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_what_was_written_can_be_read_again(made, bare, tmp_path):
    "The labelled file of a labelled file is the same file, and so it is for the check."
    first, second = tmp_path/"first.json", tmp_path/"second.json"
    predict(bare, model_of(made), made/"sample/annotations.json", "--out", first)
    done = predict(bare, model_of(made), first, "--photos", made/"sample", "--out", second)
    assert done.returncode == 0 and re.search(r": (\d+) of \1 boxes are \w+\n$", done.stderr) and done.stderr.count("\n") == 1
    assert json.loads(first.read_text()) == json.loads(second.read_text())


def test_stream_is_answered_line_by_line(made, bare):
    "The answer to a path comes before the next path is given."
    images = list_folder(made/"crops/valid").images[:3]
    run = subprocess.Popen([bare/"lightweight", "predict", model_of(made), "-", "--threads", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [run.stdout.readline()]                                      # the header
    for image in images:
        run.stdin.write(image + "\n")
        run.stdin.flush()
        lines.append(run.stdout.readline())
    rest, told = run.communicate("none.jpg\n")
    assert run.returncode == 1 and rest == "" and told == "lightweight predict: none.jpg: there is no such file\n"
    assert "".join(lines) == predict(bare, model_of(made), *images).stdout


def test_reader_may_leave(made, bare):
    "`lightweight predict … | head -1` ends quietly."
    images = list_folder(made/"crops").images*20
    run = subprocess.Popen([bare/"lightweight", "predict", model_of(made), *images], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.readline()
    run.stdout.close()
    told = run.stderr.read()
    assert run.wait() == 1 and told == ""


def seconds(*command):
    "What one run takes."
    start = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    return time.perf_counter() - start


def test_first_answer_costs_little_more_than_the_imports(made, bare):
    "From the start of a process to its first answer, beside the start of one that imports the libraries and does nothing."
    image, libraries = list_folder(made/"crops/valid").images[0], "import numpy, onnxruntime, PIL.Image"
    answer = f"from lightweight.deploy.runtime import Predictor; print(Predictor({str(model_of(made))!r})({image!r}).label)"
    times = [[seconds(bare/"python", "-c", code) for code in (libraries, answer)] for _ in range(5)]        # in turns
    imports, first = (min(column) for column in zip(*times))
    print(f"\nfirst answer after {first:.2f} s, imports alone {imports:.2f} s")
    assert first < 3*imports                                  # twice as long on a quiet machine


@pytest.mark.parametrize("name, options", [("model.onnx", []), ("model.xml", []), ("model.xml", ["--precision", "bf16"])])
def test_faster_runtime_gives_the_answers_of_here(made, fast, name, options): check_answers(made, fast, name, *options)


def test_the_model_of_the_package_agrees_in_every_runtime(made, fast):
    tested, used = predict(fast, "--self-test"), predict(fast, made/"crops/valid")
    assert tested.returncode == 0 and {"waste.onnx", "waste.xml"} == {Path(line.split("  ")[0]).name for line in tested.stdout.splitlines()}, tested.stdout
    assert used.returncode == 0 and "no model given; waste.xml of the package: " in used.stderr
