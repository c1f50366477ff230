"""The report: figures of all rows, a sample to read in a real browser, and texts that stay texts whatever they hold."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from magicoder.reports import rows_page
from magicoder.reports.rows_page import CHARACTERS_SHOWN, ROWS_SHOWN, Lengths, divide_places, select_bars, write_report
from tests.browser import Page, browsing, installed

KEPT = [
    {"lang": "python", "raw_index": 7, "index": 0, "seed": "def add():", "problem": "Add up.", "solution": "sum(x)"},
    {"lang": "rust", "raw_index": 3, "index": 2, "seed": "fn main()", "problem": "Say Hello.", "solution": "println!"},
]
REJECTED = [
    {"reason": "answer has no problem", "raw_index": 9, "index": 1, "seed": "import os", "evidence": "I cannot."},
    {"reason": "document without lines", "raw_index": 4, "evidence": None},
]
# What an HTML parser, a JSON parser or a script might trip over, were a text to reach one.
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1></svg>",
    "{{summary}} {{rows}} {{policy}}",
    "line\u2028line\u2029line",
    "lone \ud800 surrogate \udfff",
    "NUL \0 and \x1b[31m and \u202e",
    "`${window.pwned = 1}`'\"\\",
    "__proto__",
]

# The page writes the address a moment after the row is chosen.
LATER = "new Promise((done) => setTimeout(done, 400))"

Row = dict[str, Any]


def written(
    path: Path, kept: list[Row] = KEPT, rejected: list[Row] = REJECTED, tallies: dict[str, dict[str, int]] | None = None
) -> Path:
    facts = {"Teacher": "gpt-4", "Cost": "$ 1.20"}
    funnel = [("documents", 5), ("kept", len(kept))]
    write_report(
        path,
        title="Twelve rows",
        facts=facts,
        funnel=funnel,
        kept=lambda: kept,
        rejected=lambda: rejected,
        tallies=tallies,
    )
    return path


def embedded(path: Path) -> tuple[Row, list[Row]]:
    """The summary and the rows that the page carries."""
    page = path.read_text()
    summary, rows = (
        page.partition(f'id="{name}">')[2].partition("</script>")[0].strip().splitlines()
        for name in ("summary", "rows")
    )
    return json.loads(summary[0]), [json.loads(row) for row in rows]


def test_figures_are_of_all_rows_however_few_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_page, "ROWS_SHOWN", 2)
    summary, rows = embedded(written(tmp_path / "report.html", KEPT * 50, REJECTED * 10, {"Finish": {"stop": 9}}))
    assert len(rows) == 2
    assert summary["total"] == 120
    assert dict(summary["tallies"]) == {
        "Reasons of rejection": [["answer has no problem", 10], ["document without lines", 10]],
        "Languages": [["python", 50], ["rust", 50]],
        "Finish": [["stop", 9]],
    }
    assert dict(summary["lengths"])["problem"] == {"mean": 8, "longest": 10, "bins": [[6, 50], [8, 50]]}


def test_every_reason_is_among_the_rows_shown_even_the_rare_one() -> None:
    assert divide_places({"frequent": 50_000, "often": 9_000, "rare": 3}, 1000) == {
        "rare": 3,
        "often": 498,
        "frequent": 499,
    }


def test_75_000_rows_make_a_page_that_a_browser_can_hold(tmp_path: Path) -> None:
    rejected = [{"reason": "rare", "n": 0}, *({"reason": "frequent", "n": n} for n in range(15_000))]
    summary, rows = embedded(written(tmp_path / "report.html", [{"problem": "p"}] * 60_000, rejected))
    assert summary["total"] == 75_001
    assert Counter(row["reason"] for row in rows) == {"": 1000, "rare": 1, "frequent": 999}
    kept = [int(row["anchor"].removeprefix("row-")) for row in rows if not row["reason"]]
    assert {later - earlier for earlier, later in pairwise(kept)} == {60}


def test_few_rows_are_all_shown_whichever_kind_they_are(tmp_path: Path) -> None:
    _, rows = embedded(written(tmp_path / "report.html", KEPT, [{"reason": "blank"}] * (ROWS_SHOWN - 2)))
    assert len(rows) == ROWS_SHOWN


def test_a_long_text_is_cut_and_its_length_told(tmp_path: Path) -> None:
    _, rows = embedded(written(tmp_path / "report.html", [{"problem": "x" * 10_000_000}]))
    assert rows[0]["columns"] == [["problem", "x" * CHARACTERS_SHOWN, 10_000_000]]


def test_whatever_a_column_holds_is_shown_as_text(tmp_path: Path) -> None:
    row = {"nothing": None, "many": [1, {"a": "b"}], "endless": float("nan")}
    _, rows = embedded(written(tmp_path / "report.html", [row]))
    assert [text for _, text, _ in rows[0]["columns"]] == ["null", '[1, {"a": "b"}]', "NaN"]


def test_hostile_texts_come_back_as_they_were_and_end_no_script(tmp_path: Path) -> None:
    harmless, hostile = tmp_path / "harmless.html", tmp_path / "hostile.html"
    _, rows = embedded(written(hostile, [{text: text} for text in HOSTILE]))
    assert [row["columns"][0][:2] for row in rows[: len(HOSTILE)]] == [[text, text] for text in HOSTILE]
    written(harmless)
    assert hostile.read_text().count("<") == harmless.read_text().count("<")


def test_a_run_without_rows_has_a_report_too(tmp_path: Path) -> None:
    summary, rows = embedded(written(tmp_path / "report.html", [], []))
    assert (summary["total"], rows) == (0, [])


def test_a_report_that_cannot_be_finished_leaves_the_former_one(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from KEPT
        raise OSError("disk gone")

    path = written(tmp_path / "report.html")
    former = path.read_bytes()
    with pytest.raises(OSError, match="disk gone"):
        write_report(path, title="", facts={}, funnel=[], kept=broken, rejected=list)
    assert path.read_bytes() == former
    assert list(tmp_path.iterdir()) == [path]


def test_many_names_share_a_bar() -> None:
    drawn = select_bars({f"language {n}": 100 - n for n in range(20)})
    assert drawn[0] == ("language 0", 100)
    assert drawn[-1] == ("5 others", 85 + 84 + 83 + 82 + 81)


def test_length_bins_have_no_gap_between_shortest_and_longest() -> None:
    lengths = Lengths()
    for length in (0, 1, 2, 16):
        lengths.add(length)
    assert lengths.summarize()["bins"] == [[2, 3], [3, 0], [4, 0], [6, 0], [8, 0], [12, 0], [16, 1]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium = installed()
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with browsing(chromium, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def opened(browser: Page, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """opened(kept, rejected, fragment="#row-2"): a browser with the report of these rows; it must find no mistake."""

    def shown(kept: list[Row] = KEPT, rejected: list[Row] = REJECTED, fragment: str = "") -> Page:
        browser.look(1280, 900)
        browser.open(written(tmp_path / "report.html", kept, rejected).as_uri() + fragment)
        return browser

    browser.mistakes.clear()
    yield shown
    assert browser.mistakes == []


def heading(page: Page) -> str:
    return page.value("document.getElementById('row-heading').textContent")


def listed(page: Page) -> list[str]:
    """The names of the rows that the list shows."""
    return page.value("[...document.querySelectorAll('#list li:not([hidden]) b')].map((name) => name.textContent)")


def choose_filter(page: Page, name: str) -> None:
    """Choose the filter of that name, as a click on it would."""
    page.value(f"""{{
        const filter = document.getElementById('filter');
        filter.value = [...filter.options].find((option) => option.text === {json.dumps(name)}).value;
        filter.dispatchEvent(new Event('change'));
    }}""")


def texts(page: Page) -> dict[str, str]:
    """The texts of the chosen row by their columns."""
    pairs = "[...document.querySelectorAll('.text')].map((text) => [...text.children].map((part) => part.textContent))"
    return dict(page.value(pairs))


def test_a_reader_sees_figures_rows_and_the_texts_of_one(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.value("document.title") == "Twelve rows"
    assert page.value("document.getElementById('facts').innerText").split("\n") == [
        "Teacher",
        "gpt-4",
        "Cost",
        "$ 1.20",
    ]
    headings = page.value("[...document.querySelectorAll('#charts h2')].map((heading) => heading.textContent)")
    lengths = ["Length of seed", "Length of problem", "Length of solution"]
    assert headings == ["From documents to rows", "Reasons of rejection", "Languages", *lengths]
    assert listed(page) == ["Row 1", "Row 2", "Rejected row 1", "Rejected row 2"]
    assert heading(page) == "Row 1"
    assert texts(page) == {"seed": "def add():", "problem": "Add up.", "solution": "sum(x)"}


def test_rows_of_evol_instruct_show_their_own_columns(opened: Callable[..., Page]) -> None:
    page = opened([{"instruction": "Count to 3.", "output": "1 2 3"}], [])
    assert texts(page) == {"instruction": "Count to 3.", "output": "1 2 3"}


def test_search_and_filter_narrow_the_list(opened: Callable[..., Page]) -> None:
    page = opened()
    page.press("/")
    page.write("hELLO")
    assert (listed(page), heading(page)) == (["Row 2"], "Row 2")
    assert page.value("document.getElementById('status').textContent") == "1 row matches."
    page.value("document.getElementById('search').select()")
    page.write("o")
    choose_filter(page, "Rejected rows")
    assert listed(page) == ["Rejected row 1", "Rejected row 2"]
    choose_filter(page, "Rejected: document without lines (1)")
    assert (listed(page), heading(page)) == (["Rejected row 2"], "Rejected row 2")


def test_a_rejected_row_tells_reason_and_evidence(opened: Callable[..., Page]) -> None:
    page = opened(fragment="#rejected-1")
    assert page.value("document.querySelector('.reason').textContent") == "answer has no problem"
    assert texts(page) == {"seed": "import os", "evidence": "I cannot."}


def test_arrow_keys_go_from_row_to_row_and_the_address_follows(opened: Callable[..., Page]) -> None:
    page = opened()
    for _ in range(3):
        page.press("ArrowRight")
    page.press("ArrowLeft")
    assert heading(page) == "Rejected row 1"
    page.value(LATER)
    assert page.value("location.hash") == "#rejected-1"
    page.press("/")
    assert page.value("document.activeElement.id") == "search"


def test_a_row_that_is_clicked_stays_chosen(opened: Callable[..., Page]) -> None:
    page = opened()
    page.press("ArrowRight")
    page.value("document.querySelector('#list li:last-child a').click()")
    page.value(LATER)
    assert (heading(page), page.value("location.hash")) == ("Rejected row 2", "#rejected-2")


def test_a_link_to_a_row_opens_it(opened: Callable[..., Page]) -> None:
    assert heading(opened(fragment="#row-2")) == "Row 2"
    page = opened(fragment="#row-99")
    assert "not among the rows shown" in page.value("document.getElementById('row-body').textContent")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_text_is_read_and_never_run(hostile: str, opened: Callable[..., Page]) -> None:
    row = {"lang": hostile, "problem": hostile, "solution": hostile, hostile: hostile}
    for anchor in ("#row-1", "#rejected-1"):
        page = opened([row], [{"reason": hostile, "evidence": hostile}], anchor)
        assert page.value(f"document.querySelector('.side:last-child pre').textContent === {json.dumps(hostile)}")
        assert page.value("window.pwned") is None
        assert page.value("document.querySelectorAll('img, svg').length") == 0
        assert page.value("document.scripts.length") == 3


def test_page_sends_no_request_and_admits_no_foreign_markup(browser: Page, tmp_path: Path) -> None:
    address = written(tmp_path / "report.html").as_uri()
    browser.open(address)
    assert browser.requests == [address]
    assert browser.value("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'kept in')") == "kept in"
    assert any("Content Security Policy" in told for told in browser.mistakes)
    assert (
        browser.value("try { document.body.innerHTML = '<b>'; 'let in' } catch (error) { error.name }") == "TypeError"
    )


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(width: int, opened: Callable[..., Page]) -> None:
    wide = {"lang": "x" * 300, "problem": "y" * 5000, "solution": "z" * 5000, "n": "w" * 59}
    page = opened([wide], [{"reason": "r" * 300, "evidence": "e" * 3000}])
    page.look(width, 900)
    assert page.value("document.documentElement.scrollWidth") <= width


def test_a_cut_text_says_so(opened: Callable[..., Page]) -> None:
    page = opened([{"problem": "🙂" * (CHARACTERS_SHOWN + 5)}], [])
    assert page.value("document.querySelector('.text p').textContent") == "Cut: the first 20,000 of 20,005 characters."
