from __future__ import annotations

import pytest

from holdfast.errors import NoCheckpointError, RefusedError
from holdfast.io.source import Folder, open_source


class TestFolder:
    def test_its_files_are_opened_once(self, tmp_path):
        (tmp_path / "a").write_bytes(b"one")
        with open_source(tmp_path) as folder:
            assert isinstance(folder, Folder)
            assert folder.is_folder
            assert folder.has("a")
            assert not folder.has("b")
            assert folder.names() == ["a"]
            assert folder.open("a").read_at(0, 3) == b"one"
            assert folder.of(str(tmp_path / "a")) is folder.open("a")
            with pytest.raises(NoCheckpointError):
                folder.open("b")

    @pytest.mark.parametrize(
        "name", ["../x", "/etc/hostname", "a/../../x", "a//b", "", "a\\b", "."]
    )
    def test_no_path_leads_out(self, tmp_path, name):
        with open_source(tmp_path) as folder, pytest.raises(RefusedError) as caught:
            folder.open(name)
        assert str(caught.value).startswith(
            f"refused: the files of a checkpoint folder lie in it\n  in {tmp_path}"
        )

    def test_no_link_leads_out(self, tmp_path):
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "link").symlink_to("../secret")
        (tmp_path / "folder" / "here").symlink_to("real")
        (tmp_path / "folder" / "real").write_bytes(b"real")
        with open_source(tmp_path / "folder") as folder:
            assert folder.open("here").read_at(0, 4) == b"real"
            with pytest.raises(RefusedError) as caught:
                folder.open("link")
        assert caught.value.found == str(tmp_path / "secret")

    def test_links_of_a_download_cache_lead_to_its_blobs(self, tmp_path):
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "1a2b").write_bytes(b"weights")
        snapshot = tmp_path / "snapshots" / "main"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to("../../blobs/1a2b")
        with open_source(snapshot) as folder:
            assert folder.open("model.safetensors").read_at(0, 7) == b"weights"
