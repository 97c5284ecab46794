"""A repository is opened with care, and its trees and blobs are what git says they are."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from twin.coding import git as git_module
from twin.coding.git import GitRepository
from twin.coding.history import read_history
from twin.errors import MissingRequirement, RepositoryError, TwinError

World = Any  # the class stands in conftest, which tests cannot import


def listed(world: World, revision: str) -> dict[str, str]:
    """Path -> blob id of regular files, told by git itself."""
    files = {}
    for entry in world.git("ls-tree", "-r", "-z", revision).split("\0"):
        if entry:
            facts, path = entry.split("\t", 1)
            mode, _, blob_id = facts.split()
            if mode in ("100644", "100755"):
                files[path] = blob_id
    return files


def children() -> set[str]:
    """Processes started by this one that still run."""
    here = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not here.exists():
        pytest.skip("this system does not list a process's children in /proc")
    return set(here.read_text().split())


def _read_all(repository: GitRepository, commit_id: str, blob_id: str) -> None:
    repository.tree(commit_id)
    list(repository.blobs([blob_id]))


# Opening


def test_a_repository_is_found_from_any_folder_inside_it(world: World) -> None:
    world.commit(src__deep__a_py="x = 1\n")
    with GitRepository.open(world.root / "src" / "deep") as repository:
        assert repository.root == world.root
        assert repository.name == "world"
        assert repository.head() == world.git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/hynek/structlog.git", "hynek/structlog"),
        ("https://user:secret@github.com/hynek/structlog", "hynek/structlog"),
        ("git@github.com:psf/black.git", "psf/black"),
        ("ssh://git@host:2222/team/group/tool.git/", "group/tool"),
        ("https://host/tool", "tool"),
        ("/srv/mirrors/psf+black/repo", "world"),
        ("file:///srv/mirrors/black", "world"),
        ("https://host/a/b\x1b[31m", "world"),
        ("ext::sh -c whatever", "world"),
    ],
)
def test_the_name_is_owner_and_name_of_the_origin_and_never_a_secret(
    world: World, address: str, name: str
) -> None:
    world.commit(a_py="")
    world.git("config", "remote.origin.url", address)
    with GitRepository.open(world.root) as repository:
        assert repository.name == name


def test_each_place_that_cannot_be_learnt_from_is_explained_with_a_cure(
    tmp_path: Path, new_world: Callable[..., World]
) -> None:
    full = new_world("full")
    full.commit(a_py="1\n")
    full.commit(a_py="2\n")
    full.git("clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    full.git("clone", "-q", "--depth=1", f"file://{full.root}", str(tmp_path / "shallow"))
    elsewhere = new_world("elsewhere")
    elsewhere.commit(a_py="1\n")
    elsewhere.git("config", "core.worktree", str(full.root))
    damaged = new_world("damaged")
    (damaged.root / ".git" / "config").write_text("[core\n")
    (tmp_path / "plain").mkdir()
    new_world("empty")
    for place, words in {
        "nowhere": ["no folder", "Check the path"],
        "full/a.py": ["is a file", "Give the folder"],
        "plain": ["not a git repository", "git clone"],
        "bare": ["bare", "git clone"],
        "shallow": ["shallow", "fetch --unshallow"],
        "empty": ["no commits", "Commit something"],
        "full/.git": ["git's own folder", "the one above it"],
        "elsewhere": ["work tree is elsewhere", "core.worktree"],
        "damaged": ["bad config", "git -C"],
        "nul\0byte": ["no folder", "Check the path"],
        "x" * 5000: ["cannot be opened", "Check the path"],
    }.items():
        with pytest.raises(RepositoryError) as caught:
            GitRepository.open(tmp_path / place)
        message = str(caught.value)
        assert all(word in message for word in words), message
        assert "\n" not in message
        assert caught.value.exit_code == 2


def test_a_repository_of_another_user_is_not_read_but_the_way_to_trust_it_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit(a_py="")
    real = shutil.which("git")
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    # git's own switch for this test; our environment drops such variables, so a wrapper sets it.
    wrapper.write_text(
        "#!/bin/sh\nexport GIT_TEST_ASSUME_DIFFERENT_OWNER=1 GIT_CONFIG_GLOBAL=/dev/null\n"
        f'exec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    with pytest.raises(RepositoryError, match=r"another user.*safe\.directory"):
        GitRepository.open(world.root)


@pytest.mark.parametrize(
    ("script", "words"),
    [(None, "not installed"), ("echo git version 2.20.1", "too old"), ("exit 1", "too old")],
)
def test_without_a_recent_git_the_user_is_told_to_install_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    if script is not None:
        (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(MissingRequirement, match=f"{words}.*Install git 2.30") as caught:
        GitRepository.open(world.root)
    assert caught.value.exit_code == 3


def test_a_detached_head_a_second_work_tree_and_borrowed_objects_are_all_fine(
    world: World, tmp_path: Path
) -> None:
    first = world.commit(a_py="1\n")
    world.commit(a_py="2\n")
    world.git("worktree", "add", "-q", "--detach", str(tmp_path / "second"), first)
    world.git("clone", "-q", "--shared", ".", str(tmp_path / "borrower"))
    for place, head in (("second", first), ("borrower", world.git("rev-parse", "HEAD"))):
        with GitRepository.open(tmp_path / place) as repository:
            assert repository.head() == head
            assert repository.tree(head) == listed(world, head)
            assert len(list(read_history(repository))) == (1 if place == "second" else 2)


def test_a_repository_with_sha256_names_works_the_same(new_world: Callable[..., World]) -> None:
    world = new_world("modern", "--object-format=sha256")
    head = world.commit(src__a_py="1\n")
    with GitRepository.open(world.root) as repository:
        assert len(head) == 64
        assert repository.tree(head) == listed(world, head)
        assert next(repository.blobs(repository.tree(head).values()))[1] == b"1\n"


def test_an_unknown_revision_is_an_error_and_never_an_option(world: World) -> None:
    head = world.commit(a_py="1\n")
    world.git("tag", "-a", "v1", "-m", "first")
    with GitRepository.open(world.root) as repository:
        assert repository.resolve("v1") == head
        for revision in ("nowhere", "--all", "HEAD:a.py", "", "f" * 40, "HEAD\nHEAD"):
            with pytest.raises(RepositoryError, match="no commit named"):
                repository.resolve(revision)


def test_ancestry_is_known_also_of_commits_that_are_gone(world: World) -> None:
    old, new = world.commit(a_py="1\n"), world.commit(a_py="2\n")
    with GitRepository.open(world.root) as repository:
        assert repository.is_ancestor(old, new)
        assert not repository.is_ancestor(new, old)
        assert not repository.is_ancestor("f" * 40, new)


# Trees


def test_the_tree_of_every_commit_is_what_git_lists(world: World) -> None:
    for step in range(30):
        world.write(f"p{step % 3}/q{step % 5}/f{step}.py", f"{step}\n")
        if step % 4 == 3:
            shutil.rmtree(world.root / f"p{step % 3}", ignore_errors=True)
        world.commit(f"step {step}")
    with GitRepository.open(world.root) as repository:
        for commit_id in world.git("rev-list", "HEAD").split():
            assert repository.tree(commit_id) == listed(world, commit_id)


def test_trees_stay_right_when_the_cache_is_too_small(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, "CACHED_ENTRIES", 3)
    for step in range(5):
        world.commit(a__b_py=f"{step}\n", a__c__d_py=f"{step // 2}\n", e__f_py="same\n")
    with GitRepository.open(world.root) as repository:
        for commit_id in world.git("rev-list", "HEAD").split() * 2:
            assert repository.tree(commit_id) == listed(world, commit_id)


def test_links_loops_of_links_and_submodules_are_no_files_but_programs_are(
    world: World, new_world: Callable[..., World]
) -> None:
    other = new_world("other")
    other.commit(z_py="")
    world.write("run", "#!/bin/sh\n").chmod(0o755)
    (world.root / "loop").symlink_to("loop")
    (world.root / "up").symlink_to("..")
    world.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.root))
    head = world.commit(a_py="")
    with GitRepository.open(world.root) as repository:
        assert sorted(repository.tree(head)) == [".gitmodules", "a.py", "run"]


def test_any_name_that_git_allows_survives(world: World) -> None:
    names = [
        b"caf\xe9.py",
        "naïve.py".encode(),
        b"new\nline.py",
        b'quo"te\t.py',
        b" -x.py",
        b"\x01",
    ]
    for name in names:
        (world.root / os.fsdecode(name)).write_bytes(b"")
    head = world.commit()
    with GitRepository.open(world.root) as repository:
        found = repository.tree(head)
    assert {path.encode("utf-8", "surrogateescape") for path in found} == set(names)


def test_a_commit_without_files_has_an_empty_tree(world: World) -> None:
    head = world.commit()
    with GitRepository.open(world.root) as repository:
        assert repository.tree(head) == {}


def test_trees_crafted_to_fill_the_memory_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, "MAX_TREE_FILES", 5_000)
    monkeypatch.setattr(git_module, "MAX_TREE_DEPTH", 30)
    blob = world.git("hash-object", "-w", "--stdin", given=b"")
    tree = world.git("mktree", given=f"100644 blob {blob}\tf\n".encode())
    for _ in range(9):  # ten to the ninth files in nine small objects
        entries = "".join(f"040000 tree {tree}\td{n}\n" for n in range(10))
        tree = world.git("mktree", given=entries.encode())
    wide = world.git("commit-tree", "-m", "wide", tree)
    tree = world.git("mktree", given=f"100644 blob {blob}\tf\n".encode())
    for _ in range(32):
        tree = world.git("mktree", given=f"040000 tree {tree}\td\n".encode())
    deep = world.git("commit-tree", "-m", "deep", tree)
    world.commit(a_py="")
    with GitRepository.open(world.root) as repository:
        for commit_id, words in ((wide, "more than 5,000 files"), (deep, "nested deeper")):
            with pytest.raises(RepositoryError, match=words):
                repository.tree(commit_id)
        assert list(repository.tree(repository.head())) == ["a.py"]


# Blobs


def test_blobs_come_in_the_order_asked_with_their_exact_bytes(world: World) -> None:
    texts = [b"", b"\0\xff binary", b"no end of line", b"\n" * 10, "ünïcode\r\n".encode()]
    ids = [world.git("hash-object", "-w", "--stdin", given=text) for text in texts]
    world.commit(a_py="")
    with GitRepository.open(world.root) as repository:
        pairs = list(zip(ids, texts, strict=True))[::-1] * 700  # more than one request can hold
        assert list(repository.blobs(blob_id for blob_id, _ in pairs)) == pairs


def test_a_blob_above_the_limit_is_none_and_one_at_the_limit_is_not(world: World) -> None:
    huge = world.write("huge.py", b"")
    with huge.open("r+b") as file:
        file.truncate(100_000_000)
    world.git("-c", "core.bigFileThreshold=1m", "-c", "core.compression=0", "add", "huge.py")
    head = world.commit(ten_py="0123456789", eleven_py="0123456789x")
    with GitRepository.open(world.root) as repository:
        tree = repository.tree(head)
        found = dict(repository.blobs(tree.values(), max_bytes=10))
        assert found[tree["ten.py"]] == b"0123456789"
        assert found[tree["eleven.py"]] is None
        assert found[tree["huge.py"]] is None
        (commit,) = read_history(repository)
        assert {c.path: c.added for c in commit.changes}["huge.py"] is None


def test_what_is_missing_or_no_blob_is_none_and_what_is_no_id_is_a_fault(world: World) -> None:
    head = world.commit(a_py="1\n")
    with GitRepository.open(world.root) as repository:
        assert list(repository.blobs(["f" * 40, head])) == [("f" * 40, None), (head, None)]
        for not_an_id in ("HEAD", "", "f" * 39, f"{head}\n{head}"):
            with pytest.raises(ValueError, match="not a full object id"):
                list(repository.blobs([not_an_id]))


def test_sizes_are_told_without_reading_and_what_is_missing_has_none(world: World) -> None:
    head = world.commit(a_py="12\n")
    with GitRepository.open(world.root) as repository:
        blob = repository.tree(head)["a.py"]
        assert repository.sizes([blob, "f" * 40, blob]) == {blob: 3, "f" * 40: None}
        assert repository.sizes([]) == {}
        assert repository.missing([blob, "f" * 40]) == {"f" * 40}


def test_trees_may_be_asked_for_while_blobs_are_being_read(world: World) -> None:
    head = world.commit(**{f"f{n}_py": f"{n}\n" * 10 for n in range(300)})
    with GitRepository.open(world.root) as repository:
        tree = repository.tree(head)
        for blob_id, data in repository.blobs(tree.values()):
            assert data is not None
            assert repository.tree(head) == tree
            assert next(repository.blobs([blob_id])) == (blob_id, data)


def test_two_threads_at_once_get_their_own_answers(world: World) -> None:
    head = world.commit(**{f"f{n}_py": f"{n}\n" for n in range(200)})
    with GitRepository.open(world.root) as repository:
        tree = repository.tree(head)
        right = dict(repository.blobs(tree.values()))
        wrong: list[object] = []

        def read() -> None:
            for _ in range(5):
                if dict(repository.blobs(tree.values())) != right:
                    wrong.append("mixed up")

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


# Damage and interruption


def test_a_damaged_object_is_an_error_that_names_fsck(world: World) -> None:
    head = world.commit(src__a_py="x = 1\n" * 100)
    blob, tree = world.git("rev-parse", "HEAD:src/a.py"), world.git("rev-parse", "HEAD:src")
    for object_id in (blob, tree):
        file = world.object_file(object_id)
        whole = file.read_bytes()
        for damage in (b"", b"garbage", whole[:10], whole[:-4]):
            file.write_bytes(damage)
            with (
                GitRepository.open(world.root) as repository,
                pytest.raises(RepositoryError, match="fsck"),
            ):
                _read_all(repository, head, blob)
        file.write_bytes(whole)


def test_a_repository_whose_head_commit_is_damaged_is_not_called_empty(world: World) -> None:
    head = world.commit(a_py="1\n")
    world.object_file(head).write_bytes(b"")
    with pytest.raises(RepositoryError, match="fsck"):
        GitRepository.open(world.root)


def test_after_an_interruption_the_next_answer_is_right(world: World) -> None:
    head = world.commit(**{f"f{n}_py": f"{n}\n" * 500 for n in range(400)})

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with GitRepository.open(world.root) as repository:
        tree = repository.tree(head)
        right = dict(repository.blobs(tree.values()))
        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            for delay in (0.0005, 0.001, 0.002, 0.004, 0.008):
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    for _ in range(50):
                        list(repository.blobs(tree.values()))
                        repository.tree(head)
                except KeyboardInterrupt:
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert repository.tree(head) == tree
                assert dict(repository.blobs(tree.values())) == right
        finally:
            signal.signal(signal.SIGALRM, previous)


def test_a_git_that_was_killed_is_an_error_once_and_replaced_then(world: World) -> None:
    head = world.commit(a_py="1\n")
    before = children()
    with GitRepository.open(world.root) as repository:
        tree = repository.tree(head)
        for process in children() - before:
            os.kill(int(process), signal.SIGKILL)
        with pytest.raises(RepositoryError, match="git cannot read"):
            _read_all(repository, head, tree["a.py"])
        with pytest.raises(RepositoryError, match="git cannot read"):  # there were two
            _read_all(repository, head, tree["a.py"])
        assert dict(repository.blobs(tree.values())) == {tree["a.py"]: b"1\n"}


def test_closing_or_forgetting_a_repository_leaves_no_process_and_no_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = world.commit(a_py="1\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = children()
    repository = GitRepository.open(world.root)
    list(repository.blobs(repository.tree(head).values()))
    assert children() - before
    repository.close()
    repository.close()
    forgotten = GitRepository.open(world.root)
    forgotten.tree(head)
    del forgotten
    gc.collect()
    assert children() == before
    assert list(scratch.iterdir()) == []


def test_a_program_that_ends_without_closing_ends_cleanly(world: World) -> None:
    head = world.commit(a_py="1\n")
    program = (
        "import sys; from pathlib import Path; from twin.coding.git import GitRepository\n"
        f"r = GitRepository.open(Path({str(world.root)!r})); print(len(r.tree({head!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


# Strangers


def test_the_environment_of_a_surrounding_hook_does_not_redirect(
    world: World, new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_world("other")
    other.commit(other_py="")
    head = world.commit(a_py="")
    for name, value in {
        "GIT_DIR": str(other.root / ".git"),
        "GIT_WORK_TREE": str(other.root),
        "GIT_INDEX_FILE": str(other.root / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(other.root / ".git" / "objects"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.bare",
        "GIT_CONFIG_VALUE_0": "true",
        "GIT_TRACE": "1",
        "GIT_PAGER": "false",
        "GIT_EXTERNAL_DIFF": "false",
    }.items():
        monkeypatch.setenv(name, value)
    with GitRepository.open(world.root) as repository:
        assert repository.root == world.root
        assert repository.head() == head
        assert list(repository.tree(head)) == ["a.py"]
        assert [commit.commit_id for commit in read_history(repository)] == [head]


def test_nothing_that_a_repository_configures_is_run_or_fetched(
    world: World, tmp_path: Path
) -> None:
    world.write(".gitattributes", "*.py diff=evil filter=evil\n")
    world.commit(a_py="1\n")
    head = world.commit(a_py="2\n")
    lost = world.git("rev-parse", "HEAD:a.py")
    marker = tmp_path / "marker"
    evil = f"touch {marker}; cat"
    for key, value in {
        "core.fsmonitor": evil,
        "core.pager": evil,
        "core.sshCommand": evil,
        "core.hooksPath": str(tmp_path / "hooks"),
        "alias.log": f"!{evil}",
        "alias.cat-file": f"!{evil}",
        "alias.rev-parse": f"!{evil}",
        "diff.external": evil,
        "diff.evil.textconv": evil,
        "diff.evil.command": evil,
        "filter.evil.smudge": evil,
        "log.showSignature": "true",
        "gpg.program": evil,
        "core.alternateRefsCommand": evil,
        "remote.origin.url": f"ext::sh -c '{evil}'",
        "remote.origin.promisor": "true",
        "remote.origin.partialclonefilter": "blob:none",
        "protocol.ext.allow": "always",
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
    }.items():
        world.git("config", key, value)
    (tmp_path / "hooks").mkdir()
    for hook in ("post-index-change", "reference-transaction", "post-checkout"):
        (tmp_path / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tmp_path / "hooks" / hook).chmod(0o755)
    world.object_file(lost).unlink()
    with GitRepository.open(world.root) as repository:
        assert len(list(read_history(repository))) == 2
        assert lost in repository.tree(head).values()
        assert list(repository.blobs([lost])) == [(lost, None)]
        with pytest.raises(TwinError):
            repository.resolve("f" * 40)
        assert not repository.is_ancestor("f" * 40, head)
    assert not marker.exists()


def test_replaced_objects_are_seen_as_they_were_committed(world: World) -> None:
    old = world.commit("honest", a_py="1\n")
    new = world.commit("later", a_py="2\n")
    world.git("replace", new, old)
    with GitRepository.open(world.root) as repository:
        assert repository.tree(new) != repository.tree(old)
        assert [commit.subject for commit in read_history(repository)] == ["honest", "later"]


def test_reading_changes_nothing_in_the_repository(world: World) -> None:
    head = world.commit(a_py="1\n")
    (world.root / "a.py").write_text("edited, not committed\n")

    def everything() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in world.root.rglob("*")}

    before = everything()
    with GitRepository.open(world.root) as repository:
        list(read_history(repository))
        list(repository.blobs(repository.tree(head).values()))
    assert everything() == before
