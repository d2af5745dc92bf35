"""mlflow, which follows a run's local record and never the other way round."""
