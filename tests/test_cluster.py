"Batch jobs survive what kills processes: every photo once in the table, whatever dies, and never shards of two settings in one folder."
import csv
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from dask_site import PREDICT, ROOT, Site, Starter, count_lost, count_shards, describe, wait_for

from lightweight.core.files import Store, claim_folder, list_files
from lightweight.core.records import hash_file
from lightweight.core.shards import UnfitWorker, plan_shards, read_shards, remove_shards, run_shards

N, SHARD = 300, 5
WORK = '''
import os, resource, signal, time
def take(path): # whether this process was the first one here
    try:
        with open(path, "x") as f: f.write(str(os.getpid()))
    except FileExistsError: pass
    with open(path) as f: return f.read() == str(os.getpid())
def open_work(folder, unfit=()):
    if "file" in unfit and take(folder + "/file"): raise FileNotFoundError(2, "No such file or directory", "model.onnx")
    if "disk" in unfit and take(folder + "/disk"): resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
    if "all" in unfit: raise FileNotFoundError(2, "No such file or directory", "model.onnx")
    def work(items):
        if "fault" in items: raise ValueError("no number")
        if "stop" in items:
            try: signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt: raise ValueError("what a library makes of it") from None
        if "crash" in items: os.kill(os.getpid(), 11); time.sleep(60)    # the signal may reach another thread first
        return [dict(item=item, text="long enough for a full disk") for item in items], []
    return work
'''


