"""What the parser finds in the other languages: symbols, imports, calls, documentation."""

from typing import get_args

import pytest

from twin.coding.grammars import GRAMMARS
from twin.coding.parse import parse
from twin.records import ParsedFile, SymbolKind

SOURCES = {
    "javascript": """
        // What this file is for.
        import d, {a as b, c} from "./x.js";
        import "./side";
        const fs = require("fs");
        export * from "../y";
        /** Makes a thing. */
        export function make(a, b = 2) { return go(a); }
        export default class Foo extends Bar {
          /* Runs. */
          async run(x) { this.stop(); new Baz(); }
          handle = () => {}
        }
        export const arrow = async (x) => x + 1;
        const MAX_SIZE = 10;
        const wiring = 1;
        app.use = function use(fn) { return lazy("./not") }
        function* gen() { import("./dyn"); }
    """,
    "typescript": """
        import type { A, type B } from "./types";
        export interface I { a(): void }
        export type T = string | number;
        export enum E { A, B }
        namespace N { export function inner(): void {} }
        export abstract class C<T> extends D<T> implements I { private m(a: number) { f(a) } }
        export const LIMIT = 3;
    """,
    "tsx": """
        import React from "react";
        export const App: React.FC = () => <div onClick={() => go()}>x</div>;
    """,
    "go": """
        // Package main does it.
        package main
        import ("fmt"; x "github.com/a/b/c")
        import "os"
        const MaxSize = 3
        // Foo is a thing.
        type Foo struct { A int }
        type I interface { M() }
        type F func(int) int
        // Run runs.
        func (f *Foo) Run(a int) error { fmt.Println(f.x()); return nil }
        func main() { run() }
    """,
    "rust": """
        //! What this crate is for.
        use crate::a::{b, c::{self, D as E}};
        use std::io;
        mod foo;
        /// A thing.
        #[derive(Debug)]
        pub struct Foo<T> { a: T }
        impl<T> Foo<T> {
            /// Makes.
            pub fn new(a: T) -> Self { helper(a); Vec::with(); println!("x"); Foo { a } }
        }
        impl fmt::Display for Foo<i32> { fn fmt(&self) {} }
        trait Tr { fn sig(&self); }
        enum E { A }
        const MAX: usize = 3;
        macro_rules! mac { () => {} }
    """,
    "java": """
        package a.b;
        import java.util.List;
        import static a.b.C.d;
        import x.y.*;
        /** Doc of A. */
        @Deprecated
        public class A<T> extends B implements I {
          public static final int MAX_SIZE = 3;
          private int count;
          /** Makes. */
          @Override public String make(int a) throws E { return new Foo<>(a).go(); }
          A() {}
          enum K { X }
          interface L { void m(); }
        }
    """,
    "c": """
        #include <stdio.h>
        #include "foo/bar.h"
        #define MAX 3
        typedef struct { int a; } foo_t;
        struct foo { int x; };
        /* Runs it. */
        static int run(int a, char *b) { return call(a); }
        char *name(void) { return 0; }
        int declared(int x);
    """,
    "cpp": """
        #include <vector>
        namespace ns {
        // Doc of Foo.
        template <typename T>
        class Foo : public Bar { public: Foo(); void m(int a) { go(); } int n() const; };
        }
        void ns::Foo::run(int a) { x->stop(); std::sort(a); }
        using X = int;
    """,
}

OUTLINES = {
    "javascript": """
        function make|class Foo|method Foo.run|method Foo.handle|function arrow|constant MAX_SIZE
        |function use|function gen
    """,
    "typescript": """
        interface I|type T|enum E|module N|function N.inner|class C|method C.m|constant LIMIT
    """,
    "tsx": "function App",
    "go": """
        constant MaxSize|struct Foo|interface I|type F|method Foo.Run|function main
    """,
    "rust": """
        struct Foo|method Foo.new|method Foo.fmt|trait Tr|method Tr.sig|enum E|constant MAX
        |macro mac
    """,
    "java": """
        class A|constant A.MAX_SIZE|method A.make|method A.A|enum A.K|interface A.L|method A.L.m
    """,
    "c": "macro MAX|type foo_t|struct foo|function run|function name|function declared",
    "cpp": """
        module ns|class ns.Foo|method ns.Foo.Foo|method ns.Foo.m|method ns.Foo.n|method ns.Foo.run
        |type X
    """,
}

