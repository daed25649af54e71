"""Which videos there are, in an order and with ids that do not depend on the machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError, NoReadableVideoError

SUFFIXES = frozenset(
    (
        *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    )
)


@dataclass(frozen=True)
class VideoFile:
    """A video and the stable id from which its random numbers are derived."""

    path: str
    name: str  # without the part of the path that differs from machine to machine
    key: int  # 64 bits


def list_videos(sources: Sequence[str]) -> list[VideoFile]:
    """List the videos of folders, files and .txt lists, by name.

    Args:
        sources: folders, searched recursively by suffix; video files; .txt files with one path per line,
            relative to the list.

    Raises:
        NoReadableVideoError: a source does not exist, or there is no video in any of them.
        ConfigError: two different files would have one name.

    """
    found: dict[str, str] = {}

    def add(name: str, path: Path) -> None:
        known = found.setdefault(name, str(path))
        if Path(known).resolve() != path.resolve():
            raise ConfigError(f"data.videos: {known} and {path} would both be called {name}")

    for source in sources:
        root = Path(source)
        if root.is_dir():
            for path in root.rglob("*"):
                if path.suffix.lower() in SUFFIXES:
                    add((Path(root.resolve().name) / path.relative_to(root)).as_posix(), path)
        elif not root.exists():
            raise NoReadableVideoError(f"data.videos: {source} does not exist")
        elif root.suffix == ".txt":
            for line in filter(None, map(str.strip, root.read_text().splitlines())):
                add(line, root.parent / line)
        else:
            add(root.name, root)
    if not found:
        raise NoReadableVideoError(
            f"data.videos: no video in {', '.join(sources) or 'an empty list'}"
        )
    return [VideoFile(found[name], name, _key(name)) for name in sorted(found)]


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def fingerprint(videos: Sequence[VideoFile]) -> str:
    """Return a short text that changes with the set of videos."""
    names = "\n".join(video.name for video in videos)
    return f"{len(videos)} video(s), {hashlib.blake2b(names.encode(), digest_size=8).hexdigest()}"
