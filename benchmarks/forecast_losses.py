"""What a small MS-ConvLSTM learns from errors of pixels and from the Fourier losses, on the synthetic radar.

    OMP_NUM_THREADS=1 python benchmarks/forecast_losses.py          # three minutes of CPU time

Four frames to four, crops of 32 x 32 cells; scored on sixteen crops of another sequence.
"""

import argparse

import torch

import xnowcast
from xnowcast.models.base import TrainingBatch

LOSSES = {
    "pixels": {},
    "pixels, absolute_error=0": {"absolute_error": 0.0},
    "facl": {"loss": "facl"},
    "facl, amplitude_alone=0.4": {"loss": "facl", "amplitude_alone": 0.4},
}
CELLS, KNOWN, AHEAD = 32, 4, 4


def sequence(seed: int) -> torch.Tensor:
    """Rain rates ``(t, y, x)``."""
    radar = xnowcast.datasets.synthetic_radar(frames=40, shape=(128, 128), seed=seed, coverage=False)
    return torch.from_numpy(xnowcast.rain_rate(radar).values).float()


def batch(rain: torch.Tensor, count: int, generator: torch.Generator) -> TrainingBatch:
    """Crops of which at least a fifth is wet."""
    crops = []
    while len(crops) < count:
        length = KNOWN + AHEAD
        most = (rain.shape[0] - length, rain.shape[1] - CELLS, rain.shape[2] - CELLS)
        t, y, x = (int(torch.randint(0, one + 1, (1,), generator=generator)) for one in most)
        crop = rain[t : t + length, y : y + CELLS, x : x + CELLS]
        if (crop > 0.1).float().mean() > 0.2:
            crops.append(crop)
    stacked = torch.stack(crops)[:, :, None]
    return TrainingBatch(stacked, torch.ones_like(stacked, dtype=torch.bool))


def trained(rain: torch.Tensor, steps: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    frames = {"input_frames": KNOWN, "target_frames": AHEAD, "scheduled_sampling": False}
    model = xnowcast.models.build("ms-convlstm", size="tiny", **frames, **options)
    descent, generator = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(1)
    for step in range(steps):
        torch.manual_seed(step)
        descent.zero_grad()
        model.loss(batch(rain, 2, generator), progress=step / steps).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
    return model.eval()


def power(frames: torch.Tensor) -> torch.Tensor:
    """At wavelengths of 4 to 8 cells."""
    wavenumber = torch.fft.fftfreq(CELLS)
    radius = torch.hypot(wavenumber[:, None], wavenumber)
    band = (radius >= 1 / 8) & (radius <= 1 / 4)
    return torch.fft.fft2(frames, norm="ortho").abs().square()[..., band].mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    rain, test = sequence(1), batch(sequence(2), 16, torch.Generator().manual_seed(99))
    print("| loss | step | power at 4 to 8 cells over the observed | squared error | mean over the observed |")
    print("|---|---|---|---|---|")
    for name, loss in LOSSES.items():
        model = trained(rain, options.steps, **loss)
        frames = model.transform(test.rain)
        forecast, truth = model.forecast(frames[:, :KNOWN], test.observed[:, :KNOWN], AHEAD), frames[:, KNOWN:]
        for step in (0, AHEAD - 1):
            found, wanted = forecast[:, step], truth[:, step]
            scores = power(found) / power(wanted), (found - wanted).square().mean(), found.mean() / wanted.mean()
            print(f"| {name} | {step + 1} | {scores[0]:.2f} | {scores[1]:.4f} | {scores[2]:.2f} |")


if __name__ == "__main__":
    main()
