"""The search of an option by its name, by an index; jsonargparse reads all options in every one of 3,000 searches."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from jsonargparse._actions import ActionFail, _ActionConfigLoad, non_parsing_actions
from jsonargparse._namespace import split_key_root
from jsonargparse._subcommands import ActionSubCommands


@dataclass(frozen=True)
class _Index:
    """The options of a parser.

    Attributes:
        actions: all of them, to see whether the parser has changed.
        subcommands: those that are subcommands.
        by_name: name, with dots, to the option that a search returns.
    """

    actions: list[Any]
    subcommands: list[Any]
    by_name: dict[str, Any]


_indexes: WeakKeyDictionary[Any, dict[Any, _Index]] = WeakKeyDictionary()  # of parsers, by the kinds left out


def find_action_and_subcommand(parser: Any, dest: str, exclude: Any = None) -> tuple[Any, str | None]:
    """What jsonargparse's function of this name returns: the option, or None, and the subcommands that it is below.

    Args:
        parser: a parser or a group of options.
        dest: name of an option, with dots.
        exclude: kinds of options that are left out.
    """
    index = _index(parser, exclude)
    for action in index.subcommands:
        if dest in action._name_parser_map:
            return action, None
        if split_key_root(dest)[0] in action._name_parser_map:
            command, below = split_key_root(dest)
            found, inner = find_action_and_subcommand(action._name_parser_map[command], below, exclude)
            return found, command if inner is None else f"{command}.{inner}"
    return index.by_name.get(dest), None


def _index(parser: Any, exclude: Any) -> _Index:
    indexes = _indexes.setdefault(parser, {})
    index = indexes.get(exclude)
    if index is None or index.actions != parser._actions:
        without = (non_parsing_actions, exclude or ())
        actions = [action for action in parser._actions if not isinstance(action, without)]
        subcommands = [action for action in actions if isinstance(action, ActionSubCommands)]
        index = indexes[exclude] = _Index([*parser._actions], subcommands, _by_name(actions))
    return index


def _by_name(actions: list[Any]) -> dict[str, Any]:
    """The first option of a name; the last of those that only load a config or fail, if there is no other."""
    options: dict[str, Any] = {}
    fallbacks: dict[str, Any] = {}
    for action in actions:
        for name in (action.dest, *(word[2:] for word in action.option_strings if word.startswith("--"))):
            if isinstance(action, _ActionConfigLoad | ActionFail):
                fallbacks[name] = action
            else:
                options.setdefault(name, action)
    return fallbacks | options
