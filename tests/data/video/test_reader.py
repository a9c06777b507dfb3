"""Frames come out of a video as they went in; what is no video, or only part of one, is told."""

import os
import resource
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.video import reader
from hrnet_ray.data.video.reader import VideoFrame, VideoReader
from hrnet_ray.data.video.writer import VideoWriter
from hrnet_ray.errors import DataError, UsageError
from tests.data.video.clips import HW, clip, cut_off, holed, moving, place_of, sound, turned


def read(path: Path) -> tuple[list[VideoFrame], str | None]:
    with VideoReader(path) as video:
        return list(video), video.read_problem


def written(path: Path, pictures: list[np.ndarray], times: list[float] | None = None) -> Path:
    with VideoWriter(path, fps=Fraction(25)) as writer:
        for number, picture in enumerate(pictures):
            writer.add_frame(times[number] if times else number / 25, picture)
    return path


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "avi", "webm", "mpg", "mts"])
def test_frames_come_in_order_with_their_times(tmp_path: Path, ending: str):
    codec = {"webm": "libvpx", "mpg": "mpeg2video", "mts": "libx264"}.get(ending, "mpeg4")

    frames, fault = read(clip(tmp_path / f"clip.{ending}", codec=codec))

    assert fault is None
    assert [frame.index for frame in frames] == list(range(24))
    assert [place_of(frame.image) for frame in frames] == list(range(24))
    assert {frame.image.shape for frame in frames} == {(*HW, 3)}
    times = [frame.time_s for frame in frames]
    np.testing.assert_allclose(times, np.arange(24) / 25, atol=0.002)


def test_what_is_drawn_is_what_is_read_again(tmp_path: Path):
    pictures = list(moving(10))

    frames, fault = read(written(tmp_path / "drawn.mp4", pictures))

    assert fault is None
    assert len(frames) == 10
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame.image.astype(int) - picture).mean() < 6  # colours of grain are lost
    assert [round(frame.time_s * 25, 3) for frame in frames] == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.mp4"]


def test_uneven_times_stay_as_they_are(tmp_path: Path):
    times = [0.0, 0.04, 0.08, 0.5, 0.52, 1.7, 2.0, 2.001]

    read_mkv, fault_mkv = read(clip(tmp_path / "clip.mkv", frames=8, times=times))
    drawn, fault_mp4 = read(written(tmp_path / "drawn.mp4", list(moving(8)), times))

    assert (fault_mkv, fault_mp4) == (None, None)
    np.testing.assert_allclose([frame.time_s for frame in read_mkv], times, atol=0.0011)
    np.testing.assert_allclose([frame.time_s for frame in drawn], times, atol=0.0001)


def test_a_beginning_that_is_not_at_zero_is_the_beginning(tmp_path: Path):
    times = [3.0, 3.04, 3.08, 3.12]

    frames, _ = read(clip(tmp_path / "clip.mts", frames=4, codec="libx264", times=times))

    np.testing.assert_allclose([f.time_s for f in frames], [0, 0.04, 0.08, 0.12], atol=0.001)


def test_times_that_stand_still_or_go_back_do_not_stop_a_drawing(tmp_path: Path):
    path = written(tmp_path / "drawn.mp4", list(moving(5)), [0.0, 0.04, 0.04, 0.02, 0.08])

    frames, fault = read(path)

    assert fault is None
    assert [place_of(frame.image) for frame in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("hw", [(49, 65), (48, 65), (49, 64)])
def test_an_odd_row_or_column_is_left_out_of_a_drawing(tmp_path: Path, hw: tuple[int, int]):
    frames, fault = read(written(tmp_path / "drawn.mp4", list(moving(3, hw))))

    assert fault is None
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 3
    assert [place_of(frame.image) for frame in frames] == [0, 1, 2]


def test_a_picture_of_another_size_is_scaled_to_the_first_ones(tmp_path: Path):
    first, second = next(moving(1)), next(moving(1, (96, 128)))

    frames, _ = read(written(tmp_path / "drawn.mp4", [first, second]))

    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 2


def test_without_x264_a_drawing_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader.import_pyav(), "codecs_available", {"mpeg4"})

    frames, fault = read(written(tmp_path / "drawn.mp4", list(moving(5))))

    assert fault is None
    assert [place_of(frame.image) for frame in frames] == [0, 1, 2, 3, 4]


# How av_display_rotation_get (libavutil/display.h) tells a matrix: a phone that was held upright
# writes (0, 1, -1, 0), by which what is left in its frames is shown above.
@pytest.mark.parametrize(
    ("abcd", "red_corner", "shape"),
    [
        ((1, 0, 0, 1), "upper left", (48, 64, 3)),
        ((0, 1, -1, 0), "upper right", (64, 48, 3)),
        ((0, -1, 1, 0), "lower left", (64, 48, 3)),
        ((-1, 0, 0, -1), "lower right", (48, 64, 3)),
        ((-1, 0, 0, 1), "upper right", (48, 64, 3)),
        ((1, 0, 0, -1), "lower left", (48, 64, 3)),
        ((0, 1, 1, 0), "upper left", (64, 48, 3)),
        ((0, -1, -1, 0), "lower right", (64, 48, 3)),
    ],
)
def test_a_phones_video_is_turned_and_mirrored_as_players_show_it(
    tmp_path: Path, abcd: tuple[int, int, int, int], red_corner: str, shape: tuple[int, ...]
):
    frames, _ = read(turned(clip(tmp_path / "clip.mp4", frames=3), abcd))

    picture = frames[0].image.astype(int)
    assert picture.shape == shape
    assert picture.flags.c_contiguous
    corners = {
        "upper left": picture[3, 3],
        "upper right": picture[3, -4],
        "lower left": picture[-4, 3],
        "lower right": picture[-4, -4],
    }
    red = {where: int(rgb[0] - rgb[1]) for where, rgb in corners.items()}
    assert max(red, key=lambda where: red[where]) == red_corner
    assert red[red_corner] > 100


