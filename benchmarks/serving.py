"""A service under load: clients on this machine post real images for a minute; errors, latency and memory are printed.

python benchmarks/serving.py                           fits PatchCore (1 % coreset) on bottle of ../shared first
python benchmarks/serving.py MODEL --images FOLDER     an artifact, a folder of artifacts or MODEL.onnx
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

PROJECT = Path(__file__).resolve().parents[1]
BOTTLE = PROJECT.parent / "shared" / "data" / "mvtec_anomaly_detection" / "bottle"
WARM_UP = 10.0  # seconds: by then every thread has its memory and the last fifty images are there
EVERY = 1.0  # seconds between two looks at the memory


def main() -> None:
    """Start the service, load it, end it by Ctrl-C; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="what is served; fitted on bottle when not given")
    parser.add_argument("--images", default=str(BOTTLE / "test"), help="folder of the images that are posted")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    paths = sorted(
        path for path in Path(arguments.images).rglob("*") if path.suffix.lower() in (".png", ".jpg", ".bmp")
    )
    if not paths:
        parser.error(f"{arguments.images} holds no image: give a folder with --images")
    bodies = [form(path.name, path.read_bytes()) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or fit(Path(folder))
        command = [
            sys.executable,
            "-m",
            "mvtec_ad",
            "serve",
            str(model),
            "--port",
            "0",
            "--feedback",
            f"{folder}/feedback",
        ]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
            try:
                line = next((line for line in service.stdout if "http://" in line), None)
                if line is None:
                    sys.exit("the service did not start")
                missed = measure(service, int(re.search(r":(\d+)/", line)[1]), bodies, arguments)
            finally:
                service.send_signal(signal.SIGINT)
            print(f"ended by Ctrl-C with status {service.wait(30)}: {service.stdout.read().strip()}")
    sys.exit(1 if missed else 0)


def fit(folder: Path) -> Path:
    """PatchCore on bottle, as bar 2 of the export has it."""
    model = folder / "bottle.zip"
    command = [sys.executable, "-m", "mvtec_ad", "fit", "patchcore", "--coreset", "0.01", "--root", str(BOTTLE.parent)]
    command += ["--category", "bottle", "--out", str(model)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    return model


def form(name: str, data: bytes) -> bytes:
    """A body with one image."""
    head = f'--edge\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--edge--\r\n"


def measure(service: subprocess.Popen, port: int, bodies: list[bytes], arguments: argparse.Namespace) -> bool:
    """Load it and print; whether a bar is missed."""
    lock, latencies, statuses, verdicts, problems = threading.Lock(), [], {}, {}, []
    end = time.perf_counter() + arguments.seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for turn in range(number, 10**9):
            if (begun := time.perf_counter()) >= end:
                return
            try:
                headers = {"Content-Type": "multipart/form-data; boundary=edge"}
                connection.request("POST", "/inspect", bodies[(turn * 7) % len(bodies)], headers)
                answer = connection.getresponse()
                data, status = json.loads(answer.read()), answer.status
            except Exception as problem:  # whatever: it is counted
                connection.close()
                with lock:
                    problems.append(repr(problem))
                continue
            with lock:
                latencies.append(time.perf_counter() - begun)
                statuses[status] = statuses.get(status, 0) + 1
                for image in data.get("images", []):
                    verdicts[image["verdict"]] = verdicts.get(image["verdict"], 0) + 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
    process, memory, begun = psutil.Process(service.pid), [], time.perf_counter()
    before = sum(process.cpu_times()[:2])
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(EVERY)
        memory.append((time.perf_counter() - begun, process.memory_info().rss / 1e6))
    seconds, used = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - before
    warm = np.median([megabytes for at, megabytes in memory if WARM_UP <= at <= WARM_UP + 5])
    last = np.median([megabytes for _, megabytes in memory[-5:]])
    milliseconds = 1000 * np.quantile(latencies, (0.5, 0.95, 1.0))
    errors = len(problems) + sum(count for status, count in statuses.items() if status != 200)
    speed = f"{len(latencies)} answers, {len(latencies) / seconds:.1f} a second"
    print(f"{arguments.clients} clients, {seconds:.0f} s: {speed}")
    print(f"{errors} errors {problems[:1] or ''}; statuses {statuses}; verdicts {verdicts}")
    words = "latency: median {:.0f} ms, p95 {:.0f} ms, largest {:.0f} ms".format(*milliseconds)
    print(f"{words}; {1000 * used / len(latencies):.0f} ms of processor time an image, load {os.getloadavg()[0]:.1f}")
    change = f"{warm:.0f} MB after {WARM_UP:.0f} s, {last:.0f} MB at the end ({last / warm - 1:+.1%})"
    print(f"memory: {memory[0][1]:.0f} MB at 1 s, {change}")
    return errors > 0 or abs(last / warm - 1) > 0.05


if __name__ == "__main__":
    main()
