"""Builds llama.cpp's command for plain generation from the source that llama-cpp-python brings (`cargo xtask bench start` runs it).

    python tools/build_llama_completion.py FOLDER

Leaves it as FOLDER/build/bin/llama-completion, for this machine's processor; CFLAGS and CXXFLAGS count, as for the library. Does
nothing when it is there in the version that tools/bench_requirements.txt pins. Needs pip, a C++ compiler and the package cmake.
"""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("bench_requirements.txt")
# Neither a server nor anything that fetches models.
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
           "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_TOOLS=ON"]


def main():
    folder = Path(sys.argv[1])
    wanted = re.search(r"^llama-cpp-python==\S+", REQUIREMENTS.read_text(), re.MULTILINE)[0]
    stamp = folder / "built.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "-d", folder]
    subprocess.run([*pip, wanted], check=True, stdout=sys.stderr)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    source = next(folder.glob("*/vendor/llama.cpp"))
    cmake = Path(sys.executable).with_name("cmake")
    build = folder / "build"
    subprocess.run([cmake, "-S", source, "-B", build, *OPTIONS], check=True, stdout=sys.stderr)
    subprocess.run([cmake, "--build", build, "--target", "llama-completion", "--parallel"], check=True, stdout=sys.stderr)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
