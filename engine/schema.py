"""The preset as a typed model. The text under a field is what help and forms show for it.

A component's table names a class (`type`) and gives that class's own arguments; those are checked against the
libraries' signatures in `engine.preset`, not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SlurmTime = Annotated[str, Field(pattern=r"^((\d+-)?\d+(:[0-5]\d){2}|\d+-\d+(:[0-5]\d)?|\d+(:[0-5]\d)?)$")]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Component(Table, extra="allow"):
    type: str
    """The class's name in its own library."""

    @property
    def args(self) -> dict[str, Any]:
        """The class's own arguments: every key that is not one of the table's own."""
        return dict(self.model_extra or {})


class ModelTable(Component):
    """The network: any architecture of segmentation-models-pytorch."""

    encoder_name: str
    """An encoder of segmentation-models-pytorch, or timm's as "tu-..."."""
    encoder_weights: str = "auto"
    """auto: ImageNet where it can be had, else from scratch with a warning. imagenet (or another set) insists. none: scratch."""


class DataTable(Table):
    """The data set and how it is read."""

    root: str = "sample"
    """A folder, or "sample": the built-in set. The variable SEGTUI_DATA overrides it."""
    train: str = "train.json"
    """COCO json of the training split, relative to root."""
    val: str = "val.json"
    """COCO json of the validation split, relative to root."""
    test: str = "test.json"
    """COCO json of the test split, relative to root."""
    allow_outside: bool = False
    """Whether the json files may name images that are not below root: by an absolute path, through `..`, or by a link."""
    background: Literal["class", "ignore"] = "class"
    """"class": class 0 is Background. "ignore": pixels without annotation are 255 and count nowhere."""
    overlap: Literal["area", "vertices"] = "area"
    """Painting order of annotations: largest area first, or the original baseline's fewest vertices first."""
    batch_size: Positive = 8
    """Images in one step, over all devices together."""
    workers: NotNegative = 4
    """Data-loader processes of each device; 0 reads in the training process."""
    keep_decoded: bool = False
    """Decode the images once, and keep them below the runs' folder (3 bytes a pixel): for processors that cannot keep up with the GPU."""
    image_size: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """[height, width] of a training image. Needed where training images differ in size; labels are judged at full size."""
    fit: Literal["resize", "crop"] = "resize"
    """How a training image comes to image_size: scaled, or a random crop (padded with ignored pixels where too small)."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) to which an image is scaled for validation and inference; None: it is seen at its own size."""
        if self.image_size is None or self.fit == "crop":
            return None
        return self.image_size[0], self.image_size[1]


class AugmentTable(Table):
    """Augmentation of the training images, by albumentations. Validation images are never augmented."""

    train: list[Component] = []
    """Transforms in order, each with its own arguments."""


class LossTable(Component):
    """One loss of torch.nn or segmentation_models_pytorch.losses. Several tables make a weighted sum."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its weight in the sum."""
    class_weights: Literal["auto"] | list[Annotated[float, Field(ge=0)]] | None = None
    """A weight per class, or "auto": from the training set's pixel counts."""


class OptimizerTable(Component):
    """Any optimizer of torch.optim."""


class SchedulerTable(Component):
    """A scheduler of torch.optim.lr_scheduler; type "none" or no table: a constant rate."""

    interval: Literal["step", "epoch"] = "epoch"
    """What one step of the schedule is."""


