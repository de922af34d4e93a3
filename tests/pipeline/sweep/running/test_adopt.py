"""A result in a second run: the same files, and each run whole by itself."""

from pathlib import Path

from pipeline.artifact import Artifact, read_artifact, write_manifest
from pipeline.sweep.running.adopt import adopt


def made(folder: Path, key: str, text: str) -> Artifact:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "deep" / "b.txt").write_text(text)
    write_manifest(folder, {"stage": folder.name, "key": key, "places": {}}, notes={"n": 1}, seconds=2.0)
    artifact = read_artifact(folder)
    assert artifact is not None
    return artifact


def test_files_are_shared_and_the_manifest_is_its_own(tmp_path: Path) -> None:
    first = made(tmp_path / "one" / "train", "k", "text")
    second = adopt(first, tmp_path / "two", "train")
    assert second.folder == tmp_path / "two" / "train" and second.key == "k" and second.outputs == first.outputs
    for name in first.outputs:
        assert second.path(name).stat().st_ino == first.path(name).stat().st_ino
    manifests = [artifact.folder / "manifest.json" for artifact in (first, second)]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert manifests[0].stat().st_ino != manifests[1].stat().st_ino
    assert adopt(first, tmp_path / "two", "train") == second  # a second time changes nothing


def test_what_was_there_is_kept_and_comes_back(tmp_path: Path) -> None:
    mine = made(tmp_path / "two" / "train", "mine", "mine")
    other = made(tmp_path / "one" / "train", "other", "other")
    assert adopt(other, tmp_path / "two", "train").path("a.txt").read_text() == "other"
    back = adopt(Artifact(other.folder, mine.key, mine.outputs, mine.sizes, {}, 0.0), tmp_path / "two", "train")
    assert back.path("a.txt").read_text() == "mine", "the kept result is taken back, not another's linked"


def test_a_link_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    first = made(tmp_path / "one" / "train", "k", "text")
    (tmp_path / "two" / ".train.adopted").mkdir(parents=True)
    (tmp_path / "two" / ".train.adopted" / "stale").write_text("stale")
    assert not (adopt(first, tmp_path / "two", "train").folder / "stale").exists()


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    second = adopt(made(tmp_path / "one" / "train", "k", "text"), tmp_path / "two", "train")
    assert second.path("deep/b.txt").read_text() == "text"
    assert second.path("a.txt").stat().st_nlink == 1
