"""Makes .venv with the locked packages, torch and this project: `python3 scripts/install.py` (or `make install`).

It runs on the interpreter that .venv is made of, before anything is installed, so it uses the standard library alone
and keeps to syntax that an old Python can read, in order to tell it what is missing.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
LOG = VENV / "install.log"

OLDEST = (3, 11)
UV = "uv==0.13.9"
TORCH = "2.13.0"


def main() -> None:
    """Installs what is missing; the stamp is written last, so that an interrupted install is taken up again."""
    if sys.version_info < OLDEST:
        fail("OpenSloth needs Python 3.11 or newer; {} is {}.{}.".format(sys.executable, *sys.version_info[:2]))
    began = time.time()
    make_venv()
    print("Installing into .venv (once; about two minutes)", flush=True)
    step("packages of requirements.lock", install_locked)
    step("torch " + TORCH, install_torch)
    step("opensloth", install_project)
    STAMP.touch()
    print(f"Installed in {time.time() - began:.0f} s", flush=True)


def make_venv() -> None:
    """A virtual environment of this interpreter; one of another version is replaced."""
    if PYTHON.exists():
        code = f"import sys; print(sys.version_info[:2] >= {OLDEST})"
        if subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True).stdout.strip() == "True":
            return
        shutil.rmtree(VENV)
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        fail("No virtual environment could be made (on Debian and Ubuntu: apt install python3-venv).\n" + done.stdout)


def install_locked() -> None:
    """Every version and hash as locked, by uv (ten times as fast), or by pip where uv cannot be had."""
    locked = ["--no-deps", "--require-hashes", "-r", "requirements.lock"]
    if call(pip("install", UV)) == 0 and call(uv("install", *locked)) == 0:
        return
    if call(pip("install", *locked)) != 0:
        fail_with_log("The locked packages could not be installed.")


def install_torch() -> None:
    """torch with CUDA where there is an NVIDIA GPU, else its CPU build (a tenth of the size) if it can be had."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    there = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True).stdout.strip()
    if there.split("+")[0] == TORCH:
        return
    plain = "torch==" + TORCH
    attempts = [pip("install", plain)]
    if sys.platform.startswith("linux") and not has_gpu():
        cpu = [pip("install", "--no-deps", plain + "+cpu"), uv("install", "--torch-backend=cpu", "--no-deps", plain)]
        attempts = cpu + attempts
    for command in attempts:
        if call(command) == 0:
            return
    fail_with_log("torch could not be installed.")


def install_project() -> None:
    """This tree, editable: what is changed here is what runs."""
    # The lock brings hatchling, so that nothing has to be fetched to build.
    project = ["--no-deps", "--no-build-isolation", "--editable", "."]
    if call(uv("install", *project)) != 0 and call(pip("install", *project)) != 0:
        fail_with_log("OpenSloth itself could not be installed.")


def has_gpu() -> bool:
    """Whether the NVIDIA driver knows a GPU."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def pip(*arguments: str) -> list:
    """A pip command in .venv."""
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]


def uv(verb: str, *arguments: str) -> list:
    """A uv command for .venv."""
    return [str(VENV / "bin" / "uv"), "pip", verb, "--quiet", "--python", str(PYTHON), *arguments]


def call(command: list) -> int:
    """The exit code of a command whose output goes to the log."""
    with LOG.open("a") as log:
        log.write("\n$ " + " ".join(command) + "\n")
        log.flush()
        try:
            return subprocess.run(command, cwd=str(ROOT), stdout=log, stderr=subprocess.STDOUT).returncode
        except OSError as problem:
            log.write(str(problem) + "\n")
            return 127


def step(name: str, work: "Callable[[], None]") -> None:  # noqa: F821
    """Does one part: says which before, and after it how long it took."""
    began = time.time()
    print(f"  {name:<30}", end="", flush=True)
    try:
        work()
    except SystemExit:
        print(flush=True)
        raise
    print(f" {time.time() - began:>4.0f} s", flush=True)


def fail(message: str) -> None:
    """Ends with a message for people."""
    sys.exit(message + "\nGive another interpreter with: make install PYTHON=python3.12")


def fail_with_log(message: str) -> None:
    """Ends with a message and the end of the log."""
    tail = LOG.read_text(errors="replace").splitlines()[-15:]
    sys.exit("\n".join([message, *tail, "The whole log: " + os.path.relpath(str(LOG), str(ROOT))]))


if __name__ == "__main__":
    main()
