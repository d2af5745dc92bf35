"""Studies: which pretraining data helped, by how much, and how sure that is."""
