"""A sandbox, an environment with pytest (our own), and trees written in the test."""

from collections.abc import Callable, Mapping

import pytest
from tests.coding.sandbox.conftest import archive

from twin.coding.sandbox.cell import Sandbox, open_sandbox
from twin.coding.sandbox.limits import Limits
from twin.coding.testing.hearing import Patience
from twin.coding.testing.results import Selection, TestEnvironment, TestRun
from twin.coding.testing.run import run_tests
from twin.coding.testing.trees import Tree

Runs = Callable[..., TestRun]


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return open_sandbox()


@pytest.fixture(scope="session")
def environment(small_environment: TestEnvironment) -> TestEnvironment:
    return small_environment


@pytest.fixture
def tests_of(sandbox: Sandbox, environment: TestEnvironment) -> Runs:
    """Runs the tests of a tree given as path -> content."""

    def run(
        files: Mapping[str, str],
        selection: Selection | None = None,
        patience: Patience | None = None,
        environment: TestEnvironment = environment,
        **limits: float,
    ) -> TestRun:
        return run_tests(
            sandbox,
            Tree(archive(files)),
            selection or Selection(),
            environment,
            limits=Limits(**{"wall_s": 60, **limits}),  # type: ignore[arg-type]
            patience=patience,
        )

    return run
