"""Real images out of archives and over HTTP, from a server on this machine that misbehaves on request."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from mvtec_ad import artifacts
from mvtec_ad.cli import main
from mvtec_ad.config import DataSettings
from mvtec_ad.data import acquire, catalog, index
from mvtec_ad.data.acquire import archives, fetch, official
from mvtec_ad.errors import DataError

Maker = Callable[..., Path]
WHOLE = "mvtec_anomaly_detection.tar.xz"
FEW = DataSettings(image_size=32, rendered_train=2, rendered_test_good=1, rendered_per_defect=1)


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
    monkeypatch.setattr(official, "ARCHIVE_URLS", ())
    monkeypatch.setattr(official, "CATEGORY_URLS", {})
    monkeypatch.setattr(fetch, "PAUSE", 0)
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
def small_mvtec(monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    """For the package, that data set is the official one."""
    for name in ("bottle", "screw"):
        monkeypatch.setitem(catalog.CATEGORIES, name, catalog.Category(name, "object", 2, 1, {"cut": 1}))
    monkeypatch.setattr(catalog, "ARCHIVE_BYTES", len(whole))
    monkeypatch.setattr(catalog, "ARCHIVE_SHA256", hashlib.sha256(whole).hexdigest())


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def one_line(problem: pytest.ExceptionInfo[DataError]) -> str:
    """The message, which must be one line."""
    assert "\n" not in str(problem.value)
    return str(problem.value)


# --- over HTTP ---------------------------------------------------------------------------------------------------


def test_only_the_wanted_category_leaves_the_archive(
    own_home: Path, mirror: Mirror, images: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the byte; the archive stays for the next category, the licence is shown."""
    mirror.files[WHOLE] = Served(whole)
    folder = acquire.locate("bottle", source="download")
    assert folder == own_home / "data" / "mvtec_anomaly_detection"
    assert content(folder) == {f"bottle/{name}": data for name, data in content(images / "bottle").items()}
    assert [path.name for path in folder.iterdir()] == ["bottle"]
    assert index.data_source(folder, "bottle", index.read_category(folder, "bottle")) == "mvtec_ad"
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    assert acquire.locate("screw", source="download") == folder
    assert content(folder / "screw") == content(images / "screw")
    assert [path.name for path in (own_home / "data" / "downloads").iterdir()] == [WHOLE]
    assert mirror.asked == [(WHOLE, None)]


