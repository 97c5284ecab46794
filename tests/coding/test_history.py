"""The history is told completely, parents first, whatever stands in it."""

import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from twin.coding import history as history_module
from twin.coding.git import GitRepository
from twin.coding.history import MAX_MESSAGE, read_commits, read_history
from twin.errors import RepositoryError
from twin.records import Commit, FileChange

World = Any  # the class stands in conftest, which tests cannot import


def told(world: World, **options: str) -> list[Commit]:
    with GitRepository.open(world.root) as repository:
        return list(read_history(repository, **options))


def crafted(world: World, text: bytes) -> str:
    """A commit object with exactly these bytes; HEAD moves to it."""
    head = world.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", given=text)
    world.git("update-ref", "HEAD", head)
    return str(head)


def test_parents_come_before_children_and_each_commit_once(world: World) -> None:
    world.commit("root", a_py="1\n")
    for branch in ("x", "y", "z"):
        world.git("checkout", "-q", "-b", branch, "main")
        world.commit(f"on {branch}", **{f"{branch}_py": "1\n"})
    world.git("checkout", "-q", "main")
    world.git("merge", "-q", "--no-ff", "-m", "octopus", "x", "y", "z")
    world.git("checkout", "-q", "--orphan", "second-root")
    world.commit("another root")
    world.git("checkout", "-q", "main")
    world.git("merge", "-q", "--allow-unrelated-histories", "-m", "unrelated", "second-root")
    commits = told(world)
    assert [c.commit_id for c in commits] == world.git(
        "rev-list", "--topo-order", "--reverse", "HEAD"
    ).split()
    place = {commit.commit_id: number for number, commit in enumerate(commits)}
    assert all(place[p] < place[c.commit_id] for c in commits for p in c.parent_ids)
    octopus = next(c for c in commits if c.subject == "octopus")
    assert len(octopus.parent_ids) == 4
    assert octopus.changes == ()
    assert sum(not c.parent_ids for c in commits) == 2


def test_chosen_commits_come_in_the_order_asked_without_counts(world: World) -> None:
    first, second, third = (world.commit(name, a_py=f"{name}\n") for name in ("1", "2", "3"))
    with GitRepository.open(world.root) as repository:
        chosen = list(read_commits(repository, [third, first]))
        assert list(read_commits(repository, [])) == []
        with pytest.raises(RepositoryError, match="fsck"):
            list(read_commits(repository, ["f" * 40]))
    assert [(c.commit_id, c.parent_ids) for c in chosen] == [(third, (second,)), (first, ())]
    (change,) = chosen[0].changes
    assert (change.path, change.status, change.added) == ("a.py", "M", None)
    assert change.new_blob


def test_a_commit_is_told_with_all_its_facts(world: World) -> None:
    root = world.commit("first line\n\nThe body,\nof two lines.  \n\n", a_py="1\n2\n")
    (commit,) = told(world)
    assert commit == Commit(
        commit_id=root,
        parent_ids=(),
        author_name="Ada",
        author_email="ada@example.org",
        author_time=world.clock,
        commit_time=world.clock,
        subject="first line",
        body="The body,\nof two lines.",
        changes=(
            FileChange(
                path="a.py", status="A", added=2, deleted=0,
                new_blob=world.git("rev-parse", "HEAD:a.py"),
            ),
        ),
    )  # fmt: skip


def test_every_kind_of_change_has_its_status_and_its_counts(world: World) -> None:
    long = "".join(f"line {n}\n" for n in range(50))
    world.commit(moved_py=long, edited_py="1\n2\n", gone_py="x\n", kind_py="k\n", mode_py="m\n")
    world.git("mv", "moved.py", "away.py")
    world.write("away.py", long + "more\n")
    world.write("edited.py", "1\nzwei\ndrei\n")
    world.write("binary.py", b"\0\1\2")
    (world.root / "gone.py").unlink()
    (world.root / "kind.py").unlink()
    (world.root / "kind.py").symlink_to("edited.py")
    (world.root / "mode.py").chmod(0o755)
    world.commit("all kinds")
    changes = {change.path: change for change in told(world)[1].changes}
    facts = {path: (c.status, c.old_path, c.added, c.deleted) for path, c in changes.items()}
    assert facts == {
        "away.py": ("R", "moved.py", 1, 0),
        "edited.py": ("M", None, 2, 1),
        "binary.py": ("A", None, None, None),
        "gone.py": ("D", None, 0, 1),
        "kind.py": ("T", None, 1, 1),
        "mode.py": ("M", None, 0, 0),
    }
    assert changes["gone.py"].new_blob == "" != changes["gone.py"].old_blob
    assert changes["binary.py"].old_blob == "" != changes["binary.py"].new_blob


