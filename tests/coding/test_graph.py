"""How files hang together: imports in every language, mirrored tests, co-change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.graph import MAX_FILES, CoChange, cochange, mirrored_tests, resolve_imports
from twin.coding.languages import language_of
from twin.coding.parse import parse


def edges(files: dict[str, str]) -> dict[str, set[str]]:
    """The import graph of a small repository, without the files that import nothing."""
    parsed = {path: parse(text.encode(), language_of(path) or "") for path, text in files.items()}
    return {path: set(found) for path, found in resolve_imports(parsed).items() if found}


def test_packages_modules_and_names_that_are_modules() -> None:
    assert edges(
        {
            "pkg/__init__.py": "from .core import run\n",
            "pkg/core.py": "import os\nfrom pkg import tools, missing\n",
            "pkg/tools.py": "import pkg.core\nfrom pkg.core import run\n",
        }
    ) == {
        "pkg/__init__.py": {"pkg/core.py"},
        "pkg/core.py": {"pkg/tools.py", "pkg/__init__.py"},
        "pkg/tools.py": {"pkg/core.py"},
    }


def test_relative_imports_of_every_level() -> None:
    assert edges(
        {
            "a/__init__.py": "",
            "a/b/__init__.py": "",
            "a/b/c.py": "from . import d\nfrom .. import x\nfrom ..x import y\nfrom ....z import w",
            "a/b/d.py": "",
            "a/x.py": "",
        }
    ) == {"a/b/c.py": {"a/b/d.py", "a/x.py"}}


def test_a_src_layout_and_tests_beside_it() -> None:
    assert edges(
        {
            "src/pkg/__init__.py": "",
            "src/pkg/core.py": "",
            "tests/conftest.py": "",
            "tests/support.py": "",
            "tests/test_core.py": "import pkg.core\nfrom tests.support import a\nimport support\n",
        }
    ) == {"tests/test_core.py": {"src/pkg/core.py", "tests/support.py"}}


def test_namespace_packages_without_init_files() -> None:
    assert edges(
        {
            "lib/company/auth/login.py": "",
            "lib/company/web/app.py": "from company.auth import login\nimport company.auth.login\n",
        }
    ) == {"lib/company/web/app.py": {"lib/company/auth/login.py"}}


def test_of_two_packages_with_one_name_the_nearer_is_meant() -> None:
    files = {}
    for project in ("one", "two"):
        files[f"{project}/src/pkg/__init__.py"] = ""
        files[f"{project}/src/pkg/core.py"] = ""
        files[f"{project}/tests/test_core.py"] = "from pkg.core import x\n"
    assert edges(files) == {
        "one/tests/test_core.py": {"one/src/pkg/core.py"},
        "two/tests/test_core.py": {"two/src/pkg/core.py"},
    }


def test_a_module_named_like_the_standard_library_is_not_taken_for_it() -> None:
    assert (
        edges(
            {
                "pkg/__init__.py": "",
                "pkg/logging.py": "import logging\n",
                "pkg/core.py": "import logging, types\nfrom json import loads\n",
                "tests/data/json.py": "",
            }
        )
        == {}
    )


def test_a_stub_serves_where_there_is_no_source() -> None:
    assert edges({"p/__init__.py": "", "p/a.pyi": "", "p/b.py": "from p import a\n"}) == {
        "p/b.py": {"p/a.pyi"}
    }


def test_javascript_and_typescript_paths_extensions_and_index_files() -> None:
    assert edges(
        {
            "src/app.ts": (
                'import a from "./a";\nimport b from "./lib";\nimport c from "../shared/c.js";\n'
                'import react from "react";\nimport d from "@/deep/d";\nimport e from "../../e";\n'
            ),
            "src/a.tsx": 'const app = require("./app")\n',
            "src/lib/index.js": 'export * from "..";\n',
            "src/index.ts": "",
            "src/deep/d.ts": "",
            "shared/c.ts": "",
            "react.js": "",
        }
    ) == {
        "src/app.ts": {"src/a.tsx", "src/lib/index.js", "shared/c.ts", "src/deep/d.ts"},
        "src/a.tsx": {"src/app.ts"},
        "src/lib/index.js": {"src/index.ts"},
    }


def test_go_packages_are_folders_under_the_module_path() -> None:
    assert edges(
        {
            "main.go": 'package main\nimport ("fmt"; "example.org/me/app/internal/store")\n',
            "internal/store/a.go": "package store\n",
            "internal/store/b.go": "package store\n",
            "internal/store/a_test.go": 'package store\nimport "example.org/me/app"\n',
            "fmt/fmt.go": "package fmt\n",
        }
    ) == {
        "main.go": {"internal/store/a.go", "internal/store/b.go"},
        "internal/store/a_test.go": {"main.go"},
    }


def test_rust_modules_crates_and_use_paths() -> None:
    assert edges(
        {
            "crates/core/src/lib.rs": "mod a;\npub mod deep;\n",
            "crates/core/src/a.rs": "use crate::deep::inner::Thing;\nuse super::deep;\n",
            "crates/core/src/deep/mod.rs": "mod inner;\nuse self::inner::Thing;\n",
            "crates/core/src/deep/inner.rs": "use super::super::a::x;\nuse std::io;\n",
            "crates/my-cli/src/main.rs": "use core::a::run;\n",
        }
    ) == {
        "crates/core/src/lib.rs": {"crates/core/src/a.rs", "crates/core/src/deep/mod.rs"},
        "crates/core/src/a.rs": {"crates/core/src/deep/inner.rs", "crates/core/src/deep/mod.rs"},
        "crates/core/src/deep/mod.rs": {"crates/core/src/deep/inner.rs"},
        "crates/core/src/deep/inner.rs": {"crates/core/src/a.rs"},
        "crates/my-cli/src/main.rs": {"crates/core/src/a.rs"},
    }


def test_java_classes_static_members_and_whole_packages() -> None:
    assert edges(
        {
            "src/main/java/a/b/One.java": (
                "import a.c.Two;\nimport static a.c.Three.VALUE;\nimport java.util.List;\n"
            ),
            "src/main/java/a/c/Two.java": "import a.b.*;\n",
            "src/main/java/a/c/Three.java": "import a.b.One.Inner;\n",
        }
    ) == {
        "src/main/java/a/b/One.java": {
            "src/main/java/a/c/Two.java",
            "src/main/java/a/c/Three.java",
        },
        "src/main/java/a/c/Two.java": {"src/main/java/a/b/One.java"},
        "src/main/java/a/c/Three.java": {"src/main/java/a/b/One.java"},
    }


def test_c_includes_beside_the_file_and_by_the_end_of_their_path() -> None:
    assert edges(
        {
            "src/main.c": '#include "util.h"\n#include <proj/api.h>\n#include <string.h>\n',
            "src/util.h": '#include "../src/util.h"\n',
            "other/util.h": "",
            "include/proj/api.h": '#include "detail/x.hpp"\n',
            "include/proj/detail/x.hpp": "",
            "compat/string.h": "",
        }
    ) == {
        "src/main.c": {"src/util.h", "include/proj/api.h"},
        "include/proj/api.h": {"include/proj/detail/x.hpp"},
    }


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "src", "__init__"]), min_size=1, max_size=4).map(
            lambda parts: "/".join(parts) + ".py"
        ),
        st.sampled_from(
            ["import a.b", "from . import a", "from .. import b", "import src", "from a import *"]
        ),
        max_size=12,
    )
)
def test_edges_stay_within_the_files_and_never_lead_to_themselves(files: dict[str, str]) -> None:
    for path, found in edges(files).items():
        assert path not in found
        assert found <= files.keys()


@pytest.mark.parametrize(
    ("test", "source"),
    [
        ("tests/test_core.py", "src/pkg/core.py"),
        ("tests/test_frames.py", "src/pkg/_frames.py"),
        ("tests/test_core_errors.py", "src/pkg/core.py"),
        ("tests/test_pkg.py", "src/pkg/__init__.py"),
        ("store/disk_test.go", "store/disk.go"),
        ("web/button.spec.ts", "web/button.ts"),
        ("a/src/test/java/x/FooTest.java", "a/src/main/java/x/Foo.java"),
    ],
)
def test_a_test_mirrors_the_source_of_its_name(test: str, source: str) -> None:
    sources = [
        "src/pkg/__init__.py",
        "src/pkg/core.py",
        "src/pkg/_frames.py",
        "store/disk.go",
        "web/button.ts",
        "a/src/main/java/x/Foo.java",
    ]
    assert mirrored_tests([*sources, test]) == {test: (source,)}


def test_of_several_sources_the_one_in_the_likest_folder_is_mirrored() -> None:
    paths = ["src/p/a/io.py", "src/p/b/io.py", "tests/a/test_io.py", "tests/b/test_io.py"]
    assert mirrored_tests(paths) == {
        "tests/a/test_io.py": ("src/p/a/io.py",),
        "tests/b/test_io.py": ("src/p/b/io.py",),
    }


def test_a_name_that_fits_too_many_sources_mirrors_none() -> None:
    many = [f"src/p{number}/models.py" for number in range(10)]
    assert mirrored_tests([*many, "tests/test_models.py"]) == {}


def test_files_among_the_tests_that_test_nothing_mirror_nothing() -> None:
    paths = ["src/p/core.py", "tests/core.py", "tests/conftest.py", "tests/data/core.py"]
    assert mirrored_tests(paths) == {}


def test_the_share_of_changes_that_another_file_shares() -> None:
    counts = cochange([["a", "b"], ["a", "b", "c"], ["a"], ["a", "c"]], half_life=1e9)
    assert counts.given("a") == pytest.approx({"b": 0.5, "c": 0.5})
    assert counts.given("b") == pytest.approx({"a": 1.0, "c": 0.5})
    assert counts.given("unknown") == {}
    assert counts.changes("a") == pytest.approx(4.0)


def test_old_changes_count_less_than_new_ones() -> None:
    counts = cochange([["a", "old"], *[["x"]] * 10, ["a", "new"]], half_life=5)
    shares = counts.given("a")
    assert list(shares) == ["new", "old"]
    assert shares["new"] > 3 * shares["old"]


def test_a_commit_of_very_many_files_says_nothing() -> None:
    counts = cochange([[str(number) for number in range(MAX_FILES + 1)]])
    assert len(counts) == 0


def test_counting_on_gives_what_counting_at_once_gives() -> None:
    commits = [["a", "b"], ["b", "c"], ["a", "b", "c"]] * 50
    grown = cochange(commits[:70])
    for files in commits[70:]:
        grown.add(files)
    assert grown.given("b") == cochange(commits).given("b")


def test_very_long_histories_neither_overflow_nor_change_the_shares() -> None:
    counts = CoChange(half_life=1.0)
    for _ in range(3000):
        counts.add(["a", "b"])
        counts.add(["a"])
    assert counts.given("b") == pytest.approx({"a": 1.0})
    assert counts.given("a")["b"] == pytest.approx(1 / 3)


def test_memory_is_bounded_and_recent_pairs_survive() -> None:
    counts = CoChange(max_pairs=1000)
    for number in range(2000):
        counts.add([f"{number}.py", f"{number + 1}.py", "hub.py"])
        assert len(counts) <= 1000
    assert "2000.py" in counts.given("1999.py")
