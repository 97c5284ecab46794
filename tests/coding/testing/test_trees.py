"""A tree with some files of another commit is what a checkout of both would be."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.coding.conftest import World
from tests.coding.sandbox.conftest import archive

from twin.coding.git import GitRepository
from twin.coding.testing.trees import Tree
from twin.errors import RepositoryError


def contents(tree: Tree) -> dict[str, str]:
    return tree.texts(tree.names)


def test_an_archive_holds_what_was_committed(world: World) -> None:
    world.write("a.py", "one")
    world.write("sub/b", "two").chmod(0o755)
    (world.root / "link").symlink_to("a.py")
    first = world.commit()
    world.commit(a_py="later")
    with GitRepository.open(world.root) as repository:
        whole = Tree(repository.archive(first))
        part = Tree(repository.archive(first, ["sub/b"]))
    assert contents(whole) == {"a.py": "one", "sub/b": "two"}
    assert set(whole.names) == {"a.py", "sub/b", "link"}
    assert contents(part) == {"sub/b": "two"}
    with tarfile.open(fileobj=io.BytesIO(whole.archive)) as tar:
        assert tar.getmember("sub/b").mode & 0o111
        assert tar.getmember("link").linkname == "a.py"


def test_what_a_release_leaves_out_or_fills_in_is_as_committed(world: World) -> None:
    world.write(".gitattributes", "tests export-ignore\nversion export-subst\n")
    world.write("tests/test_a.py", "here")
    commit = world.commit(version="$Format:%H$")
    with GitRepository.open(world.root) as repository:
        found = contents(Tree(repository.archive(commit)))
    assert found["tests/test_a.py"] == "here"
    assert found["version"] == "$Format:%H$"


@pytest.mark.parametrize("name", ["-x", "a b", "*.py", ":(top)x", "\u00e4"])
def test_any_name_can_be_asked_for(world: World, name: str) -> None:
    world.write(name, "this")
    world.write("other.py", "other")
    commit = world.commit()
    with GitRepository.open(world.root) as repository:
        assert contents(Tree(repository.archive(commit, [name]))) == {name: "this"}


def test_a_path_that_is_not_there_is_an_error(world: World) -> None:
    commit = world.commit(a="1")
    with GitRepository.open(world.root) as repository, pytest.raises(RepositoryError):
        repository.archive(commit, ["b"])


def test_a_bare_repository_gives_the_same(world: World, tmp_path: Path) -> None:
    commit = world.commit(a="1")
    world.git("clone", "-q", "--bare", str(world.root), str(tmp_path / "bare"))
    with GitRepository.open(world.root) as one, GitRepository.bare(tmp_path / "bare") as other:
        assert one.archive(commit) == other.archive(commit)


def test_an_overlay_replaces_adds_and_removes(new_world: Callable[..., World]) -> None:
    below, above = new_world("below"), new_world("above")
    first = below.commit(kept="1", changed="1", gone="1")
    second = above.commit(changed="2", new__file="2")
    with GitRepository.open(below.root) as one, GitRepository.open(above.root) as other:
        added = Tree(other.archive(second))
        tree = Tree(one.archive(first)).with_those_of(added, {"gone", "never there"})
    assert contents(tree) == {"kept": "1", "changed": "2", "new/file": "2"}


def test_an_overlay_of_nothing_changes_nothing(world: World) -> None:
    commit = world.commit(a="1", b="2")
    with GitRepository.open(world.root) as repository:
        tree = Tree(repository.archive(commit))
    assert contents(tree.with_those_of(Tree(b""))) == {"a": "1", "b": "2"}
    assert contents(tree.with_files({"c/d": b"3"})) == {"a": "1", "b": "2", "c/d": "3"}


@pytest.mark.parametrize(
    ("names", "roots"),
    [
        ({"src/pkg/__init__.py", "tests/test_a.py"}, ("src",)),
        ({"src/module.py"}, ("src",)),
        ({"pkg/__init__.py", "src/readme.txt"}, (".",)),
        (set(), (".",)),
    ],
)
def test_a_tree_imports_from_where_its_packages_lie(
    names: set[str], roots: tuple[str, ...]
) -> None:
    assert Tree(archive(dict.fromkeys(names, ""))).roots == roots


def test_long_and_strange_names_survive_an_overlay() -> None:
    files = {"a/" * 60 + "long": "1", "\u00e4" * 100: "2", "x" * 99: "3"}
    tree = Tree(archive({"first": "0", **files})).with_files({"last": b"4"})
    assert contents(tree) == {"first": "0", **files, "last": "4"}
    assert contents(Tree(tree.archive)) == contents(tree)
