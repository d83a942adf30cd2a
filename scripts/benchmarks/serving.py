"""How soon the page answers: one picture from file to answer, one client, and many clients at once.

The page runs as users start it, `celluscan demo`, in a process of its own; clients ask its `/recognise` over HTTP.
"""

import argparse
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CELLS = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Platelet")
ALONE = 12  # requests of the one client in a round


def serving(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one answer, and the throughput of many clients as a ratio to one's, rounds in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = _pictures(folder)
        model = arguments.model or _vit(folder / "model")
        return {
            "model": arguments.model or "ViT-B/16 of random weights",
            "file_to_answer_seconds": _file_to_answer(model, pictures, arguments.num_proc),
            "page": _page(model, pictures, arguments),
        }


def _pictures(folder: Path) -> list[Path]:
    """Drawn cells of the size and kind of PBC's files."""
    import numpy as np

    from celluscan_hf.sources.drawing import draw_cell

    files = [folder / f"{name}.jpg" for name in CELLS]
    for file in files:
        draw_cell(file.stem, np.random.default_rng(0), 360).save(file, quality=90)
    return files


def _vit(folder: Path) -> str:
    """A plain ViT-B/16 for the 14 classes; the time does not depend on what its weights are."""
    import torch

    from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
    from celluscan_hf.modeling.exporting import export_native
    from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
    from celluscan_hf.modeling.processor import build_image_processor

    torch.manual_seed(0)
    processor = build_image_processor(224, (0.87, 0.75, 0.72), (0.16, 0.19, 0.08))
    export_native(CelluScanForImageClassification(CelluScanConfig()).eval(), folder, processor)
    return str(folder)


def _file_to_answer(model: str, pictures: Sequence[Path], threads: int) -> dict[str, float]:
    import torch

    from celluscan_hf.space.recogniser import Recogniser

    torch.set_num_threads(threads)
    recogniser = Recogniser(model)
    seconds = []
    for picture in [*pictures, *pictures, *pictures]:
        (seen,) = recogniser.recognise([picture])
        seconds.append(seen.seconds)
    later = seconds[len(pictures) :]  # the first are the warm-up
    return {"median": round(statistics.median(later), 3), "longest": round(max(later), 3)}


def _page(model: str, pictures: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    with _served(model) as address, ThreadPoolExecutor(arguments.clients) as pool:
        clients = list(pool.map(_client, [address] * arguments.clients))
        list(pool.map(_ask, clients, itertools.cycle(pictures)))  # warm-up
        rounds = [_round(clients, pictures, pool, arguments.requests) for _ in range(arguments.rounds)]
    alone, together = ([each[who] for each in rounds] for who in ("one", "many"))
    return {
        "clients": arguments.clients,
        "requests_at_once": arguments.requests,
        "errors": sum(each["errors"] for each in rounds),
        "one_client_answers_per_second": round(statistics.median(alone), 2),
        "all_clients_answers_per_second": round(statistics.median(together), 2),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, together, strict=True)), 2),
    }


def _round(clients: Sequence[Any], pictures: Sequence[Path], pool: ThreadPoolExecutor, requests: int) -> dict[str, Any]:
    """Answers per second of the first client by itself, then of all: each asks again once it was answered."""
    asked = list(itertools.islice(itertools.cycle(pictures), requests))
    began = time.perf_counter()
    errors = _ask_each(clients[0], asked[:ALONE])
    one = ALONE / (time.perf_counter() - began)
    shares = [asked[place :: len(clients)] for place in range(len(clients))]
    began = time.perf_counter()
    errors += sum(pool.map(_ask_each, clients, shares))
    return {"one": one, "many": requests / (time.perf_counter() - began), "errors": errors}


def _ask_each(client: Any, pictures: Sequence[Path]) -> int:
    """How many of the pictures, one after the other, got no answer."""
    return sum(_ask(client, picture) for picture in pictures)


def _client(address: str) -> Any:
    from gradio_client import Client

    return Client(address, verbose=False)


def _ask(client: Any, picture: Path) -> int:
    """1 where the answer is an error."""
    from gradio_client import handle_file

    try:
        told = client.predict(handle_file(str(picture)), api_name="/recognise")
    except Exception as error:  # whatever it is, it is counted
        print(f"{picture.name}: {error}", file=sys.stderr)
        return 1
    return int(told["file"] != picture.name or not told["top"])


@contextmanager
def _served(model: str) -> Iterator[str]:
    """The page of a model at the address that is yielded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("celluscan")), "demo", "--model", model, "--port", str(port)]
    page = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port, page)
        yield f"http://127.0.0.1:{port}"
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
    raise SystemExit("error: the page did not start; its own message is above")


def check_needs(arguments: argparse.Namespace) -> None:
    if find_spec("gradio") is None:
        raise SystemExit('error: gradio is not installed; pip install -e ".[demo]"')
