"Downloads: what servers answer instead of a photo is not kept, and after an interruption only what is missing is fetched."
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lightweight.data import download
from lightweight.data.coco import read_coco

PATIENCE_S = 600  # on a busy machine; what is waited for is the event
PICTURE = {"Content-Type": "image/jpeg"}
SOUND = json.dumps(dict(images=[], annotations=[], categories=[])).encode()


def encode(width=64, height=48, color=(90, 140, 60), format="JPEG", **options):
    "A picture with something in it."
    pixels = np.full((height, width, 3), color, np.uint8)
    pixels[::7, ::3] = 255 - pixels[::7, ::3]
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def draw(i):
    "One of many different pictures, of some thousand bytes."
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    "Answers what the test has put into `pages`: path → (status, headers, body), a function that returns this, or a list, of which the last one stays."
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = self.server.pages.get(self.path, (404, {}, b"nothing here"))
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        if isinstance(page, list): page = page.pop(0) if len(page) > 1 else page[0]
        answer = page(self) if callable(page) else page
        if answer is None: self.close_connection = True; return
        status, headers, body = answer
        headers = {"Content-Length": str(len(body)), **headers}
        self.send_response(status)
        for name, value in headers.items():
            if value is not None: self.send_header(name, value)
        # A body that is shorter than its stated length ends with the connection.
        self.close_connection = headers["Content-Length"] is None or int(headers["Content-Length"]) > len(body)
        if self.close_connection: self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


class Web(ThreadingHTTPServer):
    def handle_error(self, *args): pass  # clients that have gone


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server = Web(("127.0.0.1", 0), Server)
    server.pages, server.asked, server.url = {}, [], f"http://127.0.0.1:{server.server_port}"
    server.ranges = lambda path: [asked for where, asked in server.asked if where == path]
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.01))
    thread.start()
    yield server
    server.shutdown(); thread.join(); server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    "The pauses between attempts, which are not made; those of threads that an earlier test left do not count."
    slept, earlier = [], set(threading.enumerate())
    def sleep(seconds):
        if threading.current_thread() not in earlier: slept.append(seconds)
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=sleep))
    return slept


def run(*options):
    "Run the command in this process: what it prints and its exit code."
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err): code = download.main([str(o) for o in options])
    return subprocess.CompletedProcess("download", code, out.getvalue(), err.getvalue())


def write(tmp_path, web, n=1, **fields):
    "An annotation file that names n photos."
    images = [dict(id=i, file_name=f"{i}.jpg", width=64, height=48, flickr_url=f"{web.url}/{i}.jpg", **fields) for i in range(n)]
    (tmp_path/"a.json").write_text(json.dumps(dict(images=images, annotations=[], categories=[])))
    return tmp_path/"a.json"


def read_counts(text):
    "The counts that were printed; they add up."
    *parts, whole = [(int(line.split()[0].replace(",", "")), line.split()[1]) for line in text.splitlines()]
    assert whole[1] == "photos" and sum(n for n, _ in parts) == whole[0], text
    return {name: n for n, name in parts}


# -- annotation files ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("answer, message", [
    ((200, {"Content-Length": str(10*len(SOUND))}, SOUND), "bytes came"), ((200, {}, b"<html>log in</html>"), "not a readable JSON"),
    ((200, {"Content-Length": None}, SOUND[:20]), "not a readable JSON"), ((206, {"Content-Range": "bytes 0-9/99"}, SOUND), "answered 206"),
    ((200, {}, b"[]"), "holds a list"), ((200, {}, b"{}"), "has no field 'images'"), ((404, {}, b""), "404"), ((500, {}, b""), "500"), ((200, {}, b""), "not a readable")])
def test_a_wrong_annotation_file_is_not_kept(tmp_path, web, answer, message):
    web.pages["/a.json"] = answer
    place = tmp_path/"new/a.json"
    done = run(place, "--source", f"{web.url}/a.json")
    assert done.returncode == 2 and message in done.stderr and "/a.json" in done.stderr, done.stderr
    assert not place.exists() and not list(tmp_path.rglob("*.part"))
    web.pages["/a.json"] = (200, {}, SOUND)                          # the server is well again
    assert run(place, "--source", f"{web.url}/a.json").returncode == 0
    assert place.read_bytes() == SOUND


