"The page of `lightweight page` in a real browser: the same predictions as in Python, nothing sent anywhere, offline, and every fault in one sentence."
import csv
import functools
import http.server
import json
import shutil
import threading

import numpy as np
import onnx
import pytest
from conftest import PATIENCE_MS
from PIL import Image
from test_page import CONTRAST, OVERFLOW
from test_predict import make

from lightweight.data.sample import make_sample
from lightweight.deploy.runtime import KEY, Predictor
from lightweight.deploy.web import fetch_runtime, main, make_page

READY = "body[data-ready=yes]"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "A short training on the sample, exported and calibrated: crops, file, page."
    try: fetch_runtime()
    except ValueError as fault: pytest.skip(f"onnxruntime-web could not be fetched: {fault}")
    folder = tmp_path_factory.mktemp("web")
    make_sample(folder/"sample", n_photos=80)
    make("crop", "--annotations", folder/"sample/annotations.json", "--out", folder/"crops")
    make("train", "--crops", folder/"crops", "--out", folder/"run", "--img_size", 48, "--epochs", 4)
    make("export", "--run", folder/"run", "--formats", "[onnx]")
    make("calibrate", "--run", folder/"run", "--purity", .6, "--confidence", .6)
    make_page(folder/"run/export/model.onnx", folder/"page")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, cache="", hold=None, **kwargs):
        self.cache, self.hold = cache, hold
        super().__init__(*args, **kwargs)

    def log_message(self, *args): pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.hold and self.path == "/ort.wasm": self.hold.wait(60)
        super().do_GET()

    def end_headers(self):
        if self.cache: self.send_header("Cache-Control", self.cache)
        super().end_headers()


@pytest.fixture
def serve():
    "Serve a folder on the loopback interface: folder → address; `serve.stop()` stops all servers, `serve.asked` is what the last one was asked for."
    running = []
    def start(folder, cache="", hold=None):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder, cache=cache, hold=hold))
        server.asked = start.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/"
    def stop():
        while running:
            server = running.pop()
            server.shutdown()
            server.server_close()
    start.stop = stop
    yield start
    stop()


def visit(browser, address, asked=None, **options):
    "Open the page in a context of its own; addresses that it asks for are added to `asked`."
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    if asked is not None: page.context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator(READY).wait_for()
    return page

def give(page, *files):
    "Give files to the page, and wait for their rows."
    page.set_input_files("#files", [str(f) for f in files])
    page.locator("#rows tr").nth(len(files) - 1).wait_for()

def read_csv(page, folder):
    with page.expect_download() as download: page.click("#csv")
    download.value.save_as(folder/"page.csv")
    with open(folder/"page.csv", newline="") as file: return list(csv.DictReader(file))

def read_info(model): return json.loads({p.key: p.value for p in model.metadata_props}[KEY])

def change_info(path, out, change):
    "Write a file of the same network, with metadata that `change` has made of its own."
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: json.dumps(change(read_info(model)))})
    onnx.save(model, out)
    return out

def rename_classes(info):
    "Other class names, without thresholds."
    return {k: v for k, v in info.items() if k not in ("calibration", "examples")} | dict(classes=[f"sort {c}" for c in info["classes"]])

def list_crops(made, most=200): return sorted((made/"crops").glob("t*/*/*.jpg"))[:most]


def test_predictions_are_those_of_predictor(browser, serve, made, tmp_path):
    "200 crops: the same columns, answers on at least 99.5 %, probabilities within 0.02."
    crops, predictor = list_crops(made), Predictor(made/"run/export/model.onnx")
    page = visit(browser, serve(made/"page"))
    give(page, *crops)
    rows, known = read_csv(page, tmp_path), [predictor(crop) for crop in crops]
    assert list(rows[0]) == ["path", "label", "probability", "answer", "strangeness", *(f"p_{c}" for c in predictor.classes)]
    assert [r["path"] for r in rows] == [c.name for c in crops] and len(crops) >= 150
    found = np.array([[float(r[f"p_{c}"]) for c in predictor.classes] for r in rows])
    assert np.abs(found - [list(k.probabilities.values()) for k in known]).max() < .02
    assert np.mean([r["answer"] == k.answer for r, k in zip(rows, known)]) >= .995
    assert {"not sure"} < {k.answer for k in known}


