"""What every benchmark record says of itself; bench/record/README.md has the fields."""

import datetime
import json
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


def show(command, machine, results):
    print(json.dumps(make_record(command, machine, results), indent=1))
