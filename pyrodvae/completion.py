"""Shell completion: what the TAB key offers, as a script that is made once from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

SHELLS = ("bash", "zsh")

SCRIPT = """\
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
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
"""What lets zsh read the rest."""


def script(parser: argparse.ArgumentParser, words: Mapping[str, Sequence[str]], shell: str) -> str:
    """The script that a shell reads at its start, ``eval "$(pyrodvae completion bash)"``.

    Pressing TAB then runs nothing of the package, which takes a second to import.

    Args:
        parser: of all commands.
        words: what may stand for an argument, by its metavar; a file may stand for any other.
        shell: one of :data:`SHELLS`.
    """
    commands: dict[str, argparse.ArgumentParser] = next(
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    values: list[str] = []
    options: list[str] = []
    places = [f"        '') words='{' '.join(commands)}' files='' ;;"]
    for name, command in commands.items():
        actions = command._actions
        flags = [flag for action in actions for flag in action.option_strings]
        options.append(f"            {name}) words='{' '.join(flags)}' files='' ;;")
        there = [w for action in actions if not action.option_strings for w in _words(action, words)]
        places.append(f"        {name}) words='{' '.join(there)}' ;;")
        for action in actions:
            known = _words(action, words)
            if action.option_strings and known:
                where = "|".join(f"'{name} {flag}'" for flag in action.option_strings)
                values.append(f"    {where}) words='{' '.join(known)}' files='' ;;")
    text = SCRIPT.format(values="\n".join(values), options="\n".join(options), places="\n".join(places))
    return ZSH + text if shell == "zsh" else text


def _words(action: argparse.Action, words: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What may stand for an argument; none if it is a file, or a number."""
    return [*map(str, action.choices)] if action.choices else words.get(str(action.metavar), ())
