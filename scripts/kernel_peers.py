#!/usr/bin/env python3
"""Times each of lm4lv's kernels beside other libraries on the same photograph, in turn, and prints a Markdown table.

    pip install -r scripts/requirements-peers.txt
    python scripts/kernel_peers.py [--bench EXECUTABLE] [--repetitions 5] [--only REGEX] [--statistic median]

`benches/kernels.rs` times lm4lv (built here by cargo unless `--bench` names the executable); OpenCV, albumentations, imagecorruptions,
Pillow and scikit-image are timed in this process. All on one thread, from 8-bit pixels to new 8-bit pixels, 512x512 RGB.
For each operation lm4lv and then every peer is timed, again and again; of each repetition the median, and of
the repetitions the median; or with `--statistic fastest`, on a busy machine, the fastest call of all.

A peer stands beside an operation only if it does the same: same kernel, same law of the noise, same filter. Tolerated are other
rounding between steps, cubic a = -0.75 for -0.5 and Lanczos of 8 taps for 6 when OpenCV enlarges or turns, libjpeg's and libwebp's
own choices when writing files. Left out are: Pillow's GaussianBlur (three box filters), OpenCV's bicubic and bilinear shrinking (no
antialiasing), albumentations' RandomRain (drawn lines), GridDropout and PixelDropout's other laws, imagecorruptions' motion and
weather, and its Gaussian blur, which asks scikit-image for an argument that it has no more (and is scikit-image's, which stands
here). What none of them has (rain, mask shapes, luma scores) is written here with OpenCV and numpy as fast as we know how.

A ratio is the peer's time over lm4lv's: above 1 lm4lv is faster. The geometric mean is over all operations but the reading and
writing of files, which are listed only. Ratios below 0.8 are marked. Exits 1 if the mean or one ratio misses its mark (1.5, 0.8)
and `--require` is given.
"""

import argparse
import io
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import warnings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
warnings.filterwarnings("ignore")

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import imagecorruptions  # noqa: E402
import numpy as np  # noqa: E402
import skimage.filters  # noqa: E402
import skimage.metrics  # noqa: E402
from PIL import Image  # noqa: E402

from peers import Ssim  # noqa: E402

