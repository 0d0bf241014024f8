"""What can go wrong in a simulated world: probabilities, each for one thing."""

from __future__ import annotations

from dataclasses import dataclass

ENDLESS = 0.3  # of the engine calls that hang: they return after hours, or when the faults are over


@dataclass(frozen=True, slots=True)
class Faults:
    """Per command, call, event or tick, as the name says. All 0: a world in which everything works."""

    # The engine.
    boot_fails: float = 0.0  # the engine says so
    boot_hangs: float = 0.0  # its call returns after minutes or hours, with or without a container
    boot_never_answers: float = 0.0  # the container runs, its zygote never dials
    boot_slow: float = 0.0  # up to a minute and a half
    remove_fails: float = 0.0  # the engine says so, and the container stays
    remove_hangs: float = 0.0  # its call returns after minutes or hours
    resume_fails: float = 0.0
    resume_hangs: float = 0.0  # what its zygote is sent stays unread for minutes
    sandbox_dies: float = 0.0  # while it serves a call
    # The zygote.
    init_fails: float = 0.0
    init_crashes: float = 0.0
    init_hangs: float = 0.0
    fork_never_answers: float = 0.0
    fork_dies: float = 0.0
    kill_ignored: float = 0.0
    # An instance.
    call_crashes: float = 0.0
    call_hangs: float = 0.0
    gone_at_dispatch: float = 0.0  # its end is on the way when it is given a call, which never reaches it
    # What the node hears.
    event_late: float = 0.0  # by seconds: so events come in another order
    event_lost: float = 0.0
    event_twice: float = 0.0  # the second up to minutes later
    event_of_old: float = 0.0  # per tick: something about a sandbox that the pool has removed, or never knew
    # The caller, the node and its machine.
    caller_leaves: float = 0.0
    node_stalls: float = 0.0  # per tick: the node stands still for a while, everything else goes on
    machine_sleeps: float = 0.0  # per tick: everything stands still, for minutes or hours
    node_dies: float = 0.0  # per tick: killed and started again

    @staticmethod
    def stormy() -> Faults:
        """Everything at once, often."""
        return Faults(
            boot_fails=0.1,
            boot_hangs=0.05,
            boot_never_answers=0.05,
            boot_slow=0.1,
            remove_fails=0.1,
            remove_hangs=0.05,
            resume_fails=0.05,
            resume_hangs=0.03,
            sandbox_dies=0.002,
            init_fails=0.05,
            init_crashes=0.03,
            init_hangs=0.02,
            fork_never_answers=0.01,
            fork_dies=0.03,
            kill_ignored=0.05,
            call_crashes=0.02,
            call_hangs=0.01,
            gone_at_dispatch=0.01,
            event_late=0.03,
            event_lost=0.01,
            event_twice=0.05,
            event_of_old=0.02,
            caller_leaves=0.02,
            node_stalls=0.002,
            machine_sleeps=0.0003,
            node_dies=0.0002,
        )
