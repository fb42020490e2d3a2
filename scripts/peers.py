#!/usr/bin/env python3
"""Times the same job in lm4lv and in what one would use instead, in turn, and prints a Markdown table.

    pip install -r scripts/requirements-peers.txt
    cargo build --release --locked
    python scripts/peers.py [--photos DIR ...] [--rows 2000] [--runs 3] [--encodings png,jpeg] [--only lm4lv,datasets]

The job, for each of ROWS JPEG files of 512x512 named in a Parquet list: read and decode; Gaussian noise of sigma 25; Gaussian blur
of sigma 1.5, kernel 15x15; a JPEG round trip, 4:2:0, quality uniform from 30 to 95; PSNR and SSIM of the result against the clean
image (RGB, 4 pixels cropped, Gaussian window 11x11 of sigma 1.5); encode; write to Parquet the degraded image, the source file's
own bytes as the target, both scores, the drawn parameters and the rest of lm4lv's columns but the volatile ones. Two workers.

Sides:
  lm4lv           `lm4lv run`, release. It alone syncs its files to the disk and can be stopped and resumed.
  datasets        Hugging Face `datasets.map(num_proc=2)` with OpenCV, then `to_parquet`
  pool            two processes with OpenCV, each writing a Parquet file of its own: what one would write by hand
  albumentations  the same two processes, the three degradations by albumentations

The peers are written for speed: OpenCV on one thread in each process, 8-bit pixels from step to step (lm4lv keeps floats), noise by
`cv2.randn` into one buffer that is kept, SSIM from four filtered maps in buffers that are kept, OpenCV's PNG setting that is
fastest (its default: filter Sub, run-length strategy) and image bytes that Parquet does not compress. Options for another look: `png1` among
the encodings is the `IMWRITE_PNG_COMPRESSION` of 1 that one finds in tutorials, `--ssim textbook` the five maps in plain numpy.

Wall time is the whole command's, from the start of the process (the interpreter and its imports included) to its end; `inside` leaves
out what comes before the first row is read: imports here, nothing in lm4lv but reading the pipeline file. CPU time
is of all processes together, and moves less where the machine is shared. Memory is the sum of the proportional set sizes (PSS) of
all processes, sampled ten times a second. Sides are run A B C A B C ..., medians are printed.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE = 512
SIGMA, BLUR, KERNEL, QUALITY = 25, 1.5, 15, (30, 95)
SIDES = ["lm4lv", "datasets", "pool", "albumentations"]

# ---- the input ---------------------------------------------------------------------------------------------------------------


def crop_to_jpeg(task):
    """Photograph → a square of it as a JPEG file: the middle first, then other crops, some mirrored."""
    from PIL import Image, ImageOps

    path, turn, to = task
    draw = random.Random(f"{path.name} {turn}")
    image = Image.open(path).convert("RGB")
    most = min(image.size)
    side = most if turn == 0 else round(most * draw.uniform(0.5, 1))
    x, y = (draw.randint(0, n - side) if turn else (n - side) // 2 for n in image.size)
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))
    if turn and draw.random() < 0.5:
        image = ImageOps.mirror(image)
    image.save(to, "JPEG", quality=92, subsampling="4:2:0")


def make_inputs(folders, work, rows):
    """The JPEG files and the list, made once; the list's path and what to say of them."""
    import pyarrow
    import pyarrow.parquet

    photos = [p for f in folders for p in sorted(f.iterdir()) if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
    if not photos:
        sys.exit(f"no photographs in {', '.join(map(str, folders))}")
    say = f"{rows} crops of {len(photos)} photographs"
    images, recipe = work / "images", {"photos": [str(p) for p in photos], "rows": rows}
    done = work / "images.json"
    if not done.exists() or json.loads(done.read_text()) != recipe:
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(parents=True)
        tasks = [(photos[i % len(photos)], i // len(photos), images / f"{i:05}.jpg") for i in range(rows)]
        with multiprocessing.Pool() as pool:
            for _ in pool.imap_unordered(crop_to_jpeg, tasks, chunksize=8):
                pass
        done.write_text(json.dumps(recipe))
    return write_list(work / f"refs-{rows}.parquet", rows, rows), say


def write_list(path, rows, images):
    """References to the first `images` images, again and again, with keys that differ."""
    import pyarrow
    import pyarrow.parquet

    urls = [f"images/{i % images:05}.jpg" for i in range(rows)]
    keys = [f"{i:06}" for i in range(rows)]
    pyarrow.parquet.write_table(pyarrow.table({"key": keys, "url": urls}), path)
    return path


# ---- lm4lv -------------------------------------------------------------------------------------------------------------------

PIPELINE = """
source: {{ parquet: {{ path: "{refs}", columns: {{ key: key, reference: url }} }} }}
load: {{}}
degrade:
  recipe:
    - gaussian_noise: {{ sigma: {sigma} }}
    - gaussian_blur: {{ k: {kernel}, sigma: {blur} }}
    - jpeg: {{ quality: [{low}, {high}] }}
score: [psnr.lm4lv, ssim.lm4lv]
sink: {{ dir: "{out}", encoding: {encoding}, encoding_of: {{ target: original }} }}
run: {{ workers: 2, progress: none }}
"""
ENCODINGS = {
    "png": "{ png: { level: 1 } }",
    "png1": "{ png: { level: 1 } }",
    "jpeg": '{ jpeg: { quality: 95, subsampling: "4:2:0" } }',
}


def lm4lv_command(binary, refs, out, encoding):
    """The command that runs the job, its pipeline file written beside `out`."""
    low, high = QUALITY
    text = PIPELINE.format(
        refs=refs, out=out, sigma=SIGMA, kernel=KERNEL, blur=BLUR, low=low, high=high, encoding=ENCODINGS[encoding]
    )
    file = out.with_suffix(".yaml")
    file.write_text(text)
    return [str(binary), "run", str(file), "--json"]


# ---- the peers ---------------------------------------------------------------------------------------------------------------


class Ssim:
    """SSIM from four maps, of the sum and the difference of the images and of their squares; all buffers are kept.

    The window is a Gaussian, or with `uniform` of 7x7 with the sample's covariance, as scikit-image's default."""

    def __init__(self, uniform=False):
        self.buffers, self.uniform = [], uniform

    def __call__(self, a, b):
        import cv2
        import numpy

        if not self.buffers or self.buffers[0].shape != a.shape:
            self.buffers = [numpy.empty(a.shape, numpy.float32) for _ in range(6)]
        if self.uniform:
            reach, blur = 3, lambda image, dst: cv2.blur(image, (7, 7), dst=dst)
        else:
            reach, blur = 5, lambda image, dst: cv2.GaussianBlur(image, (11, 11), 1.5, dst=dst)
        c1, c2 = 2 * 6.5025, 2 * 58.5225
        s, d, ms, md, ss, dd = self.buffers
        cv2.add(a, b, s, dtype=cv2.CV_32F)
        cv2.subtract(a, b, d, dtype=cv2.CV_32F)
        blur(s, ms)
        blur(d, md)
        cv2.multiply(s, s, s)
        cv2.multiply(d, d, d)
        blur(s, ss)
        blur(d, dd)
        cv2.multiply(ms, ms, ms)
        cv2.multiply(md, md, md)
        cv2.subtract(ss, ms, ss)
        cv2.subtract(dd, md, dd)
        cv2.subtract(ms, md, s)
        cv2.add(ms, md, d)
        cv2.subtract(ss, dd, ms)
        cv2.add(ss, dd, md)
        if self.uniform:
            ms *= 49 / 48
            md *= 49 / 48
        s += c1
        d += c1
        ms += c2
        md += c2
        s *= ms
        d *= md
        s /= d
        channels = 1 if a.ndim == 2 else 3
        return sum(cv2.mean(s[reach:-reach, reach:-reach])[:channels]) / channels


def textbook_ssim(a, b):
    """SSIM as most write it: five filtered maps, a new array for each step."""
    import cv2
    import numpy

    c1, c2 = 6.5025, 58.5225
    a, b = a.astype(numpy.float32), b.astype(numpy.float32)
    blur = lambda m: cv2.GaussianBlur(m, (11, 11), 1.5)[5:-5, 5:-5]
    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    return float((((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean())


class Job:
    """One worker's: reference → row."""

    def __init__(self, side, encoding, ssim, seed):
        import cv2

        cv2.setNumThreads(1)
        cv2.setRNGSeed(seed)
        self.encoding, self.ssim = encoding, Ssim() if ssim == "tuned" else textbook_ssim
        self.random, self.noise = random.Random(seed), None
        self.extension = ".jpg" if encoding == "jpeg" else ".png"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        self.options = {"png": [], "png1": [cv2.IMWRITE_PNG_COMPRESSION, 1], "jpeg": quality}[encoding]
        self.degrade = self.by_albumentations() if side == "albumentations" else self.by_opencv

    def by_opencv(self, clean):
        import cv2
        import numpy

        if self.noise is None or self.noise.shape != clean.shape:
            self.noise = numpy.empty(clean.shape, numpy.float32)
        quality = self.random.randint(*QUALITY)
        # As one channel: of three, the scalar 25 would be for the first alone.
        cv2.randn(self.noise.reshape(-1), 0, SIGMA)
        image = cv2.add(clean, self.noise, dtype=cv2.CV_8U)
        image = cv2.GaussianBlur(image, (KERNEL, KERNEL), BLUR)
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(jpeg, cv2.IMREAD_COLOR), quality

    def by_albumentations(self):
        import albumentations as A

        steps = [
            A.GaussNoise(std_range=(SIGMA / 255, SIGMA / 255), per_channel=True, p=1),
            A.GaussianBlur(blur_limit=(KERNEL, KERNEL), sigma_limit=(BLUR, BLUR), p=1),
            A.ImageCompression(quality_range=QUALITY, p=1),
        ]
        compose = A.Compose(steps, save_applied_params=True, seed=self.random.randint(0, 1 << 30))

        def degrade(clean):
            done = compose(image=clean)
            return done["image"], done["applied_transforms"][-1][1]["quality"]

        return degrade

    def row(self, folder, key, url, offset):
        import cv2
        import numpy

        data = (folder / url).read_bytes()
        clean = cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR)
        image, quality = self.degrade(clean)
        a, b = image[4:-4, 4:-4], clean[4:-4, 4:-4]
        squares = cv2.norm(a, b, cv2.NORM_L2SQR)
        psnr = 10 * numpy.log10(255 * 255 * a.size / squares) if squares else 100.0
        ssim = self.ssim(a, b)
        _, encoded = cv2.imencode(self.extension, image, self.options)
        height, width = clean.shape[:2]
        op = lambda step, op, params: {"step": str(step), "op": op, "version": 1, "params": json.dumps(params)}
        return {
            "key": key,
            "variant": 0,
            "url": url,
            "status": "success",
            "error_code": None,
            "error_message": None,
            "raw": None,
            "width": width,
            "height": height,
            "original_width": width,
            "original_height": height,
            "sha256": hashlib.sha256(data).hexdigest(),
            "input": {"bytes": encoded.tobytes(), "path": f"{key}{self.extension}"},
            "target": {"bytes": data, "path": f"{key}.jpg"},
            "partition": "00000-00000",
            "offset": offset,
            "source_file": "refs.parquet",
            "source_row": offset,
            "seed": 0,
            "ops": [
                op(0, "gaussian_noise", {"sigma": SIGMA}),
                op(1, "gaussian_blur", {"k": KERNEL, "sigma": BLUR}),
                op(2, "jpeg", {"quality": quality}),
            ],
            "input_psnr_lm4lv": float(psnr),
            "input_ssim_lm4lv": float(ssim),
        }


def columns():
    """The columns of `Job.row`, which are lm4lv's without the volatile ones."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    op = pa.struct([("step", pa.string()), ("op", pa.string()), ("version", pa.int32()), ("params", pa.string())])
    types = {
        pa.string(): "key url status error_code error_message sha256 partition source_file",
        pa.int32(): "variant width height original_width original_height",
        pa.int64(): "offset source_row seed",
        pa.float64(): "input_psnr_lm4lv input_ssim_lm4lv",
        pa.binary(): "raw",
        image: "input target",
        pa.list_(op): "ops",
    }
    return pa.schema([(name, kind) for kind, names in types.items() for name in names.split()])


def pool_worker(task):
    """Does every second row and writes them to a file of its own."""
    import pyarrow
    import pyarrow.parquet

    side, encoding, ssim, refs, out, index = task
    job, schema = Job(side, encoding, ssim, index + 1), columns()
    table = pyarrow.parquet.read_table(refs).to_pydict()
    rows = list(zip(table["key"], table["url"], range(len(table["key"]))))[index::2]
    with pyarrow.parquet.ParquetWriter(out / f"{index}.parquet", schema, compression="none") as writer:
        for at in range(0, len(rows), 100):
            made = [job.row(refs.parent, *row) for row in rows[at : at + 100]]
            writer.write_table(pyarrow.Table.from_pylist(made, schema))


def run_pool(side, encoding, ssim, refs, out):
    tasks = [(side, encoding, ssim, refs, out, index) for index in range(2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for _ in pool.imap(pool_worker, tasks):
            pass
        pool.close()
        pool.join()


JOB = None


def map_batch(batch, indices, rank, side, encoding, ssim, folder):
    """For `datasets.map`; each process makes its job at its first batch."""
    global JOB
    if JOB is None:
        JOB = Job(side, encoding, ssim, (rank or 0) + 1)
    rows = [JOB.row(folder, *row) for row in zip(batch["key"], batch["url"], indices)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def run_datasets(side, encoding, ssim, refs, out):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features.from_arrow_schema(columns())
    features |= {"input": datasets.Image(), "target": datasets.Image()}
    table = datasets.Dataset.from_parquet(str(refs), cache_dir=str(out / "cache"))
    made = table.map(
        map_batch,
        batched=True,
        batch_size=50,
        writer_batch_size=100,
        with_indices=True,
        with_rank=True,
        num_proc=2,
        features=features,
        load_from_cache_file=False,
        fn_kwargs={"side": side, "encoding": encoding, "ssim": ssim, "folder": refs.parent},
    )
    # As `Image` the files' bytes are not compressed; without searching for places to cut it is faster.
    made.to_parquet(str(out / "0.parquet"), use_content_defined_chunking=False)


def peer(side, encoding, ssim, refs, out):
    """Runs one peer in this process."""
    import cv2  # noqa: F401
    import numpy  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    if side == "albumentations":
        import albumentations  # noqa: F401
    if side == "datasets":
        import datasets  # noqa: F401
    began = time.monotonic()
    out.mkdir(parents=True)
    (run_datasets if side == "datasets" else run_pool)(side, encoding, ssim, refs, out)
    print(json.dumps({"elapsed_s": time.monotonic() - began}))


# ---- measuring ---------------------------------------------------------------------------------------------------------------


def pss_kib(group):
    """The memory of a process group: shared pages counted once. (`ru_maxrss` would not do: it begins with our own, of which
    a process is a copy until it becomes another program.)"""
    total = 0
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.getpgid(int(entry)) == group:
                with open(f"/proc/{entry}/smaps_rollup") as file:
                    total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def measure(command, environment=None):
    """Runs a command: its output, wall and CPU seconds, and peak MiB of all its processes."""
    os.sync()
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=environment)
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.1):
            peak[0] = max(peak[0], pss_kib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        over.set()
        watcher.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{output.decode()}")
    return output, {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": peak[0] / 1024}


def inspect(out, rows):
    """That all rows are there, and what they say: mean scores and image bytes."""
    import pyarrow.compute
    import pyarrow.parquet

    # `data` of lm4lv, else the files themselves; without the cache of `datasets`.
    files = sorted((out / "data").rglob("*.parquet")) or sorted(out.glob("*.parquet"))
    found, psnr, ssim, size = 0, 0.0, 0.0, 0
    for file in files:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(
            200, columns=["key", "status", "input.bytes", "input_psnr_lm4lv", "input_ssim_lm4lv"]
        ):
            found += pyarrow.compute.sum(pyarrow.compute.equal(batch["status"], "success")).as_py()
            psnr += pyarrow.compute.sum(batch["input_psnr_lm4lv"]).as_py()
            ssim += pyarrow.compute.sum(batch["input_ssim_lm4lv"]).as_py()
            size += pyarrow.compute.sum(pyarrow.compute.binary_length(batch["input"].field("bytes"))).as_py()
    if found != rows:
        sys.exit(f"{out}: {found} rows of {rows}")
    return {"psnr": psnr / rows, "ssim": ssim / rows, "kB": size / rows / 1000}


def run_once(side, encoding, args, refs):
    """One run of one side, its output looked at and removed."""
    out = args.work / f"out-{side}"
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache")}
    if side == "lm4lv":
        command = lm4lv_command(args.lm4lv, refs, out, encoding)
    else:
        command = [sys.executable, __file__, "--peer", side, encoding, args.ssim, str(refs), str(out)]
    output, figures = measure(command, environment)
    figures["inside"] = json.loads(output)["elapsed_s"]
    figures |= inspect(out, args.rows)
    shutil.rmtree(out)
    return figures


def table(sides, results, rows):
    """Medians of each side, and lm4lv's ratio to it."""
    print("| side | images/s | images/s inside | CPU ms/image | peak MiB | kB/image | PSNR | SSIM | lm4lv is faster by | in CPU |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    median = {side: {k: statistics.median(r[k] for r in results[side]) for k in results[side][0]} for side in sides}
    ours = median.get("lm4lv")
    for side in sides:
        m = median[side]
        cells = [f"{rows / m['wall']:.1f}", f"{rows / m['inside']:.1f}", f"{m['cpu'] / rows * 1000:.1f}", f"{m['peak']:.0f}"]
        cells += [f"{m['kB']:.0f}", f"{m['psnr']:.2f}", f"{m['ssim']:.4f}"]
        cells += [f"{m['wall'] / ours['wall']:.2f}", f"{m['cpu'] / ours['cpu']:.2f}"] if ours and side != "lm4lv" else ["", ""]
        print(f"| {side} | {' | '.join(cells)} |")
    print(flush=True)


def main():
    if sys.argv[1:2] == ["--peer"]:
        side, encoding, ssim, refs, out = sys.argv[2:]
        return peer(side, encoding, ssim, pathlib.Path(refs), pathlib.Path(out))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = [ROOT / "pipelines" / "photos"]
    parser.add_argument("--photos", type=pathlib.Path, nargs="+", default=photos, help="folders (default: pipelines/photos)")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target" / "peers", help="images and outputs go here")
    parser.add_argument("--lm4lv", type=pathlib.Path, default=ROOT / "target" / "release" / "lm4lv", help="the binary")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3, help="of each side, interleaved")
    parser.add_argument("--encodings", default="png,jpeg", help=f"of {', '.join(ENCODINGS)}")
    parser.add_argument("--only", default=",".join(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--ssim", choices=["tuned", "textbook"], default="tuned", help="how the peers compute it")
    args = parser.parse_args()
    args.work = args.work.resolve()
    sides = [side for side in SIDES if side in args.only.split(",")]
    refs, say = make_inputs([folder.resolve() for folder in args.photos], args.work, args.rows)
    versions = subprocess.run([str(args.lm4lv), "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{say}, {args.runs} runs each, SSIM of the peers {args.ssim}; {versions}; {os.cpu_count()} CPUs", end="")
    print(f", load {os.getloadavg()[0]:.1f} at the start\n", flush=True)
    for encoding in args.encodings.split(","):
        results = {side: [] for side in sides}
        for run in range(args.runs):
            for side in sides:
                results[side].append(run_once(side, encoding, args, refs))
                last = results[side][-1]
                print(
                    f"{encoding} run {run + 1} {side}: {args.rows / last['wall']:.1f} images/s, "
                    f"{last['cpu'] / args.rows * 1000:.1f} ms CPU, load {os.getloadavg()[0]:.1f}",
                    file=sys.stderr,
                    flush=True,
                )
        print(f"Output {encoding}:\n")
        table(sides, results, args.rows)


if __name__ == "__main__":
    sys.exit(main())
