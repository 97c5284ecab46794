"""What a file is for, by its path alone, in any language: source, test, doc, vendored, generated.

Owns the conventions. Never opens a file, so a generated file with an innocent name is taken for
source. Which language a path is written in is `languages`' business.
"""

import re
from functools import lru_cache
from typing import Final, Literal

from twin.coding.languages import EXTENSIONS, language_of

Role = Literal["source", "test", "doc", "vendored", "generated", "other"]

_VENDORED: Final = frozenset(
    {
        "_vendor", "_vendored", "3rdparty", "bower_components", "jspm_packages", "node_modules",
        "site-packages", "third-party", "third_party", "thirdparty", "vendor", "vendored",
        "vendors",
    }
)  # fmt: skip
_TEST_FOLDERS: Final = frozenset(
    {
        "__mocks__", "__tests__", "androidtest", "cypress", "e2e", "fixtures", "integration_tests",
        "integrationtest", "jstest", "spec", "specs", "test", "test-data", "test_data", "testdata",
        "testing_data", "testfixtures", "tests", "unit_tests", "unittests",
    }
)  # fmt: skip
_DOC_FOLDERS: Final = frozenset(
    {"demo", "demos", "doc", "docs", "documentation", "example", "examples", "samples", "tutorial",
     "tutorials"}
)  # fmt: skip
_GENERATED_FOLDERS: Final = frozenset(
    {"__generated__", "__snapshots__", "_build", "autogen", "generated", "generated-sources",
     "gensrc"}
)  # fmt: skip

_TOP_VENDORED: Final = frozenset({"deps", "extern", "external", "externals", "subprojects"})
"""Only at the top level; deeper down the word names a part of the program."""

_WORKSHOP_FOLDERS: Final = frozenset(
    {"asv_bench", "bench", "benches", "benchmark", "benchmarks", "build-aux", "ci", "devtools",
     "hack", "script", "scripts", "tools"}
)  # fmt: skip
"""Only at the top level: there they hold what the project's own workers run. Deeper down, `tools`
or `scripts` are packages like any other."""

_TEST_NAME: Final = re.compile(
    r"""
      conftest\.py | tests?\.(?:py|js|ts|go|rs)
    | test_.*\.(?:pyw?|pyi|c|cc|cpp|cxx|rs|sh)
    | .*_tests?\.(?:py|go|rs|c|cc|cpp|cxx|java)
    | .*_unittest\.(?:c|cc|cpp|cxx)
    | .*[.\-_](?:test|spec|cy|e2e)\.(?:[cm]?[jt]s|[jt]sx)
    """,
    re.VERBOSE,
)
_JAVA_TEST: Final = re.compile(r"(?:Test[A-Z].*|.*(?:Test|Tests|TestCase|IT))\.(?:java|kt|scala)")
"""Case matters here: `Latest.java` is no test."""

_GENERATED_NAME: Final = re.compile(
    r"""
      .*_pb2(?:_grpc)?\.pyi? | .*\.pb\.(?:go|cc|h) | .*_pb\.[jt]s | .*\.pb\.gw\.go
    | .*[.\-]min\.(?:m?js|css) | .*\.(?:bundle|chunk)\.js | .*\.(?:js|css|ts)\.map
    | .*\.snap | .*[._]generated\.\w+ | .*\.g\.(?:dart|cs|ts) | zz_generated\..* | .*_gen\.go
    | .*\.designer\.cs | .*_string\.go | bindata\.go | parser\.out | parsetab\.py | lextab\.py
    | .*\.lock | package-lock\.json | npm-shrinkwrap\.json | pnpm-lock\.yaml | go\.sum
    | uv\.lock | requirements.*\.lock\.txt
    """,
    re.VERBOSE,
)
_DOC_NAME: Final = re.compile(
    r"""
      .*\.(?:md|rst|adoc|asciidoc|markdown|mdx|textile|tex|pod|1|2|3|5|7|8)
    | (?:readme|changes|changelog|history|news|authors|contributing|contributors|copying
        |license|licence|notice|security|code_of_conduct|install|todo)(?:[.\-_].*)?
    """,
    re.VERBOSE,
)
_TOOL_NAME: Final = re.compile(
    r"""
      setup\.py | noxfile\.py | tasks\.py | fabfile\.py | dodo\.py | wscript | sconstruct
    | sconscript | gulpfile\..* | gruntfile\..* | build\.rs
    | (?:webpack|rollup|vite|vitest|jest|babel|eslint|prettier|karma|tailwind|postcss|tsup|cypress
        |playwright|metro|next|nuxt|svelte|astro|esbuild|commitlint|stylelint)\.config\..*
    | \.eslintrc\..* | \.prettierrc\..* | \.babelrc\..*
    """,
    re.VERBOSE,
)
"""Programs that build, pack and check the project. Their changes come with releases and tools,
seldom with the tasks that a message describes, so they are nobody's target."""


@lru_cache(maxsize=200_000)
def role_of(path: str) -> Role:
    """The first that fits: vendored, generated, test, doc, source, other.

    In this order because a stranger's tests are still a stranger's, and a snapshot among the tests
    is still written by a machine. `source` is only what `language_of` can read.
    """
    *parents, name = path.split("/")
    folders = [folder.lower() for folder in parents]
    low = name.lower()
    if not _VENDORED.isdisjoint(folders) or not _TOP_VENDORED.isdisjoint(folders[:1]):
        return "vendored"
    if not _GENERATED_FOLDERS.isdisjoint(folders) or _GENERATED_NAME.fullmatch(low):
        return "generated"
    if _is_test(folders, low, name):
        return "test"
    if not _DOC_FOLDERS.isdisjoint(folders):
        return "doc"
    if not is_code(path):
        return "doc" if _DOC_NAME.fullmatch(low) else "other"
    if _TOOL_NAME.fullmatch(low) or _in_workshop(folders):
        return "other"
    return "source"


def counted_attributes() -> str:
    """Git attributes under which git compares only source line by line, as far as names tell.

    Everything else is declared binary and has no line counts, which nobody asks for: in some
    repositories comparing test data and change logs is two thirds of reading the history.
    """
    folders = _TEST_FOLDERS | _VENDORED | _GENERATED_FOLDERS | _DOC_FOLDERS
    # `!diff` and not `diff`, which would have git compare even a binary file that ends in .py.
    lines = ["* -diff", *(f"*{extension} !diff" for extension in sorted(EXTENSIONS))]
    # An archive of a tree is what was committed, whatever a release leaves out or fills in.
    lines.append("* -export-ignore -export-subst")
    return "\n".join([*lines, *(f"**/{folder}/** -diff" for folder in sorted(folders)), ""])


def is_code(path: str) -> bool:
    """Whether the file is written in a language that the index reads, whatever it is for."""
    return language_of(path) is not None


def _in_workshop(folders: list[str]) -> bool:
    return bool(folders) and (folders[0] in _WORKSHOP_FOLDERS or folders[0].startswith("."))


def _is_test(folders: list[str], low: str, name: str) -> bool:
    for folder in folders:
        if folder in _TEST_FOLDERS or folder.endswith(("_test", "-test", "_tests", "-tests")):
            return True
    return bool(_TEST_NAME.fullmatch(low) or _JAVA_TEST.fullmatch(name))
