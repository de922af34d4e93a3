"""`t2t-edge completion bash|zsh`: a script made from the parser itself, so that it knows every command and option."""

import argparse
from collections.abc import Mapping

SHELLS = ("bash", "zsh")


def print_completion(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Print the script for `eval`."""
    print(completion_script(shell, commands), end="")


def completion_script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Bash; zsh runs the same through its own emulation."""
    options = "\n".join(
        f"        {name}) words={_quoted(_option_names(command))} ;;" for name, command in commands.items()
    )
    values = "\n".join(
        f"        {name}:{option}) words={_quoted(choices)} ;;"
        for name, command in commands.items()
        for option, choices in _choices(command).items()
    )
    places = "\n".join(
        f"        {name}) words={_quoted(choices)} ;;"
        for name, command in commands.items()
        if (choices := _place_choices(command))
    )
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + _SCRIPT.format(commands=" ".join(commands), options=options, values=values, places=places)


def _quoted(words: list[str]) -> str:
    return "'" + " ".join(words) + "'"


def _option_names(command: argparse.ArgumentParser) -> list[str]:
    return [name for action in command._actions for name in action.option_strings if name.startswith("--")]


def _choices(command: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Options that take one of a few values."""
    return {
        name: [str(choice) for choice in action.choices]
        for action in command._actions
        for name in action.option_strings
        if action.choices
    }


def _place_choices(command: argparse.ArgumentParser) -> list[str]:
    return [
        str(choice)
        for action in command._actions
        if not action.option_strings and action.choices
        for choice in action.choices
    ]


# Names of runs and engines are looked up when Tab is pressed; $runs is --runs of the line, or runs.
_SCRIPT = """\
_t2t_edge() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    local words="" runs=runs run=demo index
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{commands}' -- "$current"))
        return
    fi
    for ((index = 2; index < COMP_CWORD - 1; index++)); do
        case "${{COMP_WORDS[index]}}" in
            --runs) runs="${{COMP_WORDS[index+1]}}" ;;
            --run) run="${{COMP_WORDS[index+1]}}" ;;
        esac
    done
    case "$before" in
        --run)
            COMPREPLY=($(compgen -W "$(cd "$runs" 2>/dev/null && ls -d -- */ 2>/dev/null | tr -d /)" -- "$current"))
            return ;;
        --engine)
            COMPREPLY=($(compgen -W "$(cd "$runs/$run/build" 2>/dev/null && ls -d -- */ | tr -d /)" -- "$current"))
            return ;;
        --recipe)
            COMPREPLY=($(compgen -f -X '!*.yaml' -- "$current") $(compgen -d -S / -- "$current"))
            return ;;
    esac
    case "$command:$before" in
{values}
    esac
    if [ -z "$words" ]; then
        case "$command" in
{places}
        esac
    fi
    if [ -z "$words" ] || [[ "$current" == -* ]]; then
        case "$command" in
{options}
        esac
        [[ "$current" == -* ]] || words=""
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _t2t_edge t2t-edge
"""
