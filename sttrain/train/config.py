"""The configuration of a training run: all that decides its weights, and what does not.

A recipe is TOML with the keys of :class:`RunConfig`; flags override it. What a rerun may change
freely (threads, workers, how often something is written) is in :class:`FitOptions` instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import Document, SplitName, read_config
from stbuild.corpus.toml import parse_toml
from sttrain.errors import BadUsageError
from sttrain.model.autoencoder import ModelConfig
from sttrain.model.inference import InferenceConfig
from sttrain.model.pretext import ContextConfig, Loss, Objective, Pretext
from sttrain.settings import config_problem, lay_over
from sttrain.stream.remote import CACHE_GB
from sttrain.stream.source import OnBad
from sttrain.train.loggers import DEFAULT_LOGGERS, LoggerName
from sttrain.train.objectives import MaskConfig

_FLAGS: Final = "command line"


class OptimizerConfig(Document):
    """How weights follow gradients."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Literal["adamw", "adam"] = "adamw"
    """AdamW decays weights directly; Adam adds the decay to the gradient (L2)."""
    lr: float = Field(1e-3, gt=0, le=1)
    """Greatest learning rate."""
    table_rate: float = Field(1.0, gt=0, le=1000)
    """Learning rate of the gene table relative to `lr`. Its entries start at 1, layers at less."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """Decay of the matrices; norms, biases and the gene table are left alone."""
    warmup: float = Field(0.05, ge=0, le=1)
    """Share of all steps over which the rate rises from 0."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """What the rate does after that: fall to 0 along half a cosine, stay and fall to 0 linearly at
    the end (warm-up, stable, decay), or stay."""
    decay: float = Field(0.2, ge=0, le=1)
    """Share of all steps over which the rate falls under ``wsd``."""
    clip: Annotated[float, Field(gt=0)] | Literal["none"] = 1.0
    """Greatest norm of the gradient; longer ones are shortened to it. ``none``: never."""


class RunConfig(Document):
    """A training run."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    objective: Objective = "patch"
    """The unit of training, all else alike: patches (Eq. 8), single spots (Eq. 2), spots with their
    16 nearest neighbours (Eq. 3), or spots with the macro-domains of their whole slice (Eq. 4)."""
    loss: Loss = "mse"
    """Squared error of log1p(CP10K), or likelihood of the raw counts given the library size:
    Poisson, or negative binomial with a dispersion for each gene."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the weights, the order and the masks."""
    split: SplitName = "train"
    """Split of the corpus to train on."""
    epochs: int = Field(40, ge=1, le=1_000_000)
    """Passes over all patches."""
    steps: int | None = Field(None, ge=1, le=2**40)
    """End after so many steps instead, in the middle of a pass or after many; `epochs` then counts
    for nothing. The learning rate falls over the whole run, whichever of the two says how long
    that is."""
    batch: int = Field(32, ge=1, le=1_000_000)
    """Patches of a global batch. Under `slice` the whole slices that hold about as many sites."""
    order: Literal["random", "block"] = "random"
    """Permutation of an epoch: of all patches at once, which reads anywhere; or of the shards, and
    of the patches within each group of them, which suits shards that come over a network."""
    group: int = Field(8, ge=1, le=1_000_000)
    """Shards of a group under `block`: so many are at hand at a time."""
    augment: bool = False
    """Turn and mirror patches by the symmetries of their lattice, anew in every epoch."""
    smooth: float = Field(0.0, ge=0, le=1)
    """Share of the mean over the 3 x 3 observed sites about it in what a site is to predict."""
    gene_init: Literal["random", "coexpression"] = "random"
    """How the gene table begins: random, or so that genes which are expressed together over the
    training patches begin near each other."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the large products. `auto` is bf16 where the device has instructions for it; fp16
    scales the loss."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of a running mean of the weights, kept beside them; 0 is none."""
    statistics_patches: int = Field(2048, ge=1)
    """Patches from which the gene means, and the first gene table under `coexpression`, are taken
    before the first step."""
    model: ModelConfig = ModelConfig()
    """Sizes."""
    mask: MaskConfig = MaskConfig()
    """What is hidden."""
    context: ContextConfig = ContextConfig()
    """What a site knows of others under `multispot` and `slice`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights follow gradients."""
    inference: InferenceConfig = InferenceConfig()
    """How `sttrain embed` makes vectors of the trained encoder's features, unless told otherwise,
    and of the untrained one's. It decides no weight, but belongs to the model."""

    @property
    def grouping(self) -> int | None:
        """Shards of a group, or None where patches are permuted all at once."""
        return self.group if self.order == "block" else None

    @model_validator(mode="after")
    def _possible(self) -> "RunConfig":
        found = []
        if self.smooth and self.loss != "mse":
            found.append(f"smooth is for loss mse; counts of loss {self.loss} cannot be averaged")
        if self.smooth and self.objective == "slice":
            found.append("smooth needs windows, which the samples of objective slice are not")
        if self.augment and self.objective == "slice":
            found.append("augment turns windows, which the samples of objective slice are not")
        if (self.inference.layer or 0) > self.model.layers:
            found.append(
                f"inference.layer is {self.inference.layer}, the encoder has {self.model.layers}"
            )
        if found:
            raise ValueError("; ".join(found))
        return self

    def total_steps(self, per_epoch: int) -> int:
        """Return the steps of the whole run, given those of a pass over all patches."""
        return per_epoch * self.epochs if self.steps is None else self.steps

    @property
    def pretext(self) -> Pretext:
        """What the model is asked: all that it needs besides its sizes."""
        return Pretext(
            objective=self.objective,
            loss=self.loss,
            context=self.context,
            inference=self.inference,
        )

    def fingerprint(self, corpus_id: str) -> str:
        """Return the digest of this configuration and of the corpus.

        An order that is random is left out, and so is what decides nothing under it.
        """
        unused = {"order", "group"} if self.order == "random" else set()
        unused |= {"steps"} if self.steps is None else {"epochs"}
        unused |= {"inference"} if self.inference == InferenceConfig() else set()
        config = self.model_dump(mode="json", exclude=unused)
        return sha256_json({"config": config, "corpus_id": corpus_id})


