"COCO files as people have them: what `lightweight check` and `crop` say of each fault."
import json

from cases import both, coco, every, first, make_coco, put, remove, rename, same, suite, swap, write
from lightweight.data.coco import read_coco

CHECK, CROP = "check annotations.json", "crop annotations.json --class-map classes.csv --out out"
ALL = f"{CHECK} --examples 99"


def boxes(change): return every("annotations", bbox=lambda box: change(*box), segmentation=..., area=...)
def names(change): return every("images", file_name=change)
def to_polygon(box): x, y, w, h = box; return [[x, y, x + w, y, x + w, y + h, x, y + h]]
def polygons(content): [entry.update(segmentation=to_polygon(entry["bbox"])) for entry in content["annotations"]]
def nest(depth): return json.loads("["*depth + "]"*depth)
DEEP = b"[[%b, 1, %b, 1]]" % ((b"["*900 + b"]"*900,)*2)


def swap_sizes(content):
    for entry in content["images"]: entry["width"], entry["height"] = entry["height"], entry["width"]


def number(form):
    "All numbers of the file in another form."
    return both(every("annotations", id=form, image_id=form, category_id=form, bbox=lambda box: [str(v) for v in box]),
                every("images", id=form, width=str), every("categories", id=form))


def repeat(field, **changes): return coco(lambda content: content[field].append(content[field][0] | changes))


test_ids_and_types = suite(make_coco,
    ("sound", same, CHECK, 0, "Nothing to report", "12 photos and 24 objects of 3 categories"),
    ("numbers as text", number(str), CHECK, 0, "number in another form", "12 photos and 24 objects"),
    ("numbers as fractions", number(float), CHECK, 0, "number in another form", "24 objects"),
    ("numbers as text with blanks", number(lambda n: f" {n}.0"), CHECK, 0, "number in another form", "24 objects"),
    ("numbers as text are cut", number(str), CROP, 0, "24 of 24 boxes can be used"),
    ("ids as words", every("annotations", id=lambda n: f"box {n}"), CHECK, 1, "bad annotation entry", "id is 'box 0'", "Nothing can be used"),
    ("ids as words are not cut", every("annotations", id=lambda n: f"box {n}"), CROP, 2, "24 × bad annotation entry", "lightweight check"),
    ("ids of photos as words", every("images", id=lambda n: f"photo {n}"), CHECK, 1, "bad photo entry", "id is 'photo 0'"),
    ("ids of categories as words", every("categories", id=lambda n: "ABC"[n]), CHECK, 2, "categories[0].id is 'A'; it must be a whole number"),
    ("id of 100 digits", first("annotations", id=10**100), CHECK, 1, "bad annotation entry"),
    ("id is null", first("annotations", id=None), CHECK, 1, "id is None"),
    ("id is true", first("annotations", id=True), CHECK, 1, "id is True"),
    ("id is NaN", first("annotations", id=float("nan")), CHECK, 1, "id is nan"),
    ("id is a list in a list", first("annotations", id=nest(200)), CHECK, 1, "bad annotation entry"),
    ("id is a very deep list", put("annotations.json", lambda data: data.replace(b'"id": 0', b'"id": ' + DEEP, 1)), CHECK, 1, "bad photo entry"),
    ("area of 400 digits", put("annotations.json", lambda data: data.replace(b'"area": ', b'"area": 1' + b"0"*400, 1)), CHECK, 0, "fields disagree", "area is"),
    ("negative area", first("annotations", area=-1), CHECK, 0, "area is -1; it must be a number of pixels"),
    ("area as a word", every("annotations", area="large"), CHECK, 0, "area is 'large'"),
    ("area larger than the box", every("annotations", area=1e9), CHECK, 0, "area is 1e+09"),
    ("crowd as text", every("annotations", iscrowd="1"), CHECK, 1, "24  refused   crowd region"),
    ("crowd as truth", every("annotations", iscrowd=True), CHECK, 1, "24  refused   crowd region"),
    ("crowd as a word", every("annotations", iscrowd="many"), CHECK, 1, "iscrowd is 'many'"),
    ("no crowd as text", every("annotations", iscrowd="0"), CHECK, 0, "number in another form"),
    ("all crowds are not cut", every("annotations", iscrowd=1), CROP, 2, "24 × crowd region"),
    ("width as a word", first("images", width="wide"), CHECK, 1, "width is 'wide'; it must be a number of pixels"),
    ("width is 0", first("images", width=0), CHECK, 1, "width is 0"),
    ("width is NaN", first("images", width=float("nan")), CHECK, 1, "width is nan"),
    ("width is infinite", first("images", width=float("inf")), CHECK, 1, "width is inf"),
    ("no sizes", every("images", width=..., height=...), CHECK, 0, "24 objects", "size not recorded"),
    ("category without a name", first("categories", name=" "), CHECK, 2, "categories[0].name is ' '; it must be a text"),
    ("category name is a number", first("categories", name=7), CHECK, 2, "categories[0].name is 7"),
    ("category name is half a character", first("categories", name="can \ud800"), CHECK, 2, "categories[0].name is 'can \\ud800'"),
    ("category is a list", coco(lambda c: c["categories"].append([])), CHECK, 2, "categories[3] is []; it must be an object"),
    ("two categories of one id", repeat("categories", name="bin"), CHECK, 2, "categories[3].id is 0, which 'can' has already"),
    ("two categories of one name", first("categories", name="paper"), CHECK, 0, "shared category name", "24 objects of 3 categories"),
    ("unknown category", first("annotations", category_id=99), CHECK, 1, "category_id is 99, which no category has"),
    ("no categories", coco(lambda c: c["categories"].clear()), CHECK, 1, "unknown category id", "Nothing can be used"),
    ("unknown photo", first("annotations", image_id=99), CHECK, 1, "image_id is 99, which no photo has"),
    ("photo is null", first("annotations", image_id=None), CHECK, 1, "image_id is None; it must be a whole number"),
    ("two photos of one id", repeat("images"), CHECK, 1, "duplicate photo id"),
    ("a photo listed twice", repeat("images", id=99), CHECK, 0, "photo listed twice"),
    ("two annotations of one id", first("annotations", id=1), CHECK, 0, "duplicate annotation id"),
    ("an annotation once more", repeat("annotations"), CHECK, 1, "repeated annotation"),
    ("a box under another id", repeat("annotations", id=99), CHECK, 1, "duplicate box"),
    ("a box of two categories", repeat("annotations", id=99, category_id=1), CHECK, 1, "contradicting labels"),
    ("an annotation is a text", coco(lambda c: c["annotations"].append("box")), CHECK, 1, "annotations[24]: it is 'box'; it must be an object"),
    ("a photo is null", coco(lambda c: c["images"].append(None)), CHECK, 1, "images[12]: it is None; it must be an object"))

