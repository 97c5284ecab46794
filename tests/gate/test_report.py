"""The HTML report: whole, self-contained, and deaf to what a commit message says."""

import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from twin.config import FitConfig
from twin.gate.plots import over_time
from twin.gate.report import Ranker, Report, Section, build_report, render_html, write_report
from twin.gate.verdict import judge

FIT = FitConfig(bootstrap_rounds=200)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ & \"'{{ 7*7 }}"


class Elements(HTMLParser):
    """Counts elements and remembers attributes and text, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def report_of(rankers, *, repository="owner/name", promoted=True, queries=None, sections=()):
    names = list(rankers)
    verdicts = [
        judge(names[0], name, rankers[names[0]], rankers[name], fit=FIT) for name in names[1:]
    ]
    return build_report(
        repository=repository,
        ranked=rankers,
        verdicts=verdicts,
        in_service=names[0] if promoted else "default",
        promoted=promoted,
        fit=FIT,
        generated_at=1_790_000_000.0,
        queries=queries,
        sections=sections,
    )


@pytest.fixture
def report(ranked) -> Report:
    return report_of(
        {
            "relevance-3": ranked([1, 1, (1, 4)] * 20),
            "default": ranked([1, 2, (1, 8)] * 20),
            "bm25": ranked([2, 5, (3, 14)] * 20),
        },
        queries={"owner/name-2": "make the delay configurable"},
        sections=[Section(title="Mining", columns=("rule", "left"), rows=(("merge", 120),))],
    )


def test_a_reader_sees_the_verdict_the_figures_and_the_plots(report: Report) -> None:
    page = seen(render_html(report))
    text = " ".join(page.text.split())
    assert "relevance-3 is better than everything it was compared with" in text
    assert "better than bm25. relevance-3 against bm25 on 60 later tasks" in text
    assert "60 later, held-out tasks from 2023-11-14 to 2024-01-12" in text
    assert "make the delay configurable" in text
    assert "Mining ruleleft merge 120" in text
    assert page.tags.count("svg") == 4  # recall by k, over time, one forest for each opponent


def test_the_page_loads_nothing_from_anywhere(report: Report) -> None:
    html = render_html(report)
    page = seen(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    for name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "action", "data"}:
            assert (value or "").startswith("#"), f"{name}={value}"
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html


def test_nothing_that_a_repository_says_becomes_markup(ranked) -> None:
    tasks = {
        name: ranked([rank] * 40, repository=HOSTILE)
        for name, rank in {HOSTILE: 1, "bm25": 9}.items()
    }
    other = {
        name: ranked([rank] * 40, repository="b") for name, rank in {HOSTILE: 2, "bm25": 9}.items()
    }
    hostile = report_of(
        {name: [*tasks[name], *other[name]] for name in tasks},
        repository=HOSTILE,
        queries={task.commit_id: HOSTILE for task in tasks["bm25"]},
        sections=[Section(title=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),), note=HOSTILE)],
    )
    page = seen(render_html(hostile))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 6, "it is shown as it is"
    assert "49" not in re.findall(r"\{\{ (.*?) \}\}", page.text)


def test_control_characters_and_broken_unicode_do_not_break_the_page(
    ranked, tmp_path: Path
) -> None:
    odd = "a\x00b\x1b[31m\udcff\u202e中文"
    report = report_of(
        {odd: ranked([1] * 40, repository=odd), "bm25": ranked([7] * 40, repository=odd)},
        repository=odd,
        queries={f"{odd}-0": odd},
    )
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "中文" in text
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", text)


def test_without_tasks_the_page_says_so_in_words() -> None:
    report = build_report(
        repository="owner/young",
        ranked={},
        verdicts=(),
        in_service="default",
        promoted=False,
        fit=FIT,
        generated_at=0.0,
    )
    page = seen(render_html(report))
    assert report.decision == "not enough data"
    assert "The shipped model stays in service" in page.text
    assert "there were no later tasks to judge by" in page.text
    assert "svg" not in page.tags


def test_one_task_is_shown_without_a_plot_over_time(ranked) -> None:
    report = report_of({"relevance-1": ranked([1]), "bm25": ranked([2])}, promoted=False)
    page = seen(render_html(report))
    assert report.decision == "not enough data"
    assert page.tags.count("svg") == 2
    assert "Judged 2026-09-21 14:13 UTC on 1 later, held-out task" in " ".join(page.text.split())


def test_a_refused_candidate_names_who_stays(ranked) -> None:
    report = report_of({"relevance-2": ranked([9] * 40), "bm25": ranked([1] * 40)}, promoted=False)
    assert report.decision == "worse"
    assert report.headline.startswith("The shipped model stays in service: this candidate is worse")


def test_every_plot_is_well_formed_has_its_own_identifiers_and_follows_the_theme(
    report: Report,
) -> None:
    html = render_html(report)
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    identifiers = []
    for plot in plots:
        ElementTree.fromstring(plot)
        identifiers += re.findall(r'\bid="([^"]+)"', plot)
        for used in re.findall(r'(?:href="#|url\(#)([^")]+)', plot):
            assert f'id="{used}"' in plot
        assert not re.search(r"#0102\d\d", plot)
        assert "var(--ink)" in plot
    assert len(identifiers) == len(set(identifiers))


def test_the_same_record_gives_the_same_page(report: Report) -> None:
    assert render_html(report) == render_html(report)


def test_the_record_is_plain_data(report: Report) -> None:
    plain = asdict(report)
    assert plain["rankers"][0]["curve"][0] == pytest.approx((1 + 1 + 0.5) / 3)
    assert [ranker["role"] for ranker in plain["rankers"]] == [
        "candidate",
        "in service",
        "baseline",
        "chance",
    ]


def test_a_report_is_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "reports" / "latest.html"
    write_report(report, path)
    before = path.read_bytes()
    write_report(report, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["latest.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_report(report, tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "reports"]


def test_a_hundred_repositories_still_make_a_page(ranked) -> None:
    names = [f"owner/{number}" for number in range(100)]
    rankers = {
        name: [task for own in names for task in ranked([rank], repository=own)]
        for name, rank in {"relevance-1": 1, "bm25": 3}.items()
    }
    assert "owner/99" in render_html(report_of(rankers))


@pytest.mark.parametrize("months", [1, 7, 23, 31, 34, 35, 60, 170])
def test_the_axis_of_time_has_ticks_for_every_span(months: int) -> None:
    end = 1_700_000_000 + months * 2_630_000
    ranker = Ranker(
        name="relevance-1",
        role="candidate",
        curve=(0.5,),
        rolling=((1_700_000_000, 0.5), (end, 0.6)),
        figures=None,
    )
    assert over_time([ranker]).lstrip().startswith("<")
