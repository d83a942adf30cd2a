"""`BadImage`; defined here because the code shipped with checkpoints raises it and imports nothing of this package."""


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
