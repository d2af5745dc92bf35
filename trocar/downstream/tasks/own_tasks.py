"""Trocar's own tasks: labels of whole frames, one of several classes or any number of them, and of pixels."""

from __future__ import annotations

from trocar.downstream.metrics import calibration, challenges, multilabel, phase, segmental, segmentation
from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.metrics.registry import MASKS
from trocar.downstream.tasks.base import TASKS, SegmentationTask, Task

# Macro F1 leads because two phases are half of an operation: accuracy rewards predicting those two.
PHASE = TASKS.register(
    Task(
        "phase",
        "multiclass",
        "f1@pooled_macro",
        ("f1@video_macro_A", "accuracy@pooled", "accuracy@video"),
        ("f1", phase.f1_per_class),
        {**phase.METRICS, **challenges.METRICS, **segmental.METRICS, **calibration.MULTICLASS},
    )
)
"""Surgical phase of a frame: one of the procedure's phases."""

# Finer than a phase, scored like one.
STEP = TASKS.register(Task("step", PHASE.kind, PHASE.headline, PHASE.shown, PHASE.per_class, PHASE.own_metrics))
"""Step of a frame: one of the procedure's steps."""

TOOLS = TASKS.register(Task("tools", "multilabel", "map@pooled", ("map@case",), ("ap", ap_pooled), multilabel.TOOLS))
"""Which tools a frame shows: any number of them."""

CVS = TASKS.register(
    Task("cvs", "multilabel", "map", ("balanced_accuracy", "brier@soft"), ("ap", ap_pooled), multilabel.CVS)
)
"""Critical view of safety: the three criteria of Strasberg, each met or not, by one or several annotators."""

TRIPLET = TASKS.register(
    Task(
        "triplet",
        "multilabel",
        "ap_ivt@video",
        ("ap_i@video", "ap_v@video", "ap_t@video"),
        ("ap", ap_pooled),
        multilabel.TRIPLETS,
    )
)
"""Action triplets: which instrument does what to which target, any number of them in a frame."""

SEGMENTATION = TASKS.register(
    SegmentationTask(
        name="segmentation",
        kind="mask",
        headline="iou@dataset",
        shown=("dice@dataset", "iou@image_present_gt", "iou@patient_pooled"),
        per_class=("iou", segmentation.per_class),
        own_metrics=MASKS,
        # Most pixels are background: a mask of nothing else scores high with it, and 0 without.
        shown_with_background=(
            "iou@dataset_no_background",
            "iou@dataset",
            "dice@dataset_no_background",
            "iou@image_present_gt",
            "iou@patient_pooled_no_background",
        ),
    )
)
"""A class for every pixel of a frame."""
