"Weights, crop folders, records and exported files that are damaged, foreign or of another version; what `predict` says of its inputs."
import json
import math
import pickle

import numpy as np
from cases import both, coco, draw, every, first, make_coco, put, remove, rename, run, same, save, suite, swap, write
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file

INFO = dict(name="colours", classes=["blue", "green", "red"], img_size=8, resize="squish", context=.1, square=True)


def make_onnx(info=INFO, images="images", kind=TensorProto.UINT8, side=8, last="Softmax", n_classes=3):
    "The softmax of the mean colour, blue first."
    nodes = [helper.make_node("Cast", [images], ["x"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
             helper.make_node("Gather", ["m", "turn"], ["bgr"], axis=1), helper.make_node("Mul", ["bgr", "scale"], ["z"]), helper.make_node(last, ["z"], ["p"])]
    constants = dict(axes=np.array([1, 2]), turn=np.array([2, 1, 0][:n_classes]), scale=np.float32(math.log(8)/255))
    ends = [helper.make_tensor_value_info(*end) for end in ((images, kind, ["n", side, side, 3]), ("p", TensorProto.FLOAT, ["n", n_classes]))]
    graph = helper.make_graph(nodes, "colours", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if info is not None: helper.set_model_props(model, dict(lightweight=info if isinstance(info, str) else json.dumps(info)))
    return model.SerializeToString()


def make_exported(folder):
    make_coco(folder)
    write(folder/"model.onnx", make_onnx())
    write(folder/"model.xml", "<net/>")


def onnx_of(**options): return put("model.onnx", make_onnx(**options))
def info(**changes): return onnx_of(info={k: v for k, v in (INFO | changes).items() if v is not ...})


DECISIONS = dict(checkpoint="ab", purity=.95, confidence=.95, thresholds=dict.fromkeys(INFO["classes"]), strange=None, reference={})


def decided(**changes): return info(checkpoint="ab", calibration={k: v for k, v in (DECISIONS | changes).items() if v is not ...})


PREDICT, BOXES = "predict model.onnx photos", "predict model.onnx annotations.json"

test_exported_files = suite(make_exported,
    ("sound", same, PREDICT, 0, "photos/011.jpg,"),
    ("not there", same, "predict none.onnx photos", 2, "none.onnx: there is no such file; lightweight export makes it"),
    ("no model before a COCO file", same, "predict photos annotations.json", 2, "- and a COCO file must be the only path"),
    ("a photo", same, "predict photos/000.jpg annotations.json", 2, "- and a COCO file must be the only path"),
    ("a checkpoint", put("model.safetensors", "x"), "predict model.safetensors photos", 2, "model.safetensors: not an exported file (a model ends in .onnx, "),
    ("empty", put("model.onnx", ""), PREDICT, 2, "model.onnx: ONNX Runtime"),
    ("a text", put("model.onnx", "no model"), PREDICT, 2, "model.onnx: ONNX Runtime cannot open it"),
    ("truncated", put("model.onnx", lambda data: data[:100]), PREDICT, 2, "model.onnx: ONNX Runtime cannot open it"),
    ("no metadata", onnx_of(info=None), PREDICT, 2, "model.onnx: it holds no metadata 'lightweight'; export the checkpoint"),
    ("metadata not JSON", onnx_of(info="{"), PREDICT, 2, "model.onnx: its metadata 'lightweight' are not JSON"),
    ("metadata a list", onnx_of(info="[]"), PREDICT, 2, "model.onnx: its metadata lack classes, img_size"),
    ("metadata of deep lists", onnx_of(info="["*100_000), PREDICT, 2, "model.onnx: its metadata"),
    ("metadata without classes", info(classes=...), PREDICT, 2, "model.onnx: its metadata lack classes"),
    ("a class twice", info(classes=["a", "a", "b"]), PREDICT, 2, "expected a list of distinct names"),
    ("classes are numbers", info(classes=[1, 2, 3]), PREDICT, 2, "classes = [1, 2, 3], expected a list of distinct names"),
    ("a size as text", info(img_size="8"), PREDICT, 2, "img_size = '8', expected a number of pixels"),
    ("a size of another graph", info(img_size=16), PREDICT, 2, "model.onnx: its input is 'images', uint8"),
    ("a huge size", onnx_of(info=INFO | dict(img_size=10**6), side="s"), PREDICT, 2, "model.onnx"),
    ("an unknown way to resize", info(resize="stretch"), PREDICT, 2, "resize = 'stretch', expected one of squish"),
    ("a resize of a list", info(resize=["squish"]), PREDICT, 2, "resize = ['squish']"),
    ("a context below zero", info(context=-1), PREDICT, 2, "context = -1, expected a number from 0"),
    ("a context of NaN", info(context=float("nan")), PREDICT, 2, "context = nan, expected a number from 0"),
    ("another version", info(version=99), PREDICT, 2, "model.onnx: file version 99; this lightweight reads version 1"),
    ("too many classes", info(classes=list("abcd")), PREDICT, 2, "model.onnx: its output is (1, 3)"),
    ("an output that is no probability", onnx_of(last="Relu"), PREDICT, 2, "model.onnx: its output is (1, 3) with sum 0"),
    ("another name of the input", onnx_of(images="pixels"), PREDICT, 2, "model.onnx: its input is 'pixels'"),
    ("another type of the input", onnx_of(kind=TensorProto.FLOAT), PREDICT, 2, "model.onnx: its input is 'images', float"),
    ("examples that are none", info(examples=7), PREDICT, 2, "model.onnx: invalid metadata: examples"),
    ("examples that are no pictures", info(examples=dict(images=["AAAA"], probabilities=[[1, 0, 0]], limits=dict(f32=1))), PREDICT, 2, "model.onnx: invalid metadata: examples"),
    ("examples of other lengths", info(examples=dict(images=[], probabilities=[], limits={})), PREDICT, 2, "model.onnx: invalid metadata: examples"),
    ("a calibration that is none", info(calibration=7), PREDICT, 2, "model.onnx: invalid metadata: calibration: checkpoint = None, expected a text"),
    ("thresholds as text", decided(thresholds=dict(blue="0.9", green=None, red=.5)), PREDICT, 2, "model.onnx: invalid metadata: calibration: thresholds", "expected a probability or null for each class"),
    ("a threshold above one", decided(thresholds=dict(blue=1.5, green=None, red=.5)), PREDICT, 2, "expected a probability or null for each class"),
    ("thresholds of other classes", decided(thresholds=dict(blue=.5, grey=None, red=.5)), PREDICT, 2, "model.onnx: invalid metadata: calibration: thresholds: green, grey: expected exactly the classes blue, green, red"),
    ("thresholds of another checkpoint", decided(checkpoint="0"*64), PREDICT, 2, "model.onnx: its calibration is for another checkpoint (000000000000) than the file (ab)"),
    ("a limit of NaN", decided(strange=float("nan")), PREDICT, 2, "strange = nan, expected a finite number or null"),
    ("a limit without strangeness", decided(strange=.5), PREDICT, 2, "model.onnx: its calibration has a limit of strangeness, but the file does not measure it"),
    ("a calibration without thresholds", decided(thresholds=...), PREDICT, 2, "calibration: thresholds = None"),
    ("a class that is called not sure", onnx_of(info=INFO | dict(classes=["blue", "not sure", "red"], checkpoint="ab", calibration=DECISIONS | dict(thresholds={"blue": None, "not sure": None, "red": None}))), PREDICT, 2, "model.onnx: class 'not sure': this is an answer of calibrated files"),
    ("calibrated", decided(), PREDICT, 0, "path,label,probability,answer,strangeness,p_blue", "not sure"),
    ("OpenVINO without weights", same, "predict model.xml photos", 2, "model.bin: there is no such file"),
    ("OpenVINO of rubbish", put("model.bin", "x"), "predict model.xml photos", 2, "model.xml: OpenVINO cannot open it"),
    ("TorchScript of rubbish", put("model.pt", "x"), "predict model.pt photos", 2, "model.pt: TorchScript cannot open it"),
    ("TorchScript of a pickle", put("model.pt", pickle.dumps(dict(a=1))), "predict model.pt photos", 2, "model.pt: TorchScript cannot open it"),
    ("a precision of another runtime", same, f"{PREDICT} --precision bf16", 2, "precision 'bf16' is for OpenVINO (.xml) only"),
    ("self-test without examples", same, "predict --self-test model.onnx", 1, "no examples in the file"),
    ("self-test of a folder without models", same, "predict --self-test photos", 2, "photos: there is no file ending in .onnx"))

test_questions = suite(make_exported,
    ("boxes", same, BOXES, 0, "24 of 24 boxes are classified"),
    ("no paths", same, "predict model.onnx", 2, "give paths, or --self-test and at most one model"),
    ("an unknown format", same, f"{PREDICT} --format xml", 2, "argument --format: invalid choice: 'xml'"),
    ("no such annotations", same, "predict model.onnx none.json", 2, "none.json: No such file"),
    ("annotations of a list", put("annotations.json", "[]"), BOXES, 2, "annotations.json holds a list, not an object with images and annotations"),
    ("annotations torn", put("annotations.json", lambda data: data[:500]), BOXES, 2, "annotations.json is not a readable JSON file"),
    ("shares of the photo", every("annotations", bbox=[.1, .1, .5, .5]), BOXES, 2, "annotations.json: all 24 boxes lie within 0 to 1"),
    ("backslashes", every("images", file_name=lambda name: name.replace("/", "\\")), f"{BOXES} --format csv", 0, "24 of 24 boxes are classified"),
    ("categories are null", coco(lambda content: content.update(categories=None)), BOXES, 0, "24 of 24 boxes"),
    ("ids as text", every("annotations", id=str, image_id=str), BOXES, 0, "24 of 24 boxes"),
    ("a photo is gone", remove("photos/000.jpg"), BOXES, 1, "22 of 24 boxes are classified", "2 × missing photo", "photos/000.jpg: there is no such file"),
    ("a box outside", first("annotations", bbox=[500, 9, 9, 9]), BOXES, 1, "1 × box outside", "annotations[0]: bbox is [500, 9, 9, 9]"),
    ("a box of a deep list", put("annotations.json", lambda data: data.replace(b'"bbox": [8', b'"bbox": [' + b"["*900 + b"]"*900, 1)), BOXES, 1, "1 × bad box"),
    ("a crowd", first("annotations", iscrowd=1), BOXES, 1, "1 × crowd region"),
    ("no boxes", coco(lambda content: content["annotations"].clear()), BOXES, 0, "0 of 0 boxes"),
    ("a text that is called a photo", put("photos/000.jpg", "no picture"), PREDICT, 1, "photos/000.jpg: not readable as an image"),
    ("a truncated photo", put("photos/000.jpg", lambda data: data[:600]), PREDICT, 1, "photos/000.jpg: OSError: Truncated"),
    ("no such photo", same, "predict model.onnx none.jpg", 1, "none.jpg: there is no such file"),
    ("an empty folder", both(remove("photos"), put("photos/notes.txt", "mine")), PREDICT, 1, "photos: there is no image in this folder"),
    ("other names of JPEG", both(rename("photos/000.jpg", "photos/a.jfif"), rename("photos/001.jpg", "photos/b.JPE"), save("photos/c.avif", draw(50))), PREDICT, 0, "photos/a.jfif,", "photos/b.JPE,", "photos/c.avif,"),
    ("a photo of HEIC", put("photos/IMG_1.HEIC", b"\0\0\0\x18ftypheic"), PREDICT, 1, "photos/IMG_1.HEIC: not readable as an image"),
    ("a linked folder", both(rename("photos", "elsewhere"), lambda folder: ((folder/"photos").mkdir(), (folder/"photos/link").symlink_to(folder/"elsewhere"))), PREDICT, 0, "photos/link/011.jpg,"),
    ("a text among the photos", put("photos/notes.txt", "mine"), PREDICT, 0, "photos: left out: files that are no images (1)"),
    ("a name that is no text", lambda folder: (folder/"photos/000.jpg").rename(str(folder/"photos/M") + "\udcfcll.jpg"), PREDICT, 0, "photos/M"),
    ("a result of another name", same, f"{PREDICT} --out annotations.json --format csv", 2, "--out annotations.json does not go with --format csv"),
    ("a result over the annotations", same, f"{BOXES} --out annotations.json", 2, "annotations.json: this is one of the paths"),
    ("a result over a table", same, f"{PREDICT} --out classes.csv", 2, "--out = classes.csv: this file is there and was not made by this command"),
    ("a result in the folder of photos", same, f"{PREDICT} --out photos", 2, "--out = photos: this is a folder; name a file"),
    ("a result in its own folder", same, f"{PREDICT} --out out/answers.csv", 0),
    ("photos for photos", same, f"{PREDICT} --photos photos", 2, "--photos belongs to a COCO file"),
    ("no threads", same, f"{PREDICT} --threads 0", 2, "--batch and --threads must be at least 1"),
    ("no batch", same, f"{PREDICT} --batch 0", 2, "--batch and --threads must be at least 1"))


# -- weights, crops and records ----------------------------------------------------------------------------------------

def make_run(folder):
    "A crop folder and an untrained tiny network."
    from lightweight.models.build import build_network
    from lightweight.training.checkpoint import save_checkpoint
    make_coco(folder)
    assert run("crop annotations.json --class-map classes.csv --out crops", folder).code == 0
    crops = json.loads((folder/"crops/crops.json").read_text())
    network = build_network("tiny", 3).eval()
    facts = dict(classes=crops["classes"], img_size=32, resize="squish", mean=[.5]*3, std=[.5]*3, split=crops["splits"], crops="crops", settings=dict(seed=0))
    save_checkpoint(folder/"run/model.safetensors", network, facts)
    for path in folder.rglob(".*lock"): path.unlink()


WEIGHTS = "run/model.safetensors"


def facts(**changes):
    "Change the information of the checkpoint; Ellipsis removes a field."
    def make(folder):
        path = folder/WEIGHTS
        with safe_open(path, "pt") as file: known = json.loads(file.metadata()["lightweight"])
        known = {k: v for k, v in (known | changes).items() if v is not ...}
        save_file(load_file(path), path, metadata=dict(lightweight=json.dumps(known)))
    return make


def tensors(change, **metadata):
    "Change the tensors of the checkpoint."
    def make(folder):
        path = folder/WEIGHTS
        with safe_open(path, "pt") as file: known = file.metadata()
        save_file(change(load_file(path)), path, metadata=known if not metadata else metadata.get("metadata"))
    return make


EXPORT, TRAIN = "export run --formats onnx", "train --crops crops --out out --network tiny --epochs 1 --img-size 32 --bs 8 --precision fp32 --n-threads 1"
FINISH = f"train --start {WEIGHTS} --crops crops --out out --epochs 1 --img-size 32 --precision fp32 --n-threads 1"

test_weights = suite(make_run,
    ("not there", remove(WEIGHTS), EXPORT, 2, "model.safetensors: no such checkpoint; train first"),
    ("no such run", same, "export nowhere", 2, "nowhere/model.safetensors: no such checkpoint"),
    ("empty", put(WEIGHTS, ""), EXPORT, 2, "model.safetensors: not a complete safetensors file"),
    ("truncated", put(WEIGHTS, lambda data: data[:len(data)//2]), EXPORT, 2, "model.safetensors: not a complete safetensors file"),
    ("a text", put(WEIGHTS, "these are my weights"), EXPORT, 2, "model.safetensors: not a complete safetensors file"),
    ("a pickle", put(WEIGHTS, pickle.dumps(dict(a=1))), EXPORT, 2, "pickle files are not supported"),
    ("a header of exabytes", put(WEIGHTS, b"\xff"*8 + b"{}"), EXPORT, 2, "model.safetensors: not a complete safetensors file"),
    ("of another program", tensors(lambda t: t, metadata=None), EXPORT, 2, "model.safetensors: not a checkpoint of this project: the file contains no recipe"),
    ("information not JSON", tensors(lambda t: t, metadata=dict(lightweight="{")), EXPORT, 2, "model.safetensors"),
    ("information a list", tensors(lambda t: t, metadata=dict(lightweight="[]")), EXPORT, 2, "model.safetensors"),
    ("no recipe", facts(recipe=...), EXPORT, 2, "model.safetensors"),
    ("a recipe of another network", facts(recipe=dict(name="resnet5000", n_classes=3)), EXPORT, 2, "resnet5000"),
    ("a recipe that is a text", facts(recipe="tiny"), EXPORT, 2, "model.safetensors"),
    ("no tensors", tensors(lambda t: {}), EXPORT, 2, "model.safetensors"),
    ("a tensor is missing", tensors(lambda t: {k: v for k, v in t.items() if k != "layers.0.conv.weight"}), EXPORT, 2, "model.safetensors"),
    ("a tensor of another shape", tensors(lambda t: {k: v[:1].clone() if v.ndim else v for k, v in t.items()}), EXPORT, 2, "model.safetensors"),
    ("no classes", facts(classes=...), EXPORT, 2, "classes"),
    ("no normalisation", facts(mean=...), EXPORT, 2, "mean"),
    ("another split", facts(split="0"*16), EXPORT, 2, "crops: ", "another split than the one the checkpoint was trained on"),
    ("crops are gone", remove("crops"), EXPORT, 2, "crops is not a finished crop store"),
    ("formats in brackets", remove("crops"), "export run --formats '[onnx]'", 2, "crops is not a finished crop store"),
    ("an unknown format", same, "export run --formats onyx", 2, "formats", "onnx"),
    ("a start that is a folder", same, FINISH.replace("/model.safetensors", ""), 2, "this is a folder; name its model.safetensors"),
    ("a start that is truncated", put(WEIGHTS, lambda data: data[:999]), FINISH, 2, "model.safetensors: not a complete safetensors file"),
    ("a start of other classes", facts(classes=list("abc")), FINISH, 2, "was trained on the classes a, b, c; the crops have"),
    ("compress a truncated network", put(WEIGHTS, lambda data: data[:999]), "compress --run run --out out", 2, "run"),
    ("calibrate a run that was not exported", same, "calibrate run", 2, "export: there is no export.csv in it; run lightweight export first"),
    ("calibrate a class that is called strange", facts(classes=["bag", "can", "strange"]), "calibrate run", 2, "class 'strange': this is an answer of calibrated files; give the class another name"),
    ("few strange objects", same, "calibrate run --strange photos", 2, "strange = photos: 12 images; at least 20 are needed"),
    ("no strange objects", same, "calibrate run --strange nowhere", 2, "strange = nowhere: 0 images; at least 20 are needed"),
    ("evaluate a truncated network", put(WEIGHTS, lambda data: data[:999]), "evaluate run --out out", 2, "model.safetensors: not a complete safetensors file"))

test_crop_folders = suite(make_run,
    ("no crops.json", remove("crops/crops.json"), TRAIN, 2, "crops is not a finished crop store"),
    ("crops.json is torn", put("crops/crops.json", "{"), TRAIN, 2, "crops.json: not readable as JSON"),
    ("crops.json is a list", put("crops/crops.json", "[]"), TRAIN, 2, "crops.json: a list, not a crop store: cut the crops again"),
    ("crops.json is empty", put("crops/crops.json", "{}"), TRAIN, 2, "crops.json"),
    ("no manifest", remove("crops/manifest.csv"), TRAIN, 2, "manifest.csv is missing: cut the crops again"),
    ("manifest is empty", put("crops/manifest.csv", ""), TRAIN, 2, "manifest.csv is empty: cut the crops again"),
    ("manifest of other columns", put("crops/manifest.csv", "a,b\n1,2\n"), TRAIN, 2, "manifest.csv has no column 'label'"),
    ("manifest is not UTF-8", put("crops/manifest.csv", lambda data: data.replace(b"can", "Müll".encode("cp1252"))), TRAIN, 2, "manifest.csv, line 2: this is not UTF-8 text"),
    ("manifest without photos", swap("crops/manifest.csv", "photo_id", "photo"), TRAIN, 2, "manifest.csv has no column 'photo_id'"),
    ("manifest with an open quote", put("crops/manifest.csv", lambda data: data + b'"x'), TRAIN, 2, "manifest.csv: not readable as CSV"),
    ("a crop is gone", lambda folder: next((folder/"crops/train/can").iterdir()).unlink(), TRAIN, 2, "crops/train/can"),
    ("a crop is damaged", lambda folder: next((folder/"crops/train/can").iterdir()).write_bytes(b"x"), TRAIN, 2, "crops/train/can"),
    ("a class without large crops", same, f"{TRAIN} --train-min-side 500", 2, "train_min_side = 500: no training crop of bag (42 px)"))

test_records = suite(make_run,
    ("not there", same, "summary none.json", 2, "none.json: there is no such record"),
    ("a folder", same, "summary crops", 2, "crops: there is no such record"),
    ("empty", put("record.json", ""), "summary record.json", 2, "record.json: not readable as JSON"),
    ("a list", put("record.json", "[]"), "summary record.json", 2, "record.json: a list, not a record"),
    ("no fields", put("record.json", "{}"), "summary record.json", 2, "record.json"),
    ("of another stage", same, "summary crops/record.json", 2, "this is a record of crop, not of evaluate"),
    ("not UTF-8", put("record.json", b"\xff"), "summary record.json", 2, "record.json: not readable as JSON"),
    ("deep lists", put("record.json", "["*100_000), "summary record.json", 2, "record.json: not readable as JSON"))
