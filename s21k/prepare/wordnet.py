"""WordNet 3.0's own files: which synset a name means, and what a synset is called.

A wnid is "n" and the synset's offset in data.noun, so the files name every class of ImageNet-21K. Debian's package
wordnet-base has them in the folder share/wordnet.
"""
from pathlib import Path

from s21k.core.errors import InputError, refused


class WordNet:
    """Nouns only. InputError: a folder without index.noun and data.noun, or a line that is not WordNet's."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.senses: dict[str, list[str]] = {}      # lemma -> wnids, the most frequent sense first
        self.names: dict[str, list[str]] = {}       # wnid -> lemmas as written, "domestic dog"
        for number, fields in self._lines(folder / "index.noun"):
            try:
                # lemma pos synset_cnt p_cnt [ptr_symbol..] sense_cnt tagsense_cnt [offset..]
                pointers = int(fields[3])
                offsets = fields[6 + pointers:]
                if (len(offsets) != int(fields[2])
                    or not all(len(offset) == 8 and offset.isdigit() for offset in offsets)):
                    raise ValueError
            except (ValueError, IndexError):
                raise InputError(f"{folder / 'index.noun'}:{number}: {' '.join(fields)!r:.60} is no entry of "
                                 f"WordNet's index") from None
            self.senses[fields[0]] = [f"n{offset}" for offset in offsets]
        for number, fields in self._lines(folder / "data.noun"):
            try:
                # offset lex_filenum ss_type w_cnt word lex_id [word lex_id..]
                words = fields[4:4 + 2 * int(fields[3], 16):2]
                if len(fields[0]) != 8 or not words:
                    raise ValueError
            except (ValueError, IndexError):
                raise InputError(f"{folder / 'data.noun'}:{number}: {' '.join(fields)!r:.60} is no entry of "
                                 f"WordNet's data") from None
            self.names[f"n{fields[0]}"] = [word.replace("_", " ") for word in words]

    @staticmethod
    def _lines(path: Path) -> list[tuple[int, list[str]]]:
        """Numbered lines as fields; the licence's lines begin with a space."""
        expected = ", expected WordNet 3.0's folder, as in Debian's package wordnet-base"
        with refused(f"{path}: cannot be read", expected=expected):
            lines = path.read_text(encoding="utf-8").splitlines()
        return [(number, line.split()) for number, line in enumerate(lines, start=1)
                if line.strip() and not line.startswith(" ")]

    def wnid(self, synset: str) -> str | None:
        """ "dog.n.01" -> "n02084071"; None where WordNet has no such sense. InputError: not of that form."""
        lemma, _, number = synset.rpartition(".n.")
        if not lemma or not number.isdigit():
            raise InputError(f"synset {synset!r:.60}, expected lemma.n.number")
        senses = self.senses.get(lemma.lower(), [])
        return senses[int(number) - 1] if 0 < int(number) <= len(senses) else None

    def name(self, wnid: str) -> str:
        """Its lemmas, "dog, domestic dog, Canis familiaris"; the wnid itself where WordNet does not have it."""
        return ", ".join(self.names.get(wnid, [wnid]))
