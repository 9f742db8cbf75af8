"""The pages of the project: their links hold, the paths that they name are there, and they list what there is."""

import re
from pathlib import Path

import pytest

from collector.config.models import config_keys

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "systemd/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
# What a path in a page begins with when it is one of the project's.
TOPS = ("bench/", "collector/", "docs/", "sinks/", "systemd/", "tests/")


def without_code(text: str) -> str:
    """A page without its indented and fenced blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", re.sub(r"(?m)^ {4}.*$", "", text))


def anchors(path: Path) -> set[str]:
    """What can stand behind a # for this page: its headings, as hosts of Git repositories name them."""
    headings = re.findall(r"(?m)^#+ (.*)$", without_code(path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "tests/guest/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(here.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # somebody else's, and no test of this project asks them
        name, _, anchor = target.partition("#")
        there = here.parent / name if name else here
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which tells of what was
def test_paths_of_the_project_that_are_named_are_there(page: str) -> None:
    for path in re.findall(r"`([\w./-]+/[\w./*-]*)`", (ROOT / page).read_text()):
        if path.startswith(TOPS):
            assert list(ROOT.glob(path.rstrip("/"))), path


def test_the_readme_leads_to_every_page() -> None:
    # To some over another page.
    linked = {name for page in PAGES for name in re.findall(r"\(([\w./-]+\.md)[)#]", (ROOT / page).read_text())}
    names = {Path(name).name for name in linked}
    assert {Path(page).name for page in PAGES} - names <= {"README.md"}


def test_the_architecture_page_names_files_that_are_there() -> None:
    """A module is named by its room, or alone behind a room's name in the same cell."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    stems = {path.name for top in ("collector", "sinks", "tests") for path in (ROOT / top).rglob("*")}
    for name in re.findall(r"`([\w./]+\.(?:py|pyx|toml))`", text):
        assert Path(name).name in stems | {"config.toml"}, name
        if "/" in name:
            found = [ROOT / name, ROOT / "collector" / name]
            assert any(path.exists() for path in found), name


def test_the_operating_page_explains_every_setting() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    assert [".".join(key) for key in config_keys() if f"`{key[-1]}`" not in text] == []
