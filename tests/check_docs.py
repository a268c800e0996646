#!/usr/bin/env python3
"""Reads the documents and fails where they say what is not so, or where a translation has been left behind.

* Links between documents, and to headings in them, lead somewhere; a file that is named in code marks is there.
* X.zh-CN.md follows X.md, section by section: the same headings by level and order (each Chinese heading carries the English
  one's anchor, <a id="…"></a>), the same code blocks but for comments, the same words in code marks, the same links and figures, as many
  rows and items.  Blocks without a language (pictures) may differ inside.
* `derpmesh COMMAND --flag` is a command and a flag of the program.
* What the table of "When something is wrong" quotes is said by the program; … stands for what is put in.

usage: check_docs.py [--self-test] [ROOT]
exit: 0 clean, 1 faults (one line each: file:line: what is wrong), 2 wrong use
"""
import os
import re
import sys

TRANSLATED = ["README.md", "docs/operate.md"]  # must have a Chinese twin
CHINESE = ".zh-CN.md"
PLACES = ["README.md", "README" + CHINESE, "docs", "deploy", "tests/integration/README.md"]
QUOTES = "when-something-is-wrong"  # the section whose tables quote the program
QUOTE_COLUMN = 2
NO_COMMANDS = {"docs/protocol.md"}  # there `derpmesh …` are labels

