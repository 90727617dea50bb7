"""The one exception that means "the input is wrong, not the program".

Whatever enters from outside (words, YAML, JSON, image lists, checkpoints) is checked where it
enters; what is wrong is said in one line: what, where, what was expected.
"""
import difflib
import sys
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """Bad input from outside. Commands print it as one line and exit with 2."""


class TrainingFault(RuntimeError):
    """Training cannot go on (a loss that is not finite). Commands print it as one line and exit with 3."""


def nearest(name: str, known: Iterable[str]) -> str:
    """" (did you mean 'lr'?)", or nothing where no known name is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def run_command(main: Callable[[list[str]], None], doc: str) -> None:
    """Run main(argv): --help prints doc, an InputError or TrainingFault becomes one line on stderr, exit 2 or 3."""
    argv = sys.argv[1:]
    if "--help" in argv or "-h" in argv:
        print(doc.strip())
        return
    try:
        main(argv)
    except (InputError, TrainingFault) as error:
        text = str(error)
        if "Original Traceback" in text:                # raised in a loader process, which sends its whole trace along
            text = text.strip().splitlines()[-1].partition("Error: ")[2]
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 3)
