"""Pictures of an ingest: content area, masking, canonical JPEG, quality verdicts."""
