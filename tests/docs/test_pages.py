"""What the pages show is true: their nets load, their Python prints what it says, their commands and links exist.

The conventions for a page:

- A ```prototxt block whose first line is `# NAME.prototxt` is a file. The tests write it into a folder of the page's
  own. Caffe must load it if it is a net, in phase TEST or else in TRAIN; a solver must parse. Without such a line it is
  a fragment, which must parse.
- A ```python block whose first line is `# NAME.py` is a module in that folder. The other python blocks of a page run in
  order, in one namespace and in that folder. Each print in them is one line of output, and ends in a comment, two
  spaces before it, that says what it prints: `print(1 / 2)  # 0.5`.
- A ```sh block holds commands, one a line, which are parsed but not run. A ```text block is output and not looked at.
- On the pages of WALKTHROUGHS the sh blocks are run too, in order with the python blocks. What they print is not looked
  at. The demo's data are in build/demo. A net may read files that an earlier block makes.
"""

import ast
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import caffe
import pytest
from harness import ROOT
from harness.caffe_command import CAFFE

import pylayers
from pylayers import params

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(path for folder in ("prototxt", "docker") for path in (ROOT / folder).rglob("README.md")),
]

WALKTHROUGHS = [ROOT / "docs/segmentation.md", ROOT / "docs/training.md"]

TESTED = ("prototxt", "python", "sh")
# Languages of blocks that no test looks at. Other names for the tested ones, such as bash, are not among them.
UNTESTED = ("text", "json", "yaml", "toml", "dockerfile", "diff", "cpp", "cuda")

# What a line of a sh block may begin with, besides a script of the clone.
COMMANDS = {
    *("pylayers", "caffe", "make", "docker", "pip", "python", "pytest", "git", "cd", ".", "mkdir", "export"),
    *("cp", "mv", "rm", "ls", "cat", "tar", "head", "tail", "grep", "apt-get", "pipx", "uv", "mpirun", "nvidia-smi"),
}
PREFIXES = {"sudo", "time", "exec"}  # the command follows
FOLDERS = ("benchmarks", "demo", "docker", "docs", "prototxt", "pylayers", "tests")
PATH_IN_CLONE = re.compile(rf"(?:{'|'.join(FOLDERS)})/\S*")

LOAD = """
import sys, caffe
caffe.Net(sys.argv[1], getattr(caffe, sys.argv[2]))
"""

# Reads the page's name, its modules and its blocks. In tracebacks a block has the page's own line numbers.
RUN = """
import importlib, json, os, shutil, subprocess, sys
page, modules, blocks = json.load(sys.stdin)
with_log = {name: value for name, value in os.environ.items() if not name.startswith("GLOG_")}
with_log |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
for module in modules:
    importlib.import_module(module)
namespace = {"__name__": "page"}
for line, language, text in blocks:
    if language == "python":
        exec(compile("\\n" * line + text, page, "exec"), namespace)
        continue
    if "mpirun" in text and not shutil.which("mpirun"):
        continue
    done = subprocess.run(
        ["bash", "-ec", text], env=with_log, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{page}:{line}: ends with {done.returncode}\\n{done.stdout}")
"""


def pylayers_parser():
    """The parser of the command `pylayers`."""
    from pylayers.tools import cli

    return cli.parser()


class Block(NamedTuple):
    """A fenced block of a page; `line` is the number of its first fence, from 1."""

    page: Path
    line: int
    language: str
    text: str

    def name(self, suffix):
        """The name of the file that the block is, or None."""
        found = re.fullmatch(rf"# ([\w-]+{re.escape(suffix)})", self.text.partition("\n")[0])
        return found and found[1]


@functools.cache
def blocks(page):
    """The fenced blocks of a page."""
    found, lines = [], enumerate(page.read_text().splitlines(), 1)
    for number, line in lines:
        fence = re.fullmatch(r"( *)```(.*)", line)
        if not fence:
            continue
        text = []
        for _, inside in lines:
            if inside.strip() == "```":
                break
            text.append(inside.removeprefix(fence[1]) + "\n")
        else:
            raise ValueError(f"{page}:{number}: this block has no end")
        found.append(Block(page, number, fence[2].strip(), "".join(text)))
    return found


