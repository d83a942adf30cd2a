"""The page as people use it, in a headless browser, and as programs do."""

import csv
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser: Any, served: str) -> Iterator[Any]:
    opened = browser.new_page()
    opened.set_default_timeout(60_000)
    opened.goto(served)
    opened.get_by_text("Upload, paste or photograph").wait_for()
    yield opened
    opened.close()


def upload(page: Any, *files: Path, place: int = 0) -> None:
    page.locator("input[type=file]").nth(place).set_input_files([str(file) for file in files])


def test_a_cell_gets_an_answer_with_its_background(page: Any, cell_files: dict[str, Path]) -> None:
    upload(page, cell_files["Basophil"])
    page.locator(".card h2").wait_for()
    page.locator(".bars tr").nth(2).wait_for()
    page.locator("svg.maturation").wait_for()
    page.locator(".facts li").nth(2).wait_for()
    assert page.locator(".bars tr").count() == 3
    page.get_by_alt_text("The cell as the model saw it").wait_for()


def test_the_keyboard_is_enough(page: Any) -> None:
    page.get_by_text("Basophil", exact=True).first.wait_for(state="attached")
    page.get_by_role("tab", name="One cell").focus()
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Basophil":
            break
    page.keyboard.press("Enter")
    page.locator(".card h2").wait_for()


def test_nothing_is_asked_of_other_servers(browser: Any, served: str) -> None:
    requested: list[str] = []
    opened = browser.new_page()
    opened.on("request", lambda request: requested.append(request.url))
    opened.goto(served)
    opened.get_by_text("Upload, paste or photograph").wait_for()
    opened.close()
    assert requested
    assert [url for url in requested if not url.startswith((served, "data:", "blob:"))] == []


def test_an_image_without_a_cell_gets_a_warning_and_no_class(page: Any, cell_files: dict[str, Path]) -> None:
    upload(page, cell_files["meadow"])
    page.get_by_role("heading", name="This does not look like a stained blood cell").wait_for()
    assert page.locator(".bars").count() == 0
    assert page.locator(".facts").count() == 0


def test_a_bad_file_gets_a_message_and_the_page_stays_up(page: Any, cell_files: dict[str, Path]) -> None:
    upload(page, cell_files["broken"])
    page.get_by_role("heading", name="This file cannot be read").wait_for()
    page.reload()
    page.get_by_text("Upload, paste or photograph").wait_for()
    upload(page, cell_files["Basophil"])
    page.locator(".card .bars").wait_for()


def test_several_become_a_table_and_a_csv(page: Any, cell_files: dict[str, Path], tmp_path: Path) -> None:
    page.get_by_role("tab", name="Several cells").click()
    upload(page, cell_files["Basophil"], cell_files["broken"], place=1)
    page.get_by_role("button", name="Download as CSV").wait_for()
    page.locator(".several tr:has(td)").nth(1).wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    download.value.save_as(tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert page.locator(".several tr:has(td)").count() == 2
    assert page.locator(".differential").count() == 0  # of one answer
    assert "1 without an answer" in page.locator(".several caption").inner_text()
    assert [row["file"] for row in rows] == ["Basophil.png", "broken.jpg"]
    assert rows[0]["answer"]
    assert "not an image" in rows[1]["note"]


def test_several_answers_become_a_differential(page: Any, cell_files: dict[str, Path]) -> None:
    page.get_by_role("tab", name="Several cells").click()
    upload(page, cell_files["Basophil"], cell_files["Monocyte"], place=1)
    page.locator(".differential").wait_for()
    assert "No diagnosis" in page.locator(".differential").inner_text()


def test_a_name_that_a_spreadsheet_would_run_is_written_as_text(tmp_path: Path) -> None:
    from celluscan_hf.space.page import _as_csv, record
    from celluscan_hf.space.recogniser import Result

    path = Path(_as_csv([record(Result("=cmd().png", problem="broken"))], tmp_path))
    with path.open() as stream:
        assert next(csv.DictReader(stream))["file"] == "'=cmd().png"


def test_programs_get_the_same_answer_as_json(served: str, cell_files: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    client = Client(served, verbose=False)
    answer = client.predict(handle_file(str(cell_files["Basophil"])), api_name="/recognise")
    assert answer["file"] == "Basophil.png"
    assert len(answer["top"]) == 14
    assert sum(best["score"] for best in answer["top"]) == pytest.approx(1, abs=1e-2)
    assert "not an image" in client.predict(handle_file(str(cell_files["broken"])), api_name="/recognise")["note"]


def test_many_at_once_are_all_answered(served: str, cell_files: dict[str, Path]) -> None:
    from gradio_client import Client, handle_file

    def ask(number: int) -> Any:
        name = ("Basophil", "Monocyte")[number % 2]
        return name, Client(served, verbose=False).predict(handle_file(str(cell_files[name])), api_name="/recognise")

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(16)))
    assert all(answer["file"] == f"{name}.png" for name, answer in answers)
