import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.url import Url


@pytest.mark.parametrize(
    ("text", "origin", "host", "target"),
    [
        ("http://a", ("http", "a", 80), b"a", b"/"),
        ("https://a/v1", ("https", "a", 443), b"a", b"/v1"),
        ("http://a:80/v1", ("http", "a", 80), b"a", b"/v1"),
        ("http://a:8000/v1?x=1", ("http", "a", 8000), b"a:8000", b"/v1?x=1"),
        ("http://a?x=1", ("http", "a", 80), b"a", b"/?x=1"),
        ("http://[::1]:8000/v1", ("http", "::1", 8000), b"[::1]:8000", b"/v1"),
        ("https://[::1]", ("https", "::1", 443), b"[::1]", b"/"),
        ("HTTP://Example.ORG", ("http", "example.org", 80), b"example.org", b"/"),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", 80), b"xn--bcher-kva.example",
         b"/"),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(
    text: str, origin: tuple[str, str, int], host: bytes, target: bytes
) -> None:
    url = Url.parse(text)
    assert (url.origin, url.host, url.target) == (origin, host, target)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a:8000", "ftp://a", "unix:///a", "http://", "http:///v1", "//a/v1",
        "http://a:b", "http://a:99999", "http://a b", "http://a/b c", "http://a\r\nx: y/",
        "http://a/\r\nx: y", "http://a/\t", " http://a", "http://a\n", "http://a/ä", "http://a/#b",
        "http://[::1", "http://a\x00", "http://a/\x7f", "http://a,b/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Url.parse(text)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="accounts") as error:
        Url.parse("http://user:hunter2@a/v1")
    assert "hunter2" not in str(error.value)


@given(st.text(max_size=50), st.sampled_from(["http://a/", "http://", "https://a?"]))
def test_no_address_ever_holds_a_blank_or_a_line_break(text: str, start: str) -> None:
    try:
        url = Url.parse(start + text)
    except ValueError:
        return
    assert not set(url.host + url.target) & set(b" \r\n\t\x00")