FENCE = re.compile(r"^\s*```(\w*)\s*$")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*$")
ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ITEM = re.compile(r"^\s*([*-]|\d+\.)\s")
NUMBER = re.compile(r"(?<![\w.,-])\d+(?:[.,]\d+)*")
COMMENT = re.compile(r"(^|\s)#\s.*$")
LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"')
LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"(?:\s*"(?:\\.|[^"\\\n])*")*')


class Section:
    def __init__(self, level, title, line):
        self.level, self.line = level, line
        self.given = ANCHOR.findall(title)
        self.title = ANCHOR.sub("", title).strip()
        self.blocks = []  # (language, lines without comments, line)
        self.lines = []  # (line, text) outside blocks

    def spans(self):
        return {span for _, text in self.lines for span in SPAN.findall(text)}

    def links(self):
        return [(n, target) for n, text in self.lines for target in LINK.findall(SPAN.sub("", text))]

    def numbers(self):
        """Figures in the text: a measurement that changes in one language has to in the other."""
        return {n for _, text in self.lines for n in NUMBER.findall(LINK.sub("", SPAN.sub("", text)))}

    def count(self, starts):
        return sum(1 for _, text in self.lines if starts(text))


def slug(title):
    """The anchor that a heading gets where the documents are shown."""
    text = re.sub(r"[`*]|\[|\]\([^)]*\)", "", title).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def parse(text):
    """The sections of a document; the first one is what stands before any heading."""
    sections, block = [Section(0, "", 1)], None
    for n, line in enumerate(text.split("\n"), 1):
        fence = FENCE.match(line)
        if block is not None:
            if fence:
                block = None
            else:
                block.append(COMMENT.sub("", line).strip())
        elif fence:
            block = []
            sections[-1].blocks.append((fence.group(1), block, n))
        elif HEADING.match(line):
            marks, title = HEADING.match(line).groups()
            sections.append(Section(len(marks), title, n))
            sections[-1].lines.append((n, ANCHOR.sub("", title)))
        else:
            sections[-1].lines.append((n, line))
    return sections


def anchors(sections):
    found = set()
    for section in sections:
        name, again = slug(section.title), 0
        while name in found:
            again += 1
            name = "%s-%d" % (slug(section.title), again)
        found |= {name, *section.given}
    return found


# ---- links ----

def check_links(documents, exists):
    faults = []
    for path, sections in documents.items():
        here = os.path.dirname(path)
        for section in sections:
            for n, target in section.links():
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                to = os.path.normpath(os.path.join(here, file)) if file else path
                if not exists(to):
                    faults.append("%s:%d: the link leads to %s, which is not there" % (path, n, to))
                elif anchor and to in documents and anchor not in anchors(documents[to]):
                    faults.append("%s:%d: %s has no heading #%s" % (path, n, to, anchor))
            for span in sorted(section.spans()):
                if re.fullmatch(r"(src|docs|tests|scripts|deploy|bench)(/[\w.-]+)+", span) and not exists(span) and \
                        not exists(span + ".c"):
                    if not generated(span):
                        faults.append("%s:%d: `%s` is not there" % (path, section.line, span))
    return faults


def generated(path):
    """Things that an operator or a build puts there."""
    return path.startswith("deploy/docker/conf")


# ---- translations ----

def twin(target):
    return target.replace(CHINESE, ".md")


def resolved(path, target):
    """A link in the form that both languages share."""
    file, mark, anchor = twin(target).partition("#")
    to = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file and ":" not in file else file or twin(path)
    return to + mark + anchor


def differ(path, line, what, english, chinese, where):
    """One fault for what only one of the two has."""
    only = sorted(english - chinese), sorted(chinese - english)
    parts = ["only %s has %s" % (who, ", ".join(names)) for who, names in (("English", only[0]), ("Chinese", only[1])) if names]
    return ["%s:%d: %s of \"%s\": %s" % (path, line, what, where, "; ".join(parts))] if parts else []


def check_blocks(path, e, c):
    faults = []
    if len(e.blocks) != len(c.blocks):
        return ["%s:%d: \"%s\" has %d code blocks, in English %d" % (path, c.line, c.title, len(c.blocks), len(e.blocks))]
    for (lang, lines, _), (other_lang, other, at) in zip(e.blocks, c.blocks):
        if lang != other_lang:
            faults.append("%s:%d: a code block of language \"%s\", in English \"%s\"" % (path, at, other_lang, lang))
        elif lang and lines != other:
            i = next((i for i, (a, b) in enumerate(zip(lines, other)) if a != b), min(len(lines), len(other)))
            faults.append("%s:%d: the commands differ; in English: %s" % (path, at + 1 + i, lines[i] if i < len(lines) else "(end)"))
    return faults


def check_section(path, e, c):
    faults, shared = [], {resolved(path, t) for _, t in e.links()}
    faults += check_blocks(path, e, c)
    faults += differ(path, c.line, "words in code marks", e.spans(), c.spans(), c.title)
    faults += differ(path, c.line, "figures", e.numbers(), c.numbers(), c.title)
    faults += differ(path, c.line, "links", shared, {resolved(path, t) for _, t in c.links()}, c.title)
    for what, starts in (("rows of tables", lambda t: t.startswith("|")), ("items of lists", lambda t: bool(ITEM.match(t)))):
        if e.count(starts) != c.count(starts):
            faults.append("%s:%d: \"%s\" has %d %s, in English %d" % (path, c.line, c.title, c.count(starts), what, e.count(starts)))
    return faults


def check_translation(path, english, chinese):
    heads = [(s.level, slug(s.title), s.title) for s in english]
    for i, c in enumerate(chinese):
        if i >= len(heads):
            return ["%s:%d: \"%s\" has no English twin" % (path, c.line, c.title)]
        level, name, title = heads[i]
        if i and (c.level != level or c.given != [name]):
            return ["%s:%d: here the English text has %s %s: in Chinese %s <a id=\"%s\"></a>…; a section was added, left out or moved"
                    % (path, c.line, "#" * level, title, "#" * level, name)]
    if len(heads) > len(chinese):
        return ["%s:%d: the section \"%s\" is missing" % (path, chinese[-1].line, heads[len(chinese)][2])]
    return [fault for e, c in zip(english, chinese) for fault in check_section(path, e, c)]


def check_translations(documents):
    faults, wanted = [], set(TRANSLATED) | {twin(p) for p in documents if p.endswith(CHINESE)}
    for path in sorted(wanted):
        chinese = path[:-3] + CHINESE
        missing = [p for p in (path, chinese) if p not in documents]
        if missing:
            faults.append("%s:1: is not there, but its twin is wanted in both languages" % missing[0])
        else:
            faults += check_translation(chinese, documents[path], documents[chinese])
    return faults


# ---- what the program knows ----

class Program:
    """What can be read of the program in its sources: strings, commands, flags."""

    def __init__(self, sources):
        self.literals, self.commands = [], set()
        for path, text in sources.items():
            for found in LITERALS.findall(text):
                joined = "".join(part[1:-1] for part in LITERAL.findall(found))
                self.literals.append(joined.replace('\\"', '"').replace("\\n", "\n"))
            if path == "src/cli/main.c":
                self.commands = set(re.findall(r'\{\s*"([a-z]+)",', text))
        self.text = "\0".join(self.literals)
        self.names = set(self.literals)

    def has_flag(self, flag):
        return re.search("--%s(?![a-z-])" % flag, self.text) or flag in self.names or flag.replace("-", "_") in self.names

    def has_word(self, command, word):
        return re.search(r"derpmesh %s ([a-z]+\|)*%s\b" % (command, word), self.text) is not None

    def says(self, quote):
        return all(piece.strip() in self.text for piece in quote.split("…") if len(piece.strip()) > 3)


def lines_of_shell(sections):
    """(line, text) of what is in code marks and in shell blocks."""
    for section in sections:
        for n, text in section.lines:
            for span in SPAN.findall(text):
                yield n, span
        for lang, lines, at in section.blocks:
            if lang in ("sh", "ini"):
                for i, line in enumerate(lines):
                    yield at + 1 + i, line


def calls(line):
    """The words behind each derpmesh that stands where a command does; in a container too."""
    line = re.sub(r"docker[ -]compose (-\S+ \S+ )*exec (-\w+ )*derpmesh ", "", line)
    line = re.sub(r"docker run (?!.*--entrypoint)(\S+ )*?derpmesh (?=[a-z])", "derpmesh ", line)
    for part in re.split(r"[|;&()<>]+", line):
        words = re.sub(r"^(sudo |ExecStart=)", "", part.strip()).split()
        if len(words) > 1 and words[0] in ("derpmesh", "/usr/bin/derpmesh") and re.fullmatch(r"[a-z]+", words[1]):
            yield words[1:]


def check_call(words, program):
    """What is wrong with one call, or None."""
    if words[0] not in program.commands:
        return "there is no command derpmesh %s" % words[0]
    if words[0] == "map" and len(words) > 1 and words[1].isalpha() and not program.has_word("map", words[1]):
        return "there is no command derpmesh map %s" % words[1]
    for word in words[1:]:
        flag = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", word)
        if flag and flag.group(1) != "help" and not program.has_flag(flag.group(1)):
            return "derpmesh %s has no flag --%s" % (words[0], flag.group(1))
    return None


def check_commands(documents, program):
    faults = []
    for path, sections in documents.items():
        for n, line in lines_of_shell(sections) if path not in NO_COMMANDS else []:
            faults += ["%s:%d: %s" % (path, n, why) for why in (check_call(c, program) for c in calls(line)) if why]
    return faults


def check_quotes(documents, program):
    faults, seen = [], 0
    for path, sections in documents.items():
        for section in sections:
            if QUOTES not in (slug(section.title), *section.given):
                continue
            for n, text in section.lines:
                cells = [c.strip() for c in text.strip().strip("|").split("|")] if text.startswith("|") else []
                for quote in SPAN.findall(cells[QUOTE_COLUMN]) if len(cells) > QUOTE_COLUMN else []:
                    seen += 1
                    if not program.says(quote):
                        faults.append("%s:%d: the program does not say \"%s\"" % (path, n, quote))
    return faults if seen else ["docs/operate.md:1: no quotation of the program was found in #%s" % QUOTES]


# ---- all of it ----

def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def load(root):
    """The texts of the documents, and of the sources, by path."""
    texts, sources = {}, {}
    for place in PLACES:
        full = os.path.join(root, place)
        files = [os.path.join(d, f) for d, _, names in os.walk(full) for f in names] if os.path.isdir(full) else [full]
        for file in sorted(files):
            if file.endswith(".md") and os.path.isfile(file):
                texts[os.path.relpath(file, root)] = read(file)
    for folder, _, names in os.walk(os.path.join(root, "src")):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                sources[os.path.relpath(os.path.join(folder, name), root)] = read(os.path.join(folder, name))
    return texts, sources


def check(texts, program, there):
    documents = {path: parse(text) for path, text in texts.items()}
    return (check_links(documents, lambda path: there(path) or path in texts) + check_translations(documents)
            + check_commands(documents, program) + check_quotes(documents, program))


# ---- the check of the check ----

README = """# mesh
[Chinese](README.zh-CN.md), `src/proto`, [limits](docs/operate.md#limits)
```
picture of fra-1
```
"""
MANUAL = """# Running
| a | b |
|---|---|
| `status` | [limits](#limits) |

## Limits
* Wait for `derpmesh reload`.
* Go on within 20 s.
```sh
derpmesh map check map.json    # with line and column
docker compose exec -T derpmesh sh -c 'derpmesh status' && sudo derpmesh status --json
docker run --rm derpmesh keygen mesh - >key
```
## When something is wrong
| symptom | ask | it says | do |
|---|---|---|---|
| none | it | `no link to peer … for … s` | wait |
"""
TEXTS = {
    "README.md": README,
    "README.zh-CN.md": README.replace("# mesh", '# <a id="mesh"></a>网').replace("README.zh-CN", "README").replace("picture", "图"),
    "docs/operate.md": MANUAL,
    "docs/operate.zh-CN.md": MANUAL.replace("# Running", '# <a id="running"></a>运行').replace("## Limits", '## <a id="limits"></a>上限')
    .replace("## When", '## <a id="when-something-is-wrong"></a>When').replace("with line and column", "行列"),
}
SOURCES = {
    "src/cli/main.c": '{"map", ""}, {"keygen", ""}, {"status", ""}, {"reload", ""}',
    "src/cli/x.c": '"usage: derpmesh map check|show FILE\\n" "--json", "no link to "\n  "peer %s for %d s"',
}
# Each: file, what is replaced there once, by what, what the fault must say.
WRONG = [
    ("docs/operate.md", "## Limits", "## New\n\n## Limits", "a section was added"),
    ("docs/operate.md", "## Limits", "### Limits", "a section was added"),
    ("docs/operate.md", MANUAL[MANUAL.index("## When"):], "", "has no English twin"),
    ("docs/operate.zh-CN.md", '<a id="limits"></a>', "", "a section was added"),
    ("docs/operate.zh-CN.md", "sudo derpmesh status --json", "derpmesh status", "the commands differ"),
    ("docs/operate.zh-CN.md", "```sh", "```", "a code block of language"),
    ("docs/operate.zh-CN.md", "```sh", "```sh\ntrue\n```\n```sh", "code blocks"),
    ("docs/operate.zh-CN.md", "`derpmesh reload`", "`reload`", "words in code marks"),
    ("docs/operate.zh-CN.md", "within 20 s", "within 18 s", "figures of"),
    ("docs/operate.md", "(#limits)", "(../README.md)", "links of"),
    ("docs/operate.zh-CN.md", "| `status`", "`status`", "rows of tables"),
    ("docs/operate.md", "* Go on", "Go on", "items of lists"),
    ("README.md", "#limits", "#limit", "has no heading #limit"),
    ("README.md", "docs/operate.md", "docs/operat.md", "which is not there"),
    ("README.md", "`src/proto`", "`src/protocols`", "is not there"),
    ("docs/operate.md", "derpmesh reload", "derpmesh relod", "no command derpmesh relod"),
    ("docs/operate.md", "derpmesh map check", "derpmesh map chek", "no command derpmesh map chek"),
    ("docs/operate.md", "derpmesh keygen", "derpmesh keymake", "no command derpmesh keymake"),
    ("docs/operate.md", "sudo derpmesh status --json", "sudo derpmesh status --jso", "has no flag --jso"),
    ("docs/operate.md", "`no link to peer", "`no road to peer", "does not say"),
]
RIGHT = [
    ("docs/operate.zh-CN.md", "# 行列", "# 行与列"),
    ("README.md", "picture of fra-1", "picture of fra-2"),
    ("docs/operate.md", "Go on within", "Go further within"),
]


def self_test():
    """Puts wrong words into small documents: each must be found, and none that is right."""
    program, failed = Program(SOURCES), 0
    for file, old, new, says in [("README.md", "", "", None)] + WRONG + [(*r, None) for r in RIGHT]:
        changed = dict(TEXTS)
        changed[file] = changed[file].replace(old, new, 1)
        found = check(changed, program, lambda path: path == "src/proto")
        if not (any(says in fault for fault in found) if says else not found):
            failed += 1
            print("self-test: %s with %r: expected %s, found %s" % (file, new, says or "no fault", found or "nothing"))
    print("self-test: %d of %d" % (len(WRONG) + len(RIGHT) + 1 - failed, len(WRONG) + len(RIGHT) + 1))
    return failed


def main(argv):
    args = [a for a in argv if a != "--self-test"]
    if len(args) > 1 or any(a.startswith("-") for a in args):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    root = args[0] if args else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    if "--self-test" in argv:
        return 1 if self_test() else 0
    texts, sources = load(root)
    program = Program(sources)
    faults = check(texts, program, lambda path: os.path.exists(os.path.join(root, path)))
    if not program.commands or not texts:
        faults.append("src/cli/main.c:1: no command was read")
    for fault in faults:
        print(fault)
    print("%d documents, %d faults" % (len(texts), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
