"""When two names mean one thing: the Unicode forms of a name, its spellings, and the nearest known one.

A Mac writes "é" as two characters (NFD), other systems and JSON files as one (NFC); Windows writes a path with "\\\\".
"""
import difflib
import unicodedata
from collections.abc import Iterable


def canonical(name: str) -> str:
    """The name in Unicode form C: the same for every form that the name may have."""
    return unicodedata.normalize("NFC", name)


def loose(name: str) -> str:
    """The name without what people vary: case, Unicode form, and "_", "-" or spaces between words."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def spellings(path: str) -> list[str]:
    """The path as written, then as another system may have it: "/" for "\\\\", Unicode forms C and D."""
    forms = [path, path.replace("\\", "/")]
    forms += [unicodedata.normalize(form, p) for form in ("NFC", "NFD") for p in forms[:2]]
    return list(dict.fromkeys(forms))


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'lr'?)", or nothing where no known name is close. One of another spelling only comes first."""
    known, wanted = list(known), loose(str(name))
    close = [other for other in known if loose(other) == wanted][:1] or difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_no_doubles(names: Iterable[str], what: str) -> str:
    """The first name that appears twice, in whatever Unicode form, as a line that begins with `what`; "": none."""
    seen: set[str] = set()
    for name in map(canonical, names):
        if name in seen:
            return f"{what}: {name!r} appears twice, expected each name once"
        seen.add(name)
    return ""