def test_one_pass_serves_all_wanted_categories(
    mirror: Mirror, whole: bytes, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 GB are not read once per category."""
    mirror.files[WHOLE] = Served(whole)
    folder = acquire.locate("bottle", source="download", together=["bottle", "screw", "cable"])
    assert content(folder / "screw") == content(images / "screw")
    assert not (folder / "widget").exists()
    monkeypatch.setattr(archives, "unpack", lambda *arguments, **options: pytest.fail("a second pass"))
    assert acquire.locate("screw", source="download") == folder


@pytest.mark.parametrize("source", ["download", "mvtec_ad", "auto"])
def test_what_is_on_disk_is_not_downloaded(mirror: Mirror, make_category: Maker, own_home: Path, source: str) -> None:
    """Not a single request, and not a byte of it changes."""
    folder = make_category(own_home / "data" / "mvtec_anomaly_detection", "bottle", train=1, size=8)
    before = content(folder)
    assert acquire.locate("bottle", source=source) == folder
    assert content(folder) == before
    assert mirror.asked == []


def test_only_download_downloads(mirror: Mirror, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` draws, `mvtec_ad` says what to do; the environment wins over the argument."""
    mirror.files[WHOLE] = Served(whole)
    assert acquire.locate("bottle", settings=FEW).name == "rendered"
    with pytest.raises(DataError, match="or use the source 'download'") as caught:
        acquire.locate("bottle", source="mvtec_ad")
    assert acquire.MANUAL in one_line(caught)
    assert mirror.asked == []
    monkeypatch.setenv("MVTEC_AD_SOURCE", "download")
    assert acquire.locate("bottle", source="rendered").name == "mvtec_anomaly_detection"


def test_a_cut_connection_is_continued(mirror: Mirror, whole: bytes, images: Path) -> None:
    """Twice cut, each time the rest is asked for, and the whole is right."""
    mirror.files[WHOLE] = Served(whole, cuts=2)
    folder = acquire.locate("bottle", source="download")
    assert content(folder / "bottle") == content(images / "bottle")
    half = len(whole) // 2
    three_quarters = half + (len(whole) - half) // 2
    assert mirror.asked == [(WHOLE, None), (WHOLE, f"bytes={half}-"), (WHOLE, f"bytes={three_quarters}-")]


def test_a_later_call_continues_what_an_earlier_one_left(
    mirror: Mirror, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched twice."""
    mirror.files[WHOLE] = Served(whole, cuts=1)
    monkeypatch.setattr(fetch, "RETRIES", 0)
    with pytest.raises(DataError, match=r"the connection was cut after [\d,]+ of [\d,]+ bytes") as caught:
        acquire.locate("bottle", source="download")
    assert acquire.MANUAL in one_line(caught)
    acquire.locate("bottle", source="download")
    assert mirror.asked == [(WHOLE, None), (WHOLE, f"bytes={len(whole) // 2}-")]


def test_a_server_that_ignores_ranges_is_read_anew(mirror: Mirror, whole: bytes, images: Path) -> None:
    """What it sends again is not appended to what is there."""
    mirror.files[WHOLE] = Served(whole, cuts=1, ranges=False)
    folder = acquire.locate("bottle", source="download")
    assert content(folder / "bottle") == content(images / "bottle")
    assert len(mirror.asked) == 2
    assert mirror.asked[1][1] is not None


def test_a_server_that_never_finishes_is_given_up(mirror: Mirror, whole: bytes) -> None:
    """After a few tries."""
    mirror.files[WHOLE] = Served(whole, cuts=99, ranges=False)
    with pytest.raises(DataError, match="the connection was cut"):
        acquire.locate("bottle", source="download")
    assert len(mirror.asked) == 1 + fetch.RETRIES


def test_a_megabyte_of_progress_forgives_earlier_cuts(
    mirror: Mirror, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long download over a bad line ends some day; here a byte is progress."""
    monkeypatch.setattr(fetch, "_PROGRESS", 1)
    monkeypatch.setattr(fetch, "RETRIES", 1)
    mirror.files[WHOLE] = Served(whole, cuts=8)
    acquire.locate("bottle", source="download")
    assert len(mirror.asked) == 9


@pytest.mark.parametrize("left", ["of another file", "too long"])
def test_a_wrong_beginning_is_thrown_away(mirror: Mirror, whole: bytes, own_home: Path, left: str) -> None:
    """What another address or program left there does not spoil a good one."""
    beginning = own_home / "data" / "downloads" / f"unfinished-{WHOLE}"
    beginning.parent.mkdir(parents=True)
    beginning.write_bytes(bytes(100 if left == "of another file" else len(whole) + 1))
    mirror.files[WHOLE] = Served(whole)
    acquire.locate("bottle", source="download")
    assert mirror.asked == [(WHOLE, "bytes=100-"), (WHOLE, None)][0 if left == "of another file" else 1 :]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda whole: Served(whole[:-1] + b"?"), "SHA-256 is not that of the official archive"),
        (lambda whole: Served(b"<html>Please log in</html>"), "it offers 26 bytes, expected"),
        (lambda whole: Served(whole, status=404), "HTTP 404"),
        (lambda whole: Served(whole, status=503), "HTTP 503"),
    ],
    ids=["wrong hash", "a page", "404", "503"],
)
def test_the_next_address_is_tried(
    own_home: Path, mirror: Mirror, whole: bytes, monkeypatch: pytest.MonkeyPatch, bad: Callable, reason: str
) -> None:
    """Alone, the bad one is named with its reason and leaves nothing; with a good one after it, all is well."""
    mirror.files["bad.tar.xz"] = bad(whole)
    mirror.files[WHOLE] = Served(whole)
    monkeypatch.setenv("MVTEC_AD_URLS", mirror.url("bad.tar.xz"))
    with pytest.raises(DataError, match=reason) as caught:
        acquire.locate("bottle", source="download")
    assert one_line(caught).startswith("MVTec AD bottle could not be downloaded (127.0.0.1:")
    assert acquire.MANUAL in str(caught.value)
    assert content(own_home / "data") == {}
    monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url('bad.tar.xz')} {mirror.url(WHOLE)}")
    assert (acquire.locate("bottle", source="download") / "bottle" / "train").is_dir()
    assert [name for name, _ in mirror.asked] == ["bad.tar.xz", "bad.tar.xz", WHOLE]


