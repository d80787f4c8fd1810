"""`pylayers train`: what `caffe train` does, in one process or in several that MPI starts."""

import os
import signal
import sys
import traceback

from pylayers.errors import UserError
from pylayers.tools import arguments

HELP = "train a net as caffe train does, with mpirun in several processes"
EXAMPLE = """\
example:
  pylayers train --solver solver.prototxt
  mpirun -n 4 pylayers train --solver solver.prototxt

Options and log are those of caffe train. With mpirun each process takes its own part of the data, and the processes'
gradients are averaged: 4 processes with a batch of 16 take steps as one with a batch of 64. To mpirun's processes
SIGUSR1 means snapshot, SIGUSR2 snapshot and stop."""
EFFECTS = ("stop", "snapshot", "none")


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("--solver", required=True, metavar="FILE", help="the solver's prototxt")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--snapshot", metavar="FILE", help="go on from this .solverstate")
    start.add_argument("--weights", metavar="FILE[,FILE]", help="begin with the parameters of these .caffemodel files")
    parser.add_argument(
        "--gpu", type=arguments.gpus, metavar="N[,N]", help="the GPU; with mpirun that of each local rank"
    )
    parser.add_argument("--level", type=int, default=0, metavar="N", help="the net's level; default: 0")
    parser.add_argument("--stage", metavar="NAME[,NAME]", help="the net's stages")
    for name, default in (("sigint", "stop"), ("sighup", "snapshot")):
        option = f"--{name}_effect"
        parser.add_argument(option, choices=EFFECTS, default=default, help=f"of {name.upper()}; default: {default}")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status, 0.

    Raises:
        UserError: a file is missing or is no solver, or snapshots cannot be written.
    """
    from pylayers.train import ranks as all_ranks

    ranks = all_ranks.find()
    try:
        return _train(options, ranks)
    except UserError as error:
        if ranks.count == 1:
            raise
        print(f"pylayers train: {error}", file=sys.stderr)
        ranks.fail(2)
    except BaseException:
        if ranks.count == 1:
            raise
        traceback.print_exc()
        ranks.fail(1)


def _train(options, ranks):
    import caffe

    from pylayers.train import loop, snapshots, solver

    param = solver.read(options.solver)
    for path in (options.snapshot, *(options.weights or "").split(",")):
        if path and not os.path.isfile(path):
            raise UserError(f"there is no file {path}")
    if param.snapshot or param.snapshot_after_train:
        snapshots.check(param)
    if options.snapshot or options.weights:
        del param.weights[:]
        param.weights.extend([options.weights] if options.weights else [])
    param.train_state.level = options.level
    param.train_state.stage.extend(options.stage.split(",") if options.stage else [])
    caffe.init_log(0, True)
    _choose_device(options, param, ranks)
    if ranks.count > 1:
        caffe.set_solver_count(ranks.count)
        caffe.set_solver_rank(ranks.number)
        caffe.set_multiprocess(True)
    signals = Signals(options, loop.REQUESTS)
    made = solver.make(param)
    if options.snapshot:
        made.restore(options.snapshot)
    loop.Training(made, param, ranks, signals.take).run()
    return 0


def _choose_device(options, param, ranks):
    import caffe

    gpus = options.gpu
    if gpus is None and param.HasField("solver_mode") and param.solver_mode == param.GPU:
        gpus = str(param.device_id)
    if gpus is None:
        caffe.set_mode_cpu()
        return
    numbers = gpus.split(",")
    if len(numbers) > ranks.count or "all" in numbers:
        raise UserError(
            f"--gpu {gpus} with {ranks.count} process{'es' if ranks.count > 1 else ''}: each process has one GPU; "
            f"mpirun -n {max(2, len(numbers))} pylayers train --gpu {gpus} ... starts as many"
        )
    caffe.set_device(int(numbers[ranks.number % len(numbers)]))
    caffe.set_mode_gpu()


class Signals:
    """What signals have asked for."""

    def __init__(self, options, requests):
        """Takes the options ``sigint_effect`` and ``sighup_effect``, and the requests there are, by their urgency."""
        self._asked, self._requests = 0, requests
        effects = {
            signal.SIGINT: options.sigint_effect,
            signal.SIGHUP: options.sighup_effect,
            signal.SIGUSR1: "snapshot",
            signal.SIGUSR2: "stop",
        }
        for number, effect in effects.items():
            signal.signal(number, lambda *_, effect=effect: self._note(effect))

    def _note(self, effect):
        self._asked = max(self._asked, self._requests.index(effect))

    def take(self):
        """What was asked for since the last call: the index of the most urgent request."""
        asked, self._asked = self._asked, 0
        return asked
