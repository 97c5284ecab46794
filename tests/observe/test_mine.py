"""Every commit is judged by named rules and keeps the reason; none disappears."""

from dataclasses import replace

import pytest

from twin.config import MineConfig
from twin.observe.mine import RULES, STRICT_RULES, attrition, bot_reason, mine
from twin.records import ChangeStatus, Commit, FileChange, MinedCommit


def change(path: str, *, status: ChangeStatus = "M", lines: int | None = 1) -> FileChange:
    return FileChange(
        path=path,
        status=status,
        old_path=f"old/{path}" if status == "R" else None,
        added=lines,
        deleted=None if lines is None else 0,
    )


def commit(
    subject: str = "Return the parser's error to the caller",
    *changes: FileChange,
    name: str = "Ada Lovelace",
    email: str = "ada@example.org",
    parents: int = 1,
    body: str = "",
) -> Commit:
    return Commit(
        commit_id="c" * 40,
        parent_ids=tuple(str(n) * 40 for n in range(parents)),
        author_name=name,
        author_email=email,
        author_time=1,
        commit_time=1,
        subject=subject,
        body=body,
        changes=changes or (change("pkg/parser.py"),),
    )


def judged(commit: Commit, **options: object) -> MinedCommit:
    (mined,) = mine([commit], replace_config(**options))
    return mined


def replace_config(**options: object) -> MineConfig:
    return MineConfig(**options)  # type: ignore[arg-type]


def labels(mined: MinedCommit) -> dict[str, str]:
    return {label.name: label.reason for label in mined.labels}


def test_a_plain_change_of_source_is_kept_with_its_facts() -> None:
    mined = judged(
        commit(
            "Return the parser's error",
            change("pkg/parser.py", lines=7),
            change("tests/test_parser.py", lines=50),
            change("README.md", lines=9),
        )
    )
    assert mined.dropped_by is None
    assert (mined.num_source_files, mined.num_test_files, mined.num_source_lines) == (1, 1, 7)
    assert 0 < mined.message_score <= 1


@pytest.mark.parametrize(
    ("dropped", "rule", "reason"),
    [
        (commit(parents=3), "merge", "3 parents"),
        (commit(name="dependabot[bot]"), "bot", "dependabot"),
        (commit("docs", change("README.md")), "no_source", "no source"),
        (
            commit("sweep", *(change(f"p/f{n}.py") for n in range(9))),
            "max_source_files",
            "9 source files, more than 8",
        ),
        (
            commit("rewrite", change("p/f.py", lines=301)),
            "max_source_lines",
            "301 source lines, more than 300",
        ),
    ],
)
def test_each_rule_drops_what_it_is_named_for_and_says_why(
    dropped: Commit, rule: str, reason: str
) -> None:
    mined = judged(dropped)
    assert mined.dropped_by == rule
    assert reason in labels(mined)[rule]


def test_what_lies_on_a_limit_is_kept() -> None:
    eight = commit("Edit eight files at once", *(change(f"p/f{n}.py") for n in range(8)))
    assert judged(eight).dropped_by is None
    assert judged(commit("Edit", change("p/f.py", lines=300))).dropped_by is None


def test_tests_documents_vendored_and_generated_files_do_not_count_as_source() -> None:
    mined = judged(
        commit(
            "Add the parser",
            change("p/parser.py", lines=3),
            change("vendor/lib/big.go", lines=9999),
            change("p/api_pb2.py", lines=9999),
            change("tests/test_p.py", lines=9999),
            change("docs/conf.py", lines=9999),
        )
    )
    assert mined.dropped_by is None
    assert (mined.num_source_files, mined.num_source_lines) == (1, 3)
    assert {"vendored", "generated", "feature"} <= set(labels(mined))


def test_lines_that_nobody_could_count_weigh_nothing() -> None:
    assert judged(commit("Edit", change("p/f.py", lines=None))).num_source_lines == 0


def test_words_and_score_are_gates_only_in_strict_mode() -> None:
    short = commit("Fix typo")
    assert judged(short).dropped_by is None
    assert judged(short, strict=True).dropped_by == "min_words"
    vague = commit("more fixes and other changes")
    assert judged(vague).dropped_by is None
    assert judged(vague, strict=True).dropped_by == "min_message_score"
    assert (
        judged(commit("Raise ValueError for empty `timezone` names"), strict=True).dropped_by
        is None
    )