def prose(page):
    """The text of a page with empty lines for the fenced blocks, so that line numbers hold."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        for index in range(block.line - 1, block.line + 1 + block.text.count("\n")):
            lines[index] = ""
    return "\n".join(lines)


def without_code(text):
    """The text without what stands in backticks."""
    return re.sub(r"(`+).+?\1", "", text)


def title(page):
    return str(page.relative_to(ROOT))


def each_page(pages=PAGES):
    return pytest.mark.parametrize("page", pages, ids=title)


def each_block(language):
    found = [block for page in PAGES for block in blocks(page) if block.language == language]
    return pytest.mark.parametrize(
        "block", found, ids=[f"{title(block.page)}:{block.line} {language}" for block in found]
    )


def write_files(page, folder):
    """Writes the page's named blocks into `folder`, beside links to the clone's prototxt and demo."""
    for name in ("prototxt", "demo", "build/demo"):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
    for block in blocks(page):
        name = block.name(".prototxt") or block.name(".py")
        if name:
            (folder / name).write_text(block.text)


def run_python(program, *arguments, folder, given=""):
    """Runs a program in a process of its own, since Caffe ends the process when something is wrong."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PATH": commands},
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
    )


def end_of(output):
    """The last lines of what a process wrote, without the trace of the C++ stack."""
    return "\n".join(output.partition("*** Check failure stack trace")[0].splitlines()[-12:])


def prints(block):
    """The line in the page and the comment of each print of a block; None for a missing comment."""
    lines = block.page.read_text().splitlines()
    tree = ast.parse("\n" * block.line + block.text, str(block.page))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for line in sorted(call.end_lineno for call in calls if call.func.id == "print"):
        comment = re.search(r"\)  # (.*)$", lines[line - 1])
        yield line, comment and comment[1]


def parse(text):
    """A prototxt's message, NetParameter or SolverParameter."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, caffe_pb2.NetParameter())
    except text_format.ParseError as error:
        try:
            return text_format.Parse(text, caffe_pb2.SolverParameter())
        except text_format.ParseError as other:
            pytest.fail(f"neither a net: {error}\nnor a solver: {other}")


@each_page()
def test_blocks_have_known_languages_and_names_of_their_own(page):
    names = []
    for block in blocks(page):
        assert block.language in TESTED + UNTESTED, f"{title(page)}:{block.line}: a block of {block.language!r}"
        name = block.name(".prototxt") or block.name(".py")
        assert name not in names, f"{title(page)}:{block.line}: a second {name}"
        names += [name] if name else []


@each_block("prototxt")
def test_prototxt(block, tmp_path):
    kind = parse(block.text).DESCRIPTOR.name
    for layer in getattr(parse(block.text), "layer", ()):
        assert not layer.type or layer.type in list(caffe.layer_type_list()), f"Caffe has no layer {layer.type!r}"
        if layer.python_param.module == "pylayers":  # a fragment is not loaded, but what it says of the kit holds
            params.parse(layer.python_param.param_str, getattr(pylayers, layer.python_param.layer).OPTIONS)
    name = block.name(".prototxt")
    if not name or kind != "NetParameter" or block.page in WALKTHROUGHS:
        return
    write_files(block.page, tmp_path)
    for phase in ("TEST", "TRAIN"):
        process = run_python(LOAD, name, phase, folder=tmp_path)
        if process.returncode == 0:
            return
    pytest.fail(f"Caffe does not load {name}, ends with {process.returncode}:\n{end_of(process.stderr)}")


@each_page([page for page in PAGES if any(block.language == "python" for block in blocks(page))])
@pytest.mark.usefixtures("demo_data")
def test_python(page, tmp_path):
    if page in WALKTHROUGHS and CAFFE is None:
        pytest.skip("this Caffe has no caffe command on PATH")
    write_files(page, tmp_path)
    python = [block for block in blocks(page) if block.language == "python"]
    modules = [block.name(".py").removesuffix(".py") for block in python if block.name(".py")]
    code = [block for block in python if not block.name(".py")]
    run = code
    if page in WALKTHROUGHS:
        run = [block for block in blocks(page) if block in code or block.language == "sh"]
    expected = [comment for block in code for comment in prints(block)]
    for line, text in expected:
        assert text is not None, f"{title(page)}:{line}: no comment says what this prints"
    given = json.dumps([str(page), modules, [(block.line, block.language, block.text) for block in run]])
    process = run_python(RUN, folder=tmp_path, given=given)
    if "CUDA driver version is insufficient" in process.stderr + process.stdout:
        pytest.skip("a Caffe for CUDA starts no Data layer without a driver")
    assert process.returncode == 0, f"ends with {process.returncode}:\n{end_of(process.stderr)}"
    found = process.stdout.splitlines()
    for (line, text), printed in zip(expected, found):
        assert printed == text, f"{title(page)}:{line}: another output"
    assert len(found) == len(expected), f"{len(found)} lines printed, {len(expected)} expected"


@each_block("sh")
def test_commands(block):
    for command in re.sub(r"\\\n", " ", block.text).splitlines():
        for words in simple_commands(command):
            check_command(words)


def simple_commands(line):
    """The words of each command of a line, without comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words, skip = [], False
    for word in [*lexer, ";"]:
        if skip:
            skip = False
        elif word in ("|", "||", "&", "&&", ";"):
            if words:
                yield words
            words = []
        elif set(word) <= set("<>&"):
            skip = True
            words = words[:-1] if words and words[-1] in ("1", "2") else words
        else:
            words.append(word)


