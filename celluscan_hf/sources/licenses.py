"""Licences that allow redistribution of images, and their names on the Hub."""

HUB_NAMES = {
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-3.0": "cc-by-3.0",
    "MIT": "mit",
    "GPL-3.0": "gpl-3.0",
    "Apache-2.0": "apache-2.0",
}
OTHER = "other"  # on the Hub: a licence without a name of its own


def redistributable(license: str) -> bool:
    """Whether images under this licence may be redistributed by anyone who names the source."""
    return license in HUB_NAMES


def hub_name(license: str) -> str:
    """Return the Hub's name of a licence, for the YAML of a card."""
    return HUB_NAMES.get(license, OTHER)


def from_hub(name: str) -> str:
    """Convert the Hub's name of a licence to this project's; other names are kept."""
    return next((license for license, hub_name in HUB_NAMES.items() if hub_name == name.lower()), name)
