"""Downloading a checkpoint once, through cut connections, and never a wrong one; from a server in this process."""

import hashlib
import http.server
import os
import re
import threading
from pathlib import Path

import pytest

from conversion import cli, download
from conversion.download import OFFICIAL, DownloadError, Official, fetch
from hvae_jax import load_prior
from tests.helpers import GOLDEN

TINY = (GOLDEN / "tiny_patchvdvae.pth").read_bytes()
"""Larger than a chunk, so that a cut may fall between two."""


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; the next answers are the `faults`, the bytes after which to cut or a status to give."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = TINY
        self.kind = "application/octet-stream"
        self.validates = True
        self.faults: list[int] = []
        self.ranges: list[str | None] = []

    @property
    def etag(self):
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        fault = server.faults.pop(0) if server.faults else None
        if fault in (404, 500):
            self.send_error(fault)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("Content-Type", server.kind)
        if server.validates:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(server.content[start:] if fault is None else server.content[start : start + fault])


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tiny.pth?view_only=1"
        monkeypatch.setitem(OFFICIAL, "tiny", Official(url, "tiny.pth", "official"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(download, "PATIENCE", 0.001)
        yield server
        server.shutdown()


def cut(server, *places):
    server.faults = list(places)


def test_downloaded_once_and_checked_at_each_use(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HVAE_JAX_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        path = fetch("tiny")
        assert path == tmp_path / "cache" / "tiny.pth"
        assert path.read_bytes() == TINY
    assert len(server.ranges) == 1
    assert (tmp_path / "cache" / "tiny.pth.sha256").read_text().strip() == hashlib.sha256(TINY).hexdigest()
    assert not list((tmp_path / "cache").glob("*.part*"))
    path.write_bytes(TINY[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"tiny\.pth has changed since it was downloaded: expected .*delete it"):
        fetch("tiny")
    assert len(server.ranges) == 1


def test_a_cut_connection_is_taken_up_again(server, tmp_path):
    cut(server, 500_000, 300_000)
    assert fetch("tiny", cache=tmp_path).read_bytes() == TINY
    assert len(server.ranges) == 3
    assert server.ranges[0] is None
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in server.ranges[1:]]
    assert 0 < starts[0] <= 500_000
    assert starts[0] < starts[1] <= 800_000


def test_what_came_before_a_failure_is_gone_on_with_by_the_next_call(server, tmp_path):
    cut(server, 500_000, *[500] * (download.RETRIES + 1))
    with pytest.raises(DownloadError, match=r"answered 500 .*; [\d,]+ bytes are kept, the same command goes on"):
        fetch("tiny", cache=tmp_path)
    assert 0 < (tmp_path / "tiny.pth.part").stat().st_size <= 500_000
    assert not (tmp_path / "tiny.pth").exists()
    asked = len(server.ranges)
    assert fetch("tiny", cache=tmp_path).read_bytes() == TINY
    assert server.ranges[asked].startswith("bytes=")


@pytest.mark.parametrize("validates", [True, False])
def test_halves_of_two_files_are_not_put_together(server, tmp_path, validates):
    """The server's file changes meanwhile, or the server cannot tell whether it did."""
    server.validates = validates
    cut(server, 500_000, *[500] * (download.RETRIES + 1))
    with pytest.raises(DownloadError):
        fetch("tiny", cache=tmp_path)
    server.content = bytes(reversed(TINY))
    assert fetch("tiny", cache=tmp_path).read_bytes() == server.content


def test_an_unfinished_file_that_is_whole(server, tmp_path):
    (tmp_path / "tiny.pth.part").write_bytes(TINY)
    (tmp_path / "tiny.pth.part.etag").write_text(server.etag)
    assert fetch("tiny", cache=tmp_path).read_bytes() == TINY


def test_another_file_than_before_is_refused(server, tmp_path):
    path = fetch("tiny", cache=tmp_path)
    path.unlink()
    server.content = TINY[::-1]
    with pytest.raises(DownloadError, match=r"is another file than was downloaded before: expected sha256 [0-9a-f]+;"):
        fetch("tiny", cache=tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faults": [404]}, "cannot be downloaded: the server answered 404 .*give its name instead"),
        ({"kind": "text/html; charset=utf-8"}, "gives a web page, expected a checkpoint"),
    ],
)
def test_what_no_retry_helps(server, tmp_path, change, message):
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(DownloadError, match=message) as caught:
        fetch("tiny", cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(server.ranges) == 1
    assert not list(tmp_path.glob("tiny.pth"))


def test_no_server(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="cannot be downloaded: the server cannot be reached"):
        fetch("tiny", cache=tmp_path)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot keep the download of tiny there"):
        fetch("tiny", cache=tmp_path / "file")


def test_two_at_once_download_one_file(server, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch("tiny", cache=tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == TINY for path in results] == [True, True]
    assert len(server.ranges) == 1


@pytest.mark.slow
def test_the_command_downloads_and_converts(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cut(server, 500_000)
    assert cli.main(["tiny", "--cache", "cache", "--out", "prior"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("tiny.pth differs from the preset official: resolutions: 5 in the file, 6 in the preset\n")
    assert "prior: patch_vdvae, an architecture of its own, 10 levels, 103,709 parameters, converted in" in out
    told = load_prior("prior").info["provenance"]
    assert (told["source"], told["sha256"]) == ("tiny.pth", hashlib.sha256(TINY).hexdigest())
    assert sorted(os.listdir()) == ["cache", "prior"]


def test_the_registry():
    """As golden/README.md of the official code lists them."""
    assert OFFICIAL["vdvae-ffhq256"].url == (
        "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets/vdvae-assets/ffhq256-iter-1700000-model-ema.th"
    )
    assert OFFICIAL["vdvae-imagenet64"].raw_url == (
        "https://openaipublic.blob.core.windows.net/very-deep-vaes-assets/vdvae-assets-2/imagenet64-iter-1600000-model.th"
    )
    assert OFFICIAL["vdvae-cifar10-seed2"].url.endswith("/vdvae-assets-2/cifar10-seed2-iter-650000-model-ema.th")
    assert {official.preset for official in OFFICIAL.values()} == {
        *("cifar10", "imagenet32", "imagenet64", "ffhq256", "ffhq1024", "official")
    }
    with pytest.raises(DownloadError, match="has no raw weights"):
        fetch("vdvae-cifar10", weights="raw", cache=Path("nowhere"))