@pytest.mark.parametrize("method", ["squish", "pad", "crop", "draft"])
def test_pictures_become_square_as_in_python(browser, serve, made, tmp_path, method):
    "Large, small, turned and transparent pictures, in every resize method of a file."
    def change(info): return {k: v for k, v in info.items() if k != "examples"} | dict(resize=method)
    path = change_info(made/"run/export/model.onnx", tmp_path/"other.onnx", change)
    photo = Image.open(list_crops(made)[0]).resize((301, 517))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = Image.new("RGBA", (130, 70), (200, 30, 30, 90))
    files = {"tall.png": (photo, {}), "wide.png": (photo.rotate(90, expand=True), {}), "tiny.png": (photo.resize((9, 20)), {}),
             "turned.jpg": (photo, dict(exif=turned, quality=95)), "clear.png": (clear, {})}
    for name, (picture, options) in files.items(): picture.save(tmp_path/name, **options)
    page, predictor = visit(browser, serve(make_page(path, tmp_path/"page").parent)), Predictor(path)
    give(page, *(tmp_path/name for name in files))
    for row in read_csv(page, tmp_path):
        known = predictor(tmp_path/row["path"]).probabilities
        assert max(abs(float(row[f"p_{c}"]) - p) for c, p in known.items()) < .02, (method, row["path"])


def test_nothing_leaves_and_it_works_without_a_network(browser, serve, made):
    "All requests go to the page's own server; the second visit needs neither network nor server."
    address, crops = serve(made/"page"), list_crops(made, 2)
    page = visit(browser, address, asked := [])
    names = ["/model.onnx", "/ort.mjs", "/ort.wasm", "/page.json"]
    assert sorted(path for path in serve.asked if path in names) == names         # each once
    page.reload()
    page.locator(READY).wait_for()
    assert sorted(path for path in serve.asked if path in names) == names
    give(page, crops[0])
    own = (address, "blob:" + address)
    assert len(asked) >= 8 and all(url.startswith(own) for url in asked), asked
    page.context.set_offline(True)
    serve.stop()
    page.reload()
    page.locator(READY).wait_for()
    give(page, crops[1])
    assert page.inner_text("#answer")


def test_a_rebuilt_page_is_shown(browser, serve, made, tmp_path):
    "The next visit shows it, also where the server lets browsers keep files."
    make_page(made/"run/export/model.onnx", tmp_path/"page")
    address = serve(tmp_path/"page", "max-age=600")
    page = visit(browser, address)
    change_info(made/"run/export/model.onnx", tmp_path/"second.onnx", rename_classes)
    make_page(tmp_path/"second.onnx", tmp_path/"page")
    make_page(tmp_path/"second.onnx", tmp_path/"single", single=True)
    page.reload()
    page.locator(READY).wait_for()
    assert page.inner_text("#classes").startswith("sort ")
    page.context.set_offline(True)
    serve.stop()
    page.goto(address)
    page.locator("#classes", has_text="sort ").wait_for()


def test_a_page_may_load_from_its_own_server_only(browser, serve, made):
    "The policy of the page stops a script that tries to send something elsewhere."
    page = visit(browser, serve(made/"page"))
    other = serve(made/"crops")
    assert page.evaluate("address => fetch(address, { mode: 'no-cors' }).then(() => 'sent', () => 'stopped')", other) == "stopped"