class FitOptions(Document):
    """What a rerun may change: none of it decides a weight, except `threads` in the last bits."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    workers: int = Field(1, ge=0, le=256)
    """Threads that read ahead; 0 reads when a batch is needed."""
    threads: int | None = Field(None, ge=1, le=4096)
    """Threads of PyTorch; without it PyTorch chooses."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is the GPU of the rank, or the CPU."""
    part: int | None = Field(None, ge=1)
    """Most patches that a rank computes at once; the gradients of the parts of a batch add up."""
    fsdp: bool = False
    """Part weights, gradients and optimizer over the ranks (FSDP2) instead of copying them to each
    (DDP): for models too wide for one device. Checkpoints are the same files."""
    compile: bool = False
    """Compile the forward pass (torch.compile); needs a C++ compiler on a CPU."""
    timeout: float = Field(60.0, ge=1, le=86_400)
    """Seconds after which a rank that does not answer is given up."""
    val_split: SplitName | None = None
    """Split whose loss is taken along the way, under the same masks every time; the weights of the
    least one are kept as checkpoint `best`."""
    val_every: int = Field(200, ge=1)
    """Steps between validations; one more comes at the end."""
    val_patches: int = Field(1024, ge=1)
    """Patches of a validation, at most."""
    trace: bool = False
    """Note the keys of every step, in `trace/` of the run folder."""
    logger: tuple[LoggerName, ...] = DEFAULT_LOGGERS
    """Where numbers go besides `log.jsonl`: tensorboard, wandb, trackio; `none` for nowhere."""
    project: str = "sttrain"
    """Project that wandb and trackio file the run under."""
    offline: bool = False
    """Keep wandb's files on this machine."""
    on_bad: OnBad = "refuse"
    """What a patch that is damaged or missing does: `refuse` ends the run; `skip` leaves the patch
    out of its batch, and the log and the summary tell it."""
    max_skipped: float = Field(0.001, ge=0, le=1)
    """Share of an epoch's patches that `skip` leaves out, rounded up to whole ones; more end the
    run."""
    cache: Path | None = None
    """Folder for what is read over a network, and for large indices; without it a folder of the
    user's cache."""
    cache_gb: float = Field(CACHE_GB, gt=0, le=1_000_000)
    """Most that the cache holds of shards, in 10^9 bytes; the longest unused go first."""
    rebatch: bool = False
    """Go on with another global batch than the run began with; refused without it."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; one more is written at the end, or when the run is stopped."""
    keep: int = Field(2, ge=2, le=1000)
    """Checkpoints kept besides the initial one; the older of them stands in for a damaged one."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of the log."""


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Read a recipe and lay flags over it.

    Parameters
    ----------
    path
        TOML file; the defaults alone without it.
    overrides
        Values by dotted key, such as ``optimizer.lr``.

    Raises
    ------
    BadUsageError
        No readable TOML, an unknown key (the nearest one is named) or a value out of range; every
        problem at once.
    """
    value: dict[str, Any] = {}
    if path is not None:
        try:
            value = parse_toml(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            fix = "give a TOML file such as manifests/runs/small.toml"
            raise BadUsageError(config_problem(str(path), f"unreadable: {error}", fix)) from error
    lay_over(value, overrides)
    try:
        return read_config(RunConfig, value, str(path) if path else _FLAGS)
    except BadUsageError as error:
        flagged = {f"key '{key}'" for key in overrides}
        problems = (replace(p, where=_FLAGS) if p.subject in flagged else p for p in error.problems)
        raise BadUsageError(*problems) from None


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every value in which two configurations differ, by dotted key."""
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old}, is now {new}")
    return found
