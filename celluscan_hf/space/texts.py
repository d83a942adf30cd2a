"""What the page says, as HTML. All that comes from outside is escaped."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from ..modeling.reliability_celluscan import COVERAGE, Certainty
from ..taxonomy import lookup
from .answer import Answer
from .facts import CellFacts, LookAlike, Statement, load_facts
from .pictures import maturation
from .recogniser import Seen

NOTICE = (
    "<p class='notice' role='note'><strong>For education and research.</strong> Not a medical device and not a "
    "diagnosis. A single cell never supports one: clinicians look at the whole smear, the counts and the person.</p>"
)
DRAWN = (
    "<p class='notice' role='note'><strong>This model has learned from drawings alone.</strong> What it says of real "
    "cells means nothing.</p>"
)
EMPTY = (
    "<p class='hint'>Upload, paste or photograph one stained blood cell, or take one of the examples. The cell lies in "
    "the middle and takes up about half of the picture's width; what the model sees of it is shown with the answer.</p>"
)
_SHOWN = 3
_ON_LINE = 0.1  # summed probability of the stages from which their line is drawn
_THUMBNAIL = 72  # pixels
_KIND = {
    Certainty.CLASS: "sure",
    Certainty.PARENT: "parent",
    Certainty.UNSURE: "unsure",
    Certainty.OUT_OF_DISTRIBUTION: "unsure",
}


def result(seen: Seen) -> str:
    """The card for one picture."""
    if seen.problem:
        return _problem("This file cannot be read", seen.problem)
    if seen.answer is None or seen.doubt:
        return _problem(
            "This does not look like a stained blood cell",
            f"No class is given, because {seen.doubt}. The model knows single cells in Wright-Giemsa stained smears "
            "and would name anything else as one of them.",
        )
    return _answered(seen.answer, seen.seconds, seen.note)


def _problem(heading: str, text: str) -> str:
    text = text[:1].upper() + text[1:]
    return f"<section class='card problem' role='alert'><h2>{heading}</h2><p>{escape(text)}</p></section>"


def _answered(said: Answer, seconds: float, note: str) -> str:
    flag = (
        "<p class='flag'>Not expected in the blood of a healthy adult "
        f"(such classes have {said.abnormal:.0%} together).</p>"
        if said.flagged
        else ""
    )
    guessed = f"<p class='hint'>The file: {escape(note)}.</p>" if note else ""
    return (
        f"<section class='card {_KIND[said.certainty]}' aria-live='polite'><h2>{escape(said.headline)}</h2>"
        f"<p>{escape(said.sentence)}</p>{_trust(said)}{flag}{_bars(said)}"
        f"{_place(said)}{guessed}<p class='time'>answered in {seconds:.2f} s</p></section>"
    )


def _place(said: Answer) -> str:
    """Lineage, and the line of maturation where the cell may be on it."""
    if said.certainty is Certainty.OUT_OF_DISTRIBUTION:
        return ""
    likely = said.ranking[:2] if said.certainty is Certainty.UNSURE else said.ranking[:1]
    lineages = " or ".join(dict.fromkeys(cell.lineage for cell, _ in likely))
    drawn = maturation(said) if sum(share for cell, share in said.ranking if cell.stage) >= _ON_LINE else ""
    return f"<p class='lineage'>Lineage: {escape(lineages)}</p>{drawn}"


def _trust(said: Answer) -> str:
    """What calibration adds: between which classes the true one is to be sought."""
    if len(said.within) < 2:
        return ""
    named = escape(" or ".join(said.within))
    return (
        f"<p class='hint'>{named}: such sets hold the true class of {COVERAGE:.0%} of cells like those the model was "
        "checked on.</p>"
    )


def _bars(said: Answer) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(cell.name)} <span>{cell.code}</span></th>"
        f"<td><div class='bar' style='width:{share:.1%}'></div></td><td class='share'>{share:.1%}</td></tr>"
        for cell, share in said.ranking[:_SHOWN]
    )
    return f"<table class='bars'><caption>The three likeliest classes</caption>{rows}</table>"


def table(several: Sequence[Seen]) -> str:
    """A row for each picture; on a phone, a card for each."""
    headings = "".join(f"<th scope='col'>{name}</th>" for name in ("Picture", "File", "Answer", "Score", "Lineage"))
    rows = "".join(map(_row, several))
    return f"<table class='several'><caption>{_counted(several)}</caption><tr>{headings}</tr>{rows}</table>"


def _counted(several: Sequence[Seen]) -> str:
    without = sum(1 for seen in several if seen.answer is None or seen.doubt)
    pictures = f"{len(several)} picture{'s' * (len(several) != 1)}"
    return f"{pictures}, {without} without an answer" if without else pictures


def _row(seen: Seen) -> str:
    name = f"<td class='file'>{escape(seen.name)}</td>"
    if seen.answer is None or seen.doubt:
        why = seen.problem or f"This does not look like a stained blood cell: {seen.doubt}."
        return f"<tr class='problem'><td>{_thumbnail(seen.cell)}</td>{name}<td colspan='3'>{escape(why)}</td></tr>"
    said = seen.answer
    flag = "<br><span class='flag'>not expected in healthy adult blood</span>" if said.flagged else ""
    lineage = "" if said.certainty is Certainty.OUT_OF_DISTRIBUTION else escape(said.best.lineage)
    return (
        f"<tr class='{_KIND[said.certainty]}'><td>{_thumbnail(seen.cell)}</td>{name}"
        f"<td><strong>{escape(said.headline)}</strong>{flag}</td>"
        f"<td class='share' data-label='Score'>{said.score:.0%}</td>"
        f"<td data-label='Lineage'>{lineage}</td></tr>"
    )


def _thumbnail(cell: Image.Image | None) -> str:
    if cell is None:
        return ""
    stream = BytesIO()
    cell.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=85)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"<img src='data:image/jpeg;base64,{encoded}' width='{_THUMBNAIL}' height='{_THUMBNAIL}' alt=''>"


def background(seen: Seen) -> str:
    """What is known of the class that was named: looks, look-alikes, where it is reported, each with its reference."""
    if seen.answer is None or seen.doubt or seen.answer.certainty is Certainty.OUT_OF_DISTRIBUTION:
        return ""
    said = seen.answer
    named = lookup(said.headline) if said.certainty is Certainty.PARENT else said.best
    facts = load_facts()[named.code]
    return (
        f"<section class='facts'><h3>{escape(named.name)}</h3><p>{escape(facts.summary)}</p>"
        f"<h4>How it looks</h4>{_list(facts.looks)}<h4>How it is told from its look-alikes</h4>{_look_alikes(facts)}"
        f"<h4>Conditions in which this cell is reported</h4>{_list(facts.reported_in)}"
        "<p class='hint'>Reported in does not mean caused by: most people with such cells have none of the rarer "
        "conditions.</p></section>"
    )


def _list(statements: Sequence[Statement]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one.text)} {_cited(one)}</li>' for one in statements)}</ul>"


def _look_alikes(facts: CellFacts) -> str:
    rows = (f"<dt>{escape(one.code)}</dt><dd>{escape(one.how)} {_cited(one)}</dd>" for one in facts.look_alikes)
    return f"<dl>{''.join(rows)}</dl>"


def _cited(statement: Statement | LookAlike) -> str:
    reference = statement.reference
    return f"<a class='cite' href='{escape(reference.url)}' title='{escape(reference.citation)}'>source</a>"