def test_lines_are_counted_only_in_source(world: World) -> None:
    world.commit(src__a_py="1\n", tests__a_py="1\n", docs__conf_py="1\n", vendor__a_py="1\n")
    world.write("CHANGES.md", "1\n")
    world.write("web/app.tsx", "1\n")
    world.write("pkg/tests/deep/data.py", "1\n")
    world.commit()
    counts = {f.path: f.added for commit in told(world) for f in commit.changes}
    assert counts == {
        "src/a.py": 1,
        "web/app.tsx": 1,
        "tests/a.py": None,
        "docs/conf.py": None,
        "vendor/a.py": None,
        "CHANGES.md": None,
        "pkg/tests/deep/data.py": None,
    }


def test_names_that_look_like_the_log_itself_are_only_names(world: World) -> None:
    names = [
        b"commit abc", b":100644 100644 a b M", b":100644 a b M.py", b"1\t2\tx.py", b"-\t-\t",
        b"new\nline.py", b"\n.py", b'"quoted".py', b"caf\xe9.py", b"back\\slash.py", b" ", b"R100",
    ]  # fmt: skip
    for name in names:
        (world.root / os.fsdecode(name)).write_bytes(b"one line\n" + name)
    world.commit("commit 1234\n\n:100644 000000 a b D\n1\t2\tx.py\n\ncommit abc")
    (world.root / os.fsdecode(names[0])).rename(world.root / os.fsdecode(b"commit\n:\xff"))
    world.commit("moved")
    first, second = told(world)
    assert first.subject == "commit 1234"
    assert first.body.endswith("commit abc")
    found = {c.path.encode("utf-8", "surrogateescape"): c.added for c in first.changes}
    assert found == {
        name: 2 + name.count(b"\n") if name.endswith(b".py") else None for name in names
    }
    assert [(c.status, c.old_path) for c in second.changes] == [("R", "commit abc")]
    assert second.changes[0].path.encode("utf-8", "surrogateescape") == b"commit\n:\xff"


def test_messages_in_any_encoding_become_text(world: World) -> None:
    tree = world.git("mktree", given=b"").encode()
    people = b"author J\xf6rg <j@x> 1700000000 +0000\ncommitter J <j@x> 1700000000 +0000\n"
    world.commit("start")
    crafted(world, b"tree %s\n%sencoding ISO-8859-1\n\ncaf\xe9 declared" % (tree, people))
    assert told(world)[-1].subject == "café declared"
    assert told(world)[-1].author_name == "Jörg"
    crafted(world, b"tree %s\n%s\ncaf\xe9 undeclared" % (tree, people))
    assert told(world)[-1].subject == "café undeclared"
    crafted(world, b"tree %s\n%sencoding klingon\n\nnuqneH \xff\xfe" % (tree, people))
    assert told(world)[-1].subject.startswith("nuqneH")
    crafted(world, b"tree %s\n%s\n" % (tree, people))
    assert (told(world)[-1].subject, told(world)[-1].body) == ("", "")
    crafted(world, b"tree %s\n%s\ncut off\0here" % (tree, people))
    assert told(world)[-1].subject == "cut off"


def test_a_message_of_twenty_megabytes_is_cut_and_what_follows_is_whole(world: World) -> None:
    world.commit("start")
    log = b"subject\n\n" + b"a line of a pasted log\n" * 900_000
    world.git("commit", "-q", "--allow-empty", "-F", "-", given=log)
    world.commit("after", a_py="1\n")
    _, huge, after = told(world)
    assert huge.subject == "subject"
    assert MAX_MESSAGE - 30 < len(huge.body) <= MAX_MESSAGE
    assert (after.subject, len(after.changes)) == ("after", 1)


@pytest.mark.parametrize("date", ["-86400", "0", "99999999999", "9" * 40, "", "yesterday"])
def test_dates_before_1970_far_ahead_or_broken_do_not_stop_the_history(
    world: World, date: str
) -> None:
    world.commit("start", a_py="1\n")
    tree, head = world.git("rev-parse", "HEAD^{tree}"), world.git("rev-parse", "HEAD")
    people = f"author A <a@x> {date} +0000\ncommitter A <a@x> {date} +0000\n"
    crafted(world, f"tree {tree}\nparent {head}\n{people}\nodd\n".encode())
    start, odd = told(world)
    assert (start.subject, odd.subject) == ("start", "odd")
    assert datetime.fromtimestamp(odd.commit_time, UTC).year in range(1, 10_000)
    if date == "99999999999":
        assert odd.commit_time == odd.author_time == 99999999999