def test_the_limits_come_from_the_configuration() -> None:
    three = commit("Edit three files", *(change(f"p/f{n}.py", lines=10) for n in range(3)))
    assert judged(three, max_source_files=2).dropped_by == "max_source_files"
    assert judged(three, max_source_lines=29).dropped_by == "max_source_lines"
    assert judged(three, strict=True, min_words=4).dropped_by == "min_words"


@pytest.mark.parametrize(
    ("name", "email"),
    [
        ("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com"),
        ("dependabot-preview", "support@dependabot.com"),
        ("pre-commit-ci[bot]", "66853113+pre-commit-ci[bot]@users.noreply.github.com"),
        ("Renovate Bot", "bot@renovateapp.com"),
        ("github-actions", "github-actions@github.com"),
        ("pyup-bot", "github-bot@pyup.io"),
        ("Some-Bot", "x@example.org"),
    ],
)
def test_machines_are_known_by_name_or_address(name: str, email: str) -> None:
    assert bot_reason(commit(name=name, email=email))


@pytest.mark.parametrize(
    ("name", "email"),
    [
        ("Ada Abbott", "abbott@example.org"),
        ("Robot Rodriguez", "talbot@example.org"),
        ("Ada", "12345+ada@users.noreply.github.com"),
        ("copilot-swe-agent[bot]", "198982749+Copilot@users.noreply.github.com"),
        ("", ""),
    ],
)
def test_people_and_coding_agents_are_no_bots(name: str, email: str) -> None:
    assert bot_reason(commit(name=name, email=email)) is None


@pytest.mark.parametrize(
    ("subject", "label"),
    [
        ("Merge branch 'main' into x", None),
        ("Bump attrs from 19.1 to 19.2", "bump"),
        ("Update dependencies", "bump"),
        ("pre-commit autoupdate", "bump"),
        ("Prepare 19.2.0", None),
        ("Release 19.2.0", "release"),
        ("v1.2.3", "release"),
        ("Start new development cycle", "release"),
        ("Fix typo in the guide", "typo"),
        ('Revert "Add a cache"', "revert"),
        ("Fixed a crash in the parser", "fix"),
        ("fix(parser): handle EOF", "fix"),
        ("BUG : empty mappings", "fix"),
        ("feat!: new API", "feature"),
        ("Adds support for slots", "feature"),
        ("Refactor the loader", "refactor"),
        ("Rename s to _add_methods", "refactor"),
        ("Mention it in the README", "docs"),
        ("Add tests for slots", "tests"),
        ("Run black on everything", "style"),
        ("Prefix every address with its scheme", None),
    ],
)
def test_the_subject_gives_the_kind_of_change_away(subject: str, label: str | None) -> None:
    kinds = {"bump", "release", "typo", "revert", "fix", "refactor", "style"}
    found = labels(judged(commit(subject)))
    if label is None:
        assert kinds.isdisjoint(found)
    else:
        assert found[label]


def test_labels_also_tell_what_the_files_show() -> None:
    assert labels(judged(commit("x", change("docs/a.md"))))["docs"] == "changes only docs"
    assert labels(judged(commit("x", change("tests/a.py"))))["tests"] == "changes only tests"
    assert labels(judged(commit("x", change("p/a.py", status="R"))))["rename"] == "moves 1 file"
    assert labels(judged(commit("x", body="This reverts commit abc.")))["revert"]


def test_the_attrition_table_accounts_for_every_commit() -> None:
    commits = [commit(), commit(parents=2), commit(name="x[bot]"), commit("d", change("a.md"))]
    config = MineConfig()
    rows = attrition(mine(commits, config), config)
    assert [(row.rule, row.removed, row.remaining) for row in rows] == [
        ("all", 0, 4),
        ("merge", 1, 3),
        ("bot", 1, 2),
        ("no_source", 1, 1),
        ("max_source_files", 0, 1),
        ("max_source_lines", 0, 1),
    ]
    strict = MineConfig(strict=True)
    assert [row.rule for row in attrition([], strict)] == ["all", *(r.name for r in STRICT_RULES)]
    assert [row.remaining for row in attrition([], config)] == [0] * (len(RULES) + 1)


def test_order_is_kept_nothing_is_left_out_and_nothing_is_read_ahead() -> None:
    commits = [replace(commit(), commit_id=f"{n:040d}") for n in range(5)]
    source = iter(commits)
    mined = mine(source, MineConfig())
    assert next(mined).commit == commits[0]
    assert next(source) == commits[1]
    assert [m.commit for m in mined] == commits[2:]