test_boxes = suite(make_coco,
    ("shares of the photo", boxes(lambda *box: [v/5000 for v in box]), CHECK, 1, "boxes as shares", "shares of the photo", "Nothing can be used"),
    ("shares are not cut", boxes(lambda *box: [v/5000 for v in box]), CROP, 2, "24 × boxes as shares"),
    ("of photos of three times the size", boxes(lambda *box: [3*v for v in box]), CHECK, 1, "pictures of another size"),
    ("of photos of five times the size", boxes(lambda *box: [5*v for v in box]), CHECK, 1, "pictures of another size"),
    ("left, top, right, bottom", boxes(lambda x, y, w, h: [x + 30, y + 25, x + w + 30, y + h + 25]), CHECK, 1, "left, top, right, bottom"),
    ("the middle of the box", boxes(lambda x, y, w, h: [x + 50 - w/4, y + 40 - h/4, w, h]), CHECK, 1, "whole file"),
    ("sizes swapped everywhere", coco(swap_sizes), CHECK, 1, "swapped in all 12 entries", "Nothing can be used"),
    ("null", every("annotations", bbox=None), CHECK, 1, "bbox is None; it must be left, top, width, height"),
    ("null is not cut", every("annotations", bbox=None), CROP, 2, "no annotation can be used", "24 × bad box", "lightweight check"),
    ("three numbers", first("annotations", bbox=[1, 2, 3]), CHECK, 1, "bad box"),
    ("words", first("annotations", bbox=list("abcd")), CHECK, 1, "bad box"),
    ("an object", first("annotations", bbox=dict(x=1)), CHECK, 1, "bbox is {'x': 1}"),
    ("negative width", first("annotations", bbox=[9, 9, -4, 9]), CHECK, 1, "none of a size below 0"),
    ("no width", first("annotations", bbox=[9, 9, 0, 9]), CHECK, 1, "zero-area box"),
    ("outside", first("annotations", bbox=[900, 9, 9, 9]), CHECK, 1, "box outside", "the photo 96 × 72"),
    ("partly outside", first("annotations", bbox=[80, 9, 40, 40]), CHECK, 0, "box partly outside"),
    ("NaN", first("annotations", bbox=[float("nan")]*4), CHECK, 1, "bad box"),
    ("infinite", first("annotations", bbox=[0, 0, float("inf"), 9]), CHECK, 1, "bad box"),
    ("the largest number", first("annotations", bbox=[0, 0, 1.7e308, 1.7e308]), CHECK, 1, "bad box", "in pixels"),
    ("all of the largest number", every("annotations", bbox=[1e308, 1e308, 1.7e308, 1.7e308]), CHECK, 1, "24  refused   bad box"),
    ("400 digits", put("annotations.json", lambda data: data.replace(b'"bbox": [', b'"bbox": [1' + b"0"*400, 1)), CHECK, 1, "bad box"),
    ("fractions", first("annotations", bbox=[9.4, 9.4, 20.2, 20.2]), CHECK, 0, "fractional box"),
    ("from polygons", both(coco(polygons), every("annotations", bbox=...)), CHECK, 0, "24  repaired  box from segmentation", "24 objects"),
    ("empty, from polygons", both(coco(polygons), every("annotations", bbox=[])), CROP, 0, "24 × box from segmentation"),
    ("unlike their polygons", every("annotations", segmentation=[[0, 0, 2, 0, 2, 2]]), CHECK, 0, "the segmentation reaches"),
    ("polygon of words", every("annotations", segmentation=[["a", "b"]]*2, bbox=None), CHECK, 1, "bad box"),
    ("polygon of deep lists", put("annotations.json", lambda data: data.replace(b'"segmentation": []', b'"segmentation": ' + DEEP, 1)), CHECK, 0, "24 objects"),
    ("polygon is a number", every("annotations", segmentation=7, bbox=None), CHECK, 1, "bad box"),
    ("runs that do not fill their mask", every("annotations", segmentation=dict(size=[9, 9], counts=[1, 2]), bbox=None), CHECK, 1, "bad box"),
    ("runs of a mask without pixels", every("annotations", segmentation=dict(size=[0, 9], counts=[]), bbox=None), CHECK, 1, "bad box"),
    ("runs of one endless number", every("annotations", segmentation=dict(size=[9, 9], counts="o"*300_000 + "0"), bbox=None), CHECK, 1, "bad box"),
    ("runs below zero", every("annotations", segmentation=dict(size=[9, 9], counts=[-1, 82]), bbox=None), CHECK, 1, "bad box"))


