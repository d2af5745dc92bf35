"""Which labelled cases train, validate and test: published splits, folds, label budgets."""
