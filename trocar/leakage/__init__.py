"""Has a backbone seen a test case? The only room that asks: what is held out, who is who, which pictures are copies.

`guard` keeps held-out cases out of a pool (`search`, `matching`), `exposure` says what weights have seen, and `judge`
puts both together into the verdict that stands beside a score. Training and scoring are handed what they need of it.
"""
