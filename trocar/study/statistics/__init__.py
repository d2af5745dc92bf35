"""Statistics of a study, as pure functions of the predictions of its arms and of a metric of weighted cases."""
