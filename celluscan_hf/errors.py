"""The two ways something can be wrong: a request that cannot be met, and an image that cannot be used."""


class CelluScanError(Exception):
    """A request cannot be met. The message is one line: what is wrong, what was expected, what to do."""


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
