"""A scene shows the files of one commit, and knows nothing of contents that it does not hold."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from twin.coding.corpus import Corpus, Scene, path_bag
from twin.coding.digest import Digest, digest_of
from twin.coding.languages import language_of
from twin.coding.lexical import Ints
from twin.coding.text import count_terms, hash_of

FILES = {
    "pkg/__init__.py": "from .lock import Lock\n",
    "pkg/lock.py": "class Lock:\n    '''A lock.'''\n    def take(self): ...\n",
    "pkg/store.py": "from .lock import Lock\n\ndef write_store(): Lock().take()\n",
    "tests/test_store.py": "from pkg.store import write_store\n\ndef test_it(): write_store()\n",
}


def digested(files: dict[str, str]) -> dict[str, Digest]:
    """Blob ids (here the contents themselves) to digests."""
    return {text: digest_of(text.encode(), language_of(path) or "") for path, text in files.items()}


def terms(text: str) -> Ints:
    return np.array(list(count_terms(text)), np.int64)


def text_scores(scene: Scene, text: str) -> list[float]:
    hits = scene.match("text", terms(text))
    return scene.by_file(hits.scores(np.ones(len(terms(text))))).tolist()


def edges(scene: Scene) -> set[tuple[str, str]]:
    return {(scene.paths[one], scene.paths[other]) for one, other in zip(*scene.edges, strict=True)}


def test_candidates_stand_in_the_order_of_their_paths_with_their_roles() -> None:
    scene = Scene(Corpus(digested(FILES)), dict(reversed(FILES.items())))
    assert scene.paths == sorted(FILES)
    assert scene.is_source.tolist() == [True, True, True, False]
    assert scene.is_test.tolist() == [False, False, False, True]
    assert (scene.size, scene.num_source_files) == (4, 3)


def test_contents_of_other_commits_change_nothing_in_a_scene() -> None:
    others = {f"later/{n}.py": f"class Lock{n}: '''lock take store'''\n" * n for n in range(1, 9)}
    alone = Scene(Corpus(digested(FILES)), FILES)
    among = Scene(Corpus(digested({**others, **FILES})), FILES)
    for text in ("lock", "take the store", "write_store lock"):
        assert text_scores(alone, text) == text_scores(among, text)
        question = terms(text)
        ones = np.ones(len(question))
        for scene, other in ((alone, among),):
            assert_array_equal(
                scene.best_window(scene.match_windows(question).scores(ones)),
                other.best_window(other.match_windows(question).scores(ones)),
            )
    assert edges(alone) == edges(among)


def test_a_file_whose_content_the_corpus_lacks_is_no_candidate() -> None:
    scene = Scene(Corpus(digested(FILES)), {**FILES, "pkg/late.py": "x = 1\n"})
    assert scene.paths == sorted(FILES)


def test_files_of_one_content_share_its_score() -> None:
    files = {**FILES, "copy/lock.py": FILES["pkg/lock.py"]}
    scene = Scene(Corpus(digested(files)), files)
    scored = dict(zip(scene.paths, text_scores(scene, "take"), strict=True))
    assert scored["copy/lock.py"] == scored["pkg/lock.py"] > 0
    assert scene.view.size == 4  # it counts once in the statistics


def test_the_best_window_of_a_file_is_its_own() -> None:
    long = {
        "long.py": "x = 1\n" * 50 + "retry = 2\n" + "x = 1\n" * 90,
        "short.py": "x\n",
        "e.py": "",
    }
    scene = Scene(Corpus(digested(long)), long)
    question = terms("retry")
    best = scene.best_window(scene.match_windows(question).scores(np.ones(1)))
    assert [path for path, score in zip(scene.paths, best, strict=True) if score > 0] == ["long.py"]


def test_imports_are_edges_between_candidates() -> None:
    scene = Scene(Corpus(digested(FILES)), FILES)
    assert edges(scene) >= {
        ("pkg/store.py", "pkg/lock.py"),
        ("tests/test_store.py", "pkg/store.py"),
        ("pkg/__init__.py", "pkg/lock.py"),
    }
    ones = np.ones(scene.size)
    into = dict(zip(scene.paths, scene.over_imports(ones, backwards=True), strict=True))
    assert into["pkg/lock.py"] >= 2
    assert [(scene.paths[a], scene.paths[b]) for a, b in scene.mirrors] == [
        ("tests/test_store.py", "pkg/store.py")
    ]


def test_imports_found_step_by_step_are_those_found_at_once() -> None:
    rng = np.random.default_rng(3)
    paths = [f"pkg/m{n}.py" for n in range(12)] + ["pkg/__init__.py", "web/a.ts", "web/b.ts"]
    history = []
    for _ in range(20):
        files = dict(history[-1]) if history else dict.fromkeys(paths, "")
        for path in rng.choice(paths, 2, replace=False):
            ours = rng.choice(12, 3)
            text = "".join(f"from pkg.m{n} import x\n" for n in ours)
            files[str(path)] = text if str(path).endswith(".py") else 'import x from "./b"\n'
        history.append(files)
    contents: dict[str, str] = {}
    for files in history:
        for path, text in files.items():
            contents.setdefault(path, text)
    together: dict[str, Digest] = {}
    for files in history:
        together |= digested(files)
    corpus = Corpus(together)
    for files in history:
        fresh = Corpus({text: together[text] for text in files.values()})
        assert corpus.imports(files) == fresh.imports(files)


def test_an_empty_file_imports_and_is_imported_in_its_own_language() -> None:
    # One content, the empty one, is a Python package here and a TypeScript module there.
    files = {
        "pkg/__init__.py": "",
        "pkg/use.py": "import pkg\n",
        "web/empty.ts": "",
        "web/use.ts": 'import "./empty"\n',
    }
    for order in (list(files), list(reversed(files))):
        corpus = Corpus(digested({path: files[path] for path in order}))
        assert edges(Scene(corpus, files)) == {
            ("pkg/use.py", "pkg/__init__.py"),
            ("web/use.ts", "web/empty.ts"),
        }


@pytest.mark.parametrize("files", [{}, {"a.py": ""}, {"a.py": "", "b/a.py": ""}])
def test_a_scene_of_nothing_still_answers(files: dict[str, str]) -> None:
    scene = Scene(Corpus(digested(files)), files)
    question = terms("lock")
    assert text_scores(scene, "lock") == [0.0] * len(files)
    assert scene.best_window(scene.match_windows(question).scores(np.ones(1))).tolist() == [
        0.0
    ] * len(files)
    assert len(scene.edges[0]) == 0
    assert scene.mirrors == []
    assert scene.folders[1] == len({path.rpartition("/")[0] for path in files})


def test_a_path_is_a_bag_of_its_words_without_its_ending() -> None:
    assert set(path_bag("src/WriteLocks.py").terms.tolist()) >= {
        hash_of("src"), hash_of("write"), hash_of("lock"),
    }  # fmt: skip
    assert hash_of("py") not in path_bag("src/WriteLocks.py").terms.tolist()
    hostile = b"caf\xe9/new\nline/\xff.py".decode("utf-8", "surrogateescape")
    assert len(path_bag(hostile).terms)
