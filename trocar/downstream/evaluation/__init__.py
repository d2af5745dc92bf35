"""One evaluation: contenders, experiments, runs, the cache of finished results, and the comparison table."""
