"""The one exception that means "the input is wrong, not the program".

Whatever enters from outside (words, YAML, JSON, image lists, checkpoints) is checked where it
enters; what is wrong is said in one line: what, where, what was expected.
"""
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from s21k.core.names import nearest

__all__ = ["InputError", "TrainingFault", "end_at_once", "nearest", "note", "refused", "run_command", "unlisted"]


class InputError(ValueError):
    """Bad input from outside. Commands print it as one line and exit with 2."""


class TrainingFault(RuntimeError):
    """Training cannot go on (a loss that is not finite). Commands print it as one line and exit with 3."""


@contextlib.contextmanager
def refused(what: str, *others: type[Exception], expected: str = "") -> Iterator[None]:
    """Where a file cannot be read or written inside, or one of the others is raised: "<what> (<why>)<expected>"."""
    try:
        yield
    except InputError:
        raise
    except (OSError, UnicodeError, *others) as error:
        raise InputError(f"{what} ({error}){expected}") from None


_said: set[str] = set()


def note(text: str) -> None:
    """Print one line about the input that is no refusal: once in a command, on rank 0 only."""
    line = f"note: {' '.join(text.split())}"
    if line not in _said and os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
    _said.add(line)


def unlisted(wrong: np.ndarray, ids: Sequence, things: str, kind: str, where: str = "the annotations do") -> str:
    """The one line about unknown ids: how many of the things, and the first. wrong (N,) bool, ids (N,): of N things.
    "4 of 4 detections are of categories that the annotations do not list (first: 101)"; "" where none is wrong."""
    if not wrong.any():
        return ""
    first = ids[int(wrong.argmax())]
    return f"{int(wrong.sum())} of {len(wrong)} {things} are {kind} that {where} not list (first: {first})"


# What torch.distributed says, as a RuntimeError from deep inside, where another process is gone or does not answer.
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe",
             "Timed out waiting", "timed out", "remote process exited", "collective operation timeout")


def _one_line(kind: str, text: str) -> None:
    tqdm.write(f"{kind}: {' '.join(text.split())}", file=sys.stderr)    # on a line of its own, whatever bar is shown
    sys.stderr.flush()


def _end_children() -> None:
    """Loader processes may hang; waiting for them in order takes five seconds each."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)       # torch's handler would raise: a loader process died
    for child in multiprocessing.active_children():
        child.kill()


def end_at_once(code: int, text: str) -> None:
    """End this process from any thread, and its loader processes, without waiting for anything."""
    os.write(2, f"\n{text}\n".encode())
    _end_children()
    os._exit(code)


def run_command(main: Callable[[list[str]], None], doc: str) -> None:
    """Run main(argv): --help prints doc. What is wrong becomes one line on stderr, and an exit code:

    2  InputError: the input        3  TrainingFault, a file that cannot be read or written, another process or a loader
       process that is gone or hangs
    130  interrupted from the keyboard
    """
    argv = sys.argv[1:]
    _said.clear()
    if hasattr(sys.stdout, "reconfigure"):  # a file's name need not be UTF-8, nor a terminal: it is shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if "--help" in argv or "-h" in argv:
            print(doc.strip())
        else:
            main(argv)
        sys.stdout.flush()
    except (InputError, TrainingFault) as error:
        text = str(error)
        if "Original Traceback" in text:                # raised in a loader process, which sends its whole trace along
            text = text.strip().splitlines()[-1].partition("Error: ")[2]
        _one_line("error", text)
        sys.exit(2 if isinstance(error, InputError) else 3)
    except BrokenPipeError:
        # Whoever read our output wants no more, as in `.. | head`; the flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _one_line("error", str(error))
        sys.exit(3)
    except KeyboardInterrupt:
        _end_children()
        _one_line("interrupted", "the last checkpoint is kept; the same words continue from it")
        sys.exit(130)
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            _end_children()
            _one_line("error", f"the loader processes gave no batch ({str(error).splitlines()[0]}): does the disk "
                               "answer? The key timeout sets the limit; the last checkpoint is kept")
            sys.exit(3)
        if "DataLoader worker (pid" in str(error):           # raised wherever the main process is when it hears of it
            _one_line("error", f"a loader process died ({str(error).splitlines()[0]}); often the memory ran out: try a "
                      f"smaller data.workers; the last checkpoint is kept")
            sys.exit(3)
        if "WORLD_SIZE" not in os.environ or not any(words in str(error) for words in PEER_GONE):
            raise
        _one_line("error", f"another process is gone or does not answer ({str(error).splitlines()[0]:.200}); this one "
                  f"gives up, the last checkpoint is kept")
        sys.stdout.flush()
        os._exit(3)                                     # leaving in order would wait for the others again
