"""What signals ask of a training: flags, of which several may be set."""

import signal

NONE, SNAPSHOT, STOP = 0, 1, 2
EFFECTS = {"stop": STOP, "snapshot": SNAPSHOT, "none": NONE}


class Signals:
    """What signals have asked for. SIGUSR1 and SIGUSR2 are those that mpirun passes on."""

    def __init__(self, sigint, sighup):
        """Takes the effects of SIGINT and SIGHUP, which are keys of EFFECTS, and hears from now on."""
        self._asked = NONE
        effects = {
            signal.SIGINT: EFFECTS[sigint],
            signal.SIGHUP: EFFECTS[sighup],
            signal.SIGUSR1: SNAPSHOT,
            signal.SIGUSR2: SNAPSHOT | STOP,
        }
        for number, effect in effects.items():
            signal.signal(number, lambda *_, effect=effect: self._note(effect))

    def _note(self, effect):
        self._asked |= effect

    @staticmethod
    def end_quietly():
        """Ends at SIGTERM, by which mpirun ends all ranks, without the stack that Caffe's log has set up to write."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def take(self):
        """What was asked for since the last call."""
        asked, self._asked = self._asked, NONE
        return asked
