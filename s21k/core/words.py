"""An experiment as a list of words: which file a word is, and how several add up.

The words of s21k/configs commute: two of them that set one key differently are refused, unless a YAML file or key=value
beside them settles it. YAML files of one's own and key=value come over the words, the later one over the earlier.

A backbone's file holds its stage-I recipes by data set, below `recipes`; the setup names the data set (stage1.recipe).
A recipe lies below every stage1 key, so that a small world's own numbers hold with any backbone.
"""
import os
from pathlib import Path
from typing import Any

import yaml

from s21k.core.errors import InputError, nearest, refused
from s21k.core.trees import leaves, merge

CONFIG_FOLDER = Path(__file__).parent.parent / "configs"
USUAL = "imagenet1k"                                # the recipe of which the others say only what differs
RECIPES = (USUAL, "imagenet21k")


def known_words() -> list[str]:
    """The names of the files of s21k/configs, in order."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def word_to_tree(word: str) -> dict[str, Any]:
    """One word -> nested dict: a YAML file of s21k/configs, a path, or key=value. InputError: it is none of them."""
    if "=" in word:
        key, _, text = word.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{word!r}: the value is not YAML") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        return value
    path = next(filter(os.path.isfile, (CONFIG_FOLDER / f"{word}.yaml", Path(word))), None)     # of any name whatever
    if path is None:
        raise InputError(f"{word!r} is neither a word ({', '.join(known_words())}), nor a YAML file, nor key=value"
                         + nearest(word, known_words()))
    with refused(f"{path}: not a YAML file", yaml.YAMLError):
        tree = yaml.safe_load(path.read_text())
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys and values, found {tree!r:.60}")
    return tree


def add_words(words: list[str]) -> dict[str, Any]:
    """The sum of the words as one tree, the backbone's recipe resolved. InputError: two words contradict each other."""
    known = known_words()
    named = [word for word in words if word in known]
    over: dict[str, Any] = {}
    for word in words:
        if word not in known:
            over = merge(over, word_to_tree(word))
    settled, said = leaves(over), {}
    tree: dict[str, Any] = {}
    for word in named:
        for key, value in leaves(word_to_tree(word)).items():
            other, before = said.setdefault(key, (word, value))
            if before != value and key not in settled:
                raise InputError(f"{other!r} and {word!r} do not go together: {key} is {before} in one, {value} in the "
                                 f"other; expected one of the two, or {key}=.. beside them")
        tree = merge(tree, word_to_tree(word))
    return _with_recipe(merge(tree, over))


def _with_recipe(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without `recipes`: stage1 lies on the recipe of stage1.recipe, and that on the usual one."""
    recipes, own = tree.pop("recipes", {}), tree.get("stage1", {})
    if not isinstance(own, dict):
        return tree                                                     # refused with every other value of a wrong type
    if not isinstance(recipes, dict) or not all(isinstance(recipe, dict) for recipe in recipes.values()):
        raise InputError(f"recipes: expected keys and values for {' and '.join(RECIPES)}, found {recipes!r:.60}")
    if unknown := [name for name in recipes if name not in RECIPES]:
        raise InputError(f"recipes.{unknown[0]}: expected one of {', '.join(RECIPES)}"
                         + nearest(str(unknown[0]), RECIPES))
    recipe = merge(recipes.get(USUAL, {}), recipes.get(str(own.get("recipe", USUAL)), {}))
    return merge(tree, {"stage1": merge(recipe, own)}) if recipe else tree
