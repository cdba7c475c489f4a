"Drift without labels: streams that flow, break and never end; files that are not what they should be; the rate of false alarms."
import json
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lightweight.deploy.monitor import Reference, check_window, main, read_reference, watch

INFO = dict(classes=["blue", "green", "red"], img_size=8, resize="squish", context=.1, square=True)
CLASSES = INFO["classes"]
REFERENCE = dict(n=600, n_photos=310, n_groups=300, not_sure=.3, strange=None, histogram=[0]*10 + [.1]*10, confusion=[[180, 10, 10], [10, 180, 10], [10, 10, 180]])
CHOSEN = dict(checkpoint="ab", purity=.9, confidence=.95, strange=None, thresholds=dict(blue=.8, green=.8, red=None))
COMMAND = [sys.executable, "-c", "import sys; from lightweight.deploy.monitor import main; sys.exit(main())"]


def make_onnx(info):
    "The softmax of the mean colour."
    nodes = [helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0), helper.make_node("Softmax", ["m"], ["p"])]
    ends = [helper.make_tensor_value_info(*end) for end in (("images", TensorProto.UINT8, ["n", 8, 8, 3]), ("p", TensorProto.FLOAT, ["n", 3]))]
    graph = helper.make_graph(nodes, "colours", ends[:1], ends[1:], [numpy_helper.from_array(np.array([1, 2]), "axes")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(lightweight=json.dumps(info)))
    return model.SerializeToString()


def predict(rng, n, sure=.7, mix=(1/3, 1/3, 1/3)):
    "Rows of `lightweight predict` for an invented network."
    for label, probability, unsure in zip(rng.choice(CLASSES, n, p=mix), rng.uniform(.5, 1, n), rng.random(n) >= sure):
        yield dict(path="a.jpg", label=str(label), probability=float(probability), answer="not sure" if unsure else str(label))


def to_crops(rows): return [(CLASSES.index(r["label"]), r["probability"], r["answer"]) for r in rows]


def to_lines(rows): return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("monitor")/"model.onnx"
    path.write_bytes(make_onnx(INFO | dict(checkpoint="ab", calibration=CHOSEN | dict(reference=REFERENCE))))
    return path


def start(*argv): return subprocess.Popen([*COMMAND, *map(str, argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)


def test_a_stream_is_reported_window_by_window(model):
    "Each report is there before the next crop is sent; the last window is smaller."
    rng, process = np.random.default_rng(0), start(model, "-", "--window", 200)
    for sure, said in ((.7, "crops 1 to 200: as calibrated"), (.2, "crops 201 to 400: ALARM: changed: not sure ")):
        process.stdin.write(to_lines(predict(rng, 200, sure)))
        process.stdin.flush()
        assert process.stdout.readline().startswith(said)
    out, err = process.communicate(to_lines(predict(rng, 50)))
    assert process.returncode == 1 and err == ""
    assert out.splitlines()[0].startswith("crops 401 to 450: too few for an alarm: ") and out.splitlines()[1].startswith("450 crops: 1 alarm, ")


def test_a_sender_that_dies_in_the_middle_of_a_line(model):
    "The windows before it are reported."
    process = start(model, "-", "--window", 100)
    out, err = process.communicate(to_lines(predict(np.random.default_rng(0), 130)) + '{"path": "a.j')
    assert process.returncode == 2 and out.startswith("crops 1 to 100: as calibrated") and len(out.splitlines()) == 1
    assert err.startswith("lightweight monitor: standard input, after prediction 130: neither JSON nor CSV (") and len(err.splitlines()) == 1


def test_a_reader_that_is_closed(model):
    "As with `lightweight monitor … | head -1`: it ends without a message."
    process = start(model, "-", "--window", 100)
    process.stdin.write(to_lines(predict(np.random.default_rng(0), 100)))
    process.stdin.flush()
    assert process.stdout.readline()
    process.stdout.close()
    with pytest.raises(BrokenPipeError):
        for _ in range(200): process.stdin.write(to_lines(predict(np.random.default_rng(0), 1000)))
    assert process.wait(60) == 1 and process.stderr.read() == ""


def test_an_interrupted_stream_leaves_its_picture(model, tmp_path):
    process = start(model, "-", "--window", 100, "--plot", tmp_path/"drift.png")
    process.stdin.write(to_lines(predict(np.random.default_rng(0), 100)))
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and process.stderr.read() == "lightweight monitor: interrupted from the keyboard\n"
    assert (tmp_path/"drift.png").read_bytes().startswith(b"\x89PNG")


def test_an_endless_stream_needs_the_memory_of_a_window():
    reference = read_reference("model.onnx", INFO | dict(calibration=dict(reference=REFERENCE)))
    crops = iter(lambda: (0, .7, "not sure"), None)
    windows = watch(reference, crops, 100)
    for _ in range(2): next(windows)
    tracemalloc.start()
    for _ in range(10): next(windows)
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


@pytest.mark.parametrize("text, message", [
    ("", "there is no prediction in it"), ("[]", "there is no prediction in it"), ("\n\n", "there is no prediction in it"),
    ("path,label,probability,answer\n", "there is no prediction in it"),
    ("path,label,probability\na,red,.9\n", "prediction 1: no answer; expected a prediction of lightweight predict with the calibrated file"),
    ("a\nb\n", "prediction 1: no label, probability, answer"), ("\0\1\2", "no prediction in it"), ("[[1]]", "prediction 1: no label"), ('{"images": []}', "prediction 1: no label"),
    ("label,probability,answer,p_a,p_b\na,.9,a,.9,.1\n", "a of a, b; the file has the classes blue, green, red: predict with this file"),
    ('{"label": "red", "probability": 0.9, "answer": "red", "probabilities": {"red": 0.9, "tin": 0.1}}', "red of red, tin; the file has the classes"),
    ("label,probability,answer\nred,.9,blue\n", "answer 'blue'; expected red, not sure"), ("label,probability,answer\nred,.9,strange\n", "answer 'strange'"),
    ("label,probability,answer\nred,nan,red\n", "probability 'nan'; expected a number from 0 to 1"), ("label,probability,answer\nred,high,red\n", "probability 'high'"),
    ('{"label": ["red"], "probability": 0.9, "answer": "red"}', "predict with this file"), ("{" + '"a":['*100_000, "neither JSON nor CSV"), ("[" * 100_000, "neither JSON nor CSV"),
])
def test_predictions_that_are_none(model, tmp_path, capsys, text, message):
    (tmp_path/"p.csv").write_text(text)
    assert main([str(model), str(tmp_path/"p.csv")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "p.csv" in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize("plot, gone, message", [
    ("new/x.jpg", "", "--plot {}: expected FILE.png"), ("mine.png", "", "--plot = {}: this file is there and was not made by this command"), ("folder.png", "", "--plot = {}: this is a folder"),
    ("mine.png/x.png", "", "mine.png is a file, not a folder"), ("p.csv", "", "expected FILE.png"), ("x.png", "matplotlib.pyplot", "--plot: import of matplotlib.pyplot halted"),
    (None, "scipy.stats", "lightweight monitor: import of scipy.stats halted")])
def test_all_is_checked_before_the_stream_is_read(model, tmp_path, monkeypatch, capsys, plot, gone, message):
    "A stream may last for days: what its picture needs is there before its first line is read."
    class Unread:
        def __iter__(self): raise AssertionError("read")
        read = readline = __next__ = __iter__
    monkeypatch.setattr(sys, "stdin", Unread())
    (tmp_path/"mine.png").write_text("mine")
    (tmp_path/"folder.png").mkdir()
    if gone:
        monkeypatch.setitem(sys.modules, gone, None)
        monkeypatch.delitem(sys.modules, "lightweight.evaluation.plots", raising=False)
    path = plot if plot is None else tmp_path/plot
    try: code = main([str(model), "-", *([] if plot is None else ["--plot", str(path)])])
    except SystemExit as stop: code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and message.format(path) in err, err
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["folder.png", "mine.png"] and (tmp_path/"mine.png").read_text() == "mine"


@pytest.mark.parametrize("calibration, message", [
    (None, "it is not calibrated; run lightweight calibrate RUN"),
    *((CHOSEN | dict(reference=REFERENCE | change), message) for change, message in (
        (dict(n_groups=0), "n_groups: expected a number from 1"), (dict(n_groups="many"), "invalid metadata: calibration"), (dict(not_sure=2), "expected shares from 0 to 1"),
        (dict(histogram=[]), "histogram: expected 20 shares"), (dict(histogram=[-1] + [0]*18 + [2]), "a number below 0"), (dict(histogram=3), "invalid metadata: calibration"),
        (dict(confusion=[[1, 2], [3, 4]]), "confusion: expected 3 rows of 3 counts"), (dict(confusion=[[0]*3]*3), "confusion: expected"))),
])
def test_files_that_are_not_calibrated(tmp_path, capsys, calibration, message):
    (tmp_path/"model.onnx").write_bytes(make_onnx(INFO | ({} if calibration is None else dict(checkpoint="ab", calibration=calibration))))
    (tmp_path/"p.jsonl").write_text(to_lines(predict(np.random.default_rng(0), 9)))
    assert main([str(tmp_path/"model.onnx"), str(tmp_path/"p.jsonl")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "model.onnx" in err, err
    assert "calibrate" in err and len(err.splitlines()) == 1


def test_odd_references():
    "A network that is never sure, a class that is never predicted, classes without crops, and windows of one crop."
    never = Reference(CLASSES, 40, {"not sure": 1.}, np.eye(20)[19], np.array([[9, 0, 0], [9, 0, 0], [0, 0, 0]]))
    window = check_window(never, [(0, 1., "not sure")]*250)
    assert not window.changed and window.mix is None and min(window.p_values.values()) == 1
    assert check_window(never, [(2, .5, "blue")]*250).changed == ["not sure", "probability", "mix"]
    assert not check_window(never, [(2, .5, "blue")]).changed


def test_false_alarms_are_rare():
    "200,000 unchanged crops, references of 400 crops, with a rare class: fewer alarms than one in 10,000 crops."
    rng, k, n = np.random.default_rng(0), 6, 400
    shares, alarms = np.array([.4, .3, .15, .1, .04, .01]), 0
    def draw(n): return rng.choice(k, n, p=shares), rng.beta(5, 3, n)
    for _ in range(40):
        labels, probabilities = draw(n)
        confusion = np.diag(np.bincount(labels, minlength=k))
        reference = Reference(list("abcdef"), n, {"not sure": (probabilities < .6).mean()}, np.histogram(probabilities, 20, (0, 1))[0]/n, confusion)
        labels, probabilities = draw(5000)
        crops = [(c, p, "not sure" if p < .6 else "abcdef"[c]) for c, p in zip(labels.tolist(), probabilities.tolist())]
        alarms += sum(bool(w.changed) for w in watch(reference, crops))
    assert alarms <= 20
