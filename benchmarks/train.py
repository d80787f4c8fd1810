"""Times `pylayers train` with one process, with two, and with one that has two threads; run it by `make bench-train`.

Each number is a median over rounds in which the ways of training take turns. Two processes have twice the images an
iteration of one; one process with two threads has as many as two processes.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pylayers.tools import report

BIN = Path(sys.prefix) / "bin"
DATA = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: {batch} dim: {channels} dim: {size} dim: {size} }} shape {{ dim: {batch} }}
  data_filler {{ type: "gaussian" }} data_filler {{ value: 1 }} }} }}
"""
LOSS = """
layer { name: "loss" type: "Python" bottom: "scores" bottom: "label" top: "loss" loss_weight: 1
  python_param { module: "pylayers" layer: "WeightedSoftmaxLossLayer" } }
"""
SOLVER = """
net: "{net}" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: {iterations} display: {display}
snapshot_after_train: false random_seed: 1
"""


def convolution(name, bottom, outputs, kernel, more=""):
    """A convolution."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
        f'num_output: {outputs} kernel_size: {kernel} {more} weight_filler {{ type: "xavier" }} }} }}\n'
    )


def pooling(name, bottom, more="kernel_size: 2 stride: 2"):
    """A pooling."""
    return f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" pooling_param {{ {more} }} }}\n'


def inner_product(name, bottom, outputs):
    """A fully connected layer."""
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" inner_product_param {{ '
        f'num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}\n'
    )


def relu(blob):
    """A ReLU in place."""
    return f'layer {{ name: "{blob}_relu" type: "ReLU" bottom: "{blob}" top: "{blob}" }}\n'


def lenet():
    """The layers of Caffe's LeNet: 431,000 parameters, most in one fully connected layer."""
    text = convolution("conv1", "data", 20, 5) + pooling("pool1", "conv1")
    text += convolution("conv2", "pool1", 50, 5) + pooling("pool2", "conv2")
    return text + inner_product("ip1", "pool2", 500) + relu("ip1") + inner_product("scores", "ip1", 10)


def convolutions():
    """Six convolutions of 3×3 on images of 32×32: few parameters, much to compute."""
    text, bottom = "", "data"
    for number, outputs in enumerate((32, 32, 64, 64, 128, 128), 1):
        text += convolution(f"conv{number}", bottom, outputs, 3, "pad: 1") + relu(f"conv{number}")
        bottom = f"conv{number}"
        if number in (2, 4):
            text += pooling(f"pool{number}", bottom)
            bottom = f"pool{number}"
    return text + pooling("mean", bottom, "pool: AVE global_pooling: true") + inner_product("scores", "mean", 10)


def fully_connected():
    """Four layers of 2048×2048: 16.8 million parameters, little to compute for each."""
    names = ["data", "ip1", "ip2", "ip3", "ip4"]
    text = "".join(inner_product(name, bottom, 2048) + relu(name) for bottom, name in zip(names, names[1:]))
    return text + inner_product("scores", "ip4", 10)


# Name, layers, the data's channels and size, the batch of a process, iterations.
NETS = {
    "LeNet": (lenet, 1, 28, 64, 150),
    "six convolutions": (convolutions, 3, 32, 32, 25),
    "fully connected": (fully_connected, 2, 32, 64, 25),
}
# Name, processes, threads of each, batches of a process.
WAYS = {"one": (1, 1, 1), "two processes": (2, 1, 1), "two threads": (1, 2, 2)}


def measure(net, way):
    """Trains once; images a second, and the share of the time in communication."""
    layers, channels, size, batch, iterations = NETS[net]
    processes, threads, batches = WAYS[way]
    batch *= batches
    display = iterations // 5
    Path("net.prototxt").write_text(DATA.format(batch=batch, channels=channels, size=size) + layers() + LOSS)
    Path("solver.prototxt").write_text(SOLVER.format(net="net.prototxt", iterations=iterations, display=display))
    launch = [BIN / "mpirun", "-n", processes, "--bind-to", "none"] if processes > 1 else []
    command = [*launch, BIN / "pylayers", "train", "--solver", "solver.prototxt"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **root, "OMP_NUM_THREADS": str(threads), "GLOG_minloglevel": "0"}
    log = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=True).stderr
    speeds = [float(speed) for speed in re.findall(r"\((\S+) iter/s", log)][1:]  # the first begins with nothing done
    share = re.search(r"(\S+) % of the time", log)
    return statistics.median(speeds) * batch * processes, float(share[1]) / 100 if share else 0.0


def rows(rounds):
    """A row for each net: the medians, and ratios taken within a round."""
    for net in NETS:
        found = [{way: measure(net, way) for way in WAYS} for _ in range(rounds)]
        ratios = {
            way: sorted(each[way][0] / each["one"][0] for each in found) for way in ("two processes", "two threads")
        }
        row = {"net": net, "batch": NETS[net][3]}
        for way in WAYS:
            row[way] = {"images_per_s": statistics.median(each[way][0] for each in found)}
        for way, values in ratios.items():
            row[way] |= {"ratio": statistics.median(values), "ratios": values}
        row["two processes"]["communication"] = statistics.median(each["two processes"][1] for each in found)
        print(
            f"{net}: {row['one']['images_per_s']:.0f} images/s; two processes {row['two processes']['ratio']:.2f} times"
            f" as many, {row['two processes']['communication']:.1%} of the time in communication; one process with two"
            f" threads {row['two threads']['ratio']:.2f} times",
            flush=True,
        )
        yield row


def main():
    """Measures, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="write the result here")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    options = parser.parse_args()
    target = Path(options.json).absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = list(rows(options.rounds))
    target.write_text(json.dumps({"rows": found, "machine": report.machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
