"""What a file is for, told by its path alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.coding.paths import Role, is_code, role_of

CASES: dict[Role, str] = {
    "source": """
        attr/_make.py src/attr/__init__.pyi rich/_windows.py src/pytest/__init__.py src/_pytest/x.py
        lib/express.js packages/core/src/index.ts app/page.tsx cmd/main.go internal/latest.go
        crates/core/main.rs src/main/java/com/google/gson/Gson.java src/jv_print.c include/jv.h
        src/Latest.java contest.py attestation.py src/scripts/run.py pkg/tools/pack.go
        beartype/_util/api/external/utilnumpy.py libcst/_version.py protest/march.py
    """,
    "test": """
        tests/test_make.py test_setup.py conftest.py src/x/conftest.py pkg/mod/testing_test.go
        src/app.spec.ts src/app.test.tsx lib/__tests__/a.js test/helper.js
        gson/src/test/java/com/google/gson/GsonTest.java src/GsonTest.java src/TestGson.java
        tests/data/cases/comments.py testdata/script.go beartype_test/a00_unit/data/data_pep.py
        crates/core/tests/tests.rs foo/bar_test.cc spec/models/a.js cypress/a.cy.js tests.py
        docs/tests/a.py tests/examples/readme.md
    """,
    "doc": """
        README.md docs/conf.py docs/source/conf.py examples/attrs.py CHANGELOG LICENSE jq.1
        docs/examples/app.py samples/main.go CHANGES.rst guide.adoc
    """,
    "vendored": """
        vendor/golang.org/x/net/http2.go src/pip/_vendor/requests/api.py third_party/zlib/inflate.c
        node_modules/a/index.js web/node_modules/a/test/a.js extern/fmt/core.h deps/lua/lua.c
        src/x/_vendored/six.py
    """,
    "generated": """
        api/v1/service_pb2.py service.pb.go static/jquery.min.js dist/app.bundle.js poetry.lock
        package-lock.json yarn.lock Cargo.lock go.sum parsetab.py __snapshots__/a.snap
        pkg/generated/client.go stringer_string.go zz_generated.deepcopy.go tests/api_pb2.py
    """,
    "other": """
        setup.py noxfile.py pyproject.toml Makefile .github/workflows/ci.yml .github/scripts/x.py
        scripts/release.py tools/make_emoji.py bench/run.py build.rs webpack.config.js logo.png
        .eslintrc.js Dockerfile benchmarks/a.py
    """,
}


@pytest.mark.parametrize(
    ("path", "role"),
    [(path, role) for role, paths in CASES.items() for path in paths.split()],
)
def test_the_path_tells_the_role(path: str, role: Role) -> None:
    assert role_of(path) == role


@given(st.text(max_size=60))
def test_any_path_has_a_role_and_only_readable_code_is_source(path: str) -> None:
    if role_of(path) == "source":
        assert is_code(path)


def test_names_that_are_not_utf8_are_judged_like_any_other() -> None:
    assert role_of(b"src/caf\xe9.py".decode("utf-8", "surrogateescape")) == "source"
    assert role_of(b"tests/\xff.py".decode("utf-8", "surrogateescape")) == "test"


def test_a_path_made_to_be_slow_is_not() -> None:
    for part in ("a.", "a_", "a-", "/", "test_", "a/", "." * 3, "_test"):
        role_of(part * 20_000)
        role_of(part * 20_000 + ".py")
