"""The settings of a training run, stored as JSON beside what it made."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvae_jax.files import without_withdrawn
from hvae_jax.models.patch_vdvae import PatchVDVAEConfig
from hvae_jax.models.patch_vdvae_presets import PRESETS
from hvae_jax.training.iterates import KERNEL_SIZE


@dataclass(frozen=True)
class LossConfig:
    """The training objective (`hvae_jax.training.loss`). Deviations are in the images' unit, [0, 1].

    Attributes:
        decoder_std: fixed deviation γ of the decoder; None to learn it in the ELBO. With a fixed γ the deviation
            head is fitted beside the ELBO without influencing it.
        decoder_std_slope: γ² = decoder_std² + (slope · s)² where the input has noise of deviation s.
        noise_max: largest deviation s of the noise that is added to the encoder's input; 0 for none.
        noise_power: s = noise_max u^power with u uniform; above 1 small values are more frequent.
        iterate_fraction: share of the batch whose encoder input is an iterate of a restoration that runs along, in
            place of an image with white noise (`hvae_jax.training.iterates`); for noise-conditional models.
        dequantization_std: deviation of the Gaussian noise added to the target; 0.0075 in the official code
            (0.015 in its [-1, 1] unit), which takes the mean over the noise in closed form instead of drawing it
            and subtracts the noise's entropy, a constant.
        auxiliary_weight: weight of the auxiliary heads' loss.
        auxiliary_std: deviation of the auxiliary heads' Gaussian.
        beta_min: weight of the KL at the start of its linear schedule.
        beta_start: step at which the KL's weight starts to rise to 1.
        beta_steps: number of steps over which it rises; 0 for no schedule.
        gamma_steps: number of steps during which the levels' KL are balanced; 0 for none.
    """

    decoder_std: float | None = None
    decoder_std_slope: float = 0.0
    noise_max: float = 0.0
    noise_power: float = 2.0
    iterate_fraction: float = 0.0
    dequantization_std: float = 0.0075
    auxiliary_weight: float = 1.0
    auxiliary_std: float = 0.025
    beta_min: float = 1e-4
    beta_start: int = 0
    beta_steps: int = 0
    gamma_steps: int = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer (optax).

    Attributes:
        name: "adam", "adamax" or "muon": for convolutions Adam's step is replaced by the momentum's nearest
            orthogonal matrix, scaled to a step of Adam's size (Jordan et al. 2024); all else takes Adam's.
        learning_rate: the peak.
        warmup_steps: linear warm-up from 0.
        decay_steps: number of last steps over which the rate falls linearly from the peak; 0 keeps it there, so that a
            run can go on for ever and be harvested at any time (`decayed`); None for a cosine over the whole run.
        final_fraction: the fraction of the peak that the rate has fallen to at the last step.
        clip_norm: the gradient is scaled down to this global norm.
        skip_norm: a step whose gradient's norm is larger is skipped and counted, as is any whose loss or gradient
            is not finite; None for no limit, 800 in the official code.
        weight_decay: decoupled weight decay.
        ema_decay: decay of the exponential moving average of the parameters, which is what a prior is made of.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay_steps: int | None = None
    final_fraction: float = 0.02
    clip_norm: float = 1.0
    skip_norm: float | None = None
    weight_decay: float = 0.0
    ema_decay: float = 0.999


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    What is in `HOW` says how it is computed, not what: it may differ from piece to piece of a run.

    Attributes:
        preset: the model, a key of `hvae_jax.models.patch_vdvae.PRESETS`.
        model: its architecture in place of the preset's, in JSON written as the `config` of a `prior.json`; that of the
            preset if None.
        steps: number of optimizer steps.
        batch_size: crops per step.
        crop_size: side of the crops in pixels, a multiple of the model's.
        scales: downsampling factors of the photographs that crops are taken from.
        store_gib: memory for the decoded photographs, on the device, in GiB.
        store_steps: where not all photographs fit, another random set takes their place after so many steps.
        seed: of everything random, at least 0.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes between checkpoints, if that is sooner.
        log_every: steps between lines of the log.
        steps_per_dispatch: steps that an accelerator takes in one program; log, checkpoints and stopping wait for
            their end. A CPU takes one, for XLA has slow convolutions in its loops there.
        compute_dtype: "float32" or "bfloat16", of the network on an accelerator. Parameters, Gaussians, loss and
            optimizer are float32 with either, and on a CPU, which would be slower with bfloat16, all is.
        loss: the objective.
        optimizer: the optimizer.
    """

    preset: str = "small"
    model: PatchVDVAEConfig | None = None
    steps: int = 10_000
    batch_size: int = 8
    crop_size: int = 64
    scales: tuple[int, ...] = (1, 2, 4)
    store_gib: float = 2.0
    store_steps: int = 1000
    seed: int = 0
    checkpoint_every: int = 500
    checkpoint_minutes: float = 5.0
    log_every: int = 50
    steps_per_dispatch: int = 1
    compute_dtype: str = "float32"
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"expected a preset of {sorted(PRESETS)}, got {self.preset!r}")
        multiple = self.architecture.multiple
        if self.crop_size <= 0 or self.crop_size % multiple:
            raise ValueError(f"expected a crop size that is a multiple of {multiple}, got {self.crop_size}")
        counts = ("steps", "batch_size", "store_steps", "checkpoint_every", "log_every", "steps_per_dispatch")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("store_gib", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {self.seed}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"expected the compute_dtype 'float32' or 'bfloat16', got {self.compute_dtype!r}")
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"expected downsampling factors of at least 1, got {self.scales}")
        if self.optimizer.name not in ("adam", "adamax", "muon"):
            raise ValueError(f"expected the optimizer 'adam', 'adamax' or 'muon', got {self.optimizer.name!r}")
        if self.optimizer.decay_steps is not None and not 0 <= self.optimizer.decay_steps <= self.steps:
            raise ValueError(f"expected decay_steps from 0 to the {self.steps} steps, got {self.optimizer.decay_steps}")
        if not 0 <= self.loss.iterate_fraction <= 1:
            raise ValueError(f"expected an iterate_fraction from 0 to 1, got {self.loss.iterate_fraction}")
        if self.loss.iterate_fraction and not self.architecture.noise_conditional:
            given = f"the preset {self.preset!r}" if self.model is None else "another model"
            raise ValueError(f"iterate_fraction needs a noise-conditional model, got {given}")
        if self.loss.iterate_fraction and self.crop_size < KERNEL_SIZE:
            raise ValueError(f"iterate_fraction needs crops of at least {KERNEL_SIZE} pixels, got {self.crop_size}")

    @property
    def architecture(self) -> PatchVDVAEConfig:
        """The model's."""
        return PRESETS[self.preset] if self.model is None else self.model

    @property
    def iterates(self) -> int:
        """How many of a batch are iterates of restorations."""
        return round(self.loss.iterate_fraction * self.batch_size)

    def decayed(self, start: int, decay_steps: int) -> "TrainConfig":
        """The settings of a decay of the learning rate that leaves this run after `start` steps."""
        optimizer = dataclasses.replace(self.optimizer, decay_steps=decay_steps)
        return dataclasses.replace(self, steps=start + decay_steps, optimizer=optimizer)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "TrainConfig":
        """The inverse of `dataclasses.asdict`; unknown names raise `ValueError`."""
        config = dict(config)
        for name, section in (("loss", LossConfig), ("optimizer", OptimizerConfig)):
            if name in config:
                config[name] = _build(section, config[name])
        if config.get("model") is not None:
            if not isinstance(config["model"], dict):
                raise ValueError(
                    f"expected a model's architecture, as the config of a prior.json, got {config['model']!r}"
                )
            config["model"] = PatchVDVAEConfig.from_dict(config["model"])
        if "scales" in config:
            config["scales"] = tuple(config["scales"])
        return _build(cls, config)

    @classmethod
    def from_file(cls, path: Path) -> "TrainConfig":
        """Read a configuration from a JSON file."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (OSError, json.JSONDecodeError, TypeError, ValueError) as error:
            raise ValueError(f"cannot read the training configuration {path}: {error}") from error

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


HOW = frozenset({"checkpoint_every", "checkpoint_minutes", "log_every", "steps_per_dispatch", "compute_dtype"})
"""The names of settings that pieces of one run may differ in."""

_RESTORATION = LossConfig(
    decoder_std=0.002, decoder_std_slope=0.1, noise_max=0.2, iterate_fraction=0.5, dequantization_std=0.0
)
"""Of a noise-conditional prior: the objective of the bundled one's last stage."""

