"""`weights fetch` against servers and a proxy on the loopback: what comes, what is refused, what is left."""

import hashlib
import random
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from rectal_nnformer.cli import main
from rectal_nnformer.errors import RectalError
from rectal_nnformer.networks import download as downloading
from rectal_nnformer.networks.download import download
from rectal_nnformer.networks.pretrained_files import PRETRAINED_FILES, PretrainedFile

NAME = "model_swinvit.pt"
CONTENT, OTHER_CONTENT = (random.Random(seed).randbytes(700_000) for seed in (0, 1))
MD5, OTHER_MD5 = (hashlib.md5(content, usedforsecurity=False).hexdigest() for content in (CONTENT, OTHER_CONTENT))
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass
class Site:
    """What a server offers, how it behaves, and what it was asked for."""

    content: bytes = CONTENT
    tag: str | None = '"one"'
    media_type: str = "application/octet-stream"
    status: int = 200
    takes_ranges: bool = True
    says_size: bool = True
    shift: int = 0  # of the pieces that it sends, from those that it was asked for
    cuts: list[int | None] = field(default_factory=list)  # bytes after which the next answers are cut
    after_cut: dict = field(default_factory=dict)  # what changes with the first cut
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, Range, If-Range
    address: str = ""
    tunnel: tuple[str, int] | None = None  # where this proxy leads encrypted connections

    @property
    def ranges(self):
        return [asked[1] for asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self):
        site = self.site
        wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
        site.asked.append((self.path, wanted, version))
        if site.status != 200:
            self.send_error(site.status)
            return
        start = 0
        if wanted and site.takes_ranges and version in (None, site.tag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + site.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        body = site.content[start:]
        self.send_header("Content-Type", site.media_type)
        if site.says_size:
            self.send_header("Content-Length", str(len(body)))
        if site.tag:
            self.send_header("ETag", site.tag)
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        with suppress(ConnectionError):  # who wanted the headers alone has gone
            self.wfile.write(body[:cut])
        if cut is not None:
            vars(site).update(site.after_cut)
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_CONNECT(self):
        self.site.asked.append((self.path, None, None))
        if self.site.tunnel is None:
            self.send_error(403)
            return
        with socket.create_connection(self.site.tunnel) as server:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: server, server: self.connection}
            while True:
                data = [(end, end.recv(1 << 16)) for end in select.select(list(ends), [], [])[0]]
                if not all(received for _, received in data):
                    break
                for end, received in data:
                    ends[end].sendall(received)
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def served(site, certificate=None):
    """Run a server of this site; it is a proxy, too, that has every file itself."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site(monkeypatch):
    for name in PROXY_VARIABLES:
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(downloading, "SECONDS_BEFORE_RESUMING", 0)
    with served(Site()) as site:
        yield site


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of weights, which is not there yet."""
    monkeypatch.setenv("RECTAL_NNFORMER_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def published(site, md5=MD5, **changes):
    return PretrainedFile(NAME, "swin_unetr", md5, "origin", "MONAI", address=f"{site.address}/file", **changes)


def left(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def refused(folder, file, match):
    with pytest.raises(RectalError, match=match) as caught:
        download(file, folder)
    return str(caught.value)


@pytest.fixture
def known(site, monkeypatch):
    """The published files, with one that is at the server of this test."""

    def replaced(**changes):
        files = tuple(
            replace(file, address=f"{site.address}/file", md5=MD5, megabytes=None, **changes)
            if file.name == NAME
            else file
            for file in PRETRAINED_FILES
        )
        monkeypatch.setattr("rectal_nnformer.cli.models.PRETRAINED_FILES", files)

    return replaced


def test_the_command_downloads_verifies_and_says_so(site, folder, known, capsys):
    known()
    main(["weights", "fetch", NAME])
    assert (folder / NAME).read_bytes() == CONTENT
    assert left(folder) == [NAME]
    printed = capsys.readouterr().out
    assert f"{folder / NAME}: found, MD5 correct" in printed and "Apache-2.0" in printed
    assert site.ranges == [None]


def test_what_is_there_is_not_downloaded_again(site, folder, known, capsys):
    known()
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    main(["weights", "fetch", NAME])
    assert "is there: found, MD5 correct. Nothing was downloaded" in capsys.readouterr().out
    (folder / NAME).write_bytes(b"fine-tuned")
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", NAME])
    assert ended.value.code == 2 and "is not the published file" in capsys.readouterr().err
    assert (folder / NAME).read_bytes() == b"fine-tuned"
    assert not site.asked


def test_a_file_without_a_published_md5_is_told_with_its_own(site, folder, monkeypatch, capsys):
    file = published(site, md5=None)
    monkeypatch.setattr("rectal_nnformer.cli.models.PRETRAINED_FILES", (file,))
    main(["weights", "fetch", NAME])
    assert f"Its MD5 is {MD5}; none is published" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model_smit_ct10k.pth", "voxelfox_swinvit.pt"])
def test_for_a_file_of_a_web_page_the_page_is_printed_and_the_exit_code_tells(name, folder, capsys, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", name])
    assert ended.value.code == 3
    printed = capsys.readouterr().out
    for words in (name, "https://mskcc.box.com/s/df1qdt2js9495ahtldgkooh1cigrwml8", "licence: not stated", str(folder)):
        assert words in printed
    assert not folder.exists()


class TestACut:
    def test_the_transfer_goes_on_where_it_stopped(self, site, folder):
        site.cuts = [300_000, 200_000]
        download(published(site), folder)
        assert (folder / NAME).read_bytes() == CONTENT
        assert left(folder) == [NAME]
        assert len(site.asked) == 3
        starts = [int(wanted[len("bytes=") : -1]) for wanted in site.ranges[1:]]
        assert 0 < starts[0] <= 300_000 < starts[1] <= 500_000
        assert {version for _, _, version in site.asked[1:]} == {'"one"'}

    def test_the_next_call_goes_on_where_the_last_one_ended(self, site, folder):
        site.cuts = [300_000, 0]
        message = refused(folder, published(site), "cannot be reached")
        assert "What has come is kept" in message
        (partial,) = left(folder)
        assert partial.startswith(f".{NAME}.") and partial.endswith(".partial")
        present = (folder / partial).stat().st_size
        assert 0 < present <= 300_000
        site.asked.clear()
        download(published(site), folder)
        assert (folder / NAME).read_bytes() == CONTENT
        assert site.ranges == [None, f"bytes={present}-"]
        assert left(folder) == [NAME]

    def test_what_came_as_a_whole_is_not_asked_for_again(self, site, folder, monkeypatch):
        """As after an interruption between the last byte and the new name."""
        with monkeypatch.context() as interrupting:
            interrupting.setattr(downloading, "_check_md5", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                download(published(site), folder)
        download(published(site), folder)
        assert (folder / NAME).read_bytes() == CONTENT
        assert site.ranges == [None, None]

    def test_a_server_that_ignores_ranges_sends_it_anew(self, site, folder):
        site.takes_ranges, site.cuts = False, [300_000]
        download(published(site), folder)
        assert (folder / NAME).read_bytes() == CONTENT
        assert len(site.asked) == 2 and left(folder) == [NAME]

    def test_a_server_that_ignores_ranges_and_cuts_always_is_given_up(self, site, folder):
        site.takes_ranges, site.cuts = False, [300_000] * 9
        refused(folder, published(site), "cannot be reached")
        assert len(site.asked) == 2

    @pytest.mark.parametrize("md5", [None, OTHER_MD5])
    @pytest.mark.parametrize("cuts", [[300_000], [300_000, 0]], ids=["in one call", "in two calls"])
    def test_pieces_of_two_versions_are_not_joined(self, site, folder, cuts, md5):
        site.cuts, site.after_cut = list(cuts), {"content": OTHER_CONTENT, "tag": '"two"'}
        if len(cuts) > 1:
            refused(folder, published(site, md5), "cannot be reached")
        download(published(site, md5), folder)
        assert (folder / NAME).read_bytes() == OTHER_CONTENT
        assert left(folder) == [NAME]

    def test_without_a_version_the_md5_tells_that_pieces_do_not_belong_together(self, site, folder):
        site.tag, site.cuts, site.after_cut = None, [300_000], {"content": OTHER_CONTENT}
        file = published(site, OTHER_MD5)
        refused(folder, file, "It was removed")
        assert not left(folder)
        download(file, folder)
        assert (folder / NAME).read_bytes() == OTHER_CONTENT

    def test_without_version_and_md5_nothing_is_kept(self, site, folder):
        site.tag, site.cuts = None, [300_000]
        message = refused(folder, published(site, None), "cannot be reached")
        assert "is kept" not in message and not left(folder)

    def test_a_piece_from_elsewhere_is_refused(self, site, folder):
        site.cuts, site.shift = [300_000], 7
        refused(folder, published(site), "sent the piece 'bytes")
        assert not left(folder)


class TestRefused:
    def test_another_md5(self, site, folder):
        message = refused(folder, published(site, "0" * 32), MD5)
        assert "It was removed" in message and "0" * 32 in message
        assert not left(folder)

    @pytest.mark.parametrize("status", [403, 404, 503])
    def test_a_status(self, site, folder, status):
        site.status = status
        message = refused(folder, published(site), f"answers {status}")
        assert f"{site.address}/file" in message and "by hand" in message
        assert not left(folder)

    def test_a_web_page(self, site, folder):
        site.media_type = "text/html; charset=utf-8"
        refused(folder, published(site, None), "gives a web page")
        assert not left(folder)

    def test_what_could_not_be_checked(self, site, folder):
        site.says_size = False
        refused(folder, published(site, None), "could not be checked")
        assert not left(folder)

    def test_a_range_that_the_server_does_not_have(self, site, folder):
        site.cuts, site.after_cut = [300_000], {"status": 416}
        refused(folder, published(site), "answers 416")
        assert not left(folder)

    def test_a_server_in_trouble_while_going_on_loses_nothing(self, site, folder):
        site.cuts, site.after_cut = [300_000], {"status": 503}
        assert "What has come is kept" in refused(folder, published(site), "answers 503")
        site.status = 200
        download(published(site), folder)
        assert (folder / NAME).read_bytes() == CONTENT and site.ranges[-1].startswith("bytes=")

    def test_another_size_than_the_published_one(self, site, folder):
        refused(folder, published(site, megabytes=393), r"offers 700\.0 KB, but model_swinvit\.pt has 393 MB")
        assert not left(folder)

    def test_a_server_that_is_not_there(self, site, folder, known, capsys):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            site.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        known()
        with pytest.raises(SystemExit) as ended:
            main(["weights", "fetch", NAME])
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert "Connection refused" in message and "HTTPS_PROXY" in message and "Traceback" not in message
        assert not left(folder)


class TestProxy:
    def test_the_file_comes_through_the_proxy_of_the_environment(self, site, folder, monkeypatch):
        """The host has no address, so nothing but the proxy can have answered."""
        monkeypatch.setenv("http_proxy", site.address)
        site.cuts = [300_000]
        download(replace(published(site), address="http://weights.invalid/file"), folder)
        assert (folder / NAME).read_bytes() == CONTENT
        assert {path for path, _, _ in site.asked} == {"http://weights.invalid/file"}
        assert site.ranges[1].startswith("bytes=")

    def test_an_encrypted_address_is_asked_of_the_proxy(self, site, folder, monkeypatch):
        monkeypatch.setenv("https_proxy", site.address)
        message = refused(folder, replace(published(site), address="https://weights.invalid/file"), "cannot be reached")
        assert "403 Forbidden" in message and "HTTPS_PROXY" in message
        assert site.asked == [("weights.invalid:443", None, None)]
        assert not left(folder)

    def test_an_encrypted_file_comes_through_the_proxy(self, site, folder, tmp_path, monkeypatch):
        """Resumed, and by the certificate that the environment names, as institutions have their own."""
        certificate = tmp_path / "own.pem"
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=weights.invalid"
        names = [
            "-addext",
            "subjectAltName=DNS:weights.invalid",
            "-keyout",
            certificate,
            "-out",
            tmp_path / "public.pem",
        ]
        if not shutil.which("openssl"):
            pytest.skip("openssl makes the certificate")
        subprocess.run(["openssl", *request.split(), *names], check=True, capture_output=True)
        with certificate.open("a") as file:
            file.write((tmp_path / "public.pem").read_text())
        monkeypatch.setenv("https_proxy", site.address)
        with served(Site(cuts=[300_000]), certificate) as encrypted:
            site.tunnel = ("127.0.0.1", int(encrypted.address.rpartition(":")[2]))
            file = replace(published(site), address="https://weights.invalid/file")
            message = refused(folder, file, "certificate verify failed")
            assert "REQUESTS_CA_BUNDLE" in message and not left(folder)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "public.pem"))
            download(file, folder)
        assert (folder / NAME).read_bytes() == CONTENT and left(folder) == [NAME]
        assert len(encrypted.asked) == 2 and encrypted.ranges[1].startswith("bytes=")

    def test_no_proxy_is_heeded(self, site, folder, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        download(published(site), folder)
        assert left(folder) == [NAME]


class TestFolder:
    def test_the_variable_is_not_set(self, site, known, monkeypatch, capsys):
        known()
        monkeypatch.delenv("RECTAL_NNFORMER_WEIGHTS", raising=False)
        with pytest.raises(SystemExit) as ended:
            main(["weights", "fetch", NAME])
        assert ended.value.code == 2 and "RECTAL_NNFORMER_WEIGHTS is not set" in capsys.readouterr().err
        assert not site.asked

    def test_it_is_a_file(self, site, tmp_path):
        (tmp_path / "weights").touch()
        refused(tmp_path / "weights", published(site), r"weights/model_swinvit\.pt cannot be written \(File exists\)")
        assert not site.asked

    def test_it_must_not_be_written_to(self, site, folder, monkeypatch):
        folder.mkdir()
        opened = Path.open

        def forbid(path, mode="r", *rest, **options):
            if set(mode) & set("wa+") and path.parent == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", forbid)  # root may write whatever the rights
        refused(folder, published(site), "cannot be written .Permission denied")
        assert not left(folder)

    @pytest.fixture
    def small_disk(self, folder):
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("a small disk can be mounted by root alone")
        yield folder
        subprocess.run(["umount", "-l", folder], check=True)

    def test_its_disk_is_too_small(self, site, small_disk):
        refused(small_disk, published(site), r"The missing bytes of model_swinvit\.pt need at least 1 MB")
        assert not left(small_disk)

    def test_its_disk_fills_up(self, site, small_disk):
        site.says_size = False
        refused(small_disk, published(site), "No space left on device")
        assert not left(small_disk)
        assert shutil.disk_usage(small_disk).used < 50_000


def test_a_size_that_is_not_said_is_no_hindrance(site, folder):
    site.says_size = False
    download(published(site), folder)
    assert (folder / NAME).read_bytes() == CONTENT and left(folder) == [NAME]


HOLDING = """
import fcntl, sys
with open(sys.argv[1], "ab") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print(flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_one_file(site, folder):
    folder.mkdir()
    command = [sys.executable, "-S", "-c", HOLDING, folder / f".{NAME}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        refused(folder, published(site), "is being downloaded by another process")
        other.stdin.close()
    assert not site.asked


def test_every_file_has_an_address_or_a_page():
    assert all((file.address is None) != (file.page is None) for file in PRETRAINED_FILES)
    assert all(file.address.startswith("https://") for file in PRETRAINED_FILES if file.address)
    assert issubclass(requests.RequestException, OSError)  # so it is caught before those of the file system
