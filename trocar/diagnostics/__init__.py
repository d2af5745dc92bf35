"""What of this machine works with Trocar, and what to do about the rest."""
