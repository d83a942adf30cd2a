"""The commands in this process, as `celluscan` runs them; each returns the exit status."""

from collections.abc import Sequence

from celluscan_hf.cli import main


def audit(arguments: Sequence[str]) -> int:
    return main(["audit", *arguments])


def train(arguments: Sequence[str]) -> int:
    return main(["train", *arguments])


def evaluate(*arguments: object) -> int:
    return main(["evaluate", "--resamples", "20", "--device", "cpu", *map(str, arguments)])
