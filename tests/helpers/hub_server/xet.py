"""Xet storage for the local Hub: a folder, which hf_xet itself reads and writes when an address begins with local://.

That is how hf_xet tests itself, and nothing that it promises to others. The Hub's part is small: tokens that name the
folder, and which content has which hash, read from the shards that hf_xet leaves there.
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_ENTRY = 48
"""Bytes of the header of a shard, and of each of its entries."""
_WITH_VERIFICATION, _WITH_SHA256 = 1 << 31, 1 << 30


class XetStorage:
    """Content in a folder, by the hash that Xet gives it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def token(self) -> dict[str, str | int]:
        """What answers a request for a token."""
        return {"casUrl": f"local://{self.folder}", "accessToken": "xet", "exp": int(time.time()) + 3600}

    def token_headers(self) -> dict[str, str]:
        """The same as headers, which huggingface_hub reads; hf_xet reads the other."""
        names = {"casUrl": "X-Xet-Cas-Url", "accessToken": "X-Xet-Access-Token", "exp": "X-Xet-Token-Expiration"}
        return {names[name]: str(value) for name, value in self.token().items()}

    def hashes(self) -> dict[str, str]:
        """Xet's hash of each file that was uploaded, by its SHA-256."""
        shards = self.folder.rglob("*.mdb")
        return {sha256: xet for shard in shards for xet, sha256 in _files(shard.read_bytes())}

    def content(self, sha256: str) -> bytes | None:
        """What was uploaded under a SHA-256; None if it is not there."""
        import hf_xet

        if (found := self.hashes().get(sha256)) is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path, token = Path(folder) / "content", self.token()
            group = hf_xet.XetSession().new_file_download_group(
                endpoint=token["casUrl"], token=token["accessToken"], token_expiry_unix_secs=token["exp"]
            )
            with group:
                group.start_download_file(hf_xet.XetFileInfo(found), str(path))
            return path.read_bytes()


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    """Xet's hash and the SHA-256 of each file of a shard."""
    position = _ENTRY
    while shard[position : position + 32] != b"\xff" * 32:
        xet = _hex(shard[position : position + 32])
        flags, entries = struct.unpack("<2I", shard[position + 32 : position + 40])
        position += _ENTRY * (1 + entries * (2 if flags & _WITH_VERIFICATION else 1))
        if flags & _WITH_SHA256:
            yield xet, _hex(shard[position : position + 32])
            position += _ENTRY


def _hex(value: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))
