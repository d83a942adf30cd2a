"""Take screenshots of the demo page in every state with a headless Chromium, for review and for the README.

Each state is taken at desktop and phone size, light and dark. The inputs are the examples of an evaluation, synthetic
cells until the model is uncertain about one, an out-of-distribution image, and a file that is not an image.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.modeling.reliability_celluscan import Certainty
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.space.demo import examples, page_of
from celluscan_hf.space.page import serve
from celluscan_hf.space.recogniser import Recogniser

SIZES = {"desktop": (1280, 1020), "phone": (390, 844)}
THEMES = ("light", "dark")
DRAWN = 8  # cells per class, at most, in search of one the model is uncertain about


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--evaluation", type=Path, required=True, help="the folder of its evaluation")
    parser.add_argument("--output", type=Path, required=True, help="a folder for the screenshots")
    parser.add_argument("--first-screen", action="store_true", help="only what is visible without scrolling")
    arguments = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("error: Chromium was not found; install it (Debian: apt-get install chromium)")
    arguments.output.mkdir(parents=True, exist_ok=True)
    page = page_of(arguments.model, evaluation=arguments.evaluation)
    _, address, _ = serve(page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    with tempfile.TemporaryDirectory() as temporary:
        states = _states(arguments, Path(temporary))
        for name, shot in _shots(address, states, chromium, not arguments.first_screen):
            (arguments.output / f"{name}.png").write_bytes(shot)
            print(arguments.output / f"{name}.png")
    page.close()


def _states(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    """Return the files that lead to each state; `several` has those of the others."""
    shown = [file for file, _ in examples(arguments.evaluation)]
    states = {"result": shown[:1]} | _unsure(arguments.model, folder)
    Image.new("RGB", (300, 200), (40, 120, 60)).save(folder / "meadow.png")
    (folder / "broken.jpg").write_bytes(b"not an image " * 50)
    states |= {"not-a-cell": [folder / "meadow.png"], "error": [folder / "broken.jpg"]}
    several = shown[:4] + [file for files in list(states.values())[1:] for file in files]
    return {"empty": []} | states | {"several": several}


def _unsure(model: str, folder: Path) -> dict[str, list[Path]]:
    """Find a synthetic cell for each kind of uncertain answer; kinds without one are left out."""
    recogniser, files = Recogniser(model), {}
    wanted = {Certainty.PARENT: "parent", Certainty.UNSURE: "unsure"}
    for seed in range(DRAWN):
        for name in taxonomy.NAMES:
            file = folder / f"{name}-{seed}.png"
            draw_cell(name, np.random.default_rng(seed), 300).save(file)
            (record,) = recogniser.recognise([file])
            if record.answer and not record.doubt and record.answer.certainty in wanted:
                files[wanted.pop(record.answer.certainty)] = [file]
            if not wanted:
                return files
    return files


def _shots(address: str, states: dict[str, list[Path]], chromium: str, full_page: bool) -> Iterator[tuple[str, bytes]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size, (width, height) in SIZES.items():
            for theme in THEMES:
                for state, files in states.items():
                    page = browser.new_page(viewport={"width": width, "height": height})
                    page.goto(f"{address}?__theme={theme}")
                    _lead_to(page, state, [str(file) for file in files])
                    yield f"{state}-{size}-{theme}", page.screenshot(full_page=full_page)
                    page.close()
        browser.close()


def _lead_to(page: Any, state: str, files: list[str]) -> None:
    page.get_by_text("Upload, paste or photograph").wait_for()
    several = state == "several"
    if several:
        page.get_by_role("tab", name="Several cells").click()
    if files:
        page.locator("input[type=file]").nth(int(several)).set_input_files(files)
        page.locator(".several" if several else ".card").wait_for()
        page.wait_for_timeout(1500)  # images fade in


if __name__ == "__main__":
    main()
