"""Where images come from: folders, archives, and HTTP, from a server on this machine that misbehaves on request.

What is caught: a wrong order of sources, downloads begun anew or twice, wrong hashes or counts taken for right, files
that leave the folder, half a category left behind, what the disk refuses and says in more than a line.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from mvtec_ad import artifacts
from mvtec_ad.cli import main
from mvtec_ad.config import DataSettings, Profile
from mvtec_ad.data import archives, catalog, index, official, sources
from mvtec_ad.data.prepare import prepare, prepare_packages, read_all, unpack
from mvtec_ad.errors import DataError, MvtecAdError
from mvtec_ad.synthetic import write_category, write_packages

Maker = Callable[..., Path]
WHOLE = "mvtec_anomaly_detection.tar.xz"
FEW = DataSettings(
    **{"image_size": 32, "synthetic_train": 2, "synthetic_test_good": 1, "synthetic_per_defect": 1},
    **{"package_train": 1, "package_test": 1},
)
MANUAL = sources.MANUAL


@dataclass
class Served:
    """One file of the server, and how it misbehaves."""

    body: bytes
    ranges: bool = True  # answers a range with that range
    cuts: int = 0  # so many answers end in their middle
    status: int = 200  # anything else is sent without a body


class Mirror(ThreadingHTTPServer):
    """Serves `files`, and remembers in `asked` what was asked for, and from which byte."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        """Address of a file."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Answer(BaseHTTPRequestHandler):
    """One answer of the server; HTTP 1.0, so the connection ends with it."""

    server: Mirror

    def do_GET(self) -> None:
        """Send the file, or what it is told to send."""
        name, wanted = self.path.rsplit("/", 1)[-1], self.headers.get("Range")
        self.server.asked.append((name, wanted))
        served = self.server.files.get(name, Served(b"", status=404))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges else 0
        if served.status == 200 and start >= len(served.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.body)}")
            self.end_headers()
            return
        self.send_response(206 if start and served.status == 200 else served.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.body) - 1}/{len(served.body)}")
        body = served.body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if served.cuts:
            served.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """The server; nothing else can be reached, and nobody waits between two tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "ARCHIVE_URLS", ())
    monkeypatch.setattr(sources, "CATEGORY_URLS", {})
    monkeypatch.setattr(archives, "PAUSE", 0)
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("MVTEC_AD_URLS", server.url(WHOLE))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def tar_xz(root: Path, *names: str, below: str = "") -> bytes:
    """The folders `names` of `root` as a .tar.xz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name in names:
            archive.add(root / name, f"{below}{name}")
    return buffer.getvalue()


def write_zip(path: Path, root: Path, *names: str, below: str = "") -> Path:
    """The same as a .zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for name in names for file in (root / name).rglob("*") if file.is_file()):
            archive.write(file, below + file.relative_to(root).as_posix())
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_category: Maker) -> Path:
    """A data set of three tiny categories, with a licence file at its top and in each of them."""
    root = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("bottle", "screw", "widget")):
        make_category(root, name, train=2, test_good=1, defects={"cut": 1}, size=16, seed=seed)
        (root / name / "license.txt").write_text("as it is")
    (root / "license.txt").write_text("as it is")
    return root


@pytest.fixture(scope="module")
def whole(images: Path) -> bytes:
    """The archive with everything."""
    return tar_xz(images, "license.txt", "bottle", "screw", "widget")


@pytest.fixture(autouse=True)
def small_mvtec(monkeypatch: pytest.MonkeyPatch, images: Path, whole: bytes) -> None:
    """For the package, that data set is the official one."""
    for name in ("bottle", "screw"):
        folder = images / name
        files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.glob("t*/*/*")}
        digests = {image: hashlib.sha256(path.read_bytes()).digest()[:12] for image, path in files.items()}
        monkeypatch.setitem(official.IMAGES, name, digests)
        monkeypatch.setitem(catalog.CATEGORIES, name, catalog.Category(name, "object", 2, 1, {"cut": 1}))
    monkeypatch.setattr(catalog, "ARCHIVE_BYTES", len(whole))
    monkeypatch.setattr(catalog, "ARCHIVE_SHA256", hashlib.sha256(whole).hexdigest())


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(act: Callable[[], object], words: str, *places: object) -> str:
    """`act` must fail with these words, in one line that names the places."""
    with pytest.raises(MvtecAdError, match=words) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    assert all(str(place) in line for place in places)
    return line


def bottle(**options: object) -> Path:
    """Where bottles are, downloaded if need be."""
    return sources.locate("bottle", **{"source": "download", **options})


# --- which source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["MVTEC_AD_ROOT", "data/mvtec_anomaly_detection"])
def test_real_images_are_preferred(
    own_home: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, make_category: Maker, place: str
) -> None:
    """Where either place holds the category, untouched; where it does not, and when told so, images are drawn."""
    real = own_home / "data" / "mvtec_anomaly_detection" if "/" in place else own_home / "elsewhere"
    if "/" not in place:
        monkeypatch.setenv(place, str(real))
    before = content(make_category(real, "bottle", train=1, size=8))
    for source in ("auto", "mvtec_ad", "download"):
        assert bottle(source=source, settings=FEW) == real
    assert content(real) == before
    synthetic = bottle(source="synthetic", settings=FEW)
    assert synthetic == own_home / "data" / "synthetic"
    assert len(index.read_category(synthetic, "bottle")) == 6
    assert sources.locate("screw", settings=FEW) == synthetic
    monkeypatch.setenv("MVTEC_AD_SOURCE", "synthetic")
    assert bottle(source="mvtec_ad", settings=FEW) == synthetic
    assert bottle(root=own_home / "nowhere") == own_home / "nowhere"  # a named root is taken as it is
    assert mirror.asked == []


@pytest.mark.parametrize("locate", [sources.locate, sources.locate_packages])
@pytest.mark.parametrize(
    ("category", "source", "words"),
    [
        ("bottle", "mvtec_ad", "real MVTec AD images of bottle are not on disk: download it.*or use the source 'downl"),
        ("cartons", "auto", "cartons can be drawn by none of our programs"),
        ("cartons", "synthetic", "cartons can be drawn by none"),
        ("bottle", "photographs", "'photographs' is unknown: use one of auto, mvtec_ad, synthetic"),
        ("package", "photographs", "'photographs' is unknown"),
    ],
)
def test_images_that_cannot_be_had(locate: Callable, category: str, source: str, words: str) -> None:
    """The message says where to put them."""
    refused(lambda: locate(category, source=source), words)


@pytest.mark.parametrize("place", ["MVTEC_AD_ROOT", "a named archive", "data/mvtec_anomaly_detection", "raw-data.zip"])
def test_own_packages_are_preferred(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, make_category: Maker, capsys: pytest.CaptureFixture, place: str
) -> None:
    """Wherever real images are looked for; drawn only when told so, without a line about it."""
    root = own_home / "data" / "mvtec_anomaly_detection" if place.startswith("data") else own_home / "mine"
    make_category(root, "package", train=1, test_good=0, defects={}, size=8)
    monkeypatch.setattr(sources, "_synthetic_root", lambda *_: own_home / "synthetic")
    if place == "MVTEC_AD_ROOT":
        monkeypatch.setenv(place, str(root))
    elif place == "raw-data.zip":
        write_zip(own_home / "transfer" / place, root, "package")
    elif place == "a named archive":
        monkeypatch.setenv("MVTEC_AD_ROOT", str(write_zip(own_home / "mine.zip", root, "package")))
    for source in ("auto", "mvtec_ad", "download"):
        assert content(sources.locate_packages("package", source=source)) == content(root)
    assert sources.locate_packages("package", source="synthetic") == own_home / "synthetic"
    monkeypatch.setenv("MVTEC_AD_SOURCE", "synthetic")
    assert sources.locate_packages("package") == own_home / "synthetic"
    assert "are drawn" not in capsys.readouterr().out


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Two intact and two damaged items without train and test, and a file of the author's beside them."""
    for number, state in enumerate(("intact", "intact", "damaged", "damaged")):
        for view in ("side", "top"):
            path = tmp_path / "shipped" / state / view / f"{number}_{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]))
    (tmp_path / "shipped" / "cover.png").write_bytes(b"no item")
    return tmp_path / "shipped"


