"""Response time of the demo page: one image from file to answer and overlay, one client, and many clients at once.

The page runs in its own process, started with `celluscan demo`; clients send HTTP requests to its `/recognise`.
"""

import argparse
import http.client
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import CelluScanError

CELLS = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Platelet")
ALONE = 12  # requests of a single client in a round


class _Client:
    """A minimal client: the three requests of `celluscan_hf/space/README.md`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, image: Path) -> Any:
        """Return the record of one image."""
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\n' % image.name.encode()
        body = form + image.read_bytes() + b"\r\n--x--\r\n"
        (file,) = json.loads(self._send("POST", "upload", body, "multipart/form-data; boundary=x"))
        request = {"data": [{"path": file, "meta": {"_type": "gradio.FileData"}}]}
        event = json.loads(self._send("POST", "call/recognise", json.dumps(request).encode(), "application/json"))
        events = self._send("GET", f"call/recognise/{event['event_id']}").decode()
        return json.loads(events.partition("event: complete\ndata: ")[2])[0]

    def _send(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, f"/gradio_api/{path}", body, {"Content-Type": kind} if kind else {})
            return connection.getresponse().read()


def serving(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds per answer, and the throughput of many clients relative to one client."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = _images(folder)
        model = arguments.model or _vit(folder / "model")
        return {
            "model": arguments.model or "ViT-B/16 of random weights",
            "file_to_answer_seconds": _file_to_answer(model, images, arguments.num_proc),
            "page": _page(model, images, arguments),
        }


def _images(folder: Path) -> list[Path]:
    """Write synthetic cells with the size and format of PBC's files."""
    import numpy as np

    from ..sources.drawing import draw_cell

    files = [folder / f"{name}.jpg" for name in CELLS]
    for file in files:
        draw_cell(file.stem, np.random.default_rng(0), 360).save(file, quality=90)
    return files


def _vit(folder: Path) -> str:
    """Write a plain ViT-B/16 for the 14 classes; its random weights do not affect the time."""
    import torch

    from ..modeling.configuration_celluscan import CelluScanConfig
    from ..modeling.exporting import export_native
    from ..modeling.modeling_celluscan import CelluScanForImageClassification
    from ..modeling.processor import build_image_processor

    torch.manual_seed(0)
    processor = build_image_processor(224, (0.87, 0.75, 0.72), (0.16, 0.19, 0.08))
    export_native(CelluScanForImageClassification(CelluScanConfig()).eval(), folder, processor)
    return str(folder)


def _file_to_answer(model: str, images: Sequence[Path], threads: int) -> dict[str, float]:
    import torch

    from ..space.recogniser import Recogniser

    torch.set_num_threads(threads)
    recogniser = Recogniser(model)
    seconds = []
    for image in [*images, *images, *images]:
        (record,) = recogniser.recognise([image], overlay=True)
        seconds.append(record.seconds)
    later = seconds[len(images) :]  # the first are the warm-up
    return {"median": round(statistics.median(later), 3), "longest": round(max(later), 3)}


def _page(model: str, images: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    with _served(model) as port, ThreadPoolExecutor(arguments.clients) as pool:
        clients = [_Client(port) for _ in range(arguments.clients)]
        list(pool.map(_ask, clients, itertools.cycle(images)))  # warm-up
        rounds = [_round(clients, images, pool, arguments.requests) for _ in range(arguments.rounds)]
    alone, together = ([each[who] for each in rounds] for who in ("one", "many"))
    return {
        "clients": arguments.clients,
        "requests_at_once": arguments.requests,
        "errors": sum(each["errors"] for each in rounds),
        "one_client_answers_per_second": round(statistics.median(alone), 2),
        "all_clients_answers_per_second": round(statistics.median(together), 2),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, together, strict=True)), 2),
    }


def _round(
    clients: Sequence[_Client], images: Sequence[Path], pool: ThreadPoolExecutor, requests: int
) -> dict[str, Any]:
    """Measure answers per second of one client, then of all; each sends its next request after an answer."""
    requested = list(itertools.islice(itertools.cycle(images), requests))
    started = time.perf_counter()
    errors = _ask_each(clients[0], requested[:ALONE])
    single = ALONE / (time.perf_counter() - started)
    shares = [requested[place :: len(clients)] for place in range(len(clients))]
    started = time.perf_counter()
    errors += sum(pool.map(_ask_each, clients, shares))
    return {"one": single, "many": requests / (time.perf_counter() - started), "errors": errors}


def _ask_each(client: _Client, images: Sequence[Path]) -> int:
    """Send the images one after the other; return how many got no correct answer."""
    return sum(_ask(client, image) for image in images)


def _ask(client: _Client, image: Path) -> int:
    """Return 1 if the request fails or its answer is for another image, else 0."""
    try:
        record = client.ask(image)
    except Exception as error:  # of any kind is counted
        print(f"{image.name}: {error!r}", file=sys.stderr)
        return 1
    return int(record["file"] != image.name or not record["top"])


@contextmanager
def _served(model: str) -> Iterator[int]:
    """Serve the page of a model; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "celluscan_hf.cli", "demo", "--model", model, "--port", str(port)]
    page = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, page)
        yield port
    finally:
        page.terminate()
        page.wait()


def _wait_for(port: int, page: "subprocess.Popen[bytes]", seconds: int = 120) -> None:
    for _ in range(seconds):
        if page.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise CelluScanError("the page did not start; see its message above")


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if gradio is missing."""
    if find_spec("gradio") is None:
        raise CelluScanError('gradio is not installed: pip install "celluscan_hf[demo]"')
