"""Where the code of other packages is called: what is run with the lowest and the newest versions of them."""

LANE = (
    "core",
    "backbones/test_backbone_export.py",
    "backbones/test_backbone_load.py",
    "backbones/test_published.py",
    "data/ingest/test_ingest_run.py",
    "data/media",
    "data/test_dali_backend.py",
    "data/test_loader.py",
    "downstream/metrics",
    "downstream/segmentation",
    "downstream/test_evaluate.py",
    "downstream/test_predictions.py",
    "e2e/test_demo.py",
    "ssl/methods",
    "ssl/test_trainer.py",
    "study/statistics",
    "test_cli.py",
    "tracking/test_mlflow_sync.py",
)
