"""Reading YAML that people give: plain values only, no tags, no bombs, and one sentence where something is wrong."""

from typing import Any

import yaml

_MOST = 1_000_000  # values after all aliases are written out


def read_yaml(text: str, origin: str) -> Any:
    """Return the plain values of a YAML text.

    Args:
        text: The text.
        origin: What to call it in messages: an option, or a file in quotes.

    Raises:
        ValueError: It is no YAML, asks for an object by a tag, or writes out to more than a million values.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > _MOST:
            raise ValueError(f"{origin} writes out to more than {_MOST} values by its aliases; it was not read.")
        return loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        problem = " ".join(str(error.problem).split())
        raise ValueError(f"{origin} holds more than plain values: {problem}.") from error
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{origin} is not YAML: {problem}{where}.") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node writes out to; a node within itself never ends."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST + 1
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(one, known) for one in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_size(key, known) + _size(value, known) for key, value in node.value)
    known[id(node)] = size
    return size
