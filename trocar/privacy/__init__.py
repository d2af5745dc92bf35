"""What must not be shown: private names and credentials."""
