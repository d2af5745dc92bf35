"""Small labelled sets that a network is scored on while it trains: what `trocar.jobs` hands to the trainer."""