def test_only_what_is_new_since_a_commit_is_read(world: World) -> None:
    first = world.commit("one", a_py="1\n")
    world.commit("two", a_py="2\n")
    world.commit("three", a_py="3\n")
    assert [c.subject for c in told(world, since=first)] == ["two", "three"]
    assert [c.subject for c in told(world, revision="HEAD~1")] == ["one", "two"]
    assert told(world, since="HEAD") == []
    with pytest.raises(RepositoryError, match="no commit named"):
        told(world, since="nowhere")


def test_where_a_blob_is_missing_only_the_counts_of_its_commits_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "_CHUNK", 4)
    for step in range(12):
        world.commit(f"step {step}", a_py=f"{step}\n" * 9, **{f"f{step}_py": "new\n"})
    whole = told(world)
    lost = {world.git("rev-parse", f"HEAD~{back}:a.py") for back in (2, 7, 8)}
    for blob in lost:
        world.object_file(blob).unlink()
    partial = told(world)
    assert [c.commit_id for c in partial] == [c.commit_id for c in whole]
    hurt = [
        n for n, c in enumerate(whole) if any({f.old_blob, f.new_blob} & lost for f in c.changes)
    ]
    assert hurt == [3, 4, 5, 9, 10]
    for number, (before, after) in enumerate(zip(whole, partial, strict=True)):
        if number not in hurt:
            assert after == before
        else:
            uncounted = tuple(replace(f, added=None, deleted=None) for f in before.changes)
            assert after == replace(before, changes=uncounted)


def test_a_clone_without_blobs_still_has_a_history(world: World, tmp_path: Path) -> None:
    long = "".join(f"line {n}\n" for n in range(50))
    world.commit("one", a_py=long)
    world.git("mv", "a.py", "b.py")
    world.commit("two")
    world.commit("three", b_py="other\n")
    world.git("config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    world.git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{world.root}", clone)
    with GitRepository.open(clone) as repository:
        commits = list(read_history(repository))
    assert [c.subject for c in commits] == ["one", "two", "three"]
    assert [(f.status, f.path, f.added) for f in commits[1].changes] == [("R", "b.py", None)]


def test_a_damaged_object_stops_the_history_with_the_cure(world: World) -> None:
    world.commit("one", src__a_py="1\n" * 50)
    world.commit("two", src__a_py="2\n" * 50)
    for name in ("HEAD:src/a.py", "HEAD:src", "HEAD~1"):
        file = world.object_file(world.git("rev-parse", name))
        whole = file.read_bytes()
        file.write_bytes(whole[:-4])
        with pytest.raises(RepositoryError, match=r"fsck"):
            told(world)
        file.write_bytes(whole)
    assert len(told(world)) == 2


def test_the_users_own_settings_do_not_change_what_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "".join(f"line {n}\n" for n in range(50))
    world.commit("one", a_py=long)
    world.git("mv", "a.py", "b.py")
    world.commit("two")
    plain = told(world)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(
        "[log]\nshowRoot = false\ndate = relative\nfollow = true\n[diff]\nrenames = false\n"
        "orderFile = nowhere\nnoprefix = true\nstatGraphWidth = 1\n[core]\nabbrev = 4\n"
        "attributesFile = nowhere\n[i18n]\nlogOutputEncoding = UTF-16\n[format]\npretty = oneline\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert told(world) == plain
    assert plain[1].changes[0].status == "R"


def test_a_history_left_half_read_ends_its_git(world: World) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children in /proc")
    for step in range(5):
        world.commit(f"step {step}", a_py=f"{step}\n")
    before = children.read_text()
    with GitRepository.open(world.root) as repository:
        history = read_history(repository)
        assert next(history).subject == "step 0"
        history.close()
        assert children.read_text() == before


def test_two_histories_of_one_repository_may_be_read_side_by_side(world: World) -> None:
    for step in range(20):
        world.commit(f"step {step}", a_py=f"{step}\n")
    with GitRepository.open(world.root) as repository:
        pairs = list(zip(read_history(repository), read_history(repository), strict=True))
        assert len(pairs) == 20
        assert all(one == other for one, other in pairs)


def test_counts_agree_with_git_show_on_a_history_of_many_shapes(
    new_world: Callable[..., World],
) -> None:
    world = new_world("shapes")
    for step in range(25):
        lines = [f"{n} {n * step % 7}\n" for n in range(20 + step)]
        world.write(f"d{step % 4}/f{step % 6}.py", "".join(lines))
        if step % 5 == 4:
            world.git("mv", "-k", f"d{step % 4}/f{step % 6}.py", f"d{step % 3}/g{step}.py")
        world.commit(f"step {step}")
    for commit in told(world):
        shown = subprocess.run(
            ["git", "-C", world.root, "show", "-M", "--numstat", "--format=", commit.commit_id],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        counts = sorted(tuple(map(int, line.split("\t")[:2])) for line in shown.splitlines())
        assert sorted((f.added or 0, f.deleted or 0) for f in commit.changes) == counts