@pytest.mark.parametrize(("ending", "share"), [("mkv", 0.5), ("avi", 0.7)])  # half an AVI is header
def test_of_a_video_that_was_cut_off_the_beginning_is_read(tmp_path: Path, ending: str, share: float):
    frames, fault = read(cut_off(clip(tmp_path / f"clip.{ending}", frames=30), share))

    assert 5 < len(frames) < 25
    assert [place_of(frame.image) for frame in frames[:5]] == [0, 1, 2, 3, 4]
    assert fault == f"{len(frames)} frames could be read of about 30"


def test_an_mp4_that_was_cut_off_has_lost_where_its_frames_are(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        VideoReader(cut_off(clip(tmp_path / "clip.mp4")))

    assert str(refused.value) == (
        "a video that cannot be read: Invalid data found when processing input\n"
        f"  {tmp_path / 'clip.mp4'}\n"
        "  fix: see whether a player shows it; `ffmpeg -i IN OUT.mp4` writes it anew"
    )


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv"])
def test_a_damaged_frame_does_not_cost_those_after_it(tmp_path: Path, ending: str):
    path = clip(tmp_path / f"clip.{ending}", codec="libx264", frames=30)

    frames, fault = read(holed(path, share=0.7, size=120))

    assert fault
    assert 30 > place_of(frames[-1].image) > 25 or ending == "mkv"  # there, the rest is lost
    assert [place_of(frame.image) for frame in frames[:3]] == [0, 1, 2]


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv"])
def test_no_damage_crashes(tmp_path: Path, ending: str):
    whole = clip(tmp_path / f"whole.{ending}", frames=12).read_bytes()
    path = tmp_path / f"clip.{ending}"
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(len(data), size=12)
        data[at] = rng.integers(256, size=12)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes())
        try:
            frames, fault = read(path)
        except DataError:
            continue
        assert len(frames) <= 40
        assert fault is None or "frames" in fault


@pytest.mark.parametrize("data", [b"", b"hello, I am a video", bytes(5000)])
def test_what_is_no_video_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "clip.mp4").write_bytes(data)

    with pytest.raises(DataError, match="a video that cannot be read: Invalid data"):
        VideoReader(tmp_path / "clip.mp4")


def test_a_video_that_is_missing_or_has_nothing_to_see_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="No such file"):
        VideoReader(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="no images in it"):
        VideoReader(sound(tmp_path / "song.mp4"))


def test_a_video_that_nothing_here_decodes_is_refused(tmp_path: Path):
    path = clip(tmp_path / "clip.mp4", codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))

    with pytest.raises(DataError, match="no decoder for its images"):
        VideoReader(path)


def test_a_playlist_that_calls_itself_a_video_opens_nothing(tmp_path: Path):
    clip(tmp_path / "secret.mp4")
    segments = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile secret.mp4\n"
    for text in (segments.format(tmp_path / "secret.mp4"), concat):
        (tmp_path / "clip.mp4").write_text(text)

        with pytest.raises(DataError, match="a video that cannot be read"):
            VideoReader(tmp_path / "clip.mp4")


def test_a_name_that_reads_like_an_address_is_a_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:clip.mp4", os.fsdecode(b"caf\xe9.mp4")):
        os.rename(clip(tmp_path / "clip.mp4", frames=4), name)

        assert len(read(Path(name))[0]) == 4


def test_more_pixels_than_a_picture_may_have_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = clip(tmp_path / "clip.avi")
    monkeypatch.setattr(reader, "MAX_PIXELS", 64 * 48 - 1)

    with pytest.raises(DataError, match="64 x 48 pixels; 3,071 are decoded at most"):
        VideoReader(path)


def test_a_size_that_grows_on_the_way_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = clip(tmp_path / "clip.avi")
    monkeypatch.setattr(reader, "_DECODER_OPTIONS", {"max_pixels": str(64 * 48 - 1)})

    frames, fault = read(path)

    assert (frames, fault) == ([], "0 frames could be read of about 24")


def test_without_pyav_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(UsageError) as refused:
        VideoReader(tmp_path / "clip.mp4")

    what, where, fix = str(refused.value).splitlines()
    assert what == "videos need PyAV, which cannot be imported"
    assert "av" in where
    assert fix == '  fix: pip install "hrnet-ray[video]", or leave the videos out'


def test_a_drawing_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "drawn.mp4").mkdir()

    for path in (tmp_path / "file" / "drawn.mp4", tmp_path / "drawn.mp4"):
        with pytest.raises(DataError, match="a video that cannot be written"):
            written(path, list(moving(3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.mp4", "file"]


FILL = """
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from hrnet_ray.data.video.writer import VideoWriter

rng = np.random.default_rng(0)
with VideoWriter(Path(sys.argv[1]), fps=Fraction(25)) as writer:
    for number in range(300):
        print(number, flush=True)
        writer.add_frame(number / 25, rng.integers(0, 255, (96, 128, 3)).astype(np.uint8))
"""


def limit() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))


def test_on_a_full_disk_a_drawing_stays_as_far_as_it_came(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "drawn.mp4")],
        capture_output=True, text=True, check=False, preexec_fn=limit,
    )  # fmt: skip

    assert "a video that cannot be written: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.mp4"]
    frames, _ = read(tmp_path / "drawn.mp4")
    assert 25 <= len(frames) <= len(done.stdout.split()) < 300