RUNS: dict[str, TrainConfig] = {
    "gpu-25min": TrainConfig(
        preset="base",
        steps=32_000,
        batch_size=512,
        crop_size=32,
        store_gib=8.0,
        log_every=100,
        steps_per_dispatch=20,
        compute_dtype="bfloat16",
        loss=_RESTORATION,
        optimizer=OptimizerConfig(name="muon", learning_rate=1.5e-3, warmup_steps=500, ema_decay=0.9995),
    ),
    "cpu-endless": TrainConfig(
        preset="medium",
        steps=10_000_000,
        batch_size=32,
        crop_size=32,
        loss=_RESTORATION,
        optimizer=OptimizerConfig(name="muon", learning_rate=1.5e-3, warmup_steps=100, decay_steps=0, ema_decay=0.9995),
    ),
    "cpu-3h": TrainConfig(
        steps=30_000,
        loss=_RESTORATION,
        optimizer=OptimizerConfig(name="muon", learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.9995),
    ),
}
"""Complete settings, for `hvae-jax train --preset`.

`gpu-25min`: 5.2 million parameters, for an accelerator of the class of NVIDIA's H100. 3.2 GFLOP per crop make 1.6
TFLOP per step, so at 40 TFLOP/s, a twentieth of what the card's bfloat16 units can do, 40 ms per step and 22 minutes in
all, which leaves 3 to compile and to store. `cpu-endless`: a constant learning rate, to be stopped, harvested by
`--decay-steps` and gone on with at any time. `cpu-3h`: the 1.04 million of the bundled prior at 0.35 s per step of two
idle cores.
"""


def _build(section: type, values: dict[str, Any]) -> Any:
    values = without_withdrawn(values)
    unknown = set(values) - {f.name for f in dataclasses.fields(section)}
    if unknown:
        names = [f.name for f in dataclasses.fields(section)]
        raise ValueError(f"expected settings of {names}, got {sorted(unknown)}")
    return section(**values)
