"""The two errors of the package, defined where the code shipped with checkpoints can import them."""


class CelluScanError(Exception):
    """An invalid request. The message is one line: what is wrong, what was expected, what to do."""


class BadImage(Exception):
    """One image cannot be used. In a build it becomes a row of `dropped.csv`; processing continues.

    `reason` is a short code (`truncated`, `animated`, …), `detail` explains it.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason
