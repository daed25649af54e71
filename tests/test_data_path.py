"""The benchmark of the data path runs to its end and writes what it says."""

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("av", reason="reading videos needs PyAV")
pytest.importorskip("decord", reason="both decoders are timed")

import av

from benchmarks import data_path, data_path_report

CLIPS = Path(__file__).resolve().parents[1] / "data" / "clips"


@pytest.mark.skipif(
    not all((CLIPS / name).exists() for name in data_path.CLIPS),
    reason="needs the sample clips: python -m training.sample_clips data/clips",
)
def test_a_quick_run_writes_every_file(tmp_path: Path) -> None:
    out = tmp_path / "results"
    videos = tmp_path / "videos"
    assert data_path.main(["--quick", "--out", str(out), "--videos", str(videos)]) == 0
    result = json.loads((out / "data_path.json").read_text())
    assert result["quick"] and 0 <= result["others_cpu_share"] <= 1
    assert "cpu" in result["machine"]
    records = result["records"]
    for record in records:
        assert 0 <= record["min_s"] <= record["q1_s"] <= record["median_s"] <= record["q3_s"]
        assert record["rounds"] == len(record["seconds"]) >= 2
        assert record["pairs_per_s"] == pytest.approx(record["samples_per_s"] * record["views"] / 2)
    seen = {(r["part"], r["backend"], r["views"], r["workers"]) for r in records}
    alone = {("stages", backend, views, 0) for backend in ("decord", "pyav") for views in (2, 4)}
    loaders = {("loader", "auto", *case) for case in ((2, 0), (2, 1), (4, 1))}
    assert seen == alone | loaders | {("transfer", "auto", 2, 1), ("loader", "pyav", 2, 1)}
    stages = {r["stage"] for r in records if r["part"] == "stages"}
    assert stages == {*data_path_report.STAGES, "open + decode", "all", "CPU time"}

    rows = list(csv.DictReader((out / "data_path.csv").open()))
    assert [float(row["median_s"]) for row in rows] == [r["median_s"] for r in records]
    text = (out / "data_path.md").read_text()
    assert "Quick run" in text and "transfer alone" in text
    assert "nan" not in text
    assert (out / "data_path.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    (made,) = videos.rglob("*.mp4")
    with av.open(str(made)) as container:
        (stream,) = container.streams
        assert (stream.width, stream.height, stream.frames) == (426, 240, 25)


def test_a_short_clip_is_played_to_and_fro(tmp_path: Path) -> None:
    from barcode import write_barcode

    source = write_barcode(tmp_path / "short.mp4", frames=10)
    made = data_path.make_video(source, tmp_path / "made", 240, 2)
    with av.open(str(made)) as container:
        means = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(means) == 50

    def distance(i: int, j: int) -> float:
        return float(abs(means[i].astype(int) - means[j]).mean())

    assert distance(9 - 3, 9 + 3) < 4 < distance(9, 0)
    assert distance(2, 18 + 2) < 4
    stamp = made.stat().st_mtime_ns
    assert data_path.make_video(source, tmp_path / "made", 240, 2).stat().st_mtime_ns == stamp


def test_a_quick_run_never_replaces_a_real_result() -> None:
    with pytest.raises(SystemExit):
        data_path.main(["--quick"])
