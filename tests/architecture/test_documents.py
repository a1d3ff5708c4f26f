"""README fits a page, every page has a table of contents, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from edge.contract.alarm_code import AlarmCode
from tools.docs import CONTENTS_BEGIN, anchor, contents, pages

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
PLANS = sorted((ROOT / "docs" / "experiments").glob("*.md"))


def headings(path: Path) -> set[str]:
    """Anchors of a document's headings."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_a_table_of_contents(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert CONTENTS_BEGIN in text
    assert contents(text)
    assert contents(text) in text


@pytest.mark.parametrize("document", [*DOCUMENTS, *PLANS], ids=lambda document: document.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (heading and heading not in headings(file)):
            dead.append(target)
    assert dead == []


def test_the_runbook_has_a_section_for_each_alarm_and_for_no_other() -> None:
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## `([a-z-]+)`$", text, flags=re.MULTILINE)) == sorted(AlarmCode)


def test_every_code_of_an_alarm_is_one_that_the_worker_raises() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "edge").rglob("*.py"))
    assert set(re.findall(r"AlarmCode\.([A-Z_]+)\b", code)) == set(AlarmCode.__members__)
