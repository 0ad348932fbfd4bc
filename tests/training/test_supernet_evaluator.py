"""The identity of a supernet's scores: what a study compares before it continues."""

from nas.spaces import SearchSpace
from nas.training import SupernetEvaluator
from nas.training.stage import Inputs


def test_identity_changes_with_weights_clips_and_their_number(tmp_path):
    space, files = SearchSpace.load("demo"), {}
    for name in ("supernet/supernet.safetensors", "decoder/test/videos-00000.safetensors"):
        files[name] = tmp_path / name
        files[name].parent.mkdir(parents=True)
        files[name].write_bytes(b"first")
    for stage in ("supernet", "decoder"):
        (tmp_path / stage / "result.json").write_text("{}")

    def identity(clips=16):
        return SupernetEvaluator(Inputs(space, tmp_path / "decoder", tmp_path / "supernet"), clips).identity

    first = identity()
    assert first == identity() and first.startswith("SupernetEvaluator ")
    assert first != identity(clips=32)
    for file in files.values():
        file.write_bytes(b"other")
        assert first != identity()
        file.write_bytes(b"first")
    assert first == identity()
