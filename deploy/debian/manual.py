#!/usr/bin/env python3
"""Makes the manual page and the shells' completions out of the program's own help.

usage: manual.py PROGRAM DIR     writes DIR/derpmesh.1, DIR/derpmesh.bash, DIR/_derpmesh
"""
import os
import re
import subprocess
import sys

COMMAND = re.compile(r"^  ([a-z]+) {2,}(.+)$", re.M)
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
FILES = ("--map", "--config", "--allow", "--state", "--key-file", "--mesh-key-file", "--cert-dir", "--headscale", "--into",
         "--measured", "--admin")


def helps(program, *words):
    return subprocess.run([program, *words, "--help"], check=True, capture_output=True, text=True).stdout


def subcommands(text):
    """map check, keygen node and the like, from the lines of usage."""
    return list(dict.fromkeys(re.findall(r"^(?:usage:)? +derpmesh [a-z]+ ([a-z]+(?:\|[a-z]+)*)\b", text, re.M)))


def roff(text):
    """A text that stays as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.splitlines())


def manual(version, commands, texts):
    out = [f'.TH DERPMESH 1 "" "derpmesh {version}" "derpmesh"', ".SH NAME",
           "derpmesh \\- a mesh of DERP relays for Tailscale's and Headscale's clients", ".SH SYNOPSIS", ".nf",
           "derpmesh COMMAND [ARGUMENTS]", ".fi", ".SH COMMANDS"]
    for name, what in commands:
        out += [".TP", f".B {name}", roff(what)]
    for name, _ in commands:
        out += [f".SH {name.upper()}", ".nf", roff(texts[name].rstrip()), ".fi"]
    out += [".SH FILES", ".TP", ".I /etc/derpmesh/derpmesh.yaml", "settings of the node", ".TP", ".I /etc/derpmesh/derpmap.json",
            "the derpMap", ".TP", ".I /var/lib/derpmesh", "the node's identity: its key, boot counter, made certificates", ".TP",
            ".I /run/derpmesh/admin.sock", "where status, reload and the like ask the node", ".SH EXIT STATUS",
            "0 fine, 1 the answer is no, 2 wrong use, 3 could not run."]
    return "\n".join(out) + "\n"


def words(name, texts):
    subs = [w for group in subcommands(texts[name]) for w in group.split("|")]
    return subs, sorted(set(FLAG.findall(texts[name])) | {"--help"})


def bash(commands, texts):
    cases = []
    for name, _ in commands:
        subs, flags = words(name, texts)
        cases.append(f"    {name}) words='{' '.join(subs + flags)}' ;;")
    return f"""# bash completion of derpmesh, made from its help
_derpmesh() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '{" ".join(name for name, _ in commands)} --help' -- "$cur")
        return
    fi
    case $prev in
    {"|".join(FILES)})
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    esac
    case ${{COMP_WORDS[1]}} in
{chr(10).join(cases)}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    [ ${{#COMPREPLY[@]}} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}}
complete -o filenames -F _derpmesh derpmesh
"""


def zsh(commands, texts):
    quote = lambda s: s.replace("'", "").replace(":", "\\:")
    lines = [f"        '{name}:{quote(what)}'" for name, what in commands]
    cases = []
    for name, _ in commands:
        subs, flags = words(name, texts)
        cases.append(f"        {name}) compadd -- {' '.join(subs + flags)}; _files ;;")
    return f"""#compdef derpmesh
# zsh completion of derpmesh, made from its help
_derpmesh() {{
    local -a commands
    commands=(
{chr(10).join(lines)}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    case $words[2] in
{chr(10).join(cases)}
    esac
}}
_derpmesh "$@"
"""


def main():
    program, where = sys.argv[1:]
    top = helps(program)
    commands = COMMAND.findall(top)
    if len(commands) < 5:
        sys.exit(f"manual.py: {program} --help lists no commands")
    texts = {name: helps(program, name) for name, _ in commands}
    version = subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout.split()[1]
    for name, text in (("derpmesh.1", manual(version, commands, texts)), ("derpmesh.bash", bash(commands, texts)),
                       ("_derpmesh", zsh(commands, texts))):
        with open(os.path.join(where, name), "w") as f:
            f.write(text)


if __name__ == "__main__":
    main()