def test_when_nothing_answers_the_message_lists_all_and_the_manual_way(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own mirrors first, then the category's archive, then the whole; other categories' archives are not asked."""
    closed = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    closed.server_close()
    own = [f"http://127.0.0.1:{closed.server_address[1]}/x.tar.xz", "ftp://host/y.tar.xz", mirror.url("screw.tar.xz")]
    monkeypatch.setenv("MVTEC_AD_URLS", " ".join(own))
    monkeypatch.setattr(official, "CATEGORY_URLS", {"bottle": (mirror.url("bottle.tar.xz"),)})
    monkeypatch.setattr(official, "ARCHIVE_URLS", (mirror.url(WHOLE),))
    with pytest.raises(DataError) as caught:
        acquire.locate("bottle", source="download")
    tried = one_line(caught).split("(", 1)[1].split("): ")[0].split("; ")
    assert [entry.split("/…/")[1] for entry in tried] == [
        "x.tar.xz: Connection refused",
        "y.tar.xz: no http address",
        "bottle.tar.xz: HTTP 404",
        f"{WHOLE}: HTTP 404",
    ]
    assert str(caught.value).endswith(acquire.MANUAL)


def test_every_category_has_its_address() -> None:
    """Encrypted, each with the category's own file name, no two the same."""
    assert set(official.CATEGORY_URLS) == set(catalog.CATEGORIES)
    assert all(urls[0].endswith(f"/{category}.tar.xz") for category, urls in official.CATEGORY_URLS.items())
    addresses = [*official.ARCHIVE_URLS, *(url for urls in official.CATEGORY_URLS.values() for url in urls)]
    assert len(set(addresses)) == len(addresses) == 2 + 15
    assert all(url.startswith("https://") for url in addresses)


def test_a_category_has_an_archive_of_its_own(
    own_home: Path, mirror: Mirror, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is preferred to 5 GB, continued when cut, and not kept."""
    monkeypatch.setenv("MVTEC_AD_URLS", "")
    monkeypatch.setattr(official, "CATEGORY_URLS", {"bottle": (mirror.url("bottle.tar.xz"),)})
    monkeypatch.setattr(official, "ARCHIVE_URLS", (mirror.url(WHOLE),))
    mirror.files["bottle.tar.xz"] = Served(tar_xz(images, "bottle"), cuts=1)
    folder = acquire.locate("bottle", source="download", together=["bottle", "screw"])
    assert content(folder) == {f"bottle/{name}": data for name, data in content(images / "bottle").items()}
    assert [name for name, _ in mirror.asked] == ["bottle.tar.xz"] * 2
    assert content(own_home / "data" / "downloads") == {}


@pytest.mark.parametrize("fault", ["an image less", "a mask less", "another category", "no archive", "cut short"])
def test_a_category_with_other_counts_is_refused(
    mirror: Mirror, images: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """Where no hash is known, the official counts decide; the next address is tried."""
    shutil.copytree(images / "bottle", tmp_path / "bottle")
    name = "bottle"
    if fault == "an image less":
        (tmp_path / "bottle/train/good/001.png").unlink()
    elif fault == "a mask less":
        (tmp_path / "bottle/ground_truth/cut/000_mask.png").unlink()
    elif fault == "another category":
        name = (tmp_path / "bottle").rename(tmp_path / "screw").name
    body = tar_xz(tmp_path, name)
    body = {"no archive": b"<html></html>", "cut short": body[:-20]}.get(fault, body)
    mirror.files |= {"bottle.tar.xz": Served(body), WHOLE: Served(whole)}
    monkeypatch.setenv("MVTEC_AD_URLS", mirror.url("bottle.tar.xz"))
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        acquire.locate("bottle", source="download")
    assert acquire.MANUAL in one_line(caught)
    assert content(official.folder()) == content(official.folder().parent / "downloads") == {}
    monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url('bottle.tar.xz')} {mirror.url(WHOLE)}")
    folder = acquire.locate("bottle", source="download")
    assert content(folder / "bottle") == content(images / "bottle")


@pytest.mark.parametrize("left", ["complete", "of another file", "longer"])
def test_a_category_archive_left_by_a_killed_run(
    own_home: Path, mirror: Mirror, images: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Complete, it is not sent again; otherwise it is read anew."""
    body = tar_xz(images, "bottle")
    path = own_home / "data" / "downloads" / "unfinished-bottle.tar.xz"
    path.parent.mkdir(parents=True)
    path.write_bytes({"complete": body, "of another file": bytes(100), "longer": bytes(len(body) + 9)}[left])
    mirror.files["bottle.tar.xz"] = Served(body)
    monkeypatch.setenv("MVTEC_AD_URLS", mirror.url("bottle.tar.xz"))
    folder = acquire.locate("bottle", source="download")
    assert content(folder / "bottle") == content(images / "bottle")
    assert [wanted for _, wanted in mirror.asked] == {
        "complete": [f"bytes={len(body)}-"],
        "of another file": ["bytes=100-", None],
        "longer": [f"bytes={len(body) + 9}-", None],
    }[left]


def test_a_folder_in_the_way_is_not_touched(mirror: Mirror, own_home: Path) -> None:
    """It may be the user's own half-finished work."""
    notes = own_home / "data" / "mvtec_anomaly_detection" / "bottle" / "test" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(DataError, match="bottle is in the way: it has no train folder"):
        acquire.locate("bottle", source="download")
    assert notes.read_text() == "mine"
    assert mirror.asked == []


def test_only_official_categories_are_downloaded(mirror: Mirror) -> None:
    """No address is asked for a product that MVTec AD does not have."""
    with pytest.raises(DataError, match="widget is not a category of MVTec AD: it has carpet, grid"):
        acquire.locate("widget", source="download")
    assert mirror.asked == []


def test_a_folder_that_cannot_be_written(
    mirror: Mirror, whole: bytes, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where a folder should be: one line that names it, and no other address is tried."""
    (own_home / "data").mkdir()
    (own_home / "data" / "downloads").write_text("mine")
    mirror.files[WHOLE] = Served(whole)
    monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url(WHOLE)} {mirror.url(WHOLE)}")
    with pytest.raises(DataError, match=r"downloads/unfinished-.* cannot be written ") as caught:
        acquire.locate("bottle", source="download")
    one_line(caught)
    assert len(mirror.asked) == 1


def test_prepare_downloads(mirror: Mirror, whole: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, from the server to data.zip, which knows that these are the official images."""
    mirror.files[WHOLE] = Served(whole)
    where = ["--category", "bottle", "screw", "--source", "download", "--image-size", "16"]
    assert main(["prepare", "--profile", "quick", *where]) == 0
    assert "8 images of bottle, screw (2 defective), source mvtec_ad" in capsys.readouterr().out
    artifact = artifacts.load("data")
    assert (artifact.manifest["data_source"], artifact.manifest["categories"]) == ("mvtec_ad", ["bottle", "screw"])
    assert artifact.manifest["metrics"] == {"images": 8, "defective": 2}
    assert "CC BY-NC-SA" in artifact.json("licence.json")["licence"]
    assert len(mirror.asked) == 1


# --- archives that lie on disk -----------------------------------------------------------------------------------


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
    folder = acquire.locate("bottle", source=source)
    assert content(folder) == {f"bottle/{name}": data for name, data in content(images / "bottle").items()}
    monkeypatch.setattr(archives, "unpack", lambda *arguments, **options: pytest.fail("unpacked again"))
    assert acquire.locate("bottle", source=source) == folder
    assert mirror.asked == []


def test_raw_data_zip_without_the_category(own_home: Path, images: Path, mirror: Mirror, whole: bytes) -> None:
    """`auto` draws, `mvtec_ad` says what to do, `download` downloads; a folder on disk comes before all."""
    write_zip(own_home / "transfer" / "raw-data.zip", images, "screw")
    mirror.files[WHOLE] = Served(whole)
    assert acquire.locate("bottle", settings=FEW).name == "rendered"
    with pytest.raises(DataError, match="images of bottle are not on disk"):
        acquire.locate("bottle", source="mvtec_ad")
    downloaded = acquire.locate("bottle", source="download")
    assert downloaded.name == "mvtec_anomaly_detection"
    write_zip(own_home / "transfer" / "raw-data.zip", images, "bottle")
    assert acquire.locate("bottle") == downloaded


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
        return acquire.locate(category, root=archive if how == "root" else None, together=["widget", "bottle"])

    if how != "root":
        monkeypatch.setenv(how, str(archive))
    write("widget", "bottle", "screw")
    folder = locate("widget")
    assert folder.parent == own_home / "data" / "unpacked"
    assert sorted(path.name for path in folder.iterdir()) == ["bottle", "widget"]
    assert content(folder / "widget") == content(images / "widget")
    assert locate("screw") == folder
    assert (folder / "screw" / "train").is_dir()
    with pytest.raises(DataError, match="holds no category folder cable: it holds bottle, screw, widget"):
        locate("cable")
    write("bottle")
    os.utime(archive, (1, 1))
    changed = locate("bottle")
    assert sorted(path.name for path in changed.iterdir()) == ["bottle"]
    assert sorted(path.name for path in folder.iterdir()) == ["bottle", "screw", "widget"]


def test_what_is_unpacked_already_is_left_alone(images: Path, tmp_path: Path) -> None:
    """Also where it is wanted together with something new."""
    archive = write_zip(tmp_path / "a.zip", images, "bottle", "screw")
    mark = acquire.locate("bottle", root=archive) / "bottle" / "mark"
    mark.write_text("still here")
    before = {path: path.stat().st_mtime_ns for path in mark.parent.rglob("*")}
    screw = sum(len(data) for data in content(images / "screw").values())
    with pytest.MonkeyPatch.context() as patch:
        set_free(patch, screw)  # no room for the other one again
        acquire.locate("screw", root=archive, together=["bottle"])
    assert {path: path.stat().st_mtime_ns for path in mark.parent.rglob("*")} == before


def test_a_plain_folder_of_good_images_in_a_zip(images: Path, tmp_path: Path) -> None:
    """No layout is needed for one's own product."""
    (tmp_path / "plain" / "mine").mkdir(parents=True)
    for name in ("000.png", "001.png"):
        shutil.copy(images / "widget" / "train" / "good" / name, tmp_path / "plain" / "mine" / name)
    archive = write_zip(tmp_path / "plain.zip", tmp_path / "plain", "mine")
    assert len(index.read_category(acquire.locate("mine", root=archive), "mine")) == 2


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("a.zip", lambda data: data[: len(data) // 2], "is damaged"),
        ("a.zip", lambda data: b"", "is damaged"),
        ("a.zip", lambda data: data.replace(b"PNG", b"GNP", 1), "is damaged"),
        ("a.tar.xz", lambda data: data[: len(data) // 2], "is damaged"),
        ("a.tar.xz", lambda data: data[:-12], "is damaged"),
        ("a.tar.xz", lambda data: data[:200] + b"????" + data[204:], "is damaged"),
        ("a.tar.xz", lambda data: b"", "is damaged"),
        ("a.tar.xz", lambda data: b"no archive at all", "is damaged"),
        ("a.rar", lambda data: data, "is neither a .tar.xz nor a .zip"),
    ],
)
def test_damaged_archives(
    own_home: Path, images: Path, tmp_path: Path, name: str, damage: Callable, words: str
) -> None:
    """One line that names the file; nothing of it is left."""
    path = tmp_path / name
    whole = write_zip(tmp_path / "b", images, "bottle").read_bytes() if ".zip" in name else tar_xz(images, "bottle")
    path.write_bytes(damage(whole))
    with pytest.raises(DataError, match=words) as caught:
        acquire.locate("bottle", root=path)
    assert str(path) in one_line(caught)
    assert content(own_home / "data") == {}


def test_a_damaged_raw_data_zip_is_not_passed_over(own_home: Path) -> None:
    """Drawn images in its place would be a silent surprise; the command prints the line."""
    (own_home / "transfer").mkdir()
    (own_home / "transfer" / "raw-data.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"raw-data\.zip is damaged .*: get it again"):
        acquire.locate("bottle")
    assert main(["prepare", "--profile", "quick", "--category", "bottle"]) == 2


def test_an_archive_that_may_not_be_read(own_home: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file, say: one line, whether it is found or named."""
    archive = write_zip(own_home / "transfer" / "raw-data.zip", images, "bottle")

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    for root in (None, archive):
        with pytest.raises(DataError, match=r"raw-data\.zip cannot be .*: Permission denied") as caught:
            acquire.locate("bottle", root=root)
        one_line(caught)


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


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
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
    ],
)
def test_members_that_leave_the_folder(
    own_home: Path, tmp_path: Path, name: str, kind: bytes, target: str, suffix: str
) -> None:
    """The whole archive is refused, wherever in it such a member stands, and nothing of it is written."""
    path = tmp_path / f"evil{suffix}"
    name = name.format(outside=tmp_path / "outside")
    (evil_zip if suffix == ".zip" else evil_tar)(path, name, kind, target)
    refused(path, "is a link or a device" if kind == tarfile.SYMTYPE else "leaves the folder")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    """What only a .tar can hold."""
    evil_tar(tmp_path / "evil.tar.xz", "bottle/test", kind, "bottle/train/good/000.png")
    refused(tmp_path / "evil.tar.xz", "is a link or a device")


def refused(path: Path, words: str) -> None:
    """Unpacking must fail with these words and leave the folder of the archive as it was."""
    before = content(path.parent)
    with pytest.raises(DataError, match=f"{words}: do not trust this file") as caught:
        acquire.locate("bottle", root=path)
    assert str(path) in one_line(caught)
    assert content(path.parent) == before


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
        acquire.locate("bottle", root=path)


# --- disks that are full, runs that are killed -------------------------------------------------------------------


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes left."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, used=0, free=free))


@pytest.mark.parametrize("way", ["whole", "category", "zip"])
def test_a_disk_too_small_is_noticed_first(
    own_home: Path,
    mirror: Mirror,
    images: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    way: str,
) -> None:
    """Needed and free are named, nothing is written; one byte more, and it works."""
    single = tar_xz(images, "bottle")
    mirror.files |= {WHOLE: Served(whole), "bottle.tar.xz": Served(single)}
    archive = write_zip(tmp_path / "a.zip", images, "bottle", "screw")
    root = archive if way == "zip" else None
    if way == "category":
        monkeypatch.setenv("MVTEC_AD_URLS", f"{mirror.url('bottle.tar.xz')} {mirror.url(WHOLE)}")
    needed = {
        "whole": len(whole) + archives.unpacked_estimate(len(whole), {"bottle"}),
        "category": 2 * len(single),
        "zip": sum(len(data) for data in content(images / "bottle").values()),
    }[way]
    set_free(monkeypatch, needed - 1)
    with pytest.raises(DataError, match=r"needs [\d.]+k?B in .*, [\d.]+k?B are free: free some space") as caught:
        acquire.locate("bottle", root=root, source="download")
    one_line(caught)
    assert content(own_home / "data") == {}
    assert len(mirror.asked) == (0 if way == "zip" else 1), "more room is not to be had elsewhere"
    set_free(monkeypatch, needed)
    assert (acquire.locate("bottle", root=root, source="download") / "bottle" / "train").is_dir()


def test_the_room_a_category_of_the_official_archive_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least its true size (MiB on MVTec's download page), at most the whole; of an unknown archive, all of it."""
    monkeypatch.undo()
    sizes = {
        "bottle": 148,
        "cable": 481,
        "carpet": 705,
        "grid": 153,
        "hazelnut": 588,
        "leather": 500,
        "toothbrush": 104,
    }
    for category, size in sizes.items():
        assert size * 2**20 <= archives.unpacked_estimate(catalog.ARCHIVE_BYTES, {category}) < 1e9
    assert archives.unpacked_estimate(catalog.ARCHIVE_BYTES, catalog.CATEGORIES) == catalog.ARCHIVE_BYTES
    assert archives.unpacked_estimate(1000, {"bottle"}) == 1000


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["killed", "full"])
@pytest.mark.parametrize("way", ["download", "zip"])
def test_a_run_that_ends_while_unpacking(
    own_home: Path,
    mirror: Mirror,
    images: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stop: BaseException,
    way: str,
) -> None:
    """No part of a category is left, and the next call works, without downloading again."""
    mirror.files[WHOLE] = Served(whole)
    root = write_zip(tmp_path / "a.zip", images, "bottle", "screw") if way == "zip" else None
    written = []

    def copy(source: object, target: object, length: int) -> None:
        written.append(target)
        if len(written) == 9:  # in the second category
            raise stop
        copyfileobj(source, target, length)

    copyfileobj = shutil.copyfileobj
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    expected = KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else DataError
    with pytest.raises(expected, match=None if expected is KeyboardInterrupt else "No space left on device"):
        acquire.locate("bottle", root=root, source="download", together=["screw"])
    assert len(written) == 9
    assert {Path(name).name for name in content(own_home / "data")} <= {WHOLE}
    folder = acquire.locate("bottle", root=root, source="download", together=["screw"])
    assert content(folder) == {name: data for name, data in content(images).items() if name.startswith(("bott", "scr"))}
    assert len(mirror.asked) == (1 if way == "download" else 0)


def test_what_a_killed_process_left_is_swept(own_home: Path, images: Path, tmp_path: Path) -> None:
    """After a day; younger, it may belong to a run that is still at work."""
    archive = write_zip(tmp_path / "a.zip", images, "bottle", "screw")
    folder = acquire.locate("bottle", root=archive)
    for name, age in ((".unpacking-old", 1), (".unpacking-young", None)):
        (folder / name / "screw").mkdir(parents=True)
        if age is not None:
            os.utime(folder / name, (age, age))
    assert index.list_categories(folder) == ["bottle"]
    acquire.locate("screw", root=archive)
    assert sorted(path.name for path in folder.iterdir()) == [".unpacking-young", "bottle", "screw"]