@pytest.mark.parametrize("kind", ["raw-data.zip", "named.zip", "named.tar.xz"])
@pytest.mark.parametrize("around", ["", "archive/", "a/b/", "package/", "package/images/"])
def test_packages_in_an_archive_need_no_name(
    own_home: Path, images: Path, shipped: Path, kind: str, around: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its top or in folders, beside products or alone: only their files are unpacked, and products stay products."""
    if kind == "named.tar.xz":
        archive = own_home / kind
        archive.write_bytes(tar_xz(shipped, "intact", "damaged", "cover.png", below=around))
    else:
        archive = own_home / ("transfer" if kind == "raw-data.zip" else "") / kind
        write_zip(archive, images, "bottle")
        with zipfile.ZipFile(archive, "a") as opened:
            for name, data in content(shipped).items():
                opened.writestr(around + name, data)
            opened.writestr("__MACOSX/damaged/side/._2_side.png", b"no image")
    root = sources.locate_packages("package", root=None if kind == "raw-data.zip" else archive)
    table = index.read_category(root, "package")
    states = [Path(path).parents[1].name + "/" + Path(path).name for path in table["image_path"]]
    expected = [f"{s}/{n}_{v}.png" for s, n in (("intact", 1), ("damaged", 3)) for v in ("side", "top")]
    expected += [f"{s}/{n}_{v}.png" for s, n in (("intact", 0), ("damaged", 2)) for v in ("side", "top")]
    assert states == expected
    assert table["split"].tolist() == ["train"] * 4 + ["test"] * 4
    assert set(table["group"]) == {f"package/{number}" for number in range(4)}
    assert "are drawn" not in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == ["package"]
    if kind == "raw-data.zip":
        assert content(bottle(source="mvtec_ad") / "bottle") == content(images / "bottle")


def test_an_archive_of_packages_holds_no_products(
    own_home: Path, shipped: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not taken for what was asked for; which of two lines is wanted is not guessed."""
    archive = write_zip(own_home / "kaggle.zip", shipped, "intact", "damaged")
    way = r"no category folder bottle: .*; `mvtec-ad prepare --root .*kaggle\.zip --packages` reads its packages"
    refused(lambda: bottle(root=archive), way)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("more/damaged/side/9_side.png", b"")
    refused(lambda: sources.locate_packages("package", root=archive), "kaggle.zip holds two folders package: keep one")
    other = write_zip(own_home / "other.zip", images, "bottle")
    with zipfile.ZipFile(other, "a") as opened:
        opened.writestr("casting/damaged/close/1.png", b"named as no view of an item")
    monkeypatch.setattr(sources, "_synthetic_root", lambda *_: own_home / "synthetic")
    assert sources.locate_packages("package", root=other) == own_home / "synthetic"


@pytest.mark.parametrize("place", ["MVTEC_AD_ROOT", "root"])
def test_a_folder_of_packages_needs_no_name(
    own_home: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The folder itself, as it was unpacked, or the one around it."""
    for root in (shipped, shipped.parent):
        if place == "root":
            assert sources.locate_packages("package", root=root) == root
        else:
            monkeypatch.setenv(place, str(root))
            assert sources.locate_packages("package", source="auto") == root
            assert sources.locate("package", source="mvtec_ad") == root


@pytest.mark.parametrize("zipped", [False, True])
def test_without_packages_they_are_synthetic(
    own_home: Path, mirror: Mirror, images: Path, capsys: pytest.CaptureFixture[str], zipped: bool
) -> None:
    """A line says so, with the root that was named. A root that is not there is a slip of the finger."""
    root = write_zip(own_home / "products.zip", images, "bottle") if zipped else images
    assert sources.locate_packages("package", root=root, settings=FEW) == own_home / "data" / "synthetic"
    assert capsys.readouterr().out.startswith(f"no folder package in {root}: packages are drawn\n")
    for source in ("auto", "mvtec_ad", "download"):
        assert sources.locate_packages("package", source=source, settings=FEW) == own_home / "data" / "synthetic"
        assert "no folder package in any place where images are looked for" in capsys.readouterr().out
    assert mirror.asked == []
    refused(lambda: sources.locate_packages("package", root=own_home / "nowhere"), "nowhere does not exist")


@pytest.mark.parametrize("place", ["a named root", "a named zip", "MVTEC_AD_ROOT", "data folder", "raw-data.zip"])
def test_nothing_is_drawn_beside_real_products(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, images: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Categories that are absent beside others are named and left out, wherever the others lie."""
    monkeypatch.setattr(sources, "_synthetic_root", lambda *_: pytest.fail("drawn"))
    root, wanted = None, run(categories=("cable", "bottle", "pill", "screw"))
    if place == "data folder":
        shutil.copytree(images, own_home / "data" / "mvtec_anomaly_detection")
    elif place == "MVTEC_AD_ROOT":
        monkeypatch.setenv(place, str(images))
    elif place == "a named root":
        root = images
    else:
        path = own_home / "transfer" / "raw-data.zip" if place == "raw-data.zip" else own_home / "mine.zip"
        archive = write_zip(path, images, "bottle", "screw")
        root = archive if place == "a named zip" else None
    table, origins = read_all(wanted.data.categories, settings=wanted.data, root=root)
    assert origins == {"bottle": "mvtec_ad", "screw": "mvtec_ad"}
    assert len(table) == 8
    line = f"no folder cable, pill in {root or 'any place where images are looked for'}: left out"
    assert capsys.readouterr().out.startswith(line)
    artifact = artifacts.load(prepare(wanted, root=root, progress=False))
    assert artifact.manifest["categories"] == artifact.manifest["options"]["categories"] == ["bottle", "screw"]


def test_what_a_named_archive_lacks_is_not_taken_from_elsewhere(
    own_home: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MVTEC_AD_ROOT that is a zip stands alone; of folders, one without images of that layout is none."""
    folder = own_home / "data" / "mvtec_anomaly_detection"
    shutil.copytree(images / "screw", folder / "screw")
    (folder / "pill").mkdir()
    assert sources.available(["bottle", "pill", "screw"]) == ["screw"]
    monkeypatch.setenv("MVTEC_AD_ROOT", str(write_zip(own_home / "mine.zip", images, "bottle")))
    assert sources.available(["bottle", "screw"]) == ["bottle"]
    assert "no folder screw in any place where images are looked for: left out" in capsys.readouterr().out


def test_absent_products_are_drawn_or_refused_as_asked(
    own_home: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any real product all are drawn; a source that insists says what is missing; without any in a root too."""
    settings = {"settings": FEW}
    assert set(read_all(["bottle", "screw"], **settings)[1].values()) == {"synthetic"}
    shutil.copytree(images / "bottle", own_home / "data" / "mvtec_anomaly_detection" / "bottle")
    refused(lambda: read_all(["bottle", "screw"], source="mvtec_ad", **settings), "images of screw are not on disk")
    assert set(read_all(["bottle", "screw"], source="synthetic", **settings)[1].values()) == {"synthetic"}
    refused(lambda: read_all(["cable", "pill"], root=images, **settings), "no category 'cable' in", images)
    assert "left out" not in capsys.readouterr().out


def run(**settings: object) -> Profile:
    return Profile("quick", replace(FEW, **settings))


ENTRANCES: dict[str, Callable[[Path, str], object]] = {
    "read_category": index.read_category,
    "data_source": lambda root, name: index.data_source(root, name, index.read_category(root, "part")),
    "locate": lambda root, name: sources.locate(name, root=root),
    "locate together": lambda root, name: sources.locate("part", root=root, together=["part", name]),
    "locate synthetic": lambda root, name: sources.locate(name, source="synthetic"),
    "locate_packages": lambda root, name: sources.locate_packages(name, root=root),
    "read_all": lambda root, name: read_all([name], settings=FEW, root=root),
    "prepare": lambda root, name: prepare(run(categories=("part", name)), root=root, progress=False),
    "prepare_packages": lambda root, name: prepare_packages(run(packages=name), root=root, progress=False),
    "prepare_packages, named": lambda root, name: prepare_packages(run(), root=root, category=name, progress=False),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_path_is_refused(tmp_path: Path, make_category: Maker, entrance: str) -> None:
    """Also one that leads to a category: what it names would lie elsewhere than where it is looked for."""
    root = make_category(tmp_path / "root", train=1, test_good=1, defects={}, size=8)
    with pytest.raises(DataError, match=r"category '\.\./root/part' must be .*: give the folders above it with --root"):
        ENTRANCES[entrance](root, "../root/part")
    assert not (tmp_path / "transfer" / "data.zip").exists()


def test_a_completed_name_is_the_plain_one(tmp_path: Path, make_category: Maker, images: Path) -> None:
    """As a shell completes it: once though it was given twice, in an archive, and where images are drawn."""
    root = make_category(tmp_path / "root", train=2, test_good=1, defects={}, size=8)
    table, origins = read_all(["./part", "part/"], settings=FEW, root=root)
    assert (set(table["category"]), len(table), origins) == ({"part"}, 3, {"part": "own"})
    artifact = artifacts.load(prepare(run(categories=("part/", "part")), root=root, progress=False))
    assert artifact.manifest["categories"] == artifact.manifest["options"]["categories"] == ["part"]
    assert len(index.read_category(unpack(artifact), "part")) == 3
    archive = write_zip(tmp_path / "mine.zip", images, "bottle", "screw", "widget")
    assert index.list_categories(sources.locate("bottle/", root=archive, together=["screw/"])) == ["bottle", "screw"]
    for locate, name in ((sources.locate, "bottle"), (sources.locate_packages, "package")):
        assert (locate(f"{name}/", source="synthetic", settings=FEW) / name / "train").is_dir()


# --- over HTTP -------------------------------------------------------------------------------------------------------


def test_only_wanted_categories_leave_the_archive(
    own_home: Path, mirror: Mirror, images: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the byte, in one pass; the archive stays for the next category, the licence is shown."""
    mirror.files[WHOLE] = Served(whole)
    with pytest.MonkeyPatch.context() as patch:
        calls, write = [], archives.unpack
        patch.setattr(archives, "unpack", lambda *arguments: (calls.append(arguments), write(*arguments)))
        folder = bottle(together=["bottle", "screw", "cable"])
        assert sources.locate("screw", source="download") == folder == own_home / "data" / "mvtec_anomaly_detection"
        assert len(calls) == 1
    assert content(folder) == {name: data for name, data in content(images).items() if name[:4] in ("bott", "scre")}
    assert index.data_source(folder, "bottle", index.read_category(folder, "bottle")) == "mvtec_ad"
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    shutil.rmtree(folder / "screw")
    assert sources.locate("screw", source="download") == folder
    assert content(folder / "screw") == content(images / "screw")
    assert [path.name for path in (own_home / "data" / "downloads").iterdir()] == [WHOLE]
    assert mirror.asked == [(WHOLE, None)]
    refused(lambda: sources.locate("widget", source="download"), "widget is not a category of MVTec AD: it has carpet")


def test_only_download_downloads(mirror: Mirror, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` draws; the environment wins over the argument."""
    mirror.files[WHOLE] = Served(whole)
    assert bottle(source="auto", settings=FEW).name == "synthetic"
    assert mirror.asked == []
    monkeypatch.setenv("MVTEC_AD_SOURCE", "download")
    assert bottle(source="synthetic").name == "mvtec_anomaly_detection"


def test_a_cut_connection_is_continued(
    mirror: Mirror, whole: bytes, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same call or a later one, each time for the rest alone, and the whole is right."""
    mirror.files[WHOLE] = Served(whole, cuts=2)
    monkeypatch.setattr(archives, "RETRIES", 0)
    refused(bottle, r"the connection was cut after [\d,]+ of [\d,]+ bytes", MANUAL)
    monkeypatch.setattr(archives, "RETRIES", 4)
    assert content(bottle() / "bottle") == content(images / "bottle")
    half = len(whole) // 2
    three_quarters = half + (len(whole) - half) // 2
    assert mirror.asked == [(WHOLE, None), (WHOLE, f"bytes={half}-"), (WHOLE, f"bytes={three_quarters}-")]


def test_a_server_that_ignores_ranges_is_read_anew(
    mirror: Mirror, whole: bytes, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not appended; given up after a few tries, unless a megabyte came each time (here a byte)."""
    mirror.files[WHOLE] = Served(whole, cuts=99, ranges=False)
    refused(bottle, "the connection was cut")
    assert len(mirror.asked) == 1 + archives.RETRIES
    shutil.rmtree(sources.mvtec_folder().parent)
    mirror.files[WHOLE].cuts = 1
    assert content(bottle() / "bottle") == content(images / "bottle")
    assert mirror.asked[-1][1] is not None
    shutil.rmtree(sources.mvtec_folder().parent)
    monkeypatch.setattr(archives, "_PROGRESS", 1)
    monkeypatch.setattr(archives, "RETRIES", 1)
    mirror.files[WHOLE] = Served(whole, cuts=8)
    mirror.asked.clear()
    bottle()
    assert len(mirror.asked) == 9


@pytest.mark.parametrize("left", ["complete", "of another file", "longer"])
@pytest.mark.parametrize("name", ["bottle.tar.xz", WHOLE], ids=["category", "whole"])
def test_what_another_run_left_of_a_download(
    own_home: Path, mirror: Mirror, images: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, name: str, left: str
) -> None:
    """Complete, it is not sent again; otherwise it is read anew, and does not spoil a good archive."""
    body = whole if name == WHOLE else tar_xz(images, "bottle")
    path = own_home / "data" / "downloads" / f"unfinished-{name}"
    path.parent.mkdir(parents=True)
    path.write_bytes({"complete": body, "of another file": bytes(100), "longer": bytes(len(body) + 9)}[left])
    mirror.files[name] = Served(body)
    monkeypatch.setenv("MVTEC_AD_URLS", mirror.url(name))
    assert content(bottle() / "bottle") == content(images / "bottle")
    asked = {"complete": [f"bytes={len(body)}-"], "of another file": ["bytes=100-", None]}
    asked["longer"] = [f"bytes={len(body) + 9}-", None]
    if name == WHOLE:  # its size is known, so nobody is asked whether more is to come
        asked |= {"complete": [], "longer": [None]}
    assert [wanted for _, wanted in mirror.asked] == asked[left]


def less(root: Path, name: str) -> bytes:
    """The archive of bottle without a file."""
    (root / "bottle" / name).unlink()
    return tar_xz(root, "bottle")


# Of the whole the hash is known, of a category the official counts.
BAD: dict[str, tuple[str, str, Callable[[Path, bytes], bytes | int]]] = {
    "wrong hash": ("bad", "SHA-256 is not that of the official archive", lambda root, whole: whole[:-1] + b"?"),
    "a page": ("bad", "it offers 26 bytes, expected", lambda root, whole: b"<html>Please log in</html>"),
    "404": ("bad", "HTTP 404", lambda root, whole: 404),
    "503": ("bad", "HTTP 503", lambda root, whole: 503),
    "an image less": ("bottle", "could not be downloaded", lambda root, whole: less(root, "train/good/001.png")),
    "a mask less": (
        "bottle",
        "could not be downloaded",
        lambda root, whole: less(root, "ground_truth/cut/000_mask.png"),
    ),
    "another category": ("bottle", "could not be downloaded", lambda root, whole: tar_xz(root, "screw")),
    "no archive": ("bottle", "could not be downloaded", lambda root, whole: b"<html></html>"),
    "cut short": ("bottle", "could not be downloaded", lambda root, whole: tar_xz(root, "bottle")[:-20]),
}


@pytest.mark.parametrize(("name", "reason", "make"), BAD.values(), ids=BAD)
def test_the_next_address_is_tried(
    own_home: Path,
    mirror: Mirror,
    images: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
    make: Callable[[Path, bytes], bytes | int],
) -> None:
    """Alone, the bad one is named with its reason and leaves nothing; with a good one after it, all is well."""
    made = make(Path(shutil.copytree(images, own_home / "changed")), whole)
    name = f"{name}.tar.xz"
    mirror.files |= {name: Served(b"", status=made) if isinstance(made, int) else Served(made), WHOLE: Served(whole)}
    monkeypatch.setenv("MVTEC_AD_URLS", mirror.url(name))
    line = refused(bottle, reason, MANUAL)
    assert line.startswith("MVTec AD bottle could not be downloaded (127.0.0.1:")
    assert content(own_home / "data") == {}
    monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url(name)} {mirror.url(WHOLE)}")
    assert content(bottle() / "bottle") == content(images / "bottle")
    assert [asked for asked, _ in mirror.asked] == [name, name, WHOLE]


def test_when_nothing_answers_the_message_lists_all_and_the_manual_way(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own mirrors first, then the category's archive, then the whole; other categories' archives are not asked."""
    closed = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    closed.server_close()
    own = [f"http://127.0.0.1:{closed.server_address[1]}/x.tar.xz", "ftp://host/y.tar.xz", mirror.url("screw.tar.xz")]
    monkeypatch.setenv("MVTEC_AD_URLS", " ".join(own))
    monkeypatch.setattr(sources, "CATEGORY_URLS", {"bottle": (mirror.url("bottle.tar.xz"),)})
    monkeypatch.setattr(sources, "ARCHIVE_URLS", (mirror.url(WHOLE),))
    line = refused(bottle, "could not be downloaded")
    tried = line.split("(", 1)[1].split("): ")[0].split("; ")
    reasons = ["x.tar.xz: Connection refused", "y.tar.xz: no http address", "bottle.tar.xz: HTTP 404"]
    assert [entry.split("/…/")[1] for entry in tried] == [*reasons, f"{WHOLE}: HTTP 404"]
    assert line.endswith(MANUAL)


def test_every_category_has_its_address() -> None:
    """Encrypted, each with the category's own file name, no two the same."""
    assert set(sources.CATEGORY_URLS) == set(catalog.CATEGORIES)
    assert all(urls[0].endswith(f"/{category}.tar.xz") for category, urls in sources.CATEGORY_URLS.items())
    addresses = [*sources.ARCHIVE_URLS, *(url for urls in sources.CATEGORY_URLS.values() for url in urls)]
    assert len(set(addresses)) == len(addresses) == 2 + 15
    assert all(url.startswith("https://") for url in addresses)


def test_a_category_has_an_archive_of_its_own(
    own_home: Path, mirror: Mirror, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is preferred to 5 GB, continued when cut, and not kept."""
    monkeypatch.setenv("MVTEC_AD_URLS", "")
    monkeypatch.setattr(sources, "CATEGORY_URLS", {"bottle": (mirror.url("bottle.tar.xz"),)})
    monkeypatch.setattr(sources, "ARCHIVE_URLS", (mirror.url(WHOLE),))
    mirror.files["bottle.tar.xz"] = Served(tar_xz(images, "bottle"), cuts=1)
    folder = bottle(together=["bottle", "screw"])
    assert content(folder) == {f"bottle/{name}": data for name, data in content(images / "bottle").items()}
    assert [name for name, _ in mirror.asked] == ["bottle.tar.xz"] * 2
    assert content(own_home / "data" / "downloads") == {}


def test_a_folder_in_the_way_is_not_touched(mirror: Mirror, own_home: Path) -> None:
    """It may be the user's own half-finished work."""
    notes = own_home / "data" / "mvtec_anomaly_detection" / "bottle" / "test" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    refused(bottle, "bottle is in the way: it has no train folder")
    assert (notes.read_text(), mirror.asked) == ("mine", [])


def test_prepare_downloads(mirror: Mirror, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, from the server to data.zip, which knows that these are the official images."""
    mirror.files[WHOLE] = Served(whole)
    where = ["--category", "bottle", "screw", "--source", "download", "--image-size", "16"]
    assert main(["prepare", "--profile", "quick", *where]) == 0
    assert "8 images of bottle, screw (2 defective), source mvtec_ad" in capsys.readouterr().out
    artifact = artifacts.load("data")
    assert (artifact.manifest["data_source"], artifact.manifest["categories"]) == ("mvtec_ad", ["bottle", "screw"])
    lines = ["bottle: 4 of 4 official", "screw: 4 of 4 official"]
    assert artifact.manifest["metrics"] == {"images": 8, "defective": 2, "official": lines}
    assert "CC BY-NC-SA" in artifact.json("licence.json")["licence"]
    assert len(mirror.asked) == 1


# --- archives that lie on disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "mvtec_anomaly_detection/"])
@pytest.mark.parametrize("source", ["auto", "mvtec_ad", "download"])
def test_raw_data_zip_in_both_layouts(
    own_home: Path, images: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, below: str, source: str
) -> None:
    """Only the wanted category is unpacked, once; what a Mac adds is not taken for an image."""
    archive = write_zip(own_home / "transfer" / "raw-data.zip", images, "bottle", "screw", below=below)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/bottle/train/", b"")
        opened.writestr(f"__MACOSX/{below}bottle/train/good/._000.png", b"no image")
        opened.writestr(f"{below}bottle/train/good/.DS_Store", b"no image")
    folder = bottle(source=source)
    assert content(folder) == {f"bottle/{name}": data for name, data in content(images / "bottle").items()}
    monkeypatch.setattr(archives, "unpack", lambda *arguments, **options: pytest.fail("unpacked again"))
    assert bottle(source=source) == folder
    assert mirror.asked == []


def test_raw_data_zip_without_the_category(own_home: Path, images: Path, mirror: Mirror, whole: bytes) -> None:
    """`auto` draws, `mvtec_ad` says what to do, `download` downloads; a folder on disk comes before all."""
    write_zip(own_home / "transfer" / "raw-data.zip", images, "screw")
    mirror.files[WHOLE] = Served(whole)
    assert bottle(source="auto", settings=FEW).name == "synthetic"
    refused(lambda: bottle(source="mvtec_ad"), "images of bottle are not on disk")
    downloaded = bottle()
    assert downloaded.name == "mvtec_anomaly_detection"
    write_zip(own_home / "transfer" / "raw-data.zip", images, "bottle")
    assert bottle(source="auto") == downloaded


@pytest.mark.parametrize("kind", [".zip", ".tar.xz"])
@pytest.mark.parametrize("how", ["root", "MVTEC_AD_ROOT"])
def test_an_archive_as_root(
    own_home: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    """Any product of one's own; a changed file is unpacked again, beside what the old one gave."""
    archive = tmp_path / f"mine{kind}"

    def write(*names: str) -> None:
        if kind == ".zip":
            write_zip(archive, images, *names, below="top/")
        else:
            archive.write_bytes(tar_xz(images, *names, below="top/"))

    def locate(category: str) -> Path:
        return sources.locate(category, root=archive if how == "root" else None, together=["widget", "bottle"])

    if how != "root":
        monkeypatch.setenv(how, str(archive))
    write("widget", "bottle", "screw")
    folder = locate("widget")
    assert folder.parent == own_home / "data" / "unpacked"
    assert sorted(path.name for path in folder.iterdir()) == ["bottle", "widget"]
    assert content(folder / "widget") == content(images / "widget")
    assert locate("screw") == folder
    assert (folder / "screw" / "train").is_dir()
    refused(lambda: locate("cable"), "holds no category folder cable: it holds bottle, screw, widget")
    write("bottle")
    os.utime(archive, (1, 1))
    changed = locate("bottle")
    assert sorted(path.name for path in changed.iterdir()) == ["bottle"]
    assert sorted(path.name for path in folder.iterdir()) == ["bottle", "screw", "widget"]


def test_what_is_unpacked_already_is_left_alone(images: Path, tmp_path: Path) -> None:
    """Also where it is wanted together with something new."""
    archive = write_zip(tmp_path / "a.zip", images, "bottle", "screw")
    mark = bottle(root=archive) / "bottle" / "mark"
    mark.write_text("still here")
    before = {path: path.stat().st_mtime_ns for path in mark.parent.rglob("*")}
    screw = sum(len(data) for data in content(images / "screw").values())
    with pytest.MonkeyPatch.context() as patch:
        set_free(patch, screw)  # no room for the other one again
        sources.locate("screw", root=archive, together=["bottle"])
    assert {path: path.stat().st_mtime_ns for path in mark.parent.rglob("*")} == before


def test_a_plain_folder_of_good_images_in_a_zip(images: Path, tmp_path: Path) -> None:
    """No layout is needed for one's own product."""
    (tmp_path / "plain" / "mine").mkdir(parents=True)
    for name in ("000.png", "001.png"):
        shutil.copy(images / "widget" / "train" / "good" / name, tmp_path / "plain" / "mine" / name)
    archive = write_zip(tmp_path / "plain.zip", tmp_path / "plain", "mine")
    assert len(index.read_category(sources.locate("mine", root=archive), "mine")) == 2


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.zip", lambda data: data[: len(data) // 2]),
        ("a.zip", lambda data: b""),
        ("a.zip", lambda data: data.replace(b"PNG", b"GNP", 1)),
        ("a.tar.xz", lambda data: data[: len(data) // 2]),
        ("a.tar.xz", lambda data: data[:-12]),
        ("a.tar.xz", lambda data: data[:200] + b"????" + data[204:]),
        ("a.tar.xz", lambda data: b""),
        ("a.tar.xz", lambda data: b"no archive at all"),
        ("a.rar", lambda data: data),
    ],
)
def test_damaged_archives(own_home: Path, images: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    """One line that names the file; nothing of it is left."""
    path = own_home / name
    whole = write_zip(own_home / "b", images, "bottle").read_bytes() if ".zip" in name else tar_xz(images, "bottle")
    path.write_bytes(damage(whole))
    words = r"no archive that is read \(\.zip, .*: give one of those, or a folder" if name == "a.rar" else "is damaged"
    refused(lambda: bottle(root=path), words, path)
    assert content(own_home / "data") == {}


def test_a_raw_data_zip_that_cannot_be_read_is_not_passed_over(
    own_home: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged, or another user's: drawn images in its place would be a silent surprise; the command prints the line."""
    archive = own_home / "transfer" / "raw-data.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"PK\x03\x04 and no more")
    refused(lambda: bottle(source="auto"), r"raw-data\.zip is damaged .*: get it again")
    assert main(["prepare", "--profile", "quick", "--category", "bottle"]) == 2
    write_zip(archive, images, "bottle")
    monkeypatch.setattr(zipfile, "ZipFile", fail(PermissionError(13, "Permission denied")))
    for root in (None, archive):
        refused(lambda root=root: bottle(root=root), r"raw-data\.zip cannot be .*: Permission denied")


ONLY_TAR = (tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)  # what no zip holds


def evil_tar(path: Path, name: str, kind: bytes, target: str) -> None:
    """A good image, and then one member that nobody should write."""
    with tarfile.open(path, "w:xz") as archive:
        for member, type_ in (("bottle/train/good/000.png", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname, info.size = type_, target, 4 if type_ == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"evil"))


def evil_zip(path: Path, name: str, kind: bytes, target: str) -> None:
    """The same as a .zip; a link there is a file with a mode."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bottle/train/good/000.png", b"evil")
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o120777 if kind == tarfile.SYMTYPE else 0o100644) << 16
        archive.writestr(info, target or "evil")


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("bottle/../../../../evil.png", tarfile.REGTYPE, ""),
        ("../evil.png", tarfile.REGTYPE, ""),
        ("{outside}/bottle/evil.png", tarfile.REGTYPE, ""),
        ("bottle\\..\\..\\..\\evil.png", tarfile.REGTYPE, ""),
        ("C:/bottle/evil.png", tarfile.REGTYPE, ""),
        ("bottle/test", tarfile.SYMTYPE, ".."),
        ("elsewhere/link", tarfile.SYMTYPE, "/"),
        *(("bottle/test", kind, "bottle/train/good/000.png") for kind in ONLY_TAR),
    ],
)
def test_entries_that_leave_the_folder(tmp_path: Path, name: str, kind: bytes, target: str) -> None:
    """Or are no files: the whole archive is refused, wherever in it they stand, and nothing of it is written."""
    words = "leaves the folder" if kind == tarfile.REGTYPE else "is a link or a device"
    for write, suffix in ((evil_tar, ".tar.xz"), (evil_zip, ".zip"))[: 1 if kind in ONLY_TAR else 2]:
        path = tmp_path / f"evil{suffix}"
        write(path, name.format(outside=tmp_path / "outside"), kind, target)
        before = content(tmp_path)
        refused(lambda path=path: bottle(root=path), f"{words}: do not trust this file", path)
        assert content(tmp_path) == before


@pytest.mark.parametrize("kind", ["two folders", "twice"])
def test_ambiguous_archives(tmp_path: Path, images: Path, kind: str) -> None:
    """Which of two images is meant cannot be known."""
    path = write_zip(tmp_path / "a.zip", images, "bottle")
    with zipfile.ZipFile(path, "a") as archive:
        if kind == "twice":
            archive.writestr("bottle/./train/good/000.png", b"another")
        else:
            archive.writestr("old/bottle/train/good/900.png", b"another")
    with pytest.raises(DataError, match="holds two folders bottle" if kind == "two folders" else "000.png twice"):
        sources.locate("bottle", root=path)


# --- disks that are full or cannot be written, runs that are killed --------------------------------------------------


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes left."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, used=0, free=free))


@pytest.mark.parametrize("way", ["whole", "category", "zip"])
def test_a_disk_too_small_is_noticed_first(
    own_home: Path, mirror: Mirror, images: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Needed and free are named, nothing is written; one byte more, and it works."""
    single = tar_xz(images, "bottle")
    mirror.files |= {WHOLE: Served(whole), "bottle.tar.xz": Served(single)}
    archive = write_zip(own_home / "a.zip", images, "bottle", "screw")
    root = archive if way == "zip" else None
    if way == "category":
        monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url('bottle.tar.xz')} {mirror.url(WHOLE)}")
    needed = {
        "whole": len(whole) + archives.unpacked_estimate(len(whole), {"bottle"}),
        "category": 2 * len(single),
        "zip": sum(len(data) for data in content(images / "bottle").values()),
    }[way]
    set_free(monkeypatch, needed - 1)
    refused(lambda: bottle(root=root), r"needs [\d.]+k?B in .*, [\d.]+k?B are free: free some space")
    assert content(own_home / "data") == {}
    assert len(mirror.asked) == (0 if way == "zip" else 1), "more room is not to be had elsewhere"
    set_free(monkeypatch, needed)
    assert (bottle(root=root) / "bottle" / "train").is_dir()


def test_the_room_a_category_of_the_official_archive_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least its true size (MiB on MVTec's download page), at most the whole; of an unknown archive, all of it."""
    monkeypatch.undo()
    sizes = {"bottle": 148, "cable": 481, "carpet": 705, "grid": 153, "hazelnut": 588, "leather": 500}
    sizes["toothbrush"] = 104
    for category, size in sizes.items():
        assert size * 2**20 <= archives.unpacked_estimate(catalog.ARCHIVE_BYTES, {category}) < 1e9
    assert archives.unpacked_estimate(catalog.ARCHIVE_BYTES, catalog.CATEGORIES) == catalog.ARCHIVE_BYTES
    assert archives.unpacked_estimate(1000, {"bottle"}) == 1000


@pytest.mark.parametrize("full", [False, True], ids=["killed", "full"])
@pytest.mark.parametrize("way", ["download", "zip"])
def test_a_run_that_ends_while_unpacking(
    own_home: Path, mirror: Mirror, images: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, full: bool, way: str
) -> None:
    """No part of a category is left, and the next call works, without downloading again."""
    mirror.files[WHOLE] = Served(whole)
    root = write_zip(own_home / "a.zip", images, "bottle", "screw") if way == "zip" else None
    written = []

    def copy(source: object, target: object, length: int) -> None:
        written.append(target)
        if len(written) == 9:  # in the second category
            raise FULL if full else KeyboardInterrupt
        copyfileobj(source, target, length)

    copyfileobj = shutil.copyfileobj
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(DataError if full else KeyboardInterrupt, match="No space left on device" if full else None):
        bottle(root=root, together=["screw"])
    assert len(written) == 9
    assert {Path(name).name for name in content(own_home / "data")} <= {WHOLE}
    folder = bottle(root=root, together=["screw"])
    assert content(folder) == {name: data for name, data in content(images).items() if name.startswith(("bott", "scr"))}
    assert len(mirror.asked) == (1 if way == "download" else 0)


def test_what_a_killed_process_left_is_swept(own_home: Path, images: Path, tmp_path: Path) -> None:
    """After a day; younger, it may belong to a run that is still at work."""
    archive = write_zip(tmp_path / "a.zip", images, "bottle", "screw")
    folder = bottle(root=archive)
    for name, age in ((".unpacking-old", 1), (".unpacking-young", None)):
        (folder / name / "screw").mkdir(parents=True)
        if age is not None:
            os.utime(folder / name, (age, age))
    assert index.list_categories(folder) == ["bottle"]
    sources.locate("screw", root=archive)
    assert sorted(path.name for path in folder.iterdir()) == [".unpacking-young", "bottle", "screw"]


# what the disk refuses is said with the place, the system's reason and a way out, and costs nothing that was there
WAY_OUT = "make room or move what is in the way, or set MVTEC_AD_HOME to a folder of yours"
FULL, READ_ONLY = OSError(28, "No space left on device"), OSError(30, "Read-only file system")


def fail(problem: BaseException) -> Callable[..., None]:
    """A function that raises, whatever it is given."""

    def act(*arguments: object, **options: object) -> None:
        raise problem

    return act


def draw_bottle(root: Path, seed: int = 0) -> Path:
    return write_category(root, "bottle", train=1, test_good=0, per_defect=0, size=32, seed=seed, progress=False)


def draw_packages(root: Path, seed: int = 0) -> Path:
    return write_packages(root, train=1, test=0, size=(54, 96), seed=seed, progress=False)


@pytest.mark.parametrize("draw", [draw_bottle, draw_packages])
def test_images_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable) -> None:
    """Below a file, on a full disk, or when an older set was moved aside already: it is there as it was."""
    (tmp_path / "file").write_text("mine")
    refused(lambda: draw(tmp_path / "file"), "File exists", tmp_path / "file", WAY_OUT)
    assert (tmp_path / "file").read_text() == "mine"
    draw(tmp_path / "root")
    before = content(tmp_path / "root")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail(FULL))
        refused(lambda: draw(tmp_path / "root", seed=1), "No space left on device", "root", WAY_OUT)
    rename, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise READ_ONLY
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second_fails)
        refused(lambda: draw(tmp_path / "root", seed=1), "Read-only file system", "root", WAY_OUT)
    assert len(calls) == 3
    assert content(tmp_path / "root") == before


@pytest.mark.parametrize("what", ["synthetic", "unpacked", "prepared", "one prepared", "downloads"])
def test_a_file_where_a_folder_should_be(own_home: Path, mirror: Mirror, whole: bytes, what: str) -> None:
    """Below `data/`; it stays, and no other address is asked."""
    options = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {}, "seed": 0}
    artifact = artifacts.load(artifacts.save("data", {"a.json": {}}, **options))
    place = own_home / "data" / {"one prepared": f"prepared/{artifact.sha256[:12]}"}.get(what, what)
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    if what == "synthetic":
        for locate, name in ((sources.locate, "bottle"), (sources.locate_packages, "package")):
            act = lambda locate=locate, name=name: locate(name, source="synthetic", settings=FEW)  # noqa: E731
            refused(act, "File exists", f"synthetic/{name}", WAY_OUT)
    elif what == "unpacked":
        (own_home / "mine.zip").write_bytes(b"PK\5\6" + bytes(18))  # an empty one
        refused(lambda: bottle(root=own_home / "mine.zip"), "Not a directory", "mine.zip cannot be unpacked", WAY_OUT)
    elif what == "downloads":
        mirror.files[WHOLE] = Served(whole)
        refused(bottle, r"downloads/unfinished-.* cannot be written ", WAY_OUT)
        assert len(mirror.asked) == 1
    else:
        refused(lambda: unpack(artifact), "cannot be unpacked into", artifact.path, WAY_OUT)
        assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert place.read_text() == "mine"


def test_a_part_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there is longer than the whole file, so it must go first."""
    (tmp_path / "part").write_bytes(b"too long")
    monkeypatch.setattr(Path, "unlink", fail(READ_ONLY))
    act = lambda: archives.fetch("http://127.0.0.1:1/a", tmp_path / "part", size=3)  # noqa: E731
    refused(act, "Read-only file system", "part", WAY_OUT)


@pytest.mark.parametrize("kind", ["good", "wrong"])
@pytest.mark.parametrize("name", ["bottle.tar.xz", WHOLE], ids=["category", "whole"])
def test_a_download_that_cannot_be_removed_or_renamed(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    """After it was unpacked, or because it is not MVTec's."""

    def put(url: str, path: Path, **options: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"downloaded")

    monkeypatch.setattr(archives, "fetch", put)
    monkeypatch.setenv("MVTEC_AD_URLS", f"http://127.0.0.1:1/{name}")
    unpack = fail(archives.ArchiveError("damaged")) if kind == "wrong" else lambda *_, **__: 0
    monkeypatch.setattr(archives, "unpack", unpack)
    monkeypatch.setattr(sources, "file_sha256", lambda _: catalog.ARCHIVE_SHA256 if kind == "good" else "")
    for operation in ("unlink", "rename"):
        monkeypatch.setattr(Path, operation, fail(OSError(13, "Permission denied")))
    refused(lambda: sources.download("bottle"), "Permission denied", f"{name} cannot be written", WAY_OUT)
