"""Documents come apart at their headings, and whatever they hold, the work is linear."""

from hypothesis import given
from hypothesis import strategies as st

from twin.coding.sections import MAX_CHARS, MAX_LINES, MAX_SECTIONS, split

NOTES = """\
Before any heading.

# Build
Run make.

## Tests
Run pytest.

# Release ##
Tag it.
"""


def test_a_document_is_cut_at_its_headings_and_each_piece_knows_its_lines() -> None:
    found = split("notes.md", NOTES)
    assert [(s.trail, s.start_line, s.end_line) for s in found] == [
        ((), 1, 1),
        (("Build",), 3, 4),
        (("Build", "Tests"), 6, 7),
        (("Release",), 9, 10),
    ]
    assert found[2].text == "## Tests\nRun pytest."


def test_a_comment_in_a_code_block_is_no_heading() -> None:
    text = "# Build\n```sh\n# not a heading\nmake\n```\n~~~\n# nor this\n~~~\n"
    assert [section.trail for section in split("a.md", text)] == [("Build",)]


def test_a_heading_with_nothing_under_it_is_no_piece() -> None:
    assert [s.trail for s in split("a.md", "# Only\n## Inner\ntext\n")] == [("Only", "Inner")]


def test_a_level_that_was_left_out_is_not_made_up() -> None:
    assert split("a.md", "### Deep\ntext\n")[0].trail == ("Deep",)


def test_a_long_section_is_cut_at_empty_lines() -> None:
    paragraph = "\n".join(["some words here"] * 15)
    found = split("a.md", "# Long\n" + "\n\n".join([paragraph] * 6))
    assert len(found) > 1
    assert all(section.trail == ("Long",) for section in found)
    assert all(section.end_line - section.start_line < MAX_LINES for section in found)
    assert all(section.text.endswith("some words here") for section in found)


def test_a_line_without_end_is_shown_by_its_beginning() -> None:
    (section,) = split("a.md", "word " * 200_000)
    assert len(section.text) == MAX_CHARS


def test_a_million_headings_are_cut_off_after_enough() -> None:
    assert len(split("a.md", "# x\ny\n" * 150_000)) == MAX_SECTIONS


def test_the_words_of_headings_and_of_the_file_count_as_words_of_the_piece() -> None:
    (section,) = split("docs/zebra.md", "# Quagga\nStripes.\n")
    (plain,) = split("a.md", "Stripes.\n")
    assert len(section.bag.terms) > len(plain.bag.terms)


@given(st.text(alphabet="# `~\nab\t", max_size=600))
def test_every_line_with_words_is_in_exactly_one_piece_or_a_heading_alone(text: str) -> None:
    lines = text.splitlines()
    seen = [0] * (len(lines) + 1)
    for section in split("a.md", text):
        assert 1 <= section.start_line <= section.end_line <= len(lines)
        assert section.text == "\n".join(lines[section.start_line - 1 : section.end_line])
        for line in range(section.start_line, section.end_line + 1):
            seen[line] += 1
    assert max(seen, default=0) <= 1
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            assert seen[number] == 1
