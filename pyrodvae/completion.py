"""Shell completion: what the TAB key offers, as a script that is made once from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BASH = """\
_pyrodvae() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} words='' files=-f
    local command=${{COMP_WORDS[1]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    [ "$COMP_CWORD" -eq 1 ] && command='' before=''
    case "$command $before" in
{values}
    *) case "$cur" in
        -*) case "$command" in
{options}
            esac ;;
        *) case "$command" in
{places}
            esac ;;
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    local IFS=$'\\n'
    [ -z "$files" ] || COMPREPLY+=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _pyrodvae pyrodvae
"""
ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""
"""What lets zsh read the script for bash; its own completion is started where nothing has started it yet."""

FISH = """\
function __pyrodvae_in
    set -l line (commandline -opc)
    test "$line[2]" = "$argv[1]"
end
"""
"""What asks whether the line is one of a command; of none if it has no command yet."""


@dataclass(frozen=True)
class Argument:
    """Of a command: an option with its spellings, or without any what stands in a place of its own.

    What may stand for it are ``words``; where there are none, a file may, if it ``takes`` anything at all.
    """

    flags: Sequence[str]
    takes: bool
    words: Sequence[str]


def script(parser: argparse.ArgumentParser, words: Mapping[str, Sequence[str]], shell: str) -> str:
    """The script that a shell reads at its start, ``eval "$(pyrodvae completion bash)"``.

    Pressing TAB then runs nothing of the package, which takes a second to import.

    Args:
        parser: of all commands.
        words: what may stand for an argument, by its metavar; a file may stand for any other.
        shell: one of :data:`SHELLS`.
    """
    choices: Mapping[str, argparse.ArgumentParser] = next(
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    commands = {
        name: [Argument(a.option_strings, a.nargs != 0, _words(a, words)) for a in command._actions]
        for name, command in choices.items()
    }
    return SHELLS[shell](commands)


def _words(action: argparse.Action, words: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What may stand for an argument; none if it is a file, or a number."""
    return [*map(str, action.choices)] if action.choices else words.get(str(action.metavar), ())


Commands = Mapping[str, Sequence[Argument]]


def bash(commands: Commands) -> str:
    """A function that looks at the line word by word."""
    values: list[str] = []
    options: list[str] = []
    places = [f"        '') words='{' '.join(commands)}' files='' ;;"]
    for name, arguments in commands.items():
        flags = [flag for a in arguments for flag in a.flags]
        options.append(f"            {name}) words='{' '.join(flags)}' files='' ;;")
        there = [word for a in arguments if not a.flags for word in a.words]
        places.append(f"        {name}) words='{' '.join(there)}' ;;")
        for a in arguments:
            if a.flags and a.words:
                where = "|".join(f"'{name} {flag}'" for flag in a.flags)
                values.append(f"    {where}) words='{' '.join(a.words)}' files='' ;;")
    return BASH.format(values="\n".join(values), options="\n".join(options), places="\n".join(places))


def zsh(commands: Commands) -> str:
    """That of bash, behind what lets zsh read it."""
    return ZSH + bash(commands)


def fish(commands: Commands) -> str:
    """A line for each thing that may be offered."""
    lines = [f"complete -c pyrodvae -f -n __pyrodvae_in -a '{' '.join(commands)}'"]
    for name, arguments in commands.items():
        start = f"complete -c pyrodvae -n '__pyrodvae_in {name}'"
        for a in arguments:
            words = f" -a '{' '.join(a.words)}'" if a.words else ""
            flags = "".join(f" -l {f[2:]}" if f.startswith("--") else f" -s {f[1:]}" for f in a.flags)
            value = "" if not (a.flags and a.takes) else " -x" if a.words else " -r -F"
            if flags or words:
                lines.append(start + flags + value + words)
    return FISH + "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
