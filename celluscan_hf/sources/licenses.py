"""Which licences let images be passed on, and what the Hub calls them."""

HUB_NAMES = {"CC-BY-4.0": "cc-by-4.0", "CC-BY-3.0": "cc-by-3.0", "MIT": "mit", "GPL-3.0": "gpl-3.0"}
OTHER = "other"  # the Hub's name of any it has none for


def redistributable(license: str) -> bool:
    """Whether images of that licence, as a source states it, may be published again by anyone who names the source."""
    return license in HUB_NAMES


def hub_name(license: str) -> str:
    """The Hub's name of a licence, for the YAML of a card."""
    return HUB_NAMES.get(license, OTHER)


def from_hub(name: str) -> str:
    """A licence as this project writes it, from the Hub's name of it; any other name as it stands."""
    return next((license for license, known in HUB_NAMES.items() if known == name.lower()), name)