def test_one_file_opens_by_double_click(browser, made, tmp_path):
    index = make_page(made/"run/export/model.onnx", tmp_path/"single", single=True)
    assert [p.name for p in index.parent.iterdir() if not p.name.startswith(".")] == ["index.html"]
    page = visit(browser, index.as_uri())
    give(page, list_crops(made)[0])
    assert page.inner_text("#answer")


def test_faults_are_named(browser, serve, made, tmp_path):
    "Each bad file gives one sentence, and the page goes on."
    good, page = list_crops(made)[0], visit(browser, serve(made/"page"))
    model = onnx.load(made/"run/export/model.onnx")
    info = read_info(model)
    def write(name, data):
        (tmp_path/name).write_bytes(data)
        return tmp_path/name
    def save(name, **props):
        onnx.helper.set_model_props(model, props)
        return write(name, model.SerializeToString())
    few = {k: v for k, v in info.items() if k != "calibration"} | dict(classes=info["classes"][1:])
    huge = tmp_path/"huge.png"
    Image.new("1", (8000, 8000)).save(huge)
    cases = [(write("broken.jpg", good.read_bytes()[:80]), "broken.jpg: this browser cannot read it as a picture."),
             (huge, "huge.png: 64 megapixels; at most 50 are read. Scale it down."),
             (write("text.onnx", b"<html>no model</html>"), "text.onnx: this is not an ONNX file."),
             (save("plain.onnx"), "plain.onnx: it holds no metadata of lightweight; write the file with lightweight export."),
             (save("next.onnx", **{KEY: json.dumps(info | dict(version=2))}), "next.onnx: file version 2; this page reads version 1."),
             (save("odd.onnx", **{KEY: json.dumps(info | dict(img_size=50))}), "odd.onnx: its input or output is not what its metadata say; export it again."),
             (save("few.onnx", **{KEY: json.dumps(few)}), "few.onnx: its input or output is not what its metadata say; export it again."),
             (save("limits.onnx", **{KEY: json.dumps(info | dict(calibration=info["calibration"] | dict(thresholds={})))}), "limits.onnx: its thresholds are not for its classes and its checkpoint; run lightweight calibrate again."),
             (save("twice.onnx", **{KEY: json.dumps(info | dict(classes=info["classes"][:1]*len(info["classes"])))}), "twice.onnx: it holds no metadata of lightweight; write the file with lightweight export."),
             (save("foreign.onnx", **{KEY: json.dumps(info | dict(checkpoint="other"))}), "foreign.onnx: its thresholds are not for its classes and its checkpoint; run lightweight calibrate again.")]
    for path, sentence in cases:
        page.set_input_files("#files", str(path))
        page.locator("#message", has_text=sentence).wait_for()
        assert page.inner_text("#message") == sentence
    page.set_input_files("#files", [str(path) for path, _ in cases[:3]] + [str(good)])
    page.locator("#rows tr").wait_for()
    assert page.inner_text("#message").splitlines() == [cases[2][1], cases[0][1], cases[1][1]] and page.inner_text("#answer")


def test_another_file_can_be_dropped(browser, serve, made, tmp_path):
    "Its classes count for the pictures that are given with it."
    change_info(made/"run/export/model.onnx", tmp_path/"second.onnx", rename_classes)
    page, crops = visit(browser, serve(made/"page")), list_crops(made, 3)
    give(page, crops[2])
    page.set_input_files("#files", [str(crops[0]), str(tmp_path/"second.onnx"), str(crops[1])])
    page.locator("#rows tr").nth(1).wait_for()
    page.locator("#classes", has_text="sort ").wait_for()
    names = page.locator("#rows button").all_inner_texts()
    assert page.inner_text("#answer").startswith("sort ") and names == [crops[0].name, crops[1].name]


def test_pictures_given_while_the_page_loads(browser, serve, made):
    "They wait for the network, and are not lost."
    hold, page = threading.Event(), browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(serve(made/"page", hold=hold))
    page.set_input_files("#files", [str(crop) for crop in list_crops(made, 2)])
    assert page.locator("#camera").is_disabled() and page.locator("#rows tr").count() == 0
    hold.set()
    page.locator("#rows tr").nth(1).wait_for()