def test_a_number_in_another_form_is_the_same_number(tmp_path):
    make_coco(tmp_path)
    before = read_coco(tmp_path/"annotations.json").objects
    number(lambda n: f" {n}.0")(tmp_path)
    assert read_coco(tmp_path/"annotations.json").objects.equals(before)


def test_a_box_of_a_polygon_is_the_same_box(tmp_path):
    make_coco(tmp_path)
    before = read_coco(tmp_path/"annotations.json").objects
    both(coco(polygons), every("annotations", bbox=lambda box: [None, [], [0, 0, 0, 0]][int(box[0]) % 3]))(tmp_path)
    assert read_coco(tmp_path/"annotations.json").objects.equals(before)


test_file_names = suite(make_coco,
    ("upper case", names(str.upper), ALL, 1, "did you mean 'photos/000.jpg'", "did you mean 'photos/011.jpg'"),
    ("percent signs", both(rename("photos/000.jpg", "photos/my photo.jpg"), first("images", file_name="photos/my%20photo.jpg")), ALL, 1, "did you mean 'photos/my photo.jpg'"),
    ("one folder too many", names(lambda n: f"data/{n}"), ALL, 1, "did you mean 'photos/000.jpg'"),
    ("no folder", names(lambda n: n.split("/")[-1]), ALL, 1, "did you mean 'photos/000.jpg'"),
    ("another suffix", names(lambda n: n.replace(".jpg", ".png")), ALL, 1, "did you mean 'photos/000.jpg'"),
    ("a drive", names(lambda n: f"D:\\{n}"), ALL, 1, "leaves the root", "did you mean 'photos/000.jpg'"),
    ("a prefix of Label Studio", names(lambda n: n.replace("photos/", "0123abcd-")), ALL, 1, "did you mean 'photos/000.jpg'"),
    ("an address", names(lambda n: f"https://example.org/{n}?x=1"), ALL, 1, "did you mean 'photos/000.jpg'"),
    ("decomposed letters", both(rename("photos/000.jpg", "photos/Mu\u0308ll.jpg"), first("images", file_name="photos/M\u00fcll.jpg")), ALL, 1, "did you mean 'photos/Mu\\u0308ll.jpg'"),
    ("backslashes", names(lambda n: n.replace("/", "\\")), CHECK, 0, "24 objects"),
    ("backslashes are cut", names(lambda n: n.replace("/", "\\")), CROP, 0, "24 of 24 boxes"),
    ("a detour", names(lambda n: f"photos/../{n}"), CHECK, 0, "24 objects"),
    ("out of the folder", first("images", file_name="../photo.jpg"), CHECK, 1, "leaves the root", "it must stay in the folder of the photos"),
    ("an absolute name", first("images", file_name="/etc/passwd"), CHECK, 1, "leaves the root"),
    ("an empty name", first("images", file_name=""), CHECK, 1, "file_name is ''; it must be the path of a file"),
    ("a name of a number", first("images", file_name=7), CHECK, 1, "file_name is 7"),
    ("a name with a null", first("images", file_name="a\0.jpg"), CHECK, 1, "bad photo entry"),
    ("a name of half a character", first("images", file_name="\ud800.jpg"), CHECK, 1, "missing photo"),
    ("a name of 5000 letters", first("images", file_name="x"*5000), CHECK, 1, "missing photo"),
    ("a name of a folder", first("images", file_name="photos"), CHECK, 1, "missing photo"),
    ("some photos are gone", both(*(remove(f"photos/{i:03}.jpg") for i in range(3))), CROP, 0, "9 of 12 photos and 18 of 24 boxes", "3 × missing photo", "6 × photo refused"),
    ("all photos are gone", remove("photos"), CROP, 2, "no annotation can be used", "12 × missing photo"),
    ("another folder of photos", rename("photos", "elsewhere/photos"), f"{CHECK} --root elsewhere", 0, "24 objects"),
    ("no such folder of photos", same, f"{CHECK} --root nowhere", 2, "root is nowhere, which is no folder"),
    ("no such folder of photos to cut", same, f"{CROP} --photos nowhere", 2, "photos = nowhere: there is no folder"))

