"""The one exception for wrong input; the command line turns it into a clear message and exit status 2."""


class InputError(Exception):
    """Something a person gave is wrong.

    `what` is wrong, what we `got`, what is `allowed`, and the `next_step` (a command or an edit) that mends it.
    """

    def __init__(self, what: str, *, got: object = None, allowed: object = None, next_step: str | None = None):
        self.what, self.got, self.allowed, self.next_step = what, got, allowed, next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        for label, value in (("got", self.got), ("allowed", self.allowed), ("next", self.next_step)):
            if value is not None:
                lines.append(f"  {label}: {value}")
        return "\n".join(lines)
