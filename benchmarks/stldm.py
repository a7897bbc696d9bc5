"""STLDM against the plain reading of the same network: agreement, time per call of the denoiser and per member.

    python benchmarks/stldm.py [--repeats 7] [--threads 2] [--device cpu]
    python benchmarks/stldm.py --forecast [--members 10] [--precision bfloat16] [--sampling-steps 20] [--grid 128]

The first compares one pair of guided calls of the denoiser, with the condition and without, for 5 -> 20 frames at
128 x 128 (latent frames of 32 x 32). The variants take turns, so that what else runs on the machine hits all of them;
ratios are of medians, of wall time and of CPU time. The plain reading is `tests/reference_stldm.py`. The second times
whole forecasts of 20 steps with guidance 1, with one member and with many, and prints the peak of the memory.
"""

import argparse
import resource
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from xnowcast.models.stldm import STLDM
from xnowcast.nn.noise import Noise, member_generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import reference_stldm as reference


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(job, device):
    """Wall and CPU seconds of a job."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


@torch.inference_mode()
def compare_calls(device, repeats, grid):
    torch.manual_seed(0)
    model = STLDM().eval().to(device)
    plain = reference.copy_weights(reference.Denoiser(), model.denoiser.cpu()).to(device)
    unet = model.denoiser.to(device)
    half = deepcopy(unet).to(torch.bfloat16)
    z, condition = torch.randn(2, 1, 20, 32, grid // 4, grid // 4, device=device)
    step = torch.tensor([24], device=device)

    def own(network, batch=1):
        many = z.to(network.dtype).expand(batch, -1, -1, -1, -1)
        given = network.project(condition.to(network.dtype).expand(batch, -1, -1, -1, -1))  # once for all steps
        return lambda: (network(many, step, given), network(many, step, None))

    def both_at_once():
        """Guidance as a batch of two, the condition of the second zero at every level."""
        given = [
            tuple(torch.cat([part, torch.zeros_like(part)]) for part in level) for level in unet.project(condition)
        ]
        return lambda: unet(z.expand(2, -1, -1, -1, -1), step, given).split(1)

    jobs = {
        "plain reading, float32": (1, lambda: (plain(z, step, condition), plain(z, step, None))),
        "xnowcast, float32": (1, own(unet)),
        "xnowcast, float32, both passes in one": (1, both_at_once()),
        "xnowcast, float32, two samples": (2, own(unet, batch=2)),
        "xnowcast, bfloat16": (1, own(half)),
    }
    expected = jobs["plain reading, float32"][1]()
    taken = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, (samples, job) in jobs.items():
            taken[name].append(np.array(clock(job, device)) / samples)
    base = np.median(taken["plain reading, float32"], 0)
    print(f"One pair of calls, 5 -> 20 at {grid} x {grid}, {device}, {torch.get_num_threads()} threads, per sample")
    for name, (_, job) in jobs.items():
        wall, cpu = np.median(taken[name], 0)
        apart = max(float((a[:1].float() - b).abs().max()) for a, b in zip(job(), expected, strict=True))
        ratios = f"({base[0] / wall:4.2f}x)  CPU {cpu:6.3f} ({base[1] / cpu:4.2f}x)"
        print(f"{name:>38}  wall {wall:6.3f} s {ratios}  largest difference {apart:.1e}")


def time_forecasts(device, members, precision, grid, steps):
    torch.manual_seed(0)
    model = STLDM(precision=precision, sampling_steps=steps).eval().to(device)
    frames = torch.rand(1, 5, 1, grid, grid, device=device)
    observed = torch.ones_like(frames, dtype=torch.bool)

    def forecast(count):
        noise = Noise([member_generator(0, 0, member) for member in range(count)], device)
        return lambda: model.forecast(frames, observed, 20, noise)

    if device.type == "cuda":
        forecast(1)()
    one, many = (clock(forecast(count), device) for count in (1, members))
    model.options = replace(model.options, return_first_estimate=True)
    wall, cpu = clock(forecast(1), device)
    print(f"Forecast 5 -> 20 at {grid} x {grid}, {steps} DDIM steps, guidance 1, {precision}, {device}")
    print(f"first estimate  wall {wall:6.2f} s  CPU {cpu:6.2f} s")
    for count, (wall, cpu) in ((1, one), (members, many)):
        print(f"{count:>4} member(s)  wall {wall:7.2f} s  CPU {cpu:7.2f} s  wall per member {wall / count:6.2f} s")
    shares = [b / (members * a) for a, b in zip(one, many, strict=True)]
    print(f"{members} members take {shares[0]:.2f} of {members} times one (CPU time {shares[1]:.2f})")
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_of_process()
    print(f"peak memory {peak / 2**30:.2f} GiB")


def peak_of_process():
    """Bytes; Linux counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forecast", action="store_true", help="time whole forecasts")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--grid", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.forecast:
        time_forecasts(device, arguments.members, arguments.precision, arguments.grid, arguments.sampling_steps)
    else:
        compare_calls(device, arguments.repeats, arguments.grid)


if __name__ == "__main__":
    main()