test_files = suite(make_coco,
    ("empty", put("annotations.json", ""), CHECK, 2, "annotations.json is not a readable JSON file"),
    ("a list", put("annotations.json", "[]"), CHECK, 2, "annotations.json holds a list"),
    ("null", put("annotations.json", "null"), CHECK, 2, "annotations.json holds a NoneType"),
    ("torn", put("annotations.json", lambda data: data[:1000]), CHECK, 2, "annotations.json is not a readable JSON file"),
    ("UTF-16", put("annotations.json", lambda data: data.decode().encode("utf-16")), CHECK, 2, "annotations.json, line 1: this is not UTF-8 text (byte 0); save the file as UTF-8"),
    ("cp1252", put("annotations.json", '{"images": "Müll"}'.encode("cp1252")), CHECK, 2, "annotations.json, line 1: this is not UTF-8 text"),
    ("byte order mark", put("annotations.json", lambda data: b"\xef\xbb\xbf" + data), CHECK, 0, "24 objects"),
    ("a picture", put("annotations.json", lambda data: b"\xff\xd8\xff\xe0"), CHECK, 2, "annotations.json, line 1: this is not UTF-8 text"),
    ("100,000 brackets", put("annotations.json", "["*100_000), CHECK, 2, "not a readable JSON"),
    ("a number of 10,000 digits", put("annotations.json", '{"images": ' + "9"*10_000 + "}"), CHECK, 2, "annotations.json"),
    ("images is an object", coco(lambda c: c | dict(images={})), CHECK, 2, "annotations.json: images is {}; it must be a list"),
    ("images is misspelt", coco(lambda c: c.update(image=c.pop("images"))), CHECK, 2, "no field 'images'; did you mean image?"),
    ("no annotations", coco(lambda c: c["annotations"].clear()), CROP, 2, "annotations.json", "the file has no annotations"),
    ("a folder", both(remove("annotations.json"), put("annotations.json/x", "")), CHECK, 2, "annotations.json"),
    ("not there", remove("annotations.json"), CHECK, 2, "annotations.json: No such file or directory; check the name"),
    ("not there to cut", remove("annotations.json"), CROP, 2, "annotations.json"),
    ("two in one folder", put("more.json", '{"images": []}'), "check .", 2, "which annotation file? annotations.json, more.json; name one of them"),
    ("a comment", swap("annotations.json", '{"images"', '// mine\n{"images"'), CHECK, 2, "not a readable JSON"),
    ("a field twice", swap("annotations.json", '{"images"', '{"images": [], "images"'), CHECK, 0, "24 objects"))


