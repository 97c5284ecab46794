"""What the parser finds in Python."""

from textwrap import dedent

from twin.coding.parse import MAX_DOCSTRING, MAX_SIGNATURE, parse
from twin.records import Import, ParsedFile, Reference, Symbol


def read(source: str) -> ParsedFile:
    return parse(dedent(source).lstrip("\n").encode(), "python")


def outline(source: str) -> list[tuple[str, str, str]]:
    return [(item.kind, item.parent, item.name) for item in read(source).symbols]


def imports(source: str) -> list[tuple[str, tuple[str, ...], int]]:
    return [(item.module, item.names, item.level) for item in read(source).imports]


def test_definitions_know_what_they_stand_in() -> None:
    source = """
        class Outer:
            class Inner:
                def method(self):
                    def helper(): ...
                    class Local: ...
            async def run(self): ...
        def top(): ...
    """
    assert outline(source) == [
        ("class", "", "Outer"),
        ("class", "Outer", "Inner"),
        ("method", "Outer.Inner", "method"),
        ("function", "Outer.Inner.method", "helper"),
        ("class", "Outer.Inner.method", "Local"),
        ("method", "Outer", "run"),
        ("function", "", "top"),
    ]


def test_a_definition_inside_an_if_or_try_is_found() -> None:
    source = """
        try:
            import a
        except ImportError:
            def fallback(): ...
        if True:
            class Conditional: ...
    """
    assert outline(source) == [("function", "", "fallback"), ("class", "", "Conditional")]


def test_the_span_of_a_decorated_definition_starts_at_its_first_decorator() -> None:
    source = """
        import functools

        @functools.cache
        @other(1)
        async def slow(
            a: int,  # the first
            *, b: str = "#",
        ) -> None:
            pass

        x = 1
    """
    (symbol,) = read(source).symbols
    assert symbol == Symbol(
        name="slow",
        kind="function",
        start_line=3,
        end_line=9,
        signature='async def slow(a: int, *, b: str = "#") -> None',
    )


def test_a_one_line_definition_ends_on_its_line() -> None:
    (symbol,) = read("def f(): pass\n\n\n").symbols
    assert (symbol.start_line, symbol.end_line) == (1, 1)


def test_constants_are_upper_case_or_annotated_and_at_the_top_level() -> None:
    source = """
        MAX_SIZE = 3
        _PRIVATE: int = 4
        annotated: dict[str, int] = {}
        logger = make()
        if True:
            INNER = 1
        def f():
            LOCAL = 2
        type Pair[T] = tuple[T, T]
    """
    assert outline(source) == [
        ("constant", "", "MAX_SIZE"),
        ("constant", "", "_PRIVATE"),
        ("constant", "", "annotated"),
        ("function", "", "f"),
        ("type", "", "Pair"),
    ]
    assert read(source).symbols[0].signature == "MAX_SIZE = 3"


def test_signatures_and_docstrings_are_bounded() -> None:
    arguments = ", ".join(f"argument_{number}: int" for number in range(200))
    source = f"def f({arguments}):\n    '''{'word ' * 1000}'''\n"
    (symbol,) = parse(source.encode(), "python").symbols
    assert len(symbol.signature) <= MAX_SIGNATURE
    assert len(symbol.docstring) <= MAX_DOCSTRING
    assert symbol.docstring.endswith("…")


def test_docstrings_of_the_module_of_classes_and_of_functions() -> None:
    source = '''
        #!/usr/bin/env python
        # a comment before it
        """The module."""
        class A:
            r"""A \\d class,

            on two lines."""
            def f(self):
                # not this
                'single quotes'
            def g(self):
                "text" + other()
            def h(self):
                x = """not first"""
    '''
    parsed = read(source)
    assert parsed.docstring == "The module."
    assert [item.docstring for item in parsed.symbols] == [
        r"A \d class, on two lines.",
        "single quotes",
        "",
        "",
    ]


def test_every_form_of_import() -> None:
    source = """
        from __future__ import annotations
        import os
        import a.b as c, d
        from a.b import c as d, e
        from . import x
        from .. import y
        from ...p.q import (
            r,  # why
            s as t,
        )
        from star import *
        from a import \\
            folded
        if TYPE_CHECKING:
            from lazy import Type
        def f():
            import inner
    """
    assert imports(source) == [
        ("__future__", ("annotations",), 0),
        ("os", (), 0),
        ("a.b", (), 0),
        ("d", (), 0),
        ("a.b", ("c", "e"), 0),
        ("", ("x",), 1),
        ("", ("y",), 2),
        ("p.q", ("r", "s"), 3),
        ("star", ("*",), 0),
        ("a", ("folded",), 0),
        ("lazy", ("Type",), 0),
        ("inner", (), 0),
    ]


def test_imports_say_their_line() -> None:
    assert read("\n\nimport a\nx = 1\nfrom b import c\n").imports == (
        Import(module="a", line=1),
        Import(module="b", line=3, names=("c",)),
    )


def test_references_are_calls_bases_and_decorators_counted_most_frequent_first() -> None:
    source = """
        @decorate
        @pkg.register("x")
        class A(Base, mod.Mixin, Generic[T], metaclass=Meta):
            @property
            def f(self):
                self.run().then(print(1))
                print(2)
    """
    assert read(source).references == (
        Reference(name="print", count=2),
        *(
            Reference(name=name, count=1)
            for name in (
                "Base",
                "Generic",
                "Mixin",
                "decorate",
                "property",
                "register",
                "run",
                "then",
            )
        ),
    )


def test_comments_that_say_why_are_kept_and_their_lines_joined() -> None:
    source = """
        # just a heading
        x = 1  # because of the cache
        # Workaround for a bug
        # in the parser.

        y = 2
    """
    assert read(source).rationale == ("because of the cache Workaround for a bug in the parser.",)


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    plain = 'class A:\n    """Doc."""\n\n    def f(self, a,\n          b): ...\nimport x\n'
    windows = b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode()
    assert parse(windows, "python") == parse(plain.encode(), "python")


def test_what_a_syntax_error_leaves_readable_is_read() -> None:
    parsed = read("import a\ndef good(): ...\nx = = (\nclass Later: ...\n")
    assert parsed.has_errors
    assert "good" in [item.name for item in parsed.symbols]
    assert parsed.imports == (Import(module="a", line=1),)
