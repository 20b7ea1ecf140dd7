"""The two kinds of failure that a caller treats differently; everything else is a bug."""


class UserError(ValueError):
    """A mistake that the user can mend: one sentence with the value, the place and the remedy."""


class TransientError(RuntimeError):
    """A fault outside this process that may pass: worth another try later."""


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string when none is close."""
    import difflib

    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