cv2.setNumThreads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ROOT / "target" / "kernels"
PHOTO = np.ascontiguousarray(np.asarray(Image.open(ROOT / "pipelines" / "photos" / "astronaut.jpg").convert("RGB")))
PILLOW = Image.fromarray(PHOTO)
H, W, _ = PHOTO.shape
RNG = np.random.default_rng(1)
FLOATS = np.empty(PHOTO.shape, np.float32)
GREY = np.empty((H, W), np.float32)
GREYS = np.full((H, W * 3), 128, np.uint8)
WORDS, WORDS3, CELLS = np.empty((H, W), np.uint16), np.empty(PHOTO.shape, np.uint16), np.empty((H // 4, W // 4), np.uint16)


def albumentation(transform):
    """As one calls a transform; `p=1`."""
    return lambda: transform(image=PHOTO)["image"]


# ---- degradations ------------------------------------------------------------------------------------------------------------


def noise():
    cv2.randn(FLOATS.reshape(-1), 0, 25)
    return cv2.add(PHOTO, FLOATS, dtype=cv2.CV_8U)


def noise_grey():
    cv2.randn(GREY, 0, 25)
    return cv2.add(PHOTO, cv2.merge([GREY, GREY, GREY]), dtype=cv2.CV_8U)


MIX = np.linalg.cholesky(np.cov(np.random.default_rng(2).standard_normal((3, 9)))).astype(np.float32) * 25


def noise_correlated():
    cv2.randn(FLOATS.reshape(-1), 0, 1)
    return cv2.add(PHOTO, cv2.transform(FLOATS, MIX), dtype=cv2.CV_8U)


def anisotropic():
    x = np.arange(-10, 11, dtype=np.float32)
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    u, v = (c * x + s * x[:, None]) / 3, (-s * x + c * x[:, None]) / 1
    kernel = np.exp(-0.5 * (u * u + v * v))
    return cv2.filter2D(PHOTO, -1, kernel / kernel.sum())


def rain():
    """PromptGIP's; its sparse drops are filtered as an image, as its authors do."""
    cv2.randu(GREY, 0, 256)
    _, drops = cv2.threshold(GREY, 256 - 18 / 100, 0, cv2.THRESH_TOZERO)
    drops = cv2.filter2D(drops, -1, np.float32([[0, 0.1, 0], [0.1, 8, 0.1], [0, 0.1, 0]]))
    turn = cv2.getRotationMatrix2D((17.5, 17.5), 20 - 45, 1 - 35 / 100)
    streak = cv2.GaussianBlur(cv2.warpAffine(np.eye(35, dtype=np.float32), turn, (35, 35)), (7, 7), 0)
    streaks = cv2.filter2D(drops, -1, streak)
    cv2.normalize(streaks, streaks, 0, 255, cv2.NORM_MINMAX)
    return cv2.add(PHOTO, cv2.merge([streaks, streaks, streaks]), dtype=cv2.CV_8U)


def pepper():
    cv2.randu(WORDS, 0, 65536)
    return cv2.bitwise_and(PHOTO, PHOTO, mask=cv2.compare(WORDS, 3277, cv2.CMP_GE))


def pepper_each():
    cv2.randu(WORDS3.reshape(-1), 0, 65536)
    hit = cv2.compare(WORDS3.reshape(H, -1), 3277, cv2.CMP_LT)
    return cv2.copyTo(GREYS, hit, PHOTO.reshape(H, -1).copy()).reshape(H, W, 3)


def mask_grid():
    cv2.randu(CELLS, 0, 65536)
    keep = cv2.resize(cv2.compare(CELLS, 3277, cv2.CMP_GE), (W, H), interpolation=cv2.INTER_NEAREST)
    return cv2.bitwise_and(PHOTO, PHOTO, mask=keep)


def boxes():
    image = PHOTO.copy()
    for w, h in RNG.integers(26, 129, (8, 2)):
        x, y = RNG.integers(0, W - w), RNG.integers(0, H - h)
        image[y : y + h, x : x + w] = 0
    return image


def lines():
    image = PHOTO.copy()
    for x0, y0, x1, y1 in RNG.integers(0, 512, (8, 4)):
        cv2.line(image, (x0, y0), (x1, y1), (0, 0, 0), 7)
    return image


def polylines():
    image = PHOTO.copy()
    cv2.polylines(image, list(RNG.integers(0, 512, (8, 8, 2), dtype=np.int32)), False, (0, 0, 0), 7)
    return image


def center():
    image = PHOTO.copy()
    image[128:384, 128:384] = 0
    return image


def turned(flags, expand=False):
    matrix, size = cv2.getRotationMatrix2D((255.5, 255.5), -17, 1), (W, H)
    if expand:
        side = math.ceil(512 * (math.cos(math.radians(17)) + math.sin(math.radians(17))))
        matrix[:, 2] += (side - 512) / 2
        size = (side, side)
    return lambda: cv2.warpAffine(PHOTO, matrix, size, flags=flags)


def pillow_turned(filter, expand=False):
    return lambda: np.asarray(PILLOW.rotate(-17, filter, expand=expand))


def cv2_file(extension, options, flags=cv2.IMREAD_COLOR):
    return lambda: cv2.imdecode(cv2.imencode(extension, PHOTO, options)[1], flags)


def pillow_file(**options):
    def round_trip():
        buffer = io.BytesIO()
        PILLOW.save(buffer, **options)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return round_trip


def jpeg_options(sampling):
    return [cv2.IMWRITE_JPEG_QUALITY, 60, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]


def grey_jpeg():
    _, data = cv2.imencode(".jpg", cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY), [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def pillow_there_and_back(scale, down, up):
    small = (round(W * scale), round(H * scale))
    return lambda: np.asarray(PILLOW.resize(small, down).resize((W, H), up))


F = Image.Resampling
DEGRADE = {
    "gaussian_noise: { sigma: 25 }": {
        "OpenCV": noise,
        "albumentations": albumentation(A.GaussNoise(std_range=(25 / 255, 25 / 255), p=1)),
        "imagecorruptions": lambda: imagecorruptions.corrupt(PHOTO, 2, "gaussian_noise"),
    },
    "gaussian_noise: { sigma: 25, mode: gray }": {
        "OpenCV": noise_grey,
        "albumentations": albumentation(A.GaussNoise(std_range=(25 / 255, 25 / 255), per_channel=False, p=1)),
    },
    "gaussian_noise: { sigma: 25, mode: correlated }": {"OpenCV": noise_correlated},
    "gaussian_blur: { k: 15, sigma: 1.5 }": {
        "OpenCV": lambda: cv2.GaussianBlur(PHOTO, (15, 15), 1.5),
        "albumentations": albumentation(A.GaussianBlur(blur_limit=(15, 15), sigma_limit=(1.5, 1.5), p=1)),
        "scikit-image": lambda: skimage.filters.gaussian(PHOTO, 1.5, channel_axis=-1, preserve_range=True).astype(np.uint8),
    },
    "gaussian_blur: { k: 41, sigma: 8 }": {"OpenCV": lambda: cv2.GaussianBlur(PHOTO, (41, 41), 8)},
    "gaussian_blur: { k: 21, sigma_x: 3, sigma_y: 1, theta: 30 }": {
        "OpenCV": anisotropic,
        "albumentations": albumentation(
            A.AdvancedBlur(
                blur_limit=(21, 21),
                sigma_x_limit=(3, 3),
                sigma_y_limit=(1, 1),
                rotate_limit=(30, 30),
                beta_limit=(0.99, 1.01),
                noise_limit=(0.99, 1.01),
                p=1,
            )
        ),
    },
    "rain: { value: 18, length: 35, theta: 20, width: 7 }": {"OpenCV": rain},
    "pepper: { p: 0.05 }": {
        "OpenCV": pepper,
        "albumentations": albumentation(A.SaltAndPepper(amount=(0.05, 0.05), salt_vs_pepper=(0, 0), p=1)),
    },
    "pepper: { p: 0.05, mode: per_channel, fill: 128 }": {
        "OpenCV": pepper_each,
        "albumentations": albumentation(A.PixelDropout(dropout_prob=0.05, per_channel=True, drop_value=128, p=1)),
        "imagecorruptions": lambda: imagecorruptions.corrupt(PHOTO, 2, "impulse_noise"),
    },
    "mask: { ratio: 0.05 }": {"OpenCV": mask_grid},
    "mask: { shape: boxes, count: 8 }": {
        "numpy": boxes,
        "albumentations": albumentation(
            A.CoarseDropout(num_holes_range=(8, 8), hole_height_range=(0.05, 0.25), hole_width_range=(0.05, 0.25), p=1)
        ),
    },
    "mask: { shape: lines, count: 8 }": {"OpenCV": lines},
    "mask: { shape: polyline, count: 8, vertices: 8 }": {"OpenCV": polylines},
    "mask: { shape: brush, count: 8, vertices: 8 }": {"OpenCV": polylines},
    "mask: { shape: center, ratio: 0.25 }": {"numpy": center},
    "rotate: { angle: 90 }": {
        "OpenCV": lambda: cv2.rotate(PHOTO, cv2.ROTATE_90_CLOCKWISE),
        "Pillow": lambda: np.asarray(PILLOW.transpose(Image.Transpose.ROTATE_270)),
        "numpy": lambda: np.rot90(PHOTO, -1).copy(),
    },
    "rotate: { angle: 180 }": {
        "OpenCV": lambda: cv2.rotate(PHOTO, cv2.ROTATE_180),
        "Pillow": lambda: np.asarray(PILLOW.transpose(Image.Transpose.ROTATE_180)),
    },
    "rotate: { angle: 17 }": {
        "OpenCV": turned(cv2.INTER_LINEAR),
        "Pillow": pillow_turned(F.BILINEAR),
        "albumentations": albumentation(A.Rotate(limit=(-17, -17), p=1)),
    },
    "rotate: { angle: 17, filter: bicubic }": {"OpenCV": turned(cv2.INTER_CUBIC), "Pillow": pillow_turned(F.BICUBIC)},
    "rotate: { angle: 17, filter: nearest, expand: true }": {
        "OpenCV": turned(cv2.INTER_NEAREST, True),
        "Pillow": pillow_turned(F.NEAREST, True),
    },
    "flip: { direction: horizontal }": {
        "OpenCV": lambda: cv2.flip(PHOTO, 1),
        "Pillow": lambda: np.asarray(PILLOW.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "albumentations": albumentation(A.HorizontalFlip(p=1)),
    },
    "flip: { direction: vertical }": {
        "OpenCV": lambda: cv2.flip(PHOTO, 0),
        "Pillow": lambda: np.asarray(PILLOW.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
        "albumentations": albumentation(A.VerticalFlip(p=1)),
    },
    "flip: { direction: transpose }": {
        "OpenCV": lambda: cv2.transpose(PHOTO),
        "Pillow": lambda: np.asarray(PILLOW.transpose(Image.Transpose.TRANSPOSE)),
        "albumentations": albumentation(A.Transpose(p=1)),
    },
    "jpeg: { quality: 60 }": {
        "OpenCV": cv2_file(".jpg", jpeg_options(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)),
        "Pillow": pillow_file(format="JPEG", quality=60, subsampling="4:2:0"),
        "albumentations": albumentation(A.ImageCompression(quality_range=(60, 60), p=1)),
    },
    'jpeg: { quality: 60, subsampling: "4:2:2" }': {
        "OpenCV": cv2_file(".jpg", jpeg_options(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422)),
        "Pillow": pillow_file(format="JPEG", quality=60, subsampling="4:2:2"),
    },
    'jpeg: { quality: 60, subsampling: "4:4:4" }': {
        "OpenCV": cv2_file(".jpg", jpeg_options(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)),
        "Pillow": pillow_file(format="JPEG", quality=60, subsampling="4:4:4"),
    },
    "jpeg: { quality: 60, subsampling: gray }": {"OpenCV": grey_jpeg},
    "webp: { quality: 60 }": {
        "OpenCV": cv2_file(".webp", [cv2.IMWRITE_WEBP_QUALITY, 60]),
        "Pillow": pillow_file(format="WEBP", quality=60),
        "albumentations": albumentation(A.ImageCompression(compression_type="webp", quality_range=(60, 60), p=1)),
    },
    "resample: { scale: 0.5 }": {"Pillow": pillow_there_and_back(0.5, F.BICUBIC, F.BICUBIC)},
    "resample: { scale: 0.25, down: box, up: nearest }": {
        "Pillow": pillow_there_and_back(0.25, F.BOX, F.NEAREST),
        "OpenCV": lambda: cv2.resize(
            cv2.resize(PHOTO, (128, 128), interpolation=cv2.INTER_AREA), (W, H), interpolation=cv2.INTER_NEAREST
        ),
        "albumentations": albumentation(
            A.Downscale((0.25, 0.25), {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_NEAREST}, p=1)
        ),
    },
    "resample: { scale: 0.3, down: lanczos, up: bilinear }": {"Pillow": pillow_there_and_back(0.3, F.LANCZOS, F.BILINEAR)},
}

# ---- scores ------------------------------------------------------------------------------------------------------------------


def spoilt():
    image = cv2.GaussianBlur(noise(), (15, 15), 1.5)
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


SPOILT = spoilt()
CUT, CUT_SPOILT = PHOTO[4:-4, 4:-4], SPOILT[4:-4, 4:-4]
LUMA = np.float32([[65.481, 128.553, 24.966]]) / 255
SSIM, SSIM_PLANE, SSIM_BOX = Ssim(), Ssim(), Ssim(uniform=True)


def psnr_luma():
    difference = cv2.transform(cv2.subtract(PHOTO, SPOILT, dtype=cv2.CV_32F), LUMA)
    return 10 * math.log10(255**2 * difference.size / cv2.norm(difference, cv2.NORM_L2SQR))


def ssim_luma():
    a, b = (cv2.transform(image.astype(np.float32), LUMA) + np.float32(16) for image in (PHOTO, SPOILT))
    return SSIM_PLANE(a, b)


def of_skimage(**options):
    return lambda: skimage.metrics.structural_similarity(PHOTO, SPOILT, channel_axis=-1, data_range=255, **options)


PSNR = {"OpenCV": lambda: cv2.PSNR(PHOTO, SPOILT), "scikit-image": lambda: skimage.metrics.peak_signal_noise_ratio(PHOTO, SPOILT)}
GAUSSIAN = of_skimage(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
SCORES = {
    "psnr.lm4lv": {"OpenCV": lambda: cv2.PSNR(CUT, CUT_SPOILT)},
    "psnr.skimage": PSNR,
    "psnr.torchmetrics": PSNR,
    "psnr.basicsr_y": {"OpenCV": psnr_luma},
    "ssim.lm4lv": {"OpenCV": lambda: SSIM(CUT, CUT_SPOILT), "scikit-image": GAUSSIAN},
    "ssim.torchmetrics": {"OpenCV": lambda: SSIM(PHOTO, SPOILT), "scikit-image": GAUSSIAN},
    "ssim.basicsr_y": {"OpenCV": ssim_luma},
    "ssim.skimage": {"OpenCV": lambda: SSIM_BOX(PHOTO, SPOILT), "scikit-image": of_skimage()},
}

# ---- resizing and files ------------------------------------------------------------------------------------------------------


def resized(side, filter, opencv=None):
    peers = {"Pillow": lambda: np.asarray(PILLOW.resize((side, side), filter))}
    if opencv is not None:
        peers["OpenCV"] = lambda: cv2.resize(PHOTO, (side, side), interpolation=opencv)
        peers["albumentations"] = albumentation(A.Resize(side, side, interpolation=opencv, p=1))
    return peers


SHRINK = {
    "Bicubic": resized(224, F.BICUBIC),
    "Bilinear": resized(224, F.BILINEAR),
    "Lanczos": resized(224, F.LANCZOS),
    "Box": resized(224, F.BOX, cv2.INTER_AREA),
}
ENLARGE = {
    "Bicubic": resized(1024, F.BICUBIC, cv2.INTER_CUBIC),
    "Bilinear": resized(1024, F.BILINEAR, cv2.INTER_LINEAR),
    "Lanczos": resized(1024, F.LANCZOS, cv2.INTER_LANCZOS4),
    "Box": resized(1024, F.BOX, cv2.INTER_NEAREST),
}


def pillow_write(**options):
    return lambda: PILLOW.save(io.BytesIO(), **options)


def written(extension, options, **pillow):
    return {"OpenCV": lambda: cv2.imencode(extension, PHOTO, options)[1], "Pillow": pillow_write(**pillow)}


def jpeg_written(sampling, name):
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return written(".jpg", options, format="JPEG", quality=95, subsampling=name)


ENCODE = {
    "png: { level: 0 }": written(".png", [cv2.IMWRITE_PNG_COMPRESSION, 0], format="PNG", compress_level=0),
    "png: { level: 1 }": written(".png", [], format="PNG", compress_level=1),
    "png: { level: 6 }": written(".png", [cv2.IMWRITE_PNG_COMPRESSION, 6], format="PNG", compress_level=6),
    'jpeg: { quality: 95, subsampling: "4:2:0" }': jpeg_written(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:2:0"),
    'jpeg: { quality: 95, subsampling: "4:4:4" }': jpeg_written(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, "4:4:4"),
    "webp: {}": {"Pillow": pillow_write(format="WEBP", lossless=True, quality=0, method=0)},
}


def read(name):
    data = (FILES / name).read_bytes()
    array = np.frombuffer(data, np.uint8)
    peers = {"Pillow": lambda: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))}
    if cv2.imdecode(array, cv2.IMREAD_COLOR) is not None:
        peers["OpenCV"] = lambda: cv2.imdecode(array, cv2.IMREAD_COLOR)
    return peers


def operations():
    """(group, name) → peers, in the order of the table. The files must be there."""
    groups = {"degrade": DEGRADE, "score_of": SCORES, "shrink_to_224": SHRINK, "enlarge_to_1024": ENLARGE}
    groups |= {"decode": {path.name: read(path.name) for path in sorted(FILES.iterdir())}, "encode": ENCODE}
    return {(group, name): peers for group, names in groups.items() for name, peers in names.items()}


# ---- measuring ---------------------------------------------------------------------------------------------------------------

UNITS = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}


def time_ours(bench, group, name, samples, statistic):
    """Milliseconds, by divan: its first column is the fastest sample, the third the median."""
    command = [bench, "--bench", "--color", "never", "--sample-count", str(samples), "--sample-size", "1"]
    command += ["--exact", f"kernels::{group}::{name}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        if name in line:
            columns = line.split(name, 1)[1].split("│")
            value, unit = columns[0 if statistic == "fastest" else 2].split()
            return float(value) * UNITS[unit]
    sys.exit(f"{group}::{name} is not among the benches:\n{output}")


def time_peer(call, samples, statistic):
    """Milliseconds of this call."""
    call()
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * (min(times) if statistic == "fastest" else statistics.median(times))


def built():
    """The bench's executable, built."""
    command = ["cargo", "build", "--release", "--locked", "--bench", "kernels", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    made = (json.loads(line).get("executable") for line in output.splitlines() if line.startswith("{"))
    return [executable for executable in made if executable][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", help="the bench's executable")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--samples", type=int, default=30, help="calls for each library, operation and repetition")
    parser.add_argument("--statistic", choices=["median", "fastest"], default="median", help="of the samples of a repetition")
    parser.add_argument("--only", default="", help="operations whose `group::name` this regular expression finds")
    parser.add_argument("--all", action="store_true", help="a column with every peer's time")
    parser.add_argument("--require", action="store_true", help="exit 1 where the marks are missed")
    args = parser.parse_args()
    bench = str((ROOT / (args.bench or built())).resolve())
    # Without `--bench` each runs once and is listed; the files to decode are left there.
    listed = subprocess.run([bench, "--color", "never"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    benches = {line[6:].strip() for line in listed.splitlines() if line[1:3] != "─ " and line[3:5] in ("├─", "╰─")}
    every = operations()
    if benches != {name for _, name in every}:
        sys.exit(f"timed on one side alone: {sorted(benches ^ {name for _, name in every})}")
    chosen = {key: peers for key, peers in every.items() if re.search(args.only, "::".join(key))}
    middle = min if args.statistic == "fastest" else statistics.median
    ours = {key: [] for key in chosen}
    theirs = {(key, peer): [] for key, peers in chosen.items() for peer in peers}
    for repetition in range(args.repetitions):
        for key, peers in chosen.items():
            ours[key].append(time_ours(bench, *key, args.samples, args.statistic))
            for peer, call in peers.items():
                theirs[key, peer].append(time_peer(call, args.samples, args.statistic))
        print(f"repetition {repetition + 1}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)

    versions = f"OpenCV {cv2.__version__}, albumentations {A.__version__}, Pillow {Image.__version__}"
    print(f"{versions}, scikit-image {skimage.__version__}; {args.statistic} of {args.samples} calls, {args.repetitions} times\n")
    print(f"| operation | lm4lv ms | fastest peer ms | | ratio |{' all peers |' if args.all else ''}")
    print(f"| --- | ---: | ---: | --- | ---: |{' --- |' if args.all else ''}")
    ratios, slow = {}, []
    for key, peers in chosen.items():
        group, name = key
        mine = middle(ours[key])
        times = {peer: middle(theirs[key, peer]) for peer in peers}
        best = min(times, key=times.get)
        ratio = times[best] / mine
        if group not in ("decode", "encode"):
            ratios[key] = ratio
            if ratio < 0.8:
                slow.append(key)
        mark = " **slow**" if key in slow else " (file)" if key not in ratios else ""
        label = name if group == "degrade" else f"{group} {name}"
        line = f"| `{label}` | {mine:.3f} | {times[best]:.3f} | {best} | {ratio:.2f}{mark} |"
        if args.all:
            line += " " + ", ".join(f"{p} {t:.3f}" for p, t in sorted(times.items(), key=lambda x: x[1])) + " |"
        print(line)
    if ratios:
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values()))
        print(f"\nGeometric mean of {len(ratios)}: {mean:.2f}. Below 0.8: {len(slow)}.")
        return int(args.require and (mean < 1.5 or bool(slow)))


if __name__ == "__main__":
    sys.exit(main())
