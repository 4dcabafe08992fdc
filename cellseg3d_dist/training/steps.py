"""One step of a training: optimiser, schedule, mixed precision, averaged weights.

Everything random in a step comes from the seed and the number of the step, so a training
that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from cellseg3d_dist.errors import ConfigError, EnvironmentFailedError
from cellseg3d_dist.training.config import TrainConfig
from cellseg3d_dist.training.distributed import Processes
from cellseg3d_dist.training.objective import Batch, Objective


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step: a linear warm-up, then constant or half a cosine to 0.

    Parameters
    ----------
    step : int
        Counted from 0.
    """
    warm = round(config.warm_up * config.steps)
    if step < warm:
        return config.learning_rate * (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return config.learning_rate
    share = (step - warm) / max(config.steps - warm, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def step_seed(seed: int, index: int) -> int:
    """Seed of torch's generators for the batch of that number."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def make_optimizer(network: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser; biases and normalisations do not decay."""
    weights = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)


class Stepper:
    """A network in training, and what one step does to it."""

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._objective, self._config, self._device = objective, config, device
        self._processes = processes
        self.network = objective.network.to(device)
        self._wrapped = processes.wrapped(self.network)
        self._optimizer = make_optimizer(self.network, config)
        self._precision = _precision(config.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision is torch.float16)
        self._averaged: AveragedModel | None = None
        if config.ema:
            self._averaged = AveragedModel(
                self.network, multi_avg_fn=_Average(config.ema), use_buffers=True
            )

    @property
    def evaluated(self) -> torch.nn.Module:
        """The network to validate and to save: the averaged one where weights are averaged."""
        network = self.network if self._averaged is None else self._averaged.module
        return network.eval()

    def step(self, step: int, batch: Batch) -> tuple[float, dict[str, float]]:
        """Train on a batch; the loss and its parts.

        Raises
        ------
        ConfigError
            If the loss or a gradient is not finite.
        EnvironmentFailedError
            If the device failed.
        """
        rate = learning_rate(step, self._config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        index = step * self._processes.world + self._processes.rank
        torch.manual_seed(step_seed(self._config.seed, index))
        self.network.train()
        with _naming_device_errors():
            moved = {
                key: None if value is None else value.to(self._device, non_blocking=True)
                for key, value in batch.items()
            }
            loss, parts = self._objective.loss(self._forward, moved, step)
            said = {key: float(part.detach()) for key, part in parts.items()}
            value = float(loss.detach())
            _check_finite("loss", value, step, rate)
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self._scaler.scale(loss))
            self._update(step, rate)
            return value, said

    def _update(self, step: int, rate: float) -> None:
        self._scaler.unscale_(self._optimizer)
        limit = self._config.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not self._scaler.is_enabled():
            # half precision overflows now and then; its scaler leaves such steps out
            _check_finite("gradient", float(norm), step, rate)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._averaged is not None:
            self._averaged.update_parameters(self.network)

    def _forward(self, image: torch.Tensor) -> Any:
        if self._precision is torch.float32:
            return self._wrapped(image)
        with torch.autocast(self._device.type, self._precision):
            output = self._wrapped(image)
        return _as_float(output)

    def state(self) -> dict[str, Any]:
        """Tensors of a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["network"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])


class _Average:
    """Exponential mean of weights, with less memory at first: most of a short training counts."""

    def __init__(self, decay: float) -> None:
        self._decay = decay

    @torch.no_grad()
    def __call__(
        self, averaged: Sequence[torch.Tensor], now: Sequence[torch.Tensor], count: Any
    ) -> None:
        n = int(count)
        decay = min(self._decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(now), 1 - decay)
        else:
            torch._foreach_copy_(list(averaged), list(now))


def _precision(amp: str, device: torch.device) -> torch.dtype:
    if device.type != "cuda" or amp == "off":
        return torch.float32
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if amp == "bf16" else torch.float16


def _as_float(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.float()
    return type(output)(_as_float(part) for part in output)


def _check_finite(what: str, value: float, step: int, rate: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(
            f"the {what} is {value} at step {step}, learning rate {rate:.3g}: training diverged. "
            f"Lower learning_rate, lengthen warm_up, or set gradient_clip; check that the images "
            f"are finite."
        )


@contextlib.contextmanager
def _naming_device_errors() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise EnvironmentFailedError(
            "the GPU has no memory for a step. Use a smaller batch or patch, or --amp bf16."
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "deterministic" in text:
            raise ConfigError(
                f"this network has no deterministic form on this device: {text[:200]} Leave out "
                f"deterministic, or use device cpu."
            ) from error
        if "CUDA" in text or "cuDNN" in text:
            raise EnvironmentFailedError(f"the GPU failed: {text[:300]}") from error
        raise


@contextlib.contextmanager
def torch_settings(deterministic: bool, threads: int | None) -> Iterator[None]:
    """Threads and determinism of torch while inside."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    state = torch.get_rng_state()
    if deterministic:
        # what CUDA's matrix products need for it, read when they are first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(deterministic)
        # shapes never change, so the fastest convolution is found once
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.backends.cudnn.deterministic = before[3]
        torch.set_rng_state(state)
