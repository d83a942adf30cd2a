"""Files of publishers: fetched once, resumed, checked; and what is said if they cannot be had."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from celluscan_hf.modeling import downloads
from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.downloads import PUBLISHED, Published, fetch
from celluscan_hf.modeling.exporting import to_timm
from celluscan_hf.modeling.key_mapping import IMAGENET_MEAN, WeightsError

from .conftest import images, tiny_model

pytest.importorskip("timm", reason="the extra timm is not installed")


class Server(ThreadingHTTPServer):
    """Serves one file, from the byte that is asked for; sends `short` bytes too few; keeps the ranges asked for."""

    content, short, resumes = b"", 0, True

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.resumes else 0
        content = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.server.short])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A publisher of a tiny `dinobloom:small`, as the real file is laid out."""
    model = to_timm(tiny_model(layer_scale_init=0.5, hidden_size=192, num_attention_heads=3))
    body = {f"backbone.{name}": value for name, value in model.state_dict().items() if not name.startswith("head.")}
    mask, head = {"backbone.mask_token": torch.zeros(1, 192)}, {"dino_head.mlp.0.weight": torch.zeros(2, 2)}
    torch.save({"teacher": body | mask | head}, tmp_path / "file.pth")
    started = Server()
    started.content = (tmp_path / "file.pth").read_bytes()
    threading.Thread(target=started.serve_forever, daemon=True).start()
    sha256 = hashlib.sha256(started.content).hexdigest()
    published = Published(f"http://127.0.0.1:{started.server_port}/DinoBloom-S.pth", sha256)
    monkeypatch.setitem(downloads.PUBLISHED, "dinobloom:small", published)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield started
    started.shutdown()
    started.server_close()


def refusal(name: str = "dinobloom:small") -> str:
    with pytest.raises(WeightsError) as caught:
        fetch(name)
    return str(caught.value)


def test_a_dinobloom_is_fetched_once_and_gives_the_features_of_its_file(server: Server) -> None:
    checkpoint = read_checkpoint("dinobloom:small")
    assert checkpoint.image_mean == IMAGENET_MEAN
    assert len(checkpoint.ignored_keys) == 2
    expected = tiny_model(layer_scale_init=0.5, hidden_size=192, num_attention_heads=3)
    with torch.no_grad():
        actual = checkpoint.build().vit(images()).pooler_output
        torch.testing.assert_close(actual, expected.vit(images()).pooler_output, rtol=0, atol=1e-5)
    read_checkpoint("dinobloom:small")
    assert server.asked == [None]


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interrupted_download_goes_on(server: Server, resumes: bool) -> None:
    server.short, server.resumes = 1000, resumes
    assert "without sending complete message" in (message := refusal())
    file = PUBLISHED["dinobloom:small"].file
    assert f"download {PUBLISHED['dinobloom:small'].url} and put it at {file}" in message
    assert not file.exists()
    server.short = 0
    assert fetch("dinobloom:small").read_bytes() == server.content
    assert server.asked == [None, f"bytes={downloads._BLOCK}-"]  # whole blocks are kept


def test_another_file_than_was_published_is_refused(server: Server) -> None:
    server.content = server.content[:-1] + b"?"
    assert "is not the published dinobloom:small: expected SHA-256" in (message := refusal())
    assert "delete it to download it again" in message


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(downloads.PUBLISHED, "dinov2:base", Published("http://127.0.0.1:9/dinov2.pth"))
    message = refusal("dinov2:base")
    assert "dinov2:base cannot be downloaded" in message
    assert (
        f"download http://127.0.0.1:9/dinov2.pth and put it at {tmp_path / 'hub' / 'checkpoints' / 'dinov2.pth'}"
        in message
    )


def test_another_size_is_refused() -> None:
    assert "expected one of dinobloom:small, dinobloom:base, dinobloom:large" in refusal("dinobloom:huge")


def test_a_table_for_larger_images_is_resized(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = read_checkpoint("dinobloom:small", image_size=48)
    assert checkpoint.config.image_size == 48
    assert "resized from 4 x 4 to 6 x 6 patches" in caplog.text
    model, larger = read_checkpoint("dinobloom:small").build(), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model.vit(larger, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(checkpoint.build().vit(larger).pooler_output, expected, rtol=0, atol=1e-5)
