"""Where the code of other packages is called: what is run with the lowest and the newest versions of them."""

LANE = (
    "core",
    "backbones/test_backbone_export.py",
    "backbones/test_backbone_load.py",
    "backbones/published/test_published.py",
    "data/ingest/test_ingest_run.py",
    "data/media",
    "data/loading/test_dali_pipeline.py",
    "data/loading/test_jpeg_decoder.py",
    "data/loading/test_loader.py",
    "downstream/metrics",
    "downstream/segmentation",
    "downstream/evaluation/test_evaluate.py",
    "downstream/predictions/test_frame_outcomes.py",
    "e2e/test_demo.py",
    "report/test_run_report.py",
    "ssl/methods",
    "ssl/engine/test_trainer.py",
    "study/statistics",
    "cli/test_main.py",
    "runs/test_mlflow_sync.py",
)