def shrink(content): [entry.update(bbox=[8, 8, 9, 9 + entry["id"] % 2]) for entry in content["annotations"] if entry["category_id"]]


test_class_maps = suite(make_coco,
    ("not UTF-8", put("classes.csv", "category,label\ncan,Dosen für Bier\n".encode("cp1252")), CROP, 2, "classes.csv, line 2: this is not UTF-8 text (byte 26); save the file as UTF-8 (in Excel: 'CSV UTF-8')"),
    ("empty", put("classes.csv", ""), CROP, 2, "classes.csv: the first line must be 'category,label'"),
    ("other columns", put("classes.csv", "name;class\n"), CROP, 2, "not 'name;class'"),
    ("semicolons", put("classes.csv", lambda data: data.replace(b",", b";")), CROP, 0, "24 of 24 boxes"),
    ("too many cells", put("classes.csv", lambda data: data + b"a,b,c\n"), CROP, 2, "classes.csv, line 5: expected 'category,label'"),
    ("a category twice", put("classes.csv", lambda data: data + b"can,tin\n"), CROP, 2, "category 'can' has a row already, line 2"),
    ("a category is missing", put("classes.csv", "category,label\ncan,can\npaper,paper\n"), CROP, 2, "'bag' has no row in classes.csv"),
    ("no labels", put("classes.csv", "category,label\ncan,\npaper,\nbag,\n"), CROP, 2, "classes.csv: no category has a label"),
    ("a label that leaves the folder", put("classes.csv", "category,label\ncan,../x\n"), CROP, 2, "label '../x' cannot be a folder name"),
    ("a label of Windows", put("classes.csv", "category,label\ncan,CON\n"), CROP, 2, "label 'CON' cannot be a folder name"),
    ("labels that differ in case", put("classes.csv", "category,label\ncan,a\npaper,A\nbag,b\n"), CROP, 2, "would be one folder on some machines"),
    ("an open quote", put("classes.csv", lambda data: data + b'"glass,glass\n'), CROP, 2, "classes.csv"),
    ("one class", put("classes.csv", "category,label\ncan,a\npaper,a\nbag,a\n"), CROP, 2, "only one class, 'a'", "classes.csv"),
    ("one class in the annotations", every("annotations", category_id=0), CROP, 2, "only one class, 'can'"),
    ("one class of large boxes", coco(shrink), CROP, 2, "only one class, 'can'", "bag, paper", "min_side = 24"),
    ("all boxes too small", same, f"{CROP} --min-side 60", 2, "min_side = 60: all 24 boxes have a shorter long side"),
    ("a category of another name", first("categories", name="Plastic"), CROP, 2, "'Plastic' has no row in classes.csv"),
    ("not there", remove("classes.csv"), CROP, 2, "class_map = classes.csv: there is no file"),
    ("a folder", both(remove("classes.csv"), put("classes.csv/x", "")), CROP, 2, "class_map = classes.csv"))

test_splits = suite(make_coco,
    ("other columns", put("splits.csv", "photo;side\n"), f"{CROP} --splits splits.csv", 2, "splits.csv: the first line must be"),
    ("not there", same, f"{CROP} --splits splits.csv", 2, "splits = splits.csv: there is no such file"),
    ("an unknown split", put("splits.csv", "file_name,photo_id,group,split\nphotos/000.jpg,0,0,trian\n"), f"{CROP} --splits splits.csv", 2, "line 2: unknown split 'trian'; did you mean train?"),
    ("an id as a word", put("splits.csv", "file_name,photo_id,group,split\nphotos/000.jpg,a,0,train\n"), f"{CROP} --splits splits.csv", 2, "line 2: photo_id is 'a'; it must be a whole number"),
    ("photos are missing", put("splits.csv", "file_name,photo_id,group,split\nphotos/000.jpg,0,0,train\n"), f"{CROP} --splits splits.csv", 2, "splits.csv lacks 11 photo(s)"),
    ("a belt: all photos alike", lambda folder: [write(folder/f"photos/{i:03}.jpg", (folder/"photos/000.jpg").read_bytes()) for i in range(12)], CROP, 2, "12 photos look alike by group_by = alike:22 and are one group", "number the runs", "image:run"),
    ("two photos only", coco(lambda c: c["annotations"].__delitem__(slice(4, None))), CROP, 2, "2 photo(s) with boxes are too few for train, valid and test"))
