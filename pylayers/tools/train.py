"""`pylayers train`: what `caffe train` does, in one process or in several that MPI starts."""

import argparse
import contextlib
import os
import traceback

from pylayers.errors import UserError
from pylayers.tools import device
from pylayers.train.requests import EFFECTS, Signals

HELP = "train a net as caffe train does, with mpirun in several processes"
EXAMPLE = """\
example:
  pylayers train --solver solver.prototxt
  mpirun -n 4 --bind-to none pylayers train --solver solver.prototxt

Options and log are those of caffe train. With mpirun each process takes its own part of the data, and the processes'
gradients are averaged: 4 processes with a batch of 16 take steps as one with a batch of 64. To mpirun's processes
SIGUSR1 means snapshot, SIGUSR2 snapshot and stop."""


def add_arguments(parser):
    """The command's arguments."""

    def add(name, **more):
        parser_of = more.pop("into", parser)
        parser_of.add_argument(f"--{name}", f"-{name}", **more)  # caffe takes both forms

    add("solver", required=True, metavar="FILE", help="the solver's prototxt")
    start = parser.add_mutually_exclusive_group()
    add("snapshot", into=start, metavar="FILE", help="go on from this .solverstate")
    add("weights", into=start, metavar="FILE[,FILE]", help="begin with the parameters of these .caffemodel files")
    what = "the GPU; of several processes on a host one each, or local: 0, 1, ..."
    add("gpu", type=gpus, metavar="N[,N]", help=what)
    add("level", type=int, default=0, metavar="N", help="the net's level; default: 0")
    add("stage", metavar="NAME[,NAME]", help="the net's stages")
    for name, default in (("sigint", "stop"), ("sighup", "snapshot")):
        add(f"{name}_effect", choices=EFFECTS, default=default, help=f"of {name.upper()}; default: {default}")
    for option, what in {
        "--restart-data": "after --snapshot begin the data anew, as caffe train does",
        "--allow-nan": "go on where the loss is NaN",
        "--same-data": "several processes may read the same rows",
        "--local-normalizer": "divide each process's losses by its own Z, as Caffe's own layers do",
        "--timing": "say at the end what the processes have sent each other, layer by layer",
    }.items():
        parser.add_argument(option, action="store_true", help=what)


def gpus(text):
    """GPU numbers as `caffe train --gpu` takes them, or "local"."""
    if text == "local" or all(number.isdecimal() for number in text.split(",")):
        return text
    raise argparse.ArgumentTypeError(f"must be GPU numbers, such as 0 or 0,1, or local, found {text!r}")


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

    signals = Signals(options.sigint_effect, options.sighup_effect)
    ranks = all_ranks.find()
    # Before Caffe is imported, as BLAS reads it then.
    os.environ.setdefault("OMP_NUM_THREADS", str(ranks.threads()))
    try:
        return _train(options, ranks, signals)
    except UserError as error:
        if ranks.count == 1:
            raise
        ranks.fail(2, f"pylayers train: {error}")
    except Exception:
        if ranks.count == 1:
            raise
        ranks.fail(1, traceback.format_exc().rstrip())


def _train(options, ranks, signals):
    device.import_caffe()
    import caffe

    from pylayers.runtime import reduction
    from pylayers.train import agreement, c_rand, data, loop, solver
    from pylayers.train.notes import notes

    param = _solver_parameter(options, ranks)
    nets = solver.nets(param)
    for net in nets:
        data.check_net(net, ranks)
    if ranks.count > 1 and not options.same_data:
        data.check_dealt(nets[0].layer, ranks)
    caffe.init_log(0, True)
    signals.end_quietly()
    options.is_gpu = _choose_device(options, param, ranks)
    if ranks.count > 1:
        caffe.set_solver_count(ranks.count)
        caffe.set_solver_rank(ranks.number)
        caffe.set_multiprocess(True)
        if not options.local_normalizer:
            reduction.ranks = ranks
    made = solver.make(param, nets[0])
    numbers = c_rand.OwnNumbers().using if ranks.count > 1 else contextlib.nullcontext
    agreement.check(made, param, nets, options, ranks)
    for note in notes(nets[0].layer, made.net, ranks, options.local_normalizer):
        if ranks.number == 0:
            caffe.log(note)
    if options.snapshot:
        made.restore(options.snapshot)
        if not options.restart_data:
            data.Position(made, param, nets, ranks, numbers).go_to(made.iter)
            if ranks.count > 1 and ranks.number == 0:
                caffe.log(
                    f"The data go on as after {made.iter} iterations of {ranks.count} processes. Where another number "
                    "of them has written this snapshot, their order differs"
                )
    loop.Training(made, param, nets[0], ranks, signals.take, options, numbers).run()
    return 0


def _solver_parameter(options, ranks):
    """The solver's prototxt with the command's options."""
    from pylayers.train import snapshots, solver

    param = solver.read(options.solver)
    for path in (options.snapshot, *(options.weights or "").split(",")):
        if path and not os.path.isfile(path):
            raise UserError(f"there is no file {path}")
    if options.snapshot:
        snapshots.check_state(options.snapshot)
    if ranks.number == 0 and (param.snapshot or param.snapshot_after_train):
        snapshots.check(param)
    if options.snapshot or options.weights:
        del param.weights[:]
        param.weights.extend([options.weights] if options.weights else [])
    param.train_state.level = options.level
    param.train_state.stage.extend(options.stage.split(",") if options.stage else [])
    return param


def _choose_device(options, param, ranks):
    """Puts Caffe into the mode that is asked for; says whether it is that of a GPU."""
    import caffe

    from pylayers.runtime import blobs

    chosen = options.gpu
    if chosen is None and param.HasField("solver_mode") and param.solver_mode == param.GPU:
        chosen = "local" if ranks.count > 1 else str(param.device_id)
    if chosen is None:
        caffe.set_mode_cpu()
        return False
    if not blobs.CUDA_BUILD:
        raise UserError("this Caffe is built for the CPU alone; --gpu and solver_mode: GPU need one built with CUDA")
    numbers = ranks.local_gpus() if chosen == "local" else chosen.split(",")
    if len(numbers) != ranks.local_count:
        raise UserError(
            f"each process has one GPU; on {ranks.host} the number of processes is {ranks.local_count}, and --gpu "
            f"{chosen} has {len(numbers)}: mpirun -n {len(numbers)} pylayers train --gpu {chosen}, or --gpu local, by "
            "which each takes its own"
        )
    caffe.set_device(int(numbers[ranks.local_number]))
    caffe.set_mode_gpu()
    return True
