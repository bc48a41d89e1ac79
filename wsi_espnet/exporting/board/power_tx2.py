#!/usr/bin/env python3
"""Measures what the board draws while a command runs: watts, and joules per frame. For Python 3.6 and later.

    sudo python3 power_tx2.py --frames 100 -- python3 run_tx2.py --check --frames 100

Reads the INA3221 sensors of a Jetson TX2 (mW, by the names that the board gives its rails). First the idle board is
measured, then the command. Of each rail: watts idle, watts busy, and the difference. The ESPNet poster reports watts
without saying which rail and whether idle was subtracted, so all of it is printed. Frames are those that the command
computes, its warm-up included; loading is part of the busy time, so let it compute some hundreds.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import threading
import time

SENSORS = "/sys/bus/i2c/drivers/ina3221x"
INTERVAL_S = 0.05


def find_rails(root):
    """File of the power in mW, by the name of the rail."""
    rails = {}
    for path in sorted(glob.glob(os.path.join(root, "*", "iio:device*", "in_power*_input"))):
        number = os.path.basename(path)[len("in_power") : -len("_input")]
        with open(os.path.join(os.path.dirname(path), "rail_name_" + number)) as file:
            rails[file.read().strip()] = path
    return rails


def read_watts(rails):
    """Watts of each rail, now."""
    watts = {}
    for name, path in rails.items():
        with open(path) as file:
            watts[name] = int(file.read()) / 1000.0
    return watts


class Sampler(threading.Thread):
    """Reads the rails until it is stopped."""

    def __init__(self, rails, interval_s=INTERVAL_S):
        super().__init__(daemon=True)
        self.rails, self.interval_s = rails, interval_s
        self.samples = []
        self.stopped = threading.Event()

    def run(self):
        while True:
            self.samples.append(read_watts(self.rails))
            if self.stopped.wait(self.interval_s):
                return

    def stop(self):
        """The mean watts of each rail."""
        self.stopped.set()
        self.join()
        return {name: sum(s[name] for s in self.samples) / len(self.samples) for name in self.rails}


def sample_idle(rails, seconds):
    sampler = Sampler(rails)
    sampler.start()
    time.sleep(seconds)
    return sampler.stop()


def sample_command(rails, command):
    """Mean watts while a command runs, and how long it ran in s."""
    sampler = Sampler(rails)
    started = time.time()
    sampler.start()
    status = subprocess.call(command)
    seconds = time.time() - started
    watts = sampler.stop()
    if status != 0:
        raise SystemExit("error: the command ended with status {}; nothing was measured".format(status))
    return watts, seconds


def report(idle, busy, seconds, frames):
    """Figures of each rail: W idle, W busy, W more, J per frame (whole, and above idle)."""
    return {
        name: {
            "idle_w": idle[name],
            "busy_w": busy[name],
            "more_w": busy[name] - idle[name],
            "joules_per_frame": busy[name] * seconds / frames,
            "joules_per_frame_above_idle": (busy[name] - idle[name]) * seconds / frames,
        }
        for name in busy
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, required=True, help="frames that the command computes")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of the idle board first [5]")
    parser.add_argument("--sensors", default=SENSORS, help="folder of the sensors [{}]".format(SENSORS))
    parser.add_argument("--json", help="write the figures into this file too")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command or given.frames < 1 or given.idle <= 0:
        parser.error("give --frames of 1 or more, --idle above 0, and a command after --")
    rails = find_rails(given.sensors)
    if not rails:
        raise SystemExit(
            "error: no INA3221 rails below {}; this is no Jetson TX2, or they need sudo".format(given.sensors)
        )
    idle = sample_idle(rails, given.idle)
    busy, seconds = sample_command(rails, command)
    found = report(idle, busy, seconds, given.frames)
    print("{:.1f} s, {} frames, {:.1f} frames per second".format(seconds, given.frames, given.frames / seconds))
    print("{:<14}{:>9}{:>9}{:>9}{:>11}{:>14}".format("rail", "idle W", "busy W", "more W", "J/frame", "above idle"))
    for name, row in found.items():
        print(
            "{:<14}{:>9.2f}{:>9.2f}{:>9.2f}{:>11.3f}{:>14.3f}".format(
                name,
                row["idle_w"],
                row["busy_w"],
                row["more_w"],
                row["joules_per_frame"],
                row["joules_per_frame_above_idle"],
            )
        )
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"seconds": seconds, "frames": given.frames, "rails": found}, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