def test_sources_of_taco_lie_side_by_side(tmp_path, web, monkeypatch):
    "Without a file name, official and unofficial annotations get files of their own; what is there is not fetched again."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "SOURCES", {name: f"{web.url}/{url.rsplit('/', 1)[-1]}" for name, url in download.SOURCES.items()})
    for name, folder in (("annotations", "batch_1"), ("annotations_unofficial", "unofficial")):
        image = dict(id=0, file_name=f"{folder}/0.jpg", width=640, height=480, flickr_url=f"{web.url}/{folder}.jpg", flickr_640_url=None)
        web.pages[f"/{name}.json"] = (200, {}, json.dumps(dict(images=[image], annotations=[], categories=[])).encode())
        web.pages[f"/{folder}.jpg"] = (200, PICTURE, encode(color=len(folder)))
    assert [run().returncode, run("--source", "unofficial").returncode, run("--source", "official").returncode] == [0, 0, 0]
    assert sorted(f.name for f in (tmp_path/"data/taco").iterdir()) == ["annotations.json", "annotations_unofficial.json", "batch_1", "unofficial"]
    assert len(web.asked) == 4


@pytest.mark.parametrize("options, message", [(["a.json", "--source", "oficial"], "did you mean official?"), (["--source", "http://a.b/c.json"], "name the file"),
                                              (["a.json", "--source", "ftp://a.b/c.json"], "no http"), (["a.json", "--size", "1024"], "640")])
def test_misspelt_options_are_named(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    try: code = download.main(options)
    except SystemExit as error: code = error.code
    assert code == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())


# -- photos ----------------------------------------------------------------------------------------------------------

def test_a_right_photo_is_kept(tmp_path, web):
    exif = Image.Exif(); exif[0x0112] = 6
    web.pages |= {"/0.jpg": (200, PICTURE, encode()), "/1.jpg": (302, {"Location": "/elsewhere/1.jpg"}, b""),
                  "/elsewhere/1.jpg": (200, PICTURE, encode(32, 24)),                                             # a smaller copy
                  "/2.jpg": (200, {"Content-Type": "application/octet-stream"}, encode(48, 64, exif=exif))}       # lying
    done = run(write(tmp_path, web, 3))
    assert done.returncode == 0, done.stderr
    assert (tmp_path/"0.jpg").read_bytes() == encode() and read_counts(done.stdout) == dict(fetched=3)


