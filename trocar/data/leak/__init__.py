"""The leak guard's data side: who is who among published cases, the same pictures found again, what leaves a pool."""