def test_a_picture_of_the_table(browser, serve, made):
    "On a phone, the answer is seen without scrolling, also when a row far below is picked, which is marked; the map goes as it came."
    page = visit(browser, serve(made/"page"), viewport=dict(width=360, height=740))
    give(page, *list_crops(made, 30))
    assert page.locator("#answer").bounding_box()["y"] < 640
    page.locator("#rows button").nth(29).scroll_into_view_if_needed()
    page.locator("#rows button").nth(28).click()
    assert page.locator("#answer").bounding_box()["y"] > -1
    assert page.evaluate("[...document.querySelectorAll('#rows tr')].findIndex(row => row.ariaCurrent === 'true')") == 28
    for state in ("visible", "hidden"):
        page.click("#look")
        page.locator("#map").wait_for(state=state)


def test_the_card_of_the_package(browser, serve, tmp_path, made):
    "Its page tells the training and the macro-F1 of the model."
    assert main(["--out", str(tmp_path/"page")]) == 0
    page = visit(browser, serve(tmp_path/"page"))
    page.click("summary")
    told = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts()))
    assert "crops of" in told["Training"] and told["Macro-F1"].startswith("0.") and "TACO" in told["Licence"]


def test_the_map_lies_on_what_the_network_sees(browser, serve, made, tmp_path):
    "A wide picture: nothing is coloured above and below it."
    Image.open(list_crops(made)[0]).resize((400, 100)).save(tmp_path/"wide.png")
    page = visit(browser, serve(made/"page"))
    give(page, tmp_path/"wide.png")
    page.click("#look")
    page.locator("#map:not([hidden])").wait_for()
    rows = page.evaluate("""() => { const p = document.getElementById('map').getContext('2d').getImageData(0, 0, 320, 320).data
        return [...Array(320).keys()].filter(y => p.subarray(4*320*y, 4*320*(y + 1)).some(v => v)) }""")
    assert rows and 119 <= min(rows) and max(rows) <= 201


def test_without_its_files_the_page_says_so(browser, serve, made, tmp_path):
    shutil.copytree(made/"page", tmp_path/"page")
    for address, words in [((tmp_path/"page/index.html").as_uri(), "Open this page through a server"), (None, "ort.wasm could not be loaded.")]:
        (tmp_path/"page/ort.wasm").unlink(missing_ok=True)
        page = browser.new_context().new_page()
        page.goto(address or serve(tmp_path/"page"))
        page.locator("#message", has_text=words).wait_for()


