"""HTML of the page. All untrusted text is escaped."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from ..modeling.reliability_celluscan import COVERAGE, Certainty
from ..taxonomy import lookup
from .answer import Answer
from .differential import LEFT_SHIFT, Differential, Share, differential
from .facts import CellFacts, LookAlike, Statement, load_facts
from .pictures import maturation
from .recogniser import Result

NOTICE = (
    "<p class='notice' role='note'><strong>For education and research.</strong> Not a medical device and not a "
    "diagnosis. A single cell never supports one: clinicians look at the whole smear, the counts and the person.</p>"
)
SYNTHETIC_ONLY = (
    "<p class='notice' role='note'><strong>This model was trained on synthetic cells only.</strong> Its answers for "
    "real cells are meaningless.</p>"
)
EMPTY = (
    "<p class='hint'>Upload, paste or photograph one stained blood cell, or choose an example. The cell should be in "
    "the middle and about half as wide as the image; the model's input is shown with the answer.</p>"
)
_NO_DIAGNOSIS = (
    "<p class='hint'>Intervals are of the count alone; mistakes of the model come on top. The cells are those you "
    "chose, not all of a field. No diagnosis: a laboratory counts 100 to 200 cells and looks at the whole smear.</p>"
)
_ENOUGH = 20  # white cells, from which on a number per 100 of them says something
_CLASSES_SHOWN = 3
_DRAW_STAGES = 0.1  # summed probability from which the maturation stages are drawn
_THUMBNAIL = 72  # pixels
_KIND = {
    Certainty.CLASS: "sure",
    Certainty.PARENT: "parent",
    Certainty.UNSURE: "unsure",
}


def card(result: Result) -> str:
    """Render the card of one image."""
    if result.problem:
        return _problem("This file cannot be read", result.problem)
    if result.answer is None or result.doubt:
        return _problem(
            "This does not look like a stained blood cell",
            f"No class is given, because {result.doubt}. The model knows only single cells of Wright-Giemsa stained "
            "smears and would assign any other image to one of its classes.",
        )
    return _answer_card(result.answer, result.seconds, result.note)


def _problem(heading: str, text: str) -> str:
    text = text[:1].upper() + text[1:]
    return f"<section class='card problem' role='alert'><h2>{heading}</h2><p>{escape(text)}</p></section>"


def _answer_card(answer: Answer, seconds: float, note: str) -> str:
    flag = (
        "<p class='flag'>Not expected in the blood of a healthy adult "
        f"(such classes have {answer.abnormal:.0%} together).</p>"
        if answer.flagged
        else ""
    )
    hint = f"<p class='hint'>{escape(answer.hint)}.</p>" if answer.hint else ""
    file_note = f"<p class='hint'>The file: {escape(note)}.</p>" if note else ""
    return (
        f"<section class='card {_KIND[answer.certainty]}' aria-live='polite'><h2>{escape(answer.headline)}</h2>"
        f"<p>{escape(answer.sentence)}</p>{hint}{_prediction_set(answer)}{flag}{_bars(answer)}"
        f"{_place(answer)}{file_note}<p class='time'>answered in {seconds:.2f} s</p></section>"
    )


def _place(answer: Answer) -> str:
    """Render the lineage, and the maturation stages if the cell may be one of them."""
    likely = answer.ranking[:2] if answer.certainty is Certainty.UNSURE else answer.ranking[:1]
    lineages = " or ".join(dict.fromkeys(cell.lineage for cell, _ in likely if cell.lineage))
    stages = maturation(answer) if sum(share for cell, share in answer.ranking if cell.stage) >= _DRAW_STAGES else ""
    return (f"<p class='lineage'>Lineage: {escape(lineages)}</p>" if lineages else "") + stages


def _prediction_set(answer: Answer) -> str:
    """Render the prediction set of a calibrated model, if it has several classes."""
    if len(answer.prediction_set) < 2:
        return ""
    named = escape(" or ".join(answer.prediction_set))
    return (
        f"<p class='hint'>{named}: such sets contain the true class for {COVERAGE:.0%} of cells like those the model "
        "was calibrated on.</p>"
    )


def _bars(answer: Answer) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(cell.name)} <span>{escape(cell.code * (cell.code != cell.name))}</span></th>"
        f"<td><div class='bar' style='width:{share:.1%}'></div></td><td class='share'>{share:.1%}</td></tr>"
        for cell, share in answer.ranking[:_CLASSES_SHOWN]
    )
    return f"<table class='bars'><caption>The three likeliest classes</caption>{rows}</table>"


def table(results: Sequence[Result]) -> str:
    """Render one row per image; on a phone, one card."""
    headings = "".join(f"<th scope='col'>{name}</th>" for name in ("Image", "File", "Answer", "Score", "Lineage"))
    rows = "".join(map(_row, results))
    return f"<table class='several'><caption>{_counted(results)}</caption><tr>{headings}</tr>{rows}</table>"


def counts(results: Sequence[Result]) -> str:
    """Render the differential; nothing for fewer than two answers."""
    answers = [result.answer for result in results if result.answer is not None and not result.doubt]
    if len(answers) < 2:
        return ""
    counted = differential(answers)
    headings = "".join(f"<th scope='col'>{name}</th>" for name in ("Class", "Cells", "Share", "95 % interval"))
    rows = "".join(map(_share_row, counted.shares))
    beside = f"; {counted.unsure} unsure, in no share" if counted.unsure else ""
    caption = f"Differential of {counted.white} white cell{'s' * (counted.white != 1)}{beside}"
    table = f"<table><caption>{caption}</caption><tr>{headings}</tr>{rows}</table>" if rows else ""
    lines = "".join(f"<p>{text}</p>" for text in (*_uncounted(counted), *_left_shift(counted), *_warnings(counted)))
    return f"<section class='card differential'>{table}{lines}{_NO_DIAGNOSIS}</section>"


def _share_row(share: Share) -> str:
    return (
        f"<tr><th scope='row'>{escape(share.name)}</th><td>{share.cells}</td><td>{share.share:.0%}</td>"
        f"<td>{share.low:.0%}–{share.high:.0%}</td></tr>"
    )


def _uncounted(counted: Differential) -> list[str]:
    """What is not among the white cells, and what is by default."""
    lines = []
    outside = {"erythroblasts": counted.erythroblasts, "platelets": counted.platelets}
    if named := [f"{name} {number}" for name, number in outside.items() if number]:
        lines.append(f"Beside the white cells: {', '.join(named)}.")
    if counted.erythroblasts and counted.white >= _ENOUGH:
        lines.append(f"Erythroblasts per 100 white cells: {100 * counted.erythroblasts / counted.white:.0f}.")
    if counted.own:
        lines.append(f"Counted as white cells, classes of your own: {escape(', '.join(counted.own))}.")
    return lines


def _left_shift(counted: Differential) -> list[str]:
    """How many neutrophils are immature, with those that may be."""
    part, unresolved = counted.immature, counted.unresolved
    if part is None or not (part.cells or unresolved or counted.unsure_immature):
        return []
    text = f"Bands to promyelocytes: {part.cells} of {counted.white}, {part.share:.0%} ({part.low:.0%}–{part.high:.0%})"
    if unresolved:
        most = (part.cells + unresolved) / counted.white
        text += f", and up to {most:.0%} if all {unresolved} neutrophils that may be bands or segmented are bands"
    if counted.unsure_immature:
        text += f"; of the unsure cells {counted.unsure_immature} more are probably of these"
    if part.low > LEFT_SHIFT:
        text += f". More than {LEFT_SHIFT:.0%} is often called a <strong>left shift</strong>"
    elif part.share > LEFT_SHIFT:
        text += f". More than {LEFT_SHIFT:.0%} is often called a left shift, but the cells are too few to say"
    return [f"{text}."]


def _warnings(counted: Differential) -> list[str]:
    lines = []
    named = [f"{escape(name)} {number}" for name, number in counted.abnormal.items()]
    if counted.unsure_abnormal:
        named.append(f"of the unsure cells probably {counted.unsure_abnormal}")
    if named:
        lines.append(f"<span class='flag'>Not expected in the blood of a healthy adult: {', '.join(named)}.</span>")
    if counted.out_of_distribution:
        lines.append(
            f"{counted.out_of_distribution} of the cells are unlike those that the model was trained on: expect more "
            "mistakes, or adapt it to your microscope first (celluscan adapt)."
        )
    return lines


def _counted(results: Sequence[Result]) -> str:
    without = sum(1 for result in results if result.answer is None or result.doubt)
    images = f"{len(results)} image{'s' * (len(results) != 1)}"
    return f"{images}, {without} without an answer" if without else images


def _row(result: Result) -> str:
    name = f"<td class='file'>{escape(result.name)}</td>"
    if result.answer is None or result.doubt:
        why = result.problem or f"This does not look like a stained blood cell: {result.doubt}."
        return f"<tr class='problem'><td>{_thumbnail(result.cell)}</td>{name}<td colspan='3'>{escape(why)}</td></tr>"
    answer = result.answer
    flag = "<br><span class='flag'>not expected in healthy adult blood</span>" if answer.flagged else ""
    hint = f"<br><span class='hint'>{escape(answer.hint)}</span>" if answer.hint else ""
    return (
        f"<tr class='{_KIND[answer.certainty]}'><td>{_thumbnail(result.cell)}</td>{name}"
        f"<td><strong>{escape(answer.headline)}</strong>{flag}{hint}</td>"
        f"<td class='share' data-label='Score'>{answer.score:.0%}</td>"
        f"<td data-label='Lineage'>{escape(answer.best.lineage)}</td></tr>"
    )


def _thumbnail(cell: Image.Image | None) -> str:
    if cell is None:
        return ""
    stream = BytesIO()
    cell.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=85)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"<img src='data:image/jpeg;base64,{encoded}' width='{_THUMBNAIL}' height='{_THUMBNAIL}' alt=''>"


def background(result: Result) -> str:
    """Render the facts on the answer's class: morphology, look-alikes, where it is reported, with references."""
    if result.answer is None or result.doubt:
        return ""
    answer = result.answer
    named = lookup(answer.headline) if answer.certainty is Certainty.PARENT else answer.best
    facts = load_facts().get(named.code)
    if facts is None:  # a class of the user's own
        return ""
    return (
        f"<section class='facts'><h3>{escape(named.name)}</h3><p>{escape(facts.summary)}</p>"
        f"<h4>How it looks</h4>{_list(facts.looks)}<h4>How it differs from its look-alikes</h4>{_look_alikes(facts)}"
        f"<h4>Conditions in which this cell is reported</h4>{_list(facts.reported_in)}"
        "<p class='hint'>Reported in does not mean caused by: most people with such cells have none of the rarer "
        "conditions.</p></section>"
    )


def _list(statements: Sequence[Statement]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item.text)} {_cited(item)}</li>' for item in statements)}</ul>"


def _look_alikes(facts: CellFacts) -> str:
    rows = (f"<dt>{escape(item.code)}</dt><dd>{escape(item.how)} {_cited(item)}</dd>" for item in facts.look_alikes)
    return f"<dl>{''.join(rows)}</dl>"


def _cited(statement: Statement | LookAlike) -> str:
    reference = statement.reference
    return f"<a class='cite' href='{escape(reference.url)}' title='{escape(reference.citation)}'>source</a>"
