"""The training loop, on Lightning Fabric: precision, devices, strategy and TensorBoard are its, the steps are here.

All that is random in step n comes from (seed, n, rank), and sample i of the run from (seed, i), so a run that goes on
from a checkpoint repeats one that was never stopped.
"""

import copy
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from xnowcast.archive.run.lock import StoreLock
from xnowcast.interruption import Interruption
from xnowcast.models.base import Loss, TrainingBatch
from xnowcast.models.contents import is_finite
from xnowcast.terminal import progress_bar
from xnowcast.training import checkpoint
from xnowcast.training.cache import read_ahead
from xnowcast.training.crops import Sample
from xnowcast.training.folder import RunFolder
from xnowcast.training.plan import Run
from xnowcast.training.settings import TrainingSettings

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
_TRAINING, _VALIDATION = 0, 1
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Learning rate of a step, counted from 0.

    Returned: in the warm-up ``(step + 1) / warmup`` of the way from ``warmup_from`` to the largest; then that, or
    with the schedule "cosine" ``(1 + cos(pi s)) / 2`` of the way down to the least, where s is the share of the steps
    after the warm-up that are done. With "onecycle" it rises likewise from the 25th part in the first three tenths, and
    falls to the 250,000th (Smith and Topin 2017, arXiv:1708.07120, with the numbers of torch).

    >>> settings = TrainingSettings(steps=8, learning_rate=1.0, warmup=4)
    >>> [round(learning_rate(settings, step), 3) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    >>> settings = TrainingSettings(steps=8, learning_rate=1.0, warmup=4, warmup_from=0.2)
    >>> [round(learning_rate(settings, step), 3) for step in range(4)]
    [0.4, 0.6, 0.8, 1.0]
    >>> settings = TrainingSettings(steps=10, learning_rate=1.0, schedule="onecycle")
    >>> [round(learning_rate(settings, step), 3) for step in range(10)]
    [0.04, 0.52, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05, 0.0]
    >>> settings = TrainingSettings(steps=8, learning_rate=1.0, schedule="constant", halve_at=(2, 5))
    >>> [learning_rate(settings, step) for step in range(8)]
    [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    """
    if settings.schedule == "onecycle":
        first, largest, turn = settings.learning_rate / 25, settings.learning_rate, 0.3 * settings.steps - 1
        if step <= turn:
            return _along_cosine(first, largest, step / turn)
        return _along_cosine(largest, first / 1e4, (step - turn) / (settings.steps - 1 - turn))
    if step < settings.warmup:
        risen = (step + 1) / settings.warmup
        return settings.learning_rate * (settings.warmup_from + (1.0 - settings.warmup_from) * risen)
    if settings.schedule == "constant":
        return settings.learning_rate * 0.5 ** sum(step >= at for at in settings.halve_at)
    share = (step - settings.warmup) / (settings.steps - settings.warmup)
    return _along_cosine(settings.learning_rate, settings.min_learning_rate, share)


def _along_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))


def average_decay(settings: TrainingSettings, step: int) -> float:
    """Decay of the moving average of the weights after a step, counted from 0.

    Returned: ``(1 + step) / (10 + step)`` until that exceeds ``settings.ema``, so that the first weights are soon
    forgotten.

    >>> [round(average_decay(TrainingSettings(ema=0.99), step), 2) for step in (0, 8, 10_000)]
    [0.1, 0.5, 0.99]
    """
    return min(settings.ema, (1 + step) / (10 + step))


def sample_numbers(settings: TrainingSettings, step: int, rank: int) -> Iterator[int]:
    """Numbers of the samples that a device gets in a step: batch after batch, device after device.

    ``step``: counted from 0. ``rank``: number of the device.

    >>> list(sample_numbers(TrainingSettings(batch_size=2, accumulate=2), 1, 0))
    [4, 5, 6, 7]
    """
    for batch in range(settings.accumulate):
        first = ((step * settings.accumulate + batch) * settings.devices + rank) * settings.batch_size
        yield from range(first, first + settings.batch_size)


def collate(samples: Sequence[Sample], device: torch.device | str = "cpu") -> TrainingBatch:
    """A batch of samples, ``(b, t, 1, y, x)`` of rain."""

    def stacked(name: str) -> Tensor | None:
        arrays = [getattr(sample, name) for sample in samples]
        return None if arrays[0] is None else torch.from_numpy(np.stack(arrays)).to(device)

    rain, observed = stacked("rain"), stacked("observed")
    assert rain is not None and observed is not None
    return TrainingBatch(rain[:, :, None], observed[:, :, None], stacked("channels"), stacked("static"))


def reseed(*numbers: int) -> None:
    """Seed torch's global generators from some numbers.

    ``*numbers``: seed, step and so on.
    """
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


@contextmanager
def own_randomness(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Leave torch's generators and its choice of algorithms as they were found.

    ``deterministic``: whether to ask for algorithms that repeat bit for bit.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    given = os.environ.get(_CUBLAS)
    if deterministic:
        os.environ.setdefault(_CUBLAS, ":4096:8")  # cuBLAS repeats itself only with this
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if given is None:
            os.environ.pop(_CUBLAS, None)


# ---------------------------------------------------------------- networks


class _Step:
    """What one call of a network is given. No container that Fabric knows: it would cast the rain to bfloat16."""

    def __init__(self, *values: Any):
        self.values = values


class _LossOfModel(nn.Module):
    """A model's loss as a forward pass, which is what Fabric and its strategies wrap."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, step: _Step) -> tuple[Tensor, dict[str, Tensor], Tensor | None, Tensor | None]:
        batch, progress, adversary = step.values
        loss = self.model.loss(batch, progress=progress, adversary=adversary)
        return loss.total, loss.parts, loss.truth, loss.generated


class _LossOfAdversary(nn.Module):
    """An adversary's loss as a forward pass."""

    def __init__(self, adversary: Any):
        super().__init__()
        self.adversary = adversary

    def forward(self, step: _Step) -> Tensor:
        return self.adversary.loss(*step.values)


# ---------------------------------------------------------------- loop


def run(plan: Run) -> dict[str, Any]:
    """Train.

    Returned: ``step`` and ``score`` of the kept weights, which ``plan.model`` holds at the end; ``score`` is NaN
    without a validation. FloatingPointError if a loss or a gradient is NaN or infinite; the samples of the batch are
    named. KeyboardInterrupt after Ctrl-C, when the step is done and the checkpoint written. ValueError if another run
    is writing the folder, or did so since this one was planned.
    """
    fabric = _fabric(plan)
    fabric.launch()
    held = plan.folder.held() if plan.folder is not None and fabric.is_global_zero else nullcontext()
    with held as lock, own_randomness(plan.device, plan.settings.deterministic):
        return _Training(plan, fabric, lock).run()


def _fabric(plan: Run) -> Fabric:
    settings, device = plan.settings, plan.device
    loggers: list[Any] = []
    if plan.folder is not None and find_spec("tensorboard") is not None:
        from lightning.fabric.loggers import TensorBoardLogger

        step = plan.resumed["step"] if plan.resumed else 0
        loggers = [TensorBoardLogger(plan.folder.path, name="tensorboard", version="", purge_step=step + 1)]
    return Fabric(
        accelerator=device.type,
        devices=settings.devices if device.index is None or device.type == "cpu" else [device.index],
        strategy=settings.strategy,
        precision=_PRECISION[settings.precision],  # type: ignore[arg-type]
        loggers=loggers,
    )


class _Training:
    """The state of a run and the steps that change it."""

    def __init__(self, plan: Run, fabric: Fabric, lock: StoreLock | None):
        self.plan, self.settings, self.fabric, self.lock = plan, plan.settings, fabric, lock
        self.main = fabric.is_global_zero
        self.folder = plan.folder if self.main else None
        self.model, self.adversary = plan.model, plan.adversary
        self.average = copy.deepcopy(self.model).requires_grad_(False) if self.settings.ema else None
        self.network, self.optimizer = self._set_up(_LossOfModel(self.model))
        self.critic: Any = None
        self.critic_optimizer: Any = None
        if self.adversary is not None:
            self.critic, self.critic_optimizer = self._set_up(_LossOfAdversary(self.adversary))
        if self.average is not None:
            self.average.to(fabric.device)
        self.step = 0
        self.best: dict[str, Any] = {"score": math.inf, "step": 0, "since": 0}
        self.newest: dict[str, Any] = {"score": math.nan, "step": 0}
        self.best_weights: dict[str, Tensor] | None = None
        if plan.resumed is not None:
            self._load(plan.resumed)

    def _set_up(self, network: nn.Module) -> tuple[Any, Any]:
        optimizer = _OPTIMIZERS[self.settings.optimizer](
            network.parameters(),
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )
        return self.fabric.setup(network, optimizer)

    @property
    def result(self) -> Any:
        """What is validated and saved: the moving average where there is one."""
        return self.model if self.average is None else self.average

    def run(self) -> dict[str, Any]:
        settings = self.settings
        if self.folder is not None:
            self.folder.open(self.step)
            self.plan.write_config()
        numbers = (
            number
            for step in range(self.step, settings.steps)
            for number in sample_numbers(settings, step, self.fabric.global_rank)
        )
        samples = read_ahead(self.plan.training.__getitem__, numbers, settings.workers)
        screen = _Screen(self.plan.progress if self.main else False, self.folder, self.step, settings.steps)
        recent = _Recent()
        with Interruption() as interruption, screen:
            for note in self.plan.notes:
                screen.say(note)
            try:
                while self.step < settings.steps and not self._out_of_patience():
                    started = time.perf_counter()
                    batches = [[next(samples) for _ in range(settings.batch_size)] for _ in range(settings.accumulate)]
                    metrics = self._one_step(batches)
                    self.step += 1
                    recent.add(metrics, settings.samples_per_step, time.perf_counter() - started)
                    screen.advance()
                    self._after_step(recent, screen)
                    if self._all_agree_to_stop(interruption):
                        self._stop()
            finally:
                samples.close()  # type: ignore[attr-defined]
        return self._finish(screen)

    def _one_step(self, batches: Sequence[Sequence[Sample]]) -> dict[str, Tensor | float]:
        """One step of the model and, where there is one, of its adversary, on batches whose gradients are averaged."""
        settings, fabric = self.settings, self.fabric
        reseed(settings.seed, self.step, fabric.global_rank, _TRAINING)
        rate = learning_rate(settings, self.step)
        self.network.train()
        self._adversary_learns(False)
        self._prepare(self.optimizer, rate)
        pairs, metrics = [], _Mean()
        for number, samples in enumerate(batches):
            step = _Step(collate(samples, fabric.device), self.step / settings.steps, self.adversary)
            with fabric.no_backward_sync(self.network, enabled=number < len(batches) - 1):
                loss = Loss(*self.network(step))
                self._require_finite(loss.total, "loss", samples)
                fabric.backward(loss.total / len(batches))
            metrics.add({"loss": loss.total, **loss.parts})
            if self.critic is not None and loss.truth is not None and loss.generated is not None:
                pairs.append((loss.truth.detach(), loss.generated.detach()))
        norm = self._descend(self.network, self.optimizer, [s for samples in batches for s in samples])
        self._move_average()
        found = metrics.values() | {"gradient_norm": norm, "learning_rate": rate}
        return found | (self._adversary_step(pairs, rate, batches) if pairs else {})

    def _adversary_step(
        self, pairs: Sequence[tuple[Tensor, Tensor]], rate: float, batches: Sequence[Sequence[Sample]]
    ) -> dict[str, Tensor | float]:
        self.critic.train()
        self._adversary_learns(True)
        self._prepare(self.critic_optimizer, rate)
        metrics = _Mean()
        for number, ((truth, generated), samples) in enumerate(zip(pairs, batches, strict=False)):
            with self.fabric.no_backward_sync(self.critic, enabled=number < len(pairs) - 1):
                loss = self.critic(_Step(truth, generated))
                self._require_finite(loss, "adversary's loss", samples)
                self.fabric.backward(loss / len(pairs))
            metrics.add({"adversary": loss})
        self._descend(self.critic, self.critic_optimizer, [s for samples in batches for s in samples])
        return metrics.values()

    def _adversary_learns(self, wanted: bool) -> None:
        """While the model learns, its gradient passes through the adversary and leaves nothing there."""
        if self.adversary is not None:
            self.adversary.requires_grad_(wanted)

    def _prepare(self, optimizer: Any, rate: float) -> None:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = rate

    def _descend(self, network: Any, optimizer: Any, samples: Sequence[Sample]) -> Tensor:
        largest = math.inf if self.settings.clip is None else self.settings.clip
        norm = self.fabric.clip_gradients(network, optimizer, max_norm=largest, error_if_nonfinite=False)
        assert norm is not None
        if self.settings.precision != "16":  # its scaler leaves out steps that overflow
            self._require_finite(norm, "gradient", samples)
        optimizer.step()
        return norm

    def _require_finite(self, value: Tensor, name: str, samples: Sequence[Sample]) -> None:
        if not torch.isfinite(value.detach()).all():
            where = "; ".join(sample.origin for sample in samples)
            kept = "" if self.folder is None else f" The checkpoint in {self.plan.folder.path} is from before."  # type: ignore[union-attr]
            raise FloatingPointError(
                f"the {name} is {value.item():g} in step {self.step + 1}. The samples of its batch are: {where}.{kept} "
                "A smaller learning_rate, a warmup or clip may help"
            )

    def _require_finite_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The last step may leave weights that no loss has been computed with."""
        broken = [name for name, _ in self.model.named_parameters() if not is_finite(weights[name])]
        if broken:
            raise FloatingPointError(
                f"after step {self.step} the weights hold NaN or infinite numbers, in {broken[0]!r} first, and are not "
                "kept. A smaller learning_rate, a warmup or clip may help"
            )

    @torch.no_grad()
    def _move_average(self) -> None:
        if self.average is not None:
            share = 1.0 - average_decay(self.settings, self.step)
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, share)
            for mean, value in zip(self.average.buffers(), self.model.buffers(), strict=True):
                mean.copy_(value)

    # ------------------------------------------------------------ between steps

    def _after_step(self, recent: "_Recent", screen: "_Screen") -> None:
        settings, last = self.settings, self.step == self.settings.steps

        def due(every: int) -> bool:
            return every > 0 and (last or self.step % every == 0)

        score = None
        if self.plan.validation is not None and due(settings.every("validate")):
            score = self._validate()
            self._note_score(score)
            screen.say(self._line(recent, score))
        if self.folder is not None and self.plan.draws and due(settings.every("pictures")):
            self.result.eval()
            self.plan.draw(self.folder.picture(self.step), self.result)
        if score is not None or due(settings.log_every):
            self._log(recent, score)
        if due(settings.every("checkpoint")):
            self._save()

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss over the fixed crops, in evaluation mode and with fixed seeds."""
        settings, fabric, crops = self.settings, self.fabric, self.plan.validation
        assert crops is not None
        model = self.result.eval()
        firsts = range(0, settings.validation_crops, settings.batch_size)[fabric.global_rank :: fabric.world_size]
        numbers = [range(first, min(first + settings.batch_size, settings.validation_crops)) for first in firsts]
        samples = read_ahead(crops.__getitem__, [n for batch in numbers for n in batch], settings.workers)
        total = torch.zeros(2, dtype=torch.float64)
        for batch in numbers:
            some = [next(samples) for _ in batch]
            reseed(settings.seed, batch[0], 0, _VALIDATION)
            with fabric.autocast():
                loss = model.loss(collate(some, fabric.device), progress=1.0, adversary=None)
            self._require_finite(loss.total, "validation loss", some)
            total += torch.tensor([float(loss.total) * len(batch), len(batch)], dtype=torch.float64)
        return float(self._over_devices(total[0]) / self._over_devices(total[1]))

    def _over_devices(self, value: Tensor) -> Tensor:
        """The sum of a number over all devices."""
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value.to(self.fabric.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _note_score(self, score: float) -> None:
        self.newest = {"score": score, "step": self.step}
        if score >= self.best["score"]:
            self.best["since"] += 1
            return
        self.best = {"score": score, "step": self.step, "since": 0}
        self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.result.state_dict().items()}
        if self.folder is not None:
            self.plan.about.save(self.folder.best, self.result, self.best)

    def _out_of_patience(self) -> bool:
        return self.settings.patience is not None and self.best["since"] >= self.settings.patience

    def _line(self, recent: "_Recent", score: float) -> str:
        best = " (the best)" if self.best["step"] == self.step else ""
        means = recent.means()
        return (
            f"step {self.step} of {self.settings.steps}: loss {means['loss']:.5g}, validation {score:.5g}{best}, "
            f"{means['samples_per_second']:.3g} samples/s"
        )

    def _log(self, recent: "_Recent", score: float | None) -> None:
        means = recent.means()
        together = self._over_devices(torch.tensor(list(means.values()), dtype=torch.float64)) / self.fabric.world_size
        means = dict(zip(means, together.tolist(), strict=True)) | ({} if score is None else {"validation": score})
        self.fabric.log_dict(means, step=self.step)
        if self.folder is not None:
            self.folder.add_metrics({"step": self.step} | means)
        recent.forget()

    def _all_agree_to_stop(self, interruption: Interruption) -> bool:
        """Devices are told of Ctrl-C in different steps; they have to stop after the same."""
        return bool(self._over_devices(torch.tensor(float(interruption.asked))) > 0)

    def _stop(self) -> None:
        self._save()
        where = (
            "nothing was kept, because the run has no folder (out=)"
            if self.plan.folder is None
            else f"its checkpoint is in {self.plan.folder.path}: go on with resume=True (--resume)"
        )
        message = f"the training was interrupted after step {self.step} of {self.settings.steps}; {where}"
        if self.folder is not None:
            self.folder.log(message)  # on the screen it is what the error says
        raise KeyboardInterrupt(message)

    # ------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        if self.folder is not None:
            if self.lock is not None:
                self.lock.check()
            checkpoint.write(self.folder.checkpoint, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "steps": self.settings.steps,
            "fingerprint": self.plan.fingerprint,
            "best": self.best,
            "newest": self.newest,
            "model": dict(self.model.state_dict()),
            "average": None if self.average is None else dict(self.average.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "adversary": None if self.adversary is None else dict(self.adversary.state_dict()),
            "adversary_optimizer": None if self.critic is None else self.critic_optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.best, self.newest = state["step"], state["best"], state["newest"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
            self.critic_optimizer.load_state_dict(state["adversary_optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.plan.folder is not None and self.plan.folder.best.is_file():
            from safetensors.torch import load_file

            self.best_weights = load_file(self.plan.folder.best)

    def _finish(self, screen: "_Screen") -> dict[str, Any]:
        keep_best = self.settings.keep == "best" and self.best_weights is not None
        weights: Any = self.best_weights if keep_best else copy.deepcopy(self.result.state_dict())
        self._require_finite_weights(weights)
        self.model.load_state_dict(weights)
        self.model.cpu().eval()
        kept = self.best if keep_best else {"score": math.nan, "step": self.step}
        if not keep_best and self.newest["step"] == self.step:
            kept = self.newest
        if self._out_of_patience():
            self._save()
        if self.folder is not None:
            self.plan.about.save(self.folder.model, self.model, kept)
        if self.main:
            best = "the best, " if keep_best else ""
            screen.say(f"done after step {self.step}; kept are the weights of {best}step {kept['step']}")
        for logger in self.fabric.loggers:
            logger.finalize("success")
        self.fabric.barrier()
        return kept


# ---------------------------------------------------------------- log and screen


class _Mean:
    """Means of named values."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, Any]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class _Recent:
    """Metrics since the last line of the log."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._mean, self._samples, self._seconds = _Mean(), 0, 0.0

    def add(self, metrics: dict[str, Any], samples: int, seconds: float) -> None:
        self._mean.add({name: value for name, value in metrics.items() if name != "learning_rate"})
        self._rate = metrics["learning_rate"]
        self._samples += samples
        self._seconds += seconds

    def means(self) -> dict[str, float]:
        means = {name: float(value) for name, value in self._mean.values().items()}
        return means | {"learning_rate": self._rate, "samples_per_second": self._samples / self._seconds}


class _Screen:
    """Progress for who watches: a bar with the time left, or lines; and the lines of train.log."""

    def __init__(self, wanted: bool | None, folder: RunFolder | None, done: int, steps: int):
        self._folder, self._lines = folder, wanted is None
        self._bar = progress_bar(steps, done, " steps", shown=wanted, title="training")

    def __enter__(self) -> "_Screen":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def say(self, line: str) -> None:
        if self._folder is not None:
            self._folder.log(line)
        if self._bar is not None:
            self._bar.set_postfix_str(line.partition(": ")[2] if line.startswith("step ") else "")
            if not line.startswith("step "):
                self._bar.write(line, file=sys.stderr)
        elif self._lines:
            print(line, file=sys.stderr)