def check_caffe(arguments):
    """Caffe's command and its flags, which tools/caffe.cpp defines."""
    flags = "gpu solver model phase level stage snapshot weights iterations sigint_effect sighup_effect version help"
    for word in arguments:
        flag = re.match(r"--?(\w+)", word)
        assert not flag or flag[1] in flags.split(), f"caffe has no flag {word!r}"
    first = arguments[0]
    assert first.startswith("-") or first in ("train", "test", "time", "device_query"), (
        f"caffe has no command {first!r}"
    )


def check_command(words):
    for word in words:
        for path in re.findall(rf"(?:^|(?<=[=:@])){PATH_IN_CLONE.pattern}", word):
            check_path(path.partition(":")[0])
    while words and (words[0] in PREFIXES or re.match(r"\w+=", words[0])):
        words = words[1:]
    if not words:
        return
    command, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    assert command in COMMANDS or PATH_IN_CLONE.fullmatch(command), f"{command!r} is no command that the pages use"
    if command == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for target in arguments:
            assert target in targets or target.startswith("-") or "=" in target, f"make has no target {target!r}"
    if command == "caffe" and arguments:
        check_caffe(arguments)
    if command == "pylayers":
        try:
            pylayers_parser().parse_args(arguments)
        except SystemExit as error:
            if error.code:  # 0 after --help
                pytest.fail(f"pylayers {shlex.join(arguments)}: ends with {error.code}")
        except Exception as error:
            pytest.fail(f"pylayers {shlex.join(arguments)}: {error}")


def check_path(path):
    if "<" not in path and "*" not in path:
        assert (ROOT / path).exists(), f"there is no {path}"


@each_page()
def test_paths_in_backticks_exist(page):
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        path = PATH_IN_CLONE.match(code)
        if path:
            check_path(re.sub(r":[:\d].*", "", path[0]))


@each_page()
def test_links_lead_somewhere(page):
    text = without_code(prose(page))
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    links += re.findall(r"^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)", text, re.MULTILINE)
    links += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the clone"
        assert target.exists(), f"{link}: no such file"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


@functools.cache
def anchors(page):
    """The names that GitHub gives to a page's headings."""
    found = []
    for heading in re.findall(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", prose(page), re.MULTILINE):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = "".join(letter for letter in text.lower() if in_anchor(letter)).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{number}" if number else slug)
    return found


def in_anchor(letter):
    """Whether GitHub keeps it: letters, digits and marks, but no ½ and no ²."""
    return letter in "- " or unicodedata.category(letter) in {
        "Ll",
        "Lm",
        "Lo",
        "Lt",
        "Lu",
        "Mc",
        "Me",
        "Mn",
        "Nd",
        "Pc",
    }


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
