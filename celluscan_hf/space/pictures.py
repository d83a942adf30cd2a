"""SVG drawings for the page: the neutrophil maturation stages."""

from html import escape

from ..taxonomy import CLASSES
from .answer import Answer

_STAGES = sorted((cell for cell in CLASSES if cell.stage), key=lambda cell: cell.stage or 0)
_STEP, _RADIUS, _HEIGHT = 100, 26, 120  # units of the drawing


def maturation(answer: Answer) -> str:
    """Draw the six neutrophil maturation stages, each filled by its probability; the title is a text alternative.

    A stage that the model does not know has the probability 0.
    """
    shares = dict.fromkeys((cell.code for cell in _STAGES), 0.0)
    shares |= {cell.code: share for cell, share in answer.ranking}
    stages = ", ".join(f"{cell.name} {shares[cell.code]:.0%}" for cell in _STAGES)
    parts = [_line()]
    for position, cell in enumerate(_STAGES):
        parts.append(_stage(position, cell.code, cell.name, shares[cell.code]))
    return (
        f'<svg class="maturation" role="img" viewBox="0 0 {_STEP * len(_STAGES)} {_HEIGHT}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(_title(answer))} Stages: {escape(stages)}.</title>'
        f"{''.join(parts)}</svg>"
    )


def _title(answer: Answer) -> str:
    cell = answer.best
    if cell.stage:
        return f"{cell.name}: stage {cell.stage} of 6 of neutrophil maturation."
    lineage = f"{cell.lineage} lineage, " if cell.lineage else ""
    return f"{cell.name}: {lineage}not a stage of neutrophil maturation."


def _line() -> str:
    middle, end = _HEIGHT // 2 - 14, _STEP * len(_STAGES) - _STEP // 2
    return (
        f'<line x1="{_STEP // 2}" y1="{middle}" x2="{end}" y2="{middle}" stroke="currentColor" stroke-opacity=".35"/>'
    )


def _stage(position: int, code: str, name: str, share: float) -> str:
    x, y = _STEP * position + _STEP // 2, _HEIGHT // 2 - 14
    circle = f'<circle cx="{x}" cy="{y}" r="{_RADIUS}"'
    text = f'<text x="{x}" text-anchor="middle" fill="currentColor"'
    return (
        f'{circle} fill="var(--body-background-fill, white)"/>'
        f'{circle} fill="#7c3aed" fill-opacity="{share:.2f}" stroke="currentColor" stroke-opacity=".5"/>'
        f'{text} y="{y + 5}" font-size="15" font-weight="600">{code}</text>'
        f'{text} y="{_HEIGHT - 22}" font-size="12">{escape(name.split()[0])}</text>'
        f'{text} y="{_HEIGHT - 6}" font-size="12">{share:.0%}</text>'
    )