@pytest.mark.parametrize("answer, message", [
    ((200, {"Content-Type": "text/html"}, encode()), "text/html"), ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "text/html"),
    ((200, PICTURE, b"<html>log in</html>"), "cannot identify"), ((200, {"Content-Type": None}, b""), "cannot identify"),
    ((200, PICTURE, encode(500, 374 // 2)), "another shape"), ((200, PICTURE, encode(50, 50)), "another shape"), ((200, PICTURE, encode(48, 64)), "swapped"),
    ((200, {**PICTURE, "Content-Length": "99999"}, encode()), "of 99,999 bytes came"), ((200, {**PICTURE, "Content-Length": "400"}, encode()), "runcated"),
    ((302, {"Location": "/gone.jpg"}, b""), "/gone.jpg' instead"), ((302, {"Location": "/0.jpg"}, b""), "redirects"), ((302, {"Location": "file:///etc/0.jpg"}, b""), "file:"),
    ((206, PICTURE, encode()), "answered 206"), ((200, PICTURE, encode()[:-200]), "truncated"), ((200, {**PICTURE, "Content-Length": None}, encode()[:-200]), "truncated")])
def test_a_wrong_photo_is_not_kept(tmp_path, web, answer, message):
    web.pages |= {"/0.jpg": answer, "/gone.jpg": (200, PICTURE, encode())}
    done = run(write(tmp_path, web))
    assert done.returncode == 1 and message in done.stderr and "0.jpg" in done.stderr, done.stderr
    assert "Run the same command again" in done.stderr and read_counts(done.stdout) == dict(failed=1)
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_one_picture_for_several_addresses_is_not_kept(tmp_path, web, monkeypatch):
    "Not even for a while, but for the first one: a killed download leaves no collection of placeholders."
    written, write_atomically = [], download.write_atomically
    def note(path, content): written.append(path.name); return write_atomically(path, content)
    monkeypatch.setattr(download, "write_atomically", note)
    for i in range(4): web.pages[f"/{i}.jpg"] = (200, PICTURE, encode(color=(i == 3)*200))
    done = run(write(tmp_path, web, 4))
    assert done.returncode == 1 and "the same picture came from 3 addresses" in done.stderr
    assert read_counts(done.stdout) == dict(fetched=1, failed=3)
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["3.jpg"] and len(written) == 2 and "3.jpg" in written


def test_every_entry_is_counted_once(tmp_path, web):
    "There, fetched, failed and refused add up to the entries; what failed is named."
    path = write(tmp_path, web, 20)
    content = json.loads(path.read_text())
    content["images"] += [dict(id=0, file_name="again.jpg"), dict(id=50, file_name="../out.jpg", flickr_url=f"{web.url}/1.jpg"), dict(id=51, file_name="none.jpg"),
                          dict(id=52, file_name="odd.jpg", flickr_url=["no", "text"]), "no entry"]
    path.write_text(json.dumps(content))
    for i in range(8): web.pages[f"/{i}.jpg"] = (200, PICTURE, draw(i))
    (tmp_path/"0.jpg").write_bytes(b"mine")
    done = run(path)
    assert done.returncode == 1 and read_counts(done.stdout) == dict(there=1, fetched=7, failed=14, refused=3)
    assert f"fetched ({sum(len(draw(i)) for i in range(1, 8))/1e6:,.1f} MB)" in done.stdout
    assert "8.jpg" in done.stderr and "and 7 more: " in done.stderr and "odd.jpg" in done.stderr
    assert (tmp_path/"0.jpg").read_bytes() == b"mine" and not (tmp_path.parent/"out.jpg").exists()
    for i in range(8, 20): web.pages[f"/{i}.jpg"] = (200, PICTURE, draw(i))
    assert read_counts(run(path).stdout) == dict(there=8, fetched=12, failed=2, refused=3)


@pytest.mark.parametrize("blocked", ["file", "folder"])
def test_what_stands_in_the_way_is_named(tmp_path, web, blocked):
    web.pages["/0.jpg"] = (200, PICTURE, encode())
    path = write(tmp_path, web)
    path.write_text(path.read_text().replace('"0.jpg"', '"batch/0.jpg"'))
    (tmp_path/"batch").write_text("mine") if blocked == "file" else (tmp_path/"batch/0.jpg").mkdir(parents=True)
    done = run(path)
    assert done.returncode == 1 and str(tmp_path/"batch") in done.stderr, done.stderr
    assert not list(tmp_path.rglob(".*"))


def test_a_full_disk_ends_the_download(tmp_path, web, monkeypatch):
    for i in range(4): web.pages[f"/{i}.jpg"] = (200, PICTURE, draw(i))
    def fill(path, content): raise OSError(28, os.strerror(28), str(path))
    monkeypatch.setattr(download, "write_atomically", fill)
    done = run(write(tmp_path, web, 4))
    assert done.returncode == 2 and "free some space" in done.stderr


# -- sizes -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def sizes(tmp_path, web):
    "A photo in two sizes, the larger one with an EXIF orientation."
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x0132] = "2026:05:01 10:00:00"
    web.pages |= {"/0.jpg": (200, PICTURE, encode(1280, 960, exif=exif)), "/0_z.jpg": (200, PICTURE, encode(640, 480))}
    image = dict(id=0, file_name="0.jpg", width=1280, height=960, flickr_url=f"{web.url}/0.jpg", flickr_640_url=f"{web.url}/0_z.jpg")
    def write_as(**fields):
        content = dict(images=[image | fields], annotations=[dict(id=0, image_id=0, category_id=0, bbox=[320, 160, 640, 480])], categories=[dict(id=0, name="Can")])
        (tmp_path/"a.json").write_text(json.dumps(content))
        return tmp_path/"a.json"
    return write_as


def test_size_is_chosen(tmp_path, web, sizes):
    assert run(sizes()).returncode == 0
    assert (tmp_path/"0.jpg").read_bytes() == encode(640, 480) and web.asked == [("/0_z.jpg", "")]
    assert read_coco(tmp_path/"a.json").objects[["x", "y", "w", "h"]].iloc[0].tolist() == [160, 80, 320, 240]
    (tmp_path/"0.jpg").unlink()
    assert run(sizes(), "--size", "full").returncode == 0
    assert (tmp_path/"0.jpg").read_bytes() == web.pages["/0.jpg"][2] and web.asked[1:] == [("/0.jpg", "")]


@pytest.mark.parametrize("gone", [False, True])
def test_photo_without_a_small_copy_is_scaled_down(tmp_path, web, sizes, gone):
    "Its orientation stays, so its box covers the same part of the upright photo."
    if gone: web.pages["/0_z.jpg"] = (410, {}, b"")
    path = sizes() if gone else sizes(flickr_640_url=None)
    assert run(path).returncode == 0
    with Image.open(tmp_path/"0.jpg") as photo: assert photo.size == (640, 480) and photo.getexif()[0x0112] == 6
    small = read_coco(path).objects[["photo_width", "photo_height", "x", "y", "w", "h"]].iloc[0].tolist()
    (tmp_path/"0.jpg").unlink()
    assert run(path, "--size", "full").returncode == 0
    assert read_coco(path).objects[["photo_width", "photo_height", "x", "y", "w", "h"]].iloc[0].tolist() == [2*v for v in small]


def test_small_copy_that_is_late_is_not_replaced(tmp_path, web, sizes):
    web.pages["/0_z.jpg"] = (503, {}, b"")
    assert run(sizes()).returncode == 1 and web.ranges("/0.jpg") == []
    web.pages |= {"/0_z.jpg": (200, PICTURE, encode(640, 480)), "/0.jpg": (404, {}, b"")}
    assert run(sizes(), "--size", "full").returncode == 1, "the small one was taken for the full one"
    assert run(sizes()).returncode == 0


# -- faults that pass ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("status, n", [(403, 1), (404, 1), (410, 1), (408, 4), (429, 4), (500, 4), (503, 4)])
def test_only_faults_that_may_pass_are_tried_again(tmp_path, web, pauses, status, n):
    web.pages["/0.jpg"] = (status, {}, b"")
    done = run(write(tmp_path, web))
    assert done.returncode == 1 and f"answered {status}" in done.stderr
    assert len(web.asked) == n and pauses == [1, 3, 9][:n - 1]


@pytest.mark.parametrize("header, pause", [({"Retry-After": "7"}, 7), ({"Retry-After": "99999"}, 60), ({"Retry-After": "soon"}, 1), ({}, 1)])
def test_pause_that_the_server_asks_for(tmp_path, web, pauses, header, pause):
    web.pages["/0.jpg"] = [(429, header, b"later"), (200, PICTURE, encode())]
    assert run(write(tmp_path, web)).returncode == 0 and pauses == [pause]


def reset(handler, sent=b""):
    "End the connection with a reset, before an answer or within it."
    handler.wfile.write(sent)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def reset_late(handler):
    reset(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + encode())


@pytest.mark.parametrize("fault", [reset, reset_late, lambda handler: None], ids=["reset", "reset-late", "closed"])
def test_lost_connection_is_tried_again(tmp_path, web, fault):
    web.pages["/0.jpg"] = [fault, fault, fault, (200, PICTURE, encode())]
    assert run(write(tmp_path, web)).returncode == 0 and len(web.asked) == 4
    (tmp_path/"0.jpg").unlink()
    web.pages["/0.jpg"] = fault
    done = run(write(tmp_path, web))
    assert done.returncode == 1 and len(web.asked) == 8 and "0x" not in done.stderr


def test_server_that_does_not_answer_is_asked_again(tmp_path, web, monkeypatch):
    def hang(handler): handler.connection.recv(1)          # returns when the client gives up
    def pause(seconds): download._timeout = PATIENCE_S     # of the next attempts
    monkeypatch.setattr(download, "_timeout", .5)
    monkeypatch.setattr(download.time, "sleep", pause)
    web.pages["/0.jpg"] = [hang, (200, PICTURE, encode())]
    assert run(write(tmp_path, web)).returncode == 0 and len(web.asked) == 2


def test_server_that_is_gone_is_left_alone(tmp_path, web, monkeypatch):
    "One server fails always: after some photos it is not asked any more. The other one is."
    monkeypatch.setattr(download, "_max_lost", 10)
    path = write(tmp_path, web, 60)
    other = web.url.replace("127.0.0.1", "localhost")
    content = json.loads(path.read_text())
    for i in range(0, 60, 2): content["images"][i]["flickr_url"] = f"{other}/{i}.jpg"; web.pages[f"/{i}.jpg"] = (200, PICTURE, draw(i))
    for i in range(1, 60, 2): web.pages[f"/{i}.jpg"] = (503, {}, b"")
    path.write_text(json.dumps(content))
    done = run(path)
    assert read_counts(done.stdout) == dict(fetched=30, failed=30)
    assert sum(int(path[1:-4]) % 2 for path, _ in web.asked) <= 4*(10 + 8) and "answered 503" in done.stderr


# -- torn transfers --------------------------------------------------------------------------------------------------

PHOTO = draw(0)
PLACES = [1000, 1001, 2500]


def serve_parts(answer, places=PLACES, tags={"ETag": '"1"'}, body=PHOTO):
    "A server that breaks off at certain places, and then answers requests for a range in a certain way."
    places = iter(places)
    def page(handler):
        asked, tag = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(asked[6:-1]) if asked else 0
        assert not asked or tag in tags.values() and not tag.startswith("W/")
        end = next(places, len(body))
        if asked and answer != "part":
            if answer == "whole": return 200, {**PICTURE, **tags}, body
            if answer == "refusal": return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
            return 206, {**PICTURE, "Content-Range": answer.format(len(body))}, body[start:]
        part = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if asked else {}
        return 206 if asked else 200, {**PICTURE, **tags, **part, "Content-Length": str(len(body) - start)}, body[start:max(start, end)]
    return page


@pytest.mark.parametrize("tags", [{"ETag": '"1"'}, {"Last-Modified": "Mon, 06 Jul 2020 10:00:00 GMT"},
                                  {"ETag": 'W/"1"', "Last-Modified": "Mon, 06 Jul 2020 10:00:00 GMT"}], ids=["tag", "date", "weak"])
def test_torn_transfer_continues(tmp_path, web, tags):
    web.pages["/0.jpg"] = serve_parts("part", tags=tags)
    done = run(write(tmp_path, web))
    assert done.returncode == 0, done.stderr
    assert (tmp_path/"0.jpg").read_bytes() == PHOTO
    assert web.ranges("/0.jpg") == ["", *(f"bytes={n}-" for n in PLACES)]


@pytest.mark.parametrize("answer, ranges", [("whole", ["", "bytes=1000-"]), ("refusal", ["", "bytes=1000-", ""]), ("bytes 0-/{}", ["", "bytes=1000-", ""]),
                                            ("bytes 999-2999/{}", ["", "bytes=1000-", ""]), ("", ["", "bytes=1000-", ""])])
def test_torn_transfer_begins_again_if_the_rest_is_not_sent(tmp_path, web, answer, ranges):
    web.pages["/0.jpg"] = serve_parts(answer, places=[1000])
    assert run(write(tmp_path, web)).returncode == 0
    assert web.ranges("/0.jpg") == ranges and (tmp_path/"0.jpg").read_bytes() == PHOTO


def test_torn_transfer_without_a_tag_begins_again(tmp_path, web):
    web.pages["/0.jpg"] = serve_parts("part", tags={})
    assert run(write(tmp_path, web)).returncode == 0
    assert web.ranges("/0.jpg") == [""]*4 and (tmp_path/"0.jpg").read_bytes() == PHOTO


def test_photo_that_changed_in_between_is_not_mixed(tmp_path, web):
    web.pages["/0.jpg"] = [(200, {"ETag": '"1"', "Content-Length": str(len(PHOTO))}, PHOTO[:1000]), (200, {"ETag": '"2"'}, draw(9))]
    assert run(write(tmp_path, web)).returncode == 0
    assert (tmp_path/"0.jpg").read_bytes() == draw(9)


def test_bytes_left_on_a_connection_harm_no_other_photo(tmp_path, web):
    "A server that states too small a length leaves the end of one photo before the answer with the next."
    for i in range(30): web.pages[f"/{i}.jpg"] = (200, {**PICTURE, **({"Content-Length": "700"} if i % 3 == 0 else {})}, draw(i))
    done = run(write(tmp_path, web, 30))
    assert read_counts(done.stdout) == dict(fetched=20, failed=10), done.stderr
    for i in range(30): assert i % 3 == 0 or (tmp_path/f"{i}.jpg").read_bytes() == draw(i)


# -- processes that end, and several at once -------------------------------------------------------------------------

N, READY = 14, 6  # photos, and those that the server gives before it stalls
CODE = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from lightweight.data.download import main; sys.exit(main())"


def start(path):
    return subprocess.Popen([sys.executable, "-c", CODE, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_photos(folder):
    "Every photo that has its name is whole; the names of all files."
    names = sorted(path.name for path in folder.iterdir() if path.name != "a.json")
    for name in names:
        if not name.startswith("."): assert (folder/name).read_bytes() == draw(int(name[:-4])), name
    return names


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_download_that_ends_in_the_middle_is_continued(tmp_path, web, kind):
    "Some photos are there, of others half has come. Then only those are fetched that are missing."
    ended = threading.Event()
    def stall(i):
        def page(handler):
            handler.send_response(200); handler.send_header("Content-Length", str(len(draw(i)))); handler.end_headers()
            handler.wfile.write(draw(i)[:1000]); handler.wfile.flush()
            ended.wait(PATIENCE_S)
        return page
    for i in range(N): web.pages[f"/{i}.jpg"] = (200, PICTURE, draw(i)) if i < READY else stall(i)
    path = write(tmp_path, web, N)
    process, deadline = start(path), time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("*.jpg"))) < READY or len(web.asked) < N - 1: assert process.poll() is None and time.monotonic() < deadline; time.sleep(.02)
    process.send_signal(kind)
    out, err = process.communicate(timeout=PATIENCE_S)
    ended.set()
    if kind == signal.SIGINT: assert process.returncode == 130 and "the same command continues" in err and "Traceback" not in err, err
    assert check_photos(tmp_path) == [f"{i}.jpg" for i in range(READY)]
    web.asked.clear()
    web.pages |= {f"/{i}.jpg": (200, PICTURE, draw(i)) for i in range(N)}
    done = run(path)
    assert done.returncode == 0 and read_counts(done.stdout) == dict(there=READY, fetched=N - READY)
    assert sorted(web.asked) == sorted((f"/{i}.jpg", "") for i in range(READY, N))
    assert len(check_photos(tmp_path)) == N


def test_two_downloads_into_one_folder(tmp_path, web):
    "Both ask for the first photo at the same time, both end well, and every photo is whole."
    both = threading.Barrier(2)
    def meet(handler): both.wait(PATIENCE_S); return 200, PICTURE, draw(0)
    web.pages = {f"/{i}.jpg": (200, PICTURE, draw(i)) for i in range(N)} | {"/0.jpg": meet}
    processes = [start(write(tmp_path, web, N)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        assert sum(read_counts(out).values()) == N
    assert check_photos(tmp_path) == sorted(f"{i}.jpg" for i in range(N))
