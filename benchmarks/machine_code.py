"""Counts the instructions that NVRTC makes of each CUDA kernel, without a GPU.

It needs CuPy, NVIDIA's NVRTC and nvdisasm (the package nvidia-cuda-nvdisasm): `make test` brings the first two.

    .venv/bin/python -m pip install nvidia-cuda-nvdisasm
    .venv/bin/python benchmarks/machine_code.py --json benchmarks/machine-code-sm_90.json

For each shape it takes the variant that a layer would launch on a GPU with 132 multiprocessors, and gives:

- the registers of a thread;
- "an element": instructions for each score or channel in the innermost loop over them; "–" where a thread has so few
  that there is no such loop;
- "around": instructions of the loop around it, once a position;
- "a position": both together, for all elements that a thread has of a position.

Each instruction of a loop is counted once, also those in branches that a net does not take, such as weights, or that it
takes once, such as the reads of a chunk that is not full. So the numbers are upper bounds.

machine-code-sm_90-before.json has what this counted at commit 365e11b, where a softmax kernel kept all scores in
registers.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")

from cupy_backends.cuda.libs import nvrtc

from pylayers.runtime import geometry
from pylayers.tools import report
from pylayers.tools.bench import cpu
from pylayers.tools.twins import Case

PROCESSORS = 132
CASES = (
    Case("softmax", (8192, 1000)),
    Case("softmax", (256, 50257)),
    Case("softmax", (16, 21, 256, 256)),
    Case("softmax", (8, 2, 512, 512)),
    Case("channel-sum", (16, 32, 128, 128), target=(16, 32, 128, 128)),
    Case("channel-sum", (16, 3, 512, 512), target=(16, 1, 512, 512)),
)
# What CuPy 14 adds, and what makes the compiler say the registers.
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")
ELEMENTS = {"": 1, ".64": 2, ".128": 4}  # floats of a load or store by its width


def cubin(kernels, macros, architecture):
    """A variant's machine code, and what the compiler says of it."""
    program = nvrtc.createProgram(kernels.source, "kernels.cu", (), ())
    nvrtc.compileProgram(program, (*kernels.options(macros.items()), f"-arch={architecture}", *OPTIONS))
    # CuPy cuts off the last byte, which is 0.
    return nvrtc.getCUBIN(program) + b"\0", nvrtc.getProgramLog(program)


def disassemble(binary):
    """A dict from each kernel to its instructions and its loops."""
    tool = next(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm"), "nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    return {name: parse(text.split(f".text.{name}:")[1].split(".section")[0]) for name in ("forward", "backward")}


def parse(text):
    """A kernel's instructions, and its loops, a range of them each."""
    code, labels = [], {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            code.append(found[1].strip())
    loops = []
    for place, instruction in enumerate(code):
        target = re.search(r"\bBRA\b.*?(\.L_\w+)", instruction)
        if target and labels.get(target[1], place) < place:
            loops.append(range(labels[target[1]], place + 1))
    return code, loops


def moved(code, kind):
    """How many floats instructions of a kind, LDG or STG, move in a thread."""
    found = re.findall(rf"\b{kind}\.E(\.64|\.128)?[ ]", "\n".join(code))
    return sum(ELEMENTS[width] for width in found)


def count(name, code, loops, chunk):
    """A kernel's instructions an element in the innermost loop, those around, and how many elements the latter have.

    The loop goes over `chunk` elements at once, or over as many as it loads or stores. The first chunk may lie before
    the loop.
    """

    def own(loop):
        inside = {place for each in loops if each != loop and loop.start <= each.start < loop.stop for place in each}
        return [code[place] for place in loop if place not in inside]

    tile = max(loops, key=len)
    best = 0
    for loop in loops:
        body = own(loop)
        loaded, stored = moved(body, "LDG"), moved(body, "STG")
        # In forward the loop that stores writes prob, which is seldom wanted.
        if loop != tile and max(loaded, stored) >= 4 and (name == "backward" or not stored):
            best = max(best, len(body) / min(chunk, max(loaded, stored)))
    return best, len(own(tile)), chunk if best and moved(own(tile), "LDG") > chunk else 0


def measure(case, architecture):
    """A row for each kernel of a case, a dict for JSON."""
    net = cpu.caffe_calls(case)["python"]["forward"].func.__self__
    layer = net.layers[list(net._layer_names).index("loss")]
    plan = layer.plan(PROCESSORS)
    binary, log = cubin(layer.KERNELS, plan.macros, architecture)
    registers = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL))
    elements = (case.shape[1] + (case.target[1] if case.target else 0)) / (1 << plan.fields["row_bits"])
    chunk = geometry.CHUNK * (2 if case.target else 1)  # the channel sum's forward reads one of both blobs
    for name, (code, loops) in disassemble(binary).items():
        element, around, first = count(name, code, loops, chunk)
        row = {"pair": case.pair, "shape": list(case.shape), "kernel": name, "variant": plan.macros}
        row["registers"] = int(registers[name])
        yield {
            **row,
            "an_element": element or None,
            "around": around,
            "a_position": around + element * max(0, elements - first),
        }


def main():
    """Compiles, counts, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", default="sm_90", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    rows = [row for case in CASES for row in measure(case, options.arch)]
    columns = ["loss", "shape", "kernel", "registers", "an element", "around", "a position"]
    texts = [
        [
            row["pair"],
            "×".join(map(str, row["shape"])),
            row["kernel"],
            str(row["registers"]),
            f"{row['an_element']:.1f}" if row["an_element"] else "–",
            str(row["around"]),
            f"{row['a_position']:.0f}",
        ]
        for row in rows
    ]
    report.print_table(f"Instructions of a thread, {options.arch}", columns, texts, left=3)
    if options.json:
        options.json.write_text(json.dumps({"arch": options.arch, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
