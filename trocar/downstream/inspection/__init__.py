"""What is in a labelled data set, before anything is learned from it."""
