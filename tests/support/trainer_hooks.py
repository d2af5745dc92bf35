"""Hooks of a trainer that keep what they are told."""


class Recorder:
    """`rows` that were logged, steps after which was `saved`; asks to stop after `stop_at` steps."""

    def __init__(self, stop_at=None, log_every=1):
        self.log_every = log_every
        self.rows, self.saved, self.stop_at, self.seen = [], [], stop_at, 0

    def logged(self, step, values):
        self.rows.append({"step": step, **values})

    def stepped(self, batch, done):
        self.seen = done

    def probed(self, done):
        return False

    def save(self, done):
        self.saved.append(done)

    def stop_requested(self):
        return self.stop_at is not None and self.seen >= self.stop_at

    def stopping(self, done, number):
        raise SystemExit(done)

    def broken(self, batch, why):
        raise RuntimeError(why)
