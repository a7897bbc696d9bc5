"""Forecasts of MS-RNN against a plain reading of the same formulas: CPU seconds, ratios and differences.

    python benchmarks/recurrent.py [--cells convlstm predrnn preciplstm] [--batches 1 4] [--repeats 5] [--threads 1]

The plain reading is that of the tests (``tests/reference_recurrent.py``): one module a convolution, the same weights.
Variants run in turn, one of each a repeat, so that what else the machine does meets them alike. Shown are CPU seconds,
in which waiting for a core does not count, and the fewest of each: other load can only add to them.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import torch

from xnowcast import models

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from reference_recurrent import PlainMSRNN

INPUT_FRAMES, STEPS = 5, 5


def compare(cell, batch, size, repeats):
    """Fewest CPU seconds of each variant, and the largest differences from the plain reading in float32."""
    torch.manual_seed(0)
    model = models.build(f"ms-{cell}").eval()
    rough = copy.deepcopy(model).to(torch.bfloat16)
    plain, plain_rough = PlainMSRNN(model).eval(), PlainMSRNN(rough).to(torch.bfloat16).eval()
    frames = torch.rand(batch, INPUT_FRAMES, 1, size, size)
    observed, few = frames >= 0, frames.bfloat16()
    jobs = {
        "plain float32": lambda: plain(frames, STEPS)[:, -STEPS:].clamp(0, 1),
        "xnowcast float32": lambda: model.forecast(frames, observed, STEPS),
        "plain bfloat16": lambda: plain_rough(few, STEPS)[:, -STEPS:].clamp(0, 1),
        "xnowcast bfloat16": lambda: rough.forecast(few, observed, STEPS),
    }
    taken = {name: [] for name in jobs}
    answers = {}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.process_time()
            answers[name] = job().float()
            taken[name].append(time.process_time() - start)
    seconds = {name: min(values) for name, values in taken.items()}
    exact = answers["plain float32"]
    return seconds, {name: float((answer - exact).abs().max()) for name, answer in answers.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["convlstm", "predrnn", "preciplstm"], choices=models.CELLS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--size", type=int, default=160, help="cells along y and x")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = f"{options.size} x {options.size}"
    print(f"MS-RNN, {shape}, {INPUT_FRAMES} -> {STEPS} frames, {options.threads} thread(s), torch {torch.__version__}")
    print("CPU seconds per batch; against plain float32; against plain of the same dtype; largest difference")
    with torch.inference_mode():
        for cell in options.cells:
            for batch in options.batches:
                seconds, differences = compare(cell, batch, options.size, options.repeats)
                print(f"\nms-{cell}, batch {batch}")
                for name, value in seconds.items():
                    same = seconds["plain " + name.split()[1]] / value
                    print(
                        f"{name:>20} {value:8.2f} s {seconds['plain float32'] / value:6.2f} x {same:6.2f} x "
                        f"{differences[name]:9.1e}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