def make_clip(path, side=64, n=30):
    "A film of one red frame, in YUV4MPEG."
    frame = b"FRAME\n" + bytes([81])*(side*side) + bytes([90])*(side*side//4) + bytes([240])*(side*side//4)
    path.write_bytes(f"YUV4MPEG2 W{side} H{side} F30:1 Ip A1:1 C420jpeg\n".encode() + frame*n)
    return path


def test_a_moving_average_of_the_camera_pictures(browser, serve, made):
    "Seven tenths of what was, three of what is new; the first picture counts alone."
    page = visit(browser, serve(made/"page"))
    given = [[1, 0, 0], [0, 1, 0], [0, .5, .5], [.2, .3, .5]]
    means = page.evaluate("given => { let mean; return given.map(found => mean = smooth(mean, found)) }", given)
    known = [[1, 0, 0], [.7, .3, 0], [.49, .36, .15], [.403, .342, .255]]             # by hand
    assert np.abs(np.array(means) - known).max() < 1e-12
    assert page.evaluate("const first = [.6, .4]; smooth(undefined, first)") == [.6, .4]


def test_camera(launch, serve, made, tmp_path):
    "A film in place of a camera: predictions follow, the button stops them, and the camera is given back."
    clip = make_clip(tmp_path/"red.y4m")
    browser = launch("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={clip}")
    try:
        page = visit(browser, serve(made/"page"))
        page.evaluate("""() => { const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); window.given = []
            navigator.mediaDevices.getUserMedia = async options => { const s = await ask(options); given.push(s); return s } }""")
        page.evaluate("() => { const own = smooth; window.smooth = (mean, found) => window.mean = own(mean, found).map(p => p/2) }")
        page.click("#camera")
        page.locator("#detail", has_text="pictures a second").wait_for()
        red = page.evaluate("[...document.getElementById('picture').getContext('2d').getImageData(160, 160, 1, 1).data]")
        assert red[0] > 200 and max(red[1:3]) < 60
        page.click("#freeze")
        still = page.inner_text("#detail")
        page.wait_for_timeout(300)
        assert page.inner_text("#detail") == still and page.inner_text("#freeze") == "Continue"
        bars = page.evaluate("[...document.querySelectorAll('#bars meter')].map(m => m.value)")
        assert np.allclose(bars, page.evaluate("mean")) and sum(bars) < .9                # the average is what is shown
        page.click("#camera")
        assert page.inner_text("#camera") == "Camera" and page.locator("#freeze").is_hidden()
        page.evaluate("() => { window.means = []; window.smooth = (mean, found) => { means.push(mean); return found } }")
        page.click("#camera")
        page.locator("#detail", has_text="pictures a second").wait_for()
        assert page.evaluate("means[0] === undefined")                                   # it starts anew
        page.click("#camera")
        assert page.evaluate("given.map(s => s.getTracks().map(track => track.readyState).join()).join()") == "ended,ended"
    finally: browser.close()


def test_without_a_camera(browser, serve, made):
    page = visit(browser, serve(made/"page"))
    page.click("#camera")
    page.locator("#message", has_text="camera").wait_for()
    assert page.inner_text("#message") in ("No camera was found.", "The camera was refused; allow it in the settings of the browser.")
    assert page.inner_text("#camera") == "Camera"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_readable(browser, serve, made, width, scheme):
    "Nothing is cut off, contrast suffices, every picture and field has words."
    page = visit(browser, serve(made/"page"), viewport=dict(width=width, height=800), color_scheme=scheme)
    give(page, *list_crops(made, 3))
    page.click("#look")
    page.locator("#map:not([hidden])").wait_for()
    page.click("summary")
    assert page.evaluate(OVERFLOW) == [] and page.evaluate(CONTRAST) == []


def test_it_is_used_by_keyboard(browser, serve, made):
    "Tab reaches the file field, the buttons, each row and the card, and Enter picks a row."
    page = visit(browser, serve(made/"page"))
    give(page, *list_crops(made, 2))
    last = page.inner_text("#answer") + page.inner_text("#detail")
    seen = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "BUTTON" and seen.count("BUTTON") == 1: page.keyboard.press("Enter")
    assert seen[:6] == ["files", "camera", "look", "csv", "BUTTON", "BUTTON"] and seen[6] == "SUMMARY"
    assert page.inner_text("#answer") + page.inner_text("#detail") != last


def test_bad_input_is_refused(made, tmp_path, capsys):
    "One sentence and exit code 2, and nothing is written."
    crop, file = list_crops(made)[0], made/"run/export/model.onnx"
    for argv, words in [((crop, "--out", tmp_path/"page"), "the page runs ONNX files"), ((tmp_path/"no.onnx", "--out", tmp_path/"page"), "no.onnx"),
                        ((file, "--out", made/"crops"), "crops"), ((file, "--out", tmp_path/"page", "--record", crop), crop.name)]:
        before = sorted(made.rglob("*"))
        assert main([str(v) for v in argv]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") <= 2 and not (tmp_path/"page").exists() and sorted(made.rglob("*")) == before
