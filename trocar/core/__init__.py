"""What every room may use and none owns."""