class TrainTable(Table):
    """The loop."""

    epochs: Positive = 50
    """Passes over the training set."""
    val_every: Positive = 1
    """Epochs between validations; the last epoch is always validated."""
    save_interval: NotNegative = 3
    """Epochs between kept checkpoints epoch_NNN; 0 keeps none beside best and last."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """"auto": bf16 where the GPU has it, else fp32."""
    seed: Seed = 21
    """Seeds weights, order and augmentation."""
    accumulate: Positive = 1
    """Batches whose gradients make one optimizer step."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, which is then what is validated and saved; 0 is off."""
    patience: NotNegative = 0
    """Validations without a better mIoU after which training ends; 0 never ends early."""
    warmup_steps: NotNegative = 0
    """Optimizer steps over which the rate rises linearly to its value."""
    compile: bool = False
    """torch.compile; the first step takes minutes on a CPU."""
    resume_every: NotNegative = 0
    """Optimizer steps between states to resume from; 0 keeps one after each epoch only."""
    on_oom: Literal["fail", "halve"] = "fail"
    """Where a device's memory runs out. "halve": go on from the last state with each batch in twice as many parts, three times at most."""
    sync_batchnorm: bool = False
    """On several GPUs: batch normalisation over the whole batch, not over each GPU's share of it."""


class SlurmTable(Table):
    """What a Slurm job is asked for with --slurm, beside launch.nodes. What is empty or 0 is left to the cluster."""

    partition: str = ""
    """The partition."""
    time: SlurmTime = "08:00:00"
    """Longest time of one turn, as D-HH:MM:SS; before it is over the run stops, is queued again and goes on from there."""
    gpus_per_node: NotNegative = 0
    """GPUs of each node; launch.devices follows it where it is "auto" or not set."""
    cpus_per_task: NotNegative = 0
    """CPU cores of each node: one for each device, and one for each of its data.workers."""
    memory: str = ""
    """Of each node, such as "64G"."""
    account: str = ""
    """Whom the job is charged to."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that its nodes must have."""
    extra: dict[str, str | int | float | bool] = {}
    """Any other long option of sbatch, as in { exclude = "node7", exclusive = true }."""

    @property
    def minutes(self) -> int:
        """The time, rounded up."""
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        if days:
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        elif len(parts) == 3:
            hours, minutes, seconds = parts
        else:
            hours, minutes, seconds = (0, *parts, 0)[:3]
        return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


class LaunchTable(Table):
    """The processes that train together, one for each device. What is learned does not depend on them, but for rounding."""

    devices: Literal["auto"] | Positive = 1
    """Devices of each machine: a number, or "auto": all its GPUs (one process without a GPU)."""
    nodes: Positive = 1
    """Machines that train together; the same command is given on each of them."""
    rendezvous: str = ""
    """host:port at which several machines meet: the name of one of them, and any free port there."""
    max_restarts: NotNegative = 3
    """How often the processes are started again, from the last state to resume from, where one of them dies."""
    slurm: SlurmTable | None = None
    """The job that --slurm submits."""


class DebugTable(Table):
    """The subset of a debug run."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the training and validation images."""
    seed: Seed = 21
    """Seeds the draw, apart from train.seed."""


class WandbTable(Table):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """"auto": online where credentials and network are, else offline; never a prompt."""
    project: str = "segtui"
    """Project on W&B."""
    entity: str = ""
    """Your own entity, used with the private toggle."""
    team_entity: str = ""
    """The team's entity, used without it."""
    run_name: str = ""
    """Name on W&B; the run folder's name where empty."""
    tags: list[str] = []
    """Tags on W&B."""


class Preset(Table):
    """A whole preset."""

    name: str = ""
    """Shown for the preset; the file's name where empty."""
    model: ModelTable
    data: DataTable = DataTable()
    augment: AugmentTable = AugmentTable()
    loss: Annotated[list[LossTable], Field(min_length=1)]
    optimizer: OptimizerTable
    scheduler: SchedulerTable | None = None
    train: TrainTable = TrainTable()
    launch: LaunchTable = LaunchTable()
    debug: DebugTable = DebugTable()
    wandb: WandbTable = WandbTable()

    @property
    def run_name(self) -> str:
        """Architecture and encoder, as a run's folder is named: `PAN-efficientnet-b3`."""
        return f"{self.model.type}-{self.model.encoder_name}".replace("/", "_")
