"""The training loop and what it is given: method, step, optimizer, schedules."""
