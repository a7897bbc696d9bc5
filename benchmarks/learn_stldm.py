import argparse
from pathlib import Path
import torch
import xnowcast
from learn import training_data

def train(options):
    return xnowcast.train(
        "stldm", training_data(options.data), out=options.out / "run", resume=True, steps=options.steps,
        batch_size=options.batch, crop=options.crop, learning_rate=options.rate, warmup=options.steps // 20,
        schedule="cosine", optimizer="adamw", clip=1.0, ema=options.ema, keep="last", validate_every=max(1, options.steps // 8),
        seed=options.seed, size=options.size, input_frames=5, target_frames=12, progress=False, device=options.device,
        precision=options.precision)

p = argparse.ArgumentParser()
p.add_argument("--data", type=Path, default=Path("../shared/data"))
p.add_argument("--out", type=Path, default=Path("runs/learn_stldm"))
p.add_argument("--steps", type=int, default=1000)
p.add_argument("--batch", type=int, default=4)
p.add_argument("--crop", type=int, default=64)
p.add_argument("--rate", type=float, default=1e-3)
p.add_argument("--ema", type=float, default=0.99)
p.add_argument("--size", default="tiny")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--device", default="auto")
p.add_argument("--precision", default="32")
o = p.parse_args()
torch.set_num_threads(1)
o.out.mkdir(parents=True, exist_ok=True)
train(o)
