"""The local record of a run, the lease on its folder, and mlflow."""
