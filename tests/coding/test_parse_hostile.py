"""Files that nobody wrote by hand: the parser answers for all of them, the same every time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.coding.grammars import GRAMMARS
from twin.coding.parse import MAX_RATIONALES, decode, decode_outline, encode, parse

LANGUAGES = sorted(GRAMMARS)

HOSTILE = {
    "empty": b"",
    "one byte": b"(",
    "NUL bytes": b"def f():\0\n  pass\n\0\0class A {}\0",
    "nested parentheses": b"x = " + b"(" * 10_000 + b"1" + b")" * 10_000,
    "only opening": b"(" * 200_000,
    "nested with words": b"f(" * 10_000 + b")" * 10_000,
    "nested blocks": b"".join(b" " * depth + b"if x:\n" for depth in range(500)),
    "keywords without end": b"else return if " * 6_000,
    "a very long line": b'x = "' + b"a" * 300_000 + b'"',
    "a long chain": b"a" + b".b()" * 20_000,
    "a string that never ends": b'x = """' + b"word " * 20_000,
    "not UTF-8": b"# caf\xe9 because\nclass \xe9t\xe9: pass\nimport \xff\xfe\n",
    "UTF-16": "class A: pass".encode("utf-16"),
    "only newlines": b"\n" * 100_000,
    "carriage returns": b"a = 1\rb = 2\r",
    "binary": bytes(range(256)) * 200,
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_contents_are_read_and_survive_the_cache(language: str, name: str) -> None:
    parsed = parse(HOSTILE[name], language)
    assert decode(encode(parsed)) == parsed
    assert parse(HOSTILE[name], language) == parsed


@pytest.mark.parametrize("language", LANGUAGES)
@given(
    data=st.binary(max_size=300)
    | st.text(alphabet="(){}[]<>\"'`#/*\\@:;=. \n\tabifdef", max_size=300).map(str.encode)
)
@settings(max_examples=40, deadline=None)
def test_any_bytes_give_lines_within_the_file(language: str, data: bytes) -> None:
    parsed = parse(data, language)
    assert decode(encode(parsed)) == parsed
    for symbol in parsed.symbols:
        assert 1 <= symbol.start_line <= symbol.end_line <= max(parsed.num_lines, 1)
        assert symbol.name


def test_code_after_a_page_of_punctuation_keeps_its_lines() -> None:
    source = b"x = '''" + b"-+" * 15_000 + b"\n" * 3 + b"'''\ndef after(): ...\n"
    (symbol,) = parse(source, "python").symbols
    assert (symbol.name, symbol.start_line) == ("after", 5)


def test_deeply_nested_definitions_are_all_found() -> None:
    source = b"".join(b" " * depth + b"def f():\n" for depth in range(300)) + b" " * 300 + b"pass\n"
    symbols = parse(source, "python").symbols
    assert len(symbols) == 300
    assert symbols[-1].parent == ".".join(["f"] * 299)


def test_what_is_kept_of_one_file_is_bounded() -> None:
    comments = b"".join(b"# because of %d\nx\n" % number for number in range(1000))
    calls = b"".join(b"f%d()\n" % number for number in range(20_000))
    parsed = parse(comments + calls, "python")
    assert len(parsed.rationale) == MAX_RATIONALES
    assert len(parsed.references) < 20_000


def test_the_outline_is_the_imports_of_the_whole() -> None:
    parsed = parse(b"import a\nfrom ..b import c\ndef f(): ...\n", "python")
    outline = decode_outline(encode(parsed))
    assert (outline.language, outline.imports) == (parsed.language, parsed.imports)
