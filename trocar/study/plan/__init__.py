"""From a study file to its stages: pretrainings, evaluations, and the lock that fixes them."""
