"""Prompt word lists as data: YAML files with their source, read into one validated, frozen dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from zsad.prompts.yaml_text import read_yaml

ClassWords = Literal["readable", "raw", "hyphen_to_space"]
STATES = ("normal", "anomalous")


@dataclass(frozen=True)
class Prompts:
    """States and templates that make the prompts of a class.

    Args:
        source: Where the lists come from: paper, repository, licence.
        states: ``normal`` and ``anomalous`` -> state phrases with one ``{}`` for the class word.
        templates: Sentences with one ``{}`` for the filled state, and possibly ``{photo}`` or ``{a_photo}``.
        outer: Which list is the outer loop; it fixes the order of the prompts.
        domains: Name -> ``noun_phrase`` and ``article`` for the templates' photo slots.
        groups: ``object`` and ``texture`` -> names of the domains used, in order.
        textures: Raw class names that belong to the group ``texture``.
        class_aliases: Raw class name -> word to use instead.
    """

    source: str
    states: Mapping[str, Sequence[str]]
    templates: Sequence[str]
    outer: Literal["states", "templates"] = "states"
    domains: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    textures: Sequence[str] = ()
    class_aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.states) != set(STATES) or not all(self.states.values()) or not self.templates:
            raise ValueError("A prompt file needs non-empty 'states' (normal, anomalous) and 'templates'.")
        for phrase in (*self.templates, *(phrase for state in STATES for phrase in self.states[state])):
            if not isinstance(phrase, str) or phrase.count("{}") != 1:
                raise ValueError(f"Each state and template needs exactly one '{{}}', got {phrase!r}.")
        unknown = {name for group in self.groups.values() for name in group} - set(self.domains)
        if unknown:
            raise ValueError(f"Prompt groups name unknown domains {sorted(unknown)}; known: {sorted(self.domains)}.")

    def word(self, class_name: str, words: ClassWords = "raw") -> str:
        """Return what stands for the class in a prompt.

        Args:
            class_name: Raw name of the class.
            words: ``"readable"`` turns ``metal_nut`` into ``metal nut``, ``"hyphen_to_space"`` turns ``pcb-1`` into
                ``pcb 1`` and leaves underscores (AdaCLIP), ``"raw"`` leaves all.
        """
        word = self.class_aliases.get(class_name, class_name)
        if words == "hyphen_to_space":
            return word.replace("-", " ")
        return " ".join(word.replace("_", " ").split()) if words == "readable" else word

    def domain_templates(self, class_name: str, domains: Sequence[str] | None = None) -> list[str]:
        """Return the templates with their photo slots filled, domain by domain; all of them if there are no domains."""
        if not self.domains:
            return list(self.templates)
        names = self.groups["texture" if class_name in self.textures else "object"] if domains is None else domains
        filled = []
        for name in names:
            noun, article = self.domains[name]["noun_phrase"], self.domains[name]["article"]
            filled += [t.replace("{photo}", noun).replace("{a_photo}", f"{article} {noun}") for t in self.templates]
        return filled

    def compose(
        self, class_name: str, words: ClassWords = "raw", domains: Sequence[str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Return the normal and the anomalous prompts of a class, in the order of the source.

        Args:
            class_name: Raw name of the class; it also decides between objects and textures.
            words: How the class is spelled in the prompt.
            domains: Names of the domains to use instead of those of the class's group.
        """
        word = self.word(class_name, words)
        templates = self.domain_templates(class_name, domains)
        sides = []
        for state in STATES:
            phrases = [_fill(phrase, word) for phrase in self.states[state]]
            if self.outer == "states":
                sides.append([_fill(template, phrase) for phrase in phrases for template in templates])
            else:
                sides.append([_fill(template, phrase) for template in templates for phrase in phrases])
        return sides[0], sides[1]


def _fill(template: str, text: str) -> str:
    return template.replace("{}", text)  # not str.format: a class name may contain braces


def parse_prompts(data: Any, origin: str) -> Prompts:
    """Return the prompts that a parsed YAML document describes; unknown or missing keys raise and name the origin."""
    known = {entry.name for entry in fields(Prompts)}
    if not isinstance(data, dict) or not {"source", "states", "templates"} <= set(data) or set(data) - known:
        keys = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"Prompt file {origin}: needs the keys source, states, templates and may have {sorted(known)}, got {keys}."
        )
    try:
        return Prompts(**data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Prompt file {origin}: {error}") from error


@cache
def load_prompts(name: str) -> Prompts:
    """Return prompts by the name of a packaged list (``"winclip"``) or by the path of a YAML file of the same form.

    Raises:
        FileNotFoundError: If there is neither such a list nor such a file.
        ValueError: If the file does not have the expected form.
    """
    packaged = files("zsad.prompts") / f"{name}.yaml"
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(
            f"No prompt list '{name}': packaged are {list_prompts()}; or give the path of a YAML file."
        )
    return parse_prompts(read_yaml(text, f"Prompt file '{name}'"), name)


def list_prompts() -> list[str]:
    """Return the names of the packaged prompt lists."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("zsad.prompts").iterdir() if entry.name.endswith(".yaml")
    )
