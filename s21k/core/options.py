"""The options of a command that takes paths and a few numbers, in one line where they are read."""
import argparse
from pathlib import Path
from typing import Any


def read_options(argv: list[str], command: str, required: tuple[str, ...], **others: Any) -> argparse.Namespace:
    """The options in argv. required: paths that must be given, "--out" or, without a name, "source".
    others: a default; a type, for what is None by default; or False, for a switch."""
    parser = argparse.ArgumentParser(prog=f"python -m s21k.{command}")
    for name in required:
        parser.add_argument(name, type=Path, **({"required": True} if name.startswith("--") else {}))
    for name, default in others.items():
        option = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(option, action="store_true")
        elif isinstance(default, type):
            parser.add_argument(option, type=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args(argv)
