"""What every benchmark record says of itself; bench/record/README.md has the fields."""

import datetime
import json
import os
import platform
import subprocess
import time


def make_record(command, machine, results):
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    return {
        "command": command,
        "commit": git.stdout.strip(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "results": results,
    }


# Of what processors say of themselves, the widest that kernels here are made for.
SETS = {"avx512_vnni": "AVX-512 with VNNI", "avx512bw": "AVX-512", "avx2": "AVX2", "sse4_1": "SSE4.1"}


def machine():
    """Processor, its instruction set where there are several, cores and system of this machine."""
    with open("/proc/cpuinfo") as lines:
        fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    flags = fields.get("flags", "").split()
    widest = [name for flag, name in SETS.items() if flag in flags][:1]
    parts = [fields.get("model name", platform.machine()), *widest, f"{os.cpu_count()} cores"]
    return ", ".join([*parts, f"{platform.system()} {platform.release()}"])


class Load:
    """What others made the processors of this machine do since this was made: the busy share of all of them that is neither ours nor
    our finished children's."""

    def __init__(self):
        self.began, self.busy, self.own = time.monotonic(), *self.seconds()

    def share(self):
        busy, own = self.seconds()
        spent = (time.monotonic() - self.began) * os.cpu_count()
        return max(0.0, (busy - self.busy - (own - self.own)) / spent)

    @staticmethod
    def seconds():
        """Busy seconds of all processors, and of this process and its finished children."""
        with open("/proc/stat") as lines:
            fields = [int(field) for field in next(lines).split()[1:]]
        busy = sum(fields) - fields[3] - fields[4]
        return busy / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def wait_until_quiet(share, seconds):
    """Waits, for some seconds at most, until others use less than `share` of the processors."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load = Load()
        time.sleep(0.25)
        if load.share() < share:
            return


def peer():
    """llama.cpp as it was installed: what the compiler was told beside that it is for this machine stands in CFLAGS then and now."""
    import llama_cpp

    flags = os.environ.get("CFLAGS")
    return f"llama-cpp-python {llama_cpp.__version__}" + (f" (CFLAGS {flags})" if flags else "")


def show(command, machine, results):
    print(json.dumps(make_record(command, machine, results), indent=1))
