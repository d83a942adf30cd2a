"""`BadImage`, here because the code that is shipped with checkpoints raises it and imports nothing of this package."""


class BadImage(Exception):
    """One image cannot be used. It becomes a row of `dropped.csv`; the others go on.

    `reason` is a short code (`truncated`, `animated`, …), `detail` says what was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason
