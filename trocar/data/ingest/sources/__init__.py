"""What an ingest is given: videos, folders of frames, stills, and the tables beside them."""