def save_colours(path, scale=math.log(8)/255):
    "The softmax of the mean colour: a network that needs no training."
    nodes = [helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
             helper.make_node("Mul", ["m", "scale"], ["z"]), helper.make_node("Softmax", ["z"], ["probabilities"])]
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(axes=np.array([1, 2]), scale=np.float32(scale)).items()]
    ends = [helper.make_tensor_value_info(*end) for end in (("images", TensorProto.UINT8, ["n", 8, 8, 3]), ("probabilities", TensorProto.FLOAT, ["n", 3]))]
    model = helper.make_model(helper.make_graph(nodes, "colours", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    info = dict(name="colours", classes=["red", "green", "blue"], img_size=8, resize="squish", context=.1, square=True)
    helper.set_model_props(model, dict(lightweight=json.dumps(info)))
    onnx.save(model, path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A network, photos of random colours and one that is none, the table of one process, and modules for the workers."
    folder, rng = tmp_path_factory.mktemp("cluster"), np.random.default_rng(0)
    (folder/"photos").mkdir()
    for i in range(N): Image.new("RGB", (32, 24), tuple(rng.integers(0, 256, 3).tolist())).save(folder/f"photos/{i:04}.png")
    (folder/"photos/0100x.png").write_text("no picture")
    save_colours(folder/"model.onnx")
    (folder/"cluster_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    done = predict(folder, "--out", folder/"table.csv")
    assert done.returncode == 1 and done.stderr.count("not readable as an image") == 1, done.stderr
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def workers_find(place, monkeypatch):
    "Workers import from the folder of the tests, and note each photo in a file."
    monkeypatch.setenv("PYTHONPATH", f"{place}:{ROOT}")
    return place


def command(folder, *options, model="model.onnx", photos="photos"): return [*PREDICT, *map(str, (folder/model, folder/photos, *options))]


def predict(folder, *options, model="model.onnx", photos="photos", before=""):
    line = command(folder, *options, model=model, photos=photos)
    line[2] = before + line[2]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=describe(folder))


def check_table(folder, out):
    assert (out/"predictions.csv").read_bytes() == (folder/"table.csv").read_bytes(), "not the table of one process"
    with open(out/"predictions.csv", newline="") as f: paths = [row["path"] for row in csv.DictReader(f)]
    assert len(paths) == len(set(paths)) == N
    assert [json.loads(line)["path"] for line in (out/"skipped.jsonl").read_text().splitlines()] == [str(folder/"photos/0100x.png")]


def test_random_kills(place, tmp_path):
    "Ten SIGKILLs at random moments; what is done twice is at most what the killed process and its workers had begun."
    rng, kinds = random.Random(0), ["worker"]*4 + ["nanny"]*2 + ["scheduler"]*2 + ["client"]*2
    rng.shuffle(kinds)
    site = Site(place, tmp_path/"out", [place/"model.onnx", place/"photos", "--shard", SHARD])
    try:
        assert site.kill_randomly(kinds, rng) == kinds
        code, said = site.finish()
    finally: site.close()
    assert code == 1, said        # a photo is skipped
    check_table(place, tmp_path/"out")
    repeated = int(re.findall(r"(\d+) attempts repeated", said)[-1])
    worked = len((place/"log.txt").read_text().split()) - N - 1
    print(f"{len(kinds)} kills: {repeated} attempts repeated, {worked} photos worked on twice; at most {count_lost(kinds)} shards of {SHARD}")
    assert repeated <= count_lost(kinds) and worked <= SHARD*count_lost(kinds)


def test_one_process_resumes_and_gives_up_on_a_photo_that_kills_it(place, tmp_path):
    "The process dies of a photo three times; the fourth run names the shard and does the rest. No work is done twice but that shard's."
    folder = tmp_path/"lists"
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("log.txt"))
    (folder/"photos/0042crash.png").write_bytes((folder/"photos/0042.png").read_bytes())
    options, load = ("--workers", 0, "--shard", SHARD, "--out", folder/"out"), "import slow; slow.time.sleep = lambda s: None\n"
    for i in range(3):
        done = predict(folder, *options, before=load)
        assert done.returncode == -signal.SIGSEGV and count_shards(folder/"out") == 8 and not (folder/"out/predictions.csv").exists()
    done = predict(folder, *options, before=load)
    assert done.returncode == 1 and "5 images failed: the process was killed or crashed" in done.stderr, done.stderr
    assert "8 of 61 shards are done" in done.stderr and f"{N - 4} of {N + 2} images are classified, 1 skipped, 5 failed" in done.stderr, done.stderr
    assert [json.loads(line)["shard"] for line in (folder/"out/failed.jsonl").read_text().splitlines()] == [8]
    seen = (folder/"log.txt").read_text().split()
    assert {name: seen.count(name) for name in set(seen) if seen.count(name) > 1} == {f"{name}.png": 3 for name in ("0040", "0041", "0042", "0042crash")}


def test_local_cluster_loses_a_photo_that_kills_workers(workers_find):
    "A shard that raises and one that kills its process fail; the rest is done, each item once."
    items = [*map(str, range(40))]
    items[11], items[26] = "fault", "crash"
    plan = plan_shards(workers_find/"deaths", items, 4, "cluster_work:open_work", dict(folder=str(workers_find)), {})
    failed = run_shards(plan, 2)
    assert [(line["shard"], line["n"], line["why"][:23]) for line in failed] == [(2, 4, "ValueError: no number"), (6, 4, "the process was killed ")]
    rows = [row["item"] for _, rows in read_shards(plan, failed) for row in rows]
    assert rows == items[:8] + items[12:24] + items[28:]
    assert [json.loads(line)["shard"] for line in (workers_find/"deaths/failed.jsonl").read_text().splitlines()] == [2, 6]


def test_unfit_workers_are_retired(workers_find, capsys):
    "One worker lacks the file, the disk of another is full: the third does everything, and no attempt counts. Without a fit worker the run ends."
    for name in ("file", "disk"): (workers_find/name).unlink(missing_ok=True)
    settings = dict(folder=str(workers_find), unfit=["file", "disk"])
    plan = plan_shards(workers_find/"unfit", map(str, range(60)), 3, "cluster_work:open_work", settings, {})
    said = []
    assert run_shards(plan, 3, say=said.append) == []
    assert sum("model.onnx: No such file" in line for line in said) == 1 and sum("gets no more shards" in line and "File too large" in line for line in said) == 1, said
    assert [row["item"] for _, rows in read_shards(plan) for row in rows] == [*map(str, range(60))]
    assert all(header["attempt"] == 1 for header, _ in read_shards(plan)) and not os.listdir(workers_find/"unfit/attempts")
    plan = plan_shards(workers_find/"none", ["1", "2"], 1, "cluster_work:open_work", settings | dict(unfit=["all"]), {})
    for workers in (0, 1):
        with pytest.raises(OSError, match="model.onnx: No such file"): run_shards(plan, workers, say=said.append)


def test_other_settings_are_refused(place, tmp_path):
    "Another file, list, size or precision, or another kind of folder: exit code 2, both hashes, and nothing has changed."
    out, options = tmp_path/"out", ("--workers", 0, "--shard", 100, "--out", tmp_path/"out")
    assert predict(place, *options).returncode == 1
    check_table(place, out)
    save_colours(place/"other.onnx", .01)
    key = json.loads((out/"plan.json").read_text())["key"]
    for changed, differs in ((predict(place, *options, model="other.onnx"), "model"), (predict(place, *options, "--shard", 50), "size"),
                             (predict(place, *options, place/"photos/0001.png"), "list, n"), (predict(place, *options, "--batch", 2), "batch")):
        assert changed.returncode == 2 and re.search(rf"\(hash {key}; now [0-9a-f]{{16}}\); different: {differs};", changed.stderr), changed.stderr
    (out/"predictions.csv").write_text("edited")
    assert "was edited after it was written" in predict(place, *options).stderr
    (out/"predictions.csv").rename(out/"notes.txt")
    assert "notes.txt is there, which predict did not make" in predict(place, *options).stderr


@pytest.mark.parametrize("options, said", {
    ("--workers", 1): "need --out", ("--workers", -1, "--out", "x"): "--workers must be at least 0", ("--shard", 5): "--shard belongs to",
    ("--scheduler", "", "--out", "x"): "an address is empty", ("--workers", 1, "--out", "x", "--threads", 2): "a worker has one thread",
    ("--scheduler", "tcp://127.0.0.1:1", "--out", "x"): "cannot connect", ("--workers", 0, "--out", "photos/x"): "this lies in",
    ("--workers", 0, "--out", "result.csv"): "this is a folder; leave out .csv", ("--workers", 0, "--format", "coco", "--out", "x"): "do not go with"}.items())
def test_wrong_options(place, options, said):
    done = predict(place, *options)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_worker_without_the_photos(place, tmp_path):
    "Its folder is there and empty, as before it is mounted: it gets no shards, and the other worker classifies all."
    if os.geteuid() or not shutil.which("unshare"): pytest.skip("an own mount needs root and unshare")
    hidden = ["unshare", "-m", "bash", "-c", f"mount -t tmpfs none {place/'photos'} && exec \"$@\"", "worker"]
    if subprocess.run([*hidden, "true"], capture_output=True).returncode: pytest.skip("no mounts here")
    site = Site(tmp_path, tmp_path/"out", [place/"model.onnx", place/"photos", "--shard", SHARD, "--workers", 2], around=hidden)
    try:
        site.repair()
        code, said = site.finish()
    finally: site.close()
    assert code == 1 and "gets no more shards" in said and f"{N} of {N + 1} images are classified, 1 skipped, 0 failed" in said, said
    check_table(place, tmp_path/"out")


def test_ended_by_a_batch_system(place, tmp_path):
    "SIGTERM stops the run as the user would: no attempt is counted, and the same command goes on. Links to folders come last, as in one process."
    photos = tmp_path/"photos"
    shutil.copytree(place/"photos", photos)
    (photos/"0050").symlink_to(place/"photos", target_is_directory=True)
    options = ("--workers", 0, "--shard", 100, "--out", tmp_path/"out")
    process = subprocess.Popen([sys.executable, "-c", "import slow; " + command(place, *options, photos=photos)[2], *command(place, *options, photos=photos)[3:]],
                               cwd=tmp_path, env=describe(tmp_path, .02), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: count_shards(tmp_path/"out"))
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in process.communicate()[1] and process.returncode == 130 and os.listdir(tmp_path/"out/attempts") == []
    assert predict(place, *options, photos=photos).returncode == 1 and predict(place, "--out", tmp_path/"table.csv", photos=photos).returncode == 1
    assert (tmp_path/"out/predictions.csv").read_bytes() == (tmp_path/"table.csv").read_bytes()


def test_a_library_that_hides_the_end(workers_find, tmp_path):
    "SIGTERM counts no attempt either if the work makes an error of its own of it."
    plan = plan_shards(tmp_path, ["stop"], 1, "cluster_work:open_work", dict(folder=str(tmp_path)), {})
    with pytest.raises(KeyboardInterrupt, match="ended by SIGTERM"): run_shards(plan)
    assert not [*(tmp_path/"attempts").iterdir()]


def test_another_list_before_the_first_shard(place, tmp_path):
    "A plan of which nothing is done is replaced, with its lists; a table that is there is kept."
    out, options = tmp_path/"out", ("--workers", 0, "--out", tmp_path/"out")
    lost = predict(place, "--scheduler", "tcp://127.0.0.1:1", "--shard", 5, "--out", out)
    assert lost.returncode == 2 and (out/"plan.json").exists()
    assert predict(place, *options, "--shard", 100).returncode == 1
    check_table(place, out)
    shutil.rmtree(out/"shards")
    refused = predict(place, *options, "--shard", 50)
    assert refused.returncode == 2 and "different: size" in refused.stderr, refused.stderr


def test_paths_with_a_scheme(place, tmp_path):
    "file:// is a folder of this machine; memory:// is no place for workers; a list of paths is no photo."
    url = [*PREDICT, str(place/"model.onnx"), f"file://{place}/photos", "--workers", "0", "--out", str(tmp_path/"out")]
    assert subprocess.run(url, cwd=place, env=describe(place)).returncode == 1
    check_table(place, tmp_path/"out")
    done = predict(place, "--workers", 2, "--out", "memory://out")
    assert done.returncode == 2 and "do not share the memory" in done.stderr, done.stderr
    (tmp_path/"list.txt").write_text("photos/0001.png")
    done = predict(place, "--workers", 0, "--out", tmp_path/"list", photos=tmp_path/"list.txt")
    assert done.returncode == 2 and "list.txt: a list of paths is read from standard input: - < FILE" in done.stderr, done.stderr


def test_two_main_processes(place, tmp_path):
    with claim_folder(tmp_path/"out", "predict", ()):
        done = predict(place, "--workers", 0, "--out", tmp_path/"out")
    assert done.returncode == 2 and "another predict is running there; wait until it ends, or choose another folder" in done.stderr, done.stderr


def test_without_dask(place, tmp_path):
    "One process, the same table, and a hint; a scheduler cannot be used."
    before = "import sys; sys.modules |= dict(dask=None, distributed=None, fsspec=None)\n"
    done = predict(place, "--workers", 2, "--shard", 50, "--out", tmp_path/"out", before=before)
    assert done.returncode == 1 and "Dask is not installed (pip install 'lightweight[cluster]'): one process" in done.stderr, done.stderr
    check_table(place, tmp_path/"out")
    done = predict(place, "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path/"two", before=before)
    assert done.returncode == 2 and "--scheduler needs Dask" in done.stderr
    done = predict(place, "--workers", 2, "--out", "memory://out", before=before)
    assert done.returncode == 2 and "memory://out: " in done.stderr and "lightweight[cluster]" in done.stderr, done.stderr


READ_PARQUET = "import sys, json; from pyarrow.parquet import ParquetFile; f = ParquetFile(sys.argv[1]); print(json.dumps([f.num_row_groups, f.read().to_pylist()]))"


def test_parquet(place, tmp_path):
    "The rows of the CSV table, a row group per shard; without pyarrow, or without shards, a clear error."
    options = "--workers", 0, "--shard", 100, "--format", "parquet", "--out", tmp_path/"out"
    done = predict(place, *options, before="import sys; sys.modules['pyarrow'] = None\n")
    assert done.returncode == 2 and "pip install 'lightweight[parquet]'" in done.stderr, done.stderr
    done = predict(place, "--format", "parquet")
    assert done.returncode == 2 and "--format parquet belongs to --workers or --scheduler" in done.stderr, done.stderr
    here = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path/"site", "--constraint", ROOT/"requirements.lock", "pyarrow"]
    subprocess.run(here, check=True, capture_output=True)                  # not into this environment, in which it would change pandas
    before = f"import sys; sys.path.append({str(tmp_path/'site')!r})\n"
    assert predict(place, *options, before=before).returncode == 1        # a photo is skipped
    read = subprocess.run([sys.executable, "-c", before + READ_PARQUET, tmp_path/"out/predictions.parquet"], capture_output=True, text=True, check=True)
    groups, rows = json.loads(read.stdout)
    with open(place/"table.csv", newline="") as f: expected = [*csv.DictReader(f)]
    assert groups == 4 and [{k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows] == expected


def test_object_store(place, capsys):
    "Photos and results under URLs of fsspec, in memory: the probabilities are those of the files."
    import fsspec
    from lightweight.deploy.predict import main
    memory = fsspec.filesystem("memory")
    for i in (1, 2, 3): memory.pipe_file(f"/photos/deep/{i}.png", (place/f"photos/{i:04}.png").read_bytes())
    memory.pipe_file("/photos/notes.txt", b"")
    for format, name in (("csv", "predictions.csv"), ("json", "predictions.jsonl")):
        line = [place/"model.onnx", "memory://photos", "--workers", 0, "--shard", 2, "--out", "memory://answers", "--format", format]
        assert main([*map(str, line)]) == 0, capsys.readouterr().err
    rows = [*csv.DictReader(memory.cat_file("/answers/predictions.csv").decode().splitlines())]
    with open(place/"table.csv", newline="") as f: known = [*csv.DictReader(f)][1:4]
    assert [row["path"] for row in rows] == [f"memory:///photos/deep/{i}.png" for i in (1, 2, 3)]
    assert [row | dict(path="") for row in rows] == [row | dict(path="") for row in known]
    lines = [json.loads(line) for line in memory.cat_file("/answers/predictions.jsonl").splitlines()]
    assert [f"{line['probability']:.6f}" for line in lines] == [row["probability"] for row in known]


def test_paths_on_standard_input(place, tmp_path):
    "Relative paths start from the working folder of the main process."
    names = [f"photos/{i:04}.png" for i in range(7)]
    line = [*PREDICT, "model.onnx", "-", "--workers", "0", "--shard", "3", "--out", str(tmp_path/"out")]
    done = subprocess.run(line, cwd=place, input="\n".join(names), capture_output=True, text=True, env=describe(place))
    assert done.returncode == 0, done.stderr
    with open(tmp_path/"out/predictions.csv", newline="") as f: assert [row["path"] for row in csv.DictReader(f)] == names


def test_faults_of_the_machine(place, tmp_path, monkeypatch):
    "A missing photo is skipped; a timeout, or a shard without a single photo, repeats the shard. A worker without the folder gets none."
    from lightweight.core import files
    from lightweight.deploy.predict import _hash_model, open_shards
    given = dict(model=str(place/"model.onnx"), sha256=_hash_model(place/"model.onnx"), precision="f32", batch=1, folder=str(place))
    mount = tmp_path/"mount"                                            # the main process has seen photos in it
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="mount: no photos are there on this machine"): open_shards(**given, seen=[str(mount)])
        mount.mkdir(exist_ok=True)
    shutil.copytree(place/"photos", mount, dirs_exist_ok=True)
    answer = open_shards(**given, seen=[str(mount)])
    (mount/"0000.png").unlink()
    assert answer([f"{mount}/0000.png"])[1] == [[f"{mount}/0000.png", "there is no such file"]]
    with pytest.raises(FileNotFoundError, match="all photos of the shard are missing"): answer([f"{mount}/0000.png", "elsewhere/0000.png"])
    mount.rename(tmp_path/"unmounted")
    with pytest.raises(UnfitWorker, match="mount: no photos are there any more"): answer([f"{mount}/0001.png", "photos/0001.png"])
    answer, photo = open_shards(**given), "photos/0001.png"
    rows, skipped = answer([photo, "gone.png", f"{photo}/x.png", "photos", "photos/0100x.png"])
    assert [row["path"] for row in rows] == [photo]
    assert skipped == [["gone.png", "there is no such file"], [f"{photo}/x.png", "Not a directory"], ["photos", "Is a directory"],
                       ["photos/0100x.png", "not readable as an image"]]
    assert answer(["photos/0100x.png"])[1], "there, and not decodable"
    with pytest.raises(FileNotFoundError, match="all photos of the shard are missing, such as gone.png"): answer(["gone.png", "lost.png"])
    for error in (TimeoutError("timed out"), OSError(24, "Too many open files"), PermissionError(13, "Permission denied")):
        def fail(self, name="", error=error): raise error
        monkeypatch.setattr(files.Store, "read", fail)
        with pytest.raises(type(error)): answer([photo])


def test_url_with_files_of_others(place, capsys):
    "Nothing under a URL is overwritten that predict did not write; lists of an interrupted plan may be there."
    import fsspec
    from lightweight.deploy.predict import main
    memory = fsspec.filesystem("memory")
    line = [str(place/"model.onnx"), str(place/"photos/0001.png"), "--workers", "0", "--out", "memory://others"]
    memory.pipe_file("/others/predictions.csv", b"mine")
    assert main(line) == 2 and "memory:///others/predictions.csv is there, which predict did not make" in capsys.readouterr().err
    assert memory.find("/others") == ["/others/predictions.csv"] and memory.cat_file("/others/predictions.csv") == b"mine"
    memory.rm_file("/others/predictions.csv")
    memory.pipe_file("/others/list/000000.jsonl", b"unfinished")
    for _ in range(2): assert main(line) == 0, capsys.readouterr().err


def test_model_of_the_package(place, tmp_path, monkeypatch, capsys):
    from lightweight.deploy import predict as module
    monkeypatch.setattr(module, "find_bundled", lambda: place/"model.onnx")
    assert module.main([str(place/"photos/0001.png"), "--workers", "0", "--out", str(tmp_path/"out")]) == 0
    assert "no model given; model.onnx of the package: red, green, blue" in capsys.readouterr().err


STAGES = dict(crop=(), evaluate=("train", "--n_rounds", 5, "--baseline_img_size", 32), compare=("--plan", "plan.yaml", "--seeds", 0))
BEGUN = dict(crop=".killed.*.part/shards/attempts/*", evaluate="killed/work/attempts/*", compare="killed/*/history.csv")
PLAN = "base: {crops: crops, network: tiny, img_size: 32, epochs: 2, precision: fp32, n_threads: 1}\ngroups: {loss: {focal: {loss: focal}}}\n"
TIMES = {"started", "seconds", "train_seconds", "command", "out", "workers"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    "Crops of the embedded sample, a network that is trained on them, and its exported file."
    starter = Starter(tmp_path_factory.mktemp("stages"))
    (starter.folder/"plan.yaml").write_text(PLAN)
    for words in (("crop", "--out", "crops"), ("train", "--crops", "crops", "--out", "train", "--preset", "none", "--network", "tiny", "--img_size", 32, "--epochs", 1),
                  ("export", "train", "--formats", "torchscript")):
        code, said = starter.run(*words)
        assert code == 0, said
    yield starter
    starter.close()


def without_times(value):
    "A record without what differs from run to run."
    if isinstance(value, list): return [without_times(v) for v in value]
    return {k: without_times(v) for k, v in value.items() if k not in TIMES} if isinstance(value, dict) else value


def read_result(name, out):
    "What must be the same after any kill."
    record = json.loads((out/"record.json").read_text())
    found = dict(files={f for f in list_files(out) if not re.search(r"(^|/)\.|export/", f)})
    if name == "evaluate":
        return found | dict(predictions=(out/"predictions.csv").read_text(), **{k: record["metrics"][k] for k in ("test", "per_class", "quality", "corruptions")})
    weights = {f: hash_file(out/f) for f in found["files"] if f.endswith(("safetensors", "jpg", "splits.csv", "manifest.csv", "worth.csv"))}
    return found | dict(weights=weights, record=without_times(record))


SLOW = pytest.mark.skipif("not config.getoption('slow')", reason="two minutes; make test-slow kills the stages")


@SLOW
@pytest.mark.parametrize("name", STAGES)
def test_stage_resumes_after_kills(stages, name):
    "The user, a SIGKILL of the main process, and one of a worker: the same command ends as an unbroken run, and nothing is counted twice."
    folder, words = stages.folder/name, (name, *STAGES[name], "--workers", 2, "--out", f"{name}/killed")
    code, said = stages.run(name, *STAGES[name], "--out", f"{name}/whole")
    assert code == 0, said
    def list_begun(): return {(path, path.stat().st_mtime_ns) for path in folder.glob(BEGUN[name])}
    def kill_worker(main): stages.list_workers()[0].kill(); stages.hold.unlink(missing_ok=True)
    kills = [("int", 130, lambda main: main.send_signal(signal.SIGINT))]*(name == "evaluate")
    for kind, expected, kill in (*kills, ("main", -signal.SIGKILL, lambda main: main.kill()), ("worker", 0, kill_worker)):
        if name in ("crop", "evaluate"): stages.hold.touch()
        before = list_begun()
        code, said = stages.run(*words, happened=lambda: list_begun() - before, kill=kill)
        assert code == expected, said
        if kind == "int": assert said == f"lightweight {name}: interrupted from the keyboard\n" and not list_begun(), said
        for path in folder.glob("**/plan.json") if kind == "main" and name != "evaluate" else ():
            path.write_text('{"key": "0", "facts": {"version": "0"}}')        # as an earlier version may have left it
    assert read_result(name, folder/"killed") == read_result(name, folder/"whole")
    if name == "evaluate": assert len((stages.folder/"crops-openings.csv").read_text().splitlines()) == 1 + 2


@SLOW
@pytest.mark.parametrize("name", ["evaluate", "compare"])
def test_two_main_processes_of_a_stage(stages, name):
    with claim_folder(stages.folder/"held", name, ()):
        code, said = stages.run(name, *STAGES[name], "--workers", 2, "--out", "held")
    assert code == 2 and f"another {name} is running there; wait until it ends, or choose another folder" in said.splitlines()[-1], said


def test_killed_removal_of_shards(workers_find, tmp_path, monkeypatch):
    "Whichever file is removed last, the same list is worked on again, or anew."
    given = ([*map(str, range(6))], 2, "cluster_work:open_work", dict(folder=str(workers_find)), {})
    for left in range(8):        # three shards, three lists, failed.jsonl and the plan
        assert not run_shards(plan := plan_shards(tmp_path/"out", *given))
        calls, remove = iter(range(left)), Store.remove
        def stop(self, name): return remove(self, name) if next(calls, None) is not None else sys.exit()
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(Store, "remove", stop)
            remove_shards(plan.out)
        plan = plan_shards(tmp_path/"out", *given)
        assert not run_shards(plan) and [row["item"] for _, rows in read_shards(plan) for row in rows] == given[0]
    remove_shards(plan.out)
    assert not (tmp_path/"out").exists()
