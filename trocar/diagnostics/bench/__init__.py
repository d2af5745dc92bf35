"""Speed as ratios against named references, measured side by side on the machine at hand."""