IMPORTS = {
    "javascript": [("./x.js", ("a", "c")), ("./side", ()), ("fs", ()), ("../y", ()), ("./dyn", ())],
    "typescript": [("./types", ("A", "B"))],
    "tsx": [("react", ())],
    "go": [("fmt", ()), ("github.com/a/b/c", ()), ("os", ())],
    "rust": [
        ("crate::a", ("b", "c")),
        ("crate::a::c", ("D",)),
        ("std", ("io",)),
        ("self::foo", ()),
    ],
    "java": [("java.util", ("List",)), ("a.b.C", ("d",)), ("x.y", ("*",))],
    "c": [("stdio.h", ()), ("foo/bar.h", ())],
    "cpp": [("vector", ())],
}

REFERENCES = {
    "javascript": {"go", "stop", "Baz", "Bar", "lazy", "require"},
    "typescript": {"D", "I", "f"},
    "tsx": {"go"},
    "go": {"Println", "x", "run"},
    "rust": {"helper", "with", "println"},
    "java": {"B", "I", "Deprecated", "Override", "Foo", "go"},
    "c": {"call"},
    "cpp": {"Bar", "go", "stop", "sort"},
}

DOCUMENTED = {
    "javascript": {"make": "Makes a thing.", "run": "Runs."},
    "go": {"Foo": "Foo is a thing.", "Run": "Run runs."},
    "rust": {"Foo": "A thing.", "new": "Makes."},
    "java": {"A": "Doc of A.", "make": "Makes."},
    "c": {"run": "Runs it."},
    "cpp": {"Foo": "Doc of Foo."},
}


def read(language: str) -> ParsedFile:
    lines = SOURCES[language].strip("\n").splitlines()
    return parse("\n".join(line[8:] for line in lines).encode(), language)


@pytest.mark.parametrize("language", SOURCES)
def test_symbols_with_their_kinds_and_owners(language: str) -> None:
    expected = [entry.strip() for entry in OUTLINES[language].split("|")]
    parsed = read(language)
    assert not parsed.has_errors
    assert [
        f"{item.kind} {item.parent}.{item.name}".replace(" .", " ") for item in parsed.symbols
    ] == expected


@pytest.mark.parametrize("language", SOURCES)
def test_imports_as_written(language: str) -> None:
    assert [(item.module, item.names) for item in read(language).imports] == IMPORTS[language]


@pytest.mark.parametrize("language", SOURCES)
def test_calls_and_bases_are_references(language: str) -> None:
    assert {item.name for item in read(language).references} == REFERENCES[language]


@pytest.mark.parametrize("language", DOCUMENTED)
def test_the_comment_before_a_definition_documents_it_and_no_other(language: str) -> None:
    found = {item.name: item.docstring for item in read(language).symbols if item.docstring}
    assert found == DOCUMENTED[language]


def test_the_first_comment_documents_the_file_unless_it_is_a_licence() -> None:
    assert read("go").docstring == "Package main does it."
    assert read("rust").docstring == "What this crate is for."
    assert parse(b"// Copyright 2020 The Authors\n\npackage main\n", "go").docstring == ""


def test_signatures_stop_before_the_body() -> None:
    signatures = {
        (language, item.name): item.signature
        for language in SOURCES
        for item in read(language).symbols
    }
    assert signatures["go", "Run"] == "func (f *Foo) Run(a int) error"
    assert signatures["rust", "new"] == "pub fn new(a: T) -> Self"
    assert signatures["java", "make"] == "@Override public String make(int a) throws E"
    assert signatures["javascript", "make"] == "function make(a, b = 2)"
    assert signatures["typescript", "C"] == "abstract class C<T> extends D<T> implements I"
    assert signatures["c", "MAX"] == "#define MAX 3"
    assert signatures["cpp", "n"] == "int n() const"


def test_an_exported_definition_starts_at_its_export() -> None:
    (symbol,) = parse(b"// why\nexport default\n  class A {\n}\n", "javascript").symbols
    assert (symbol.start_line, symbol.end_line) == (2, 4)


def test_an_include_in_quotes_is_told_from_one_in_brackets() -> None:
    assert [item.level for item in read("c").imports] == [0, 1]


def test_patterns_name_only_what_the_parser_knows() -> None:
    known = {*get_args(SymbolKind), "scope", "outer", "import", "reference", "comment"}
    for factory in GRAMMARS.values():
        assert {what for what, _ in factory().patterns} <= known
        # With a predicate in a pattern the result would depend on the binding's own text cache.
        assert not any("(#" in pattern for _, pattern in factory().patterns)
