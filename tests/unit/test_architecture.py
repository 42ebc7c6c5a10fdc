"""The picture in docs/architecture.md against the code."""

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "gradsight",
    "gradsight_insight",
    "gradsight_models",
    "gradsight_service",
    "gradsight_store",
    "gradsight_worker",
)


def test_the_picture_shows_every_arrow_between_packages_and_no_other() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```mermaid")[1].split("```")[0]
    drawn = set(re.findall(r"^\s*(\w+) (?:-->|-\. .* \.->) (\w+)$", picture, re.MULTILINE))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imported = {
        (importer, imported)
        for importer in PACKAGES
        for imported in PACKAGES
        if importer != imported
        and graph.direct_import_exists(importer=importer, imported=imported, as_packages=True)
    }
    assert drawn == imported


def test_each_room_of_the_table_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE)
    assert len(rooms) >= 7
    assert all((ROOT / room).is_dir() for room in rooms)
