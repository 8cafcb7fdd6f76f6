"""What every benchmark record says of itself; bench/record/README.md has the fields."""

import datetime
import json
import os
import platform
import subprocess


def make_record(command, machine, results):
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    return {
        "command": command,
        "commit": git.stdout.strip(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "results": results,
    }


def machine():
    """Processor, cores and system of this machine."""
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def peer():
    """llama.cpp as it was installed: what the compiler was told beside that it is for this machine stands in CFLAGS then and now."""
    import llama_cpp

    flags = os.environ.get("CFLAGS")
    return f"llama-cpp-python {llama_cpp.__version__}" + (f" (CFLAGS {flags})" if flags else "")


def show(command, machine, results):
    print(json.dumps(make_record(command, machine, results), indent=1))
