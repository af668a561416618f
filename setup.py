"""Builds lstmfast._C: hands the directories of torch and CUDA to CMake, and does nothing else. See CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import cuda_build  # noqa: E402  beside this file, which build front ends leave out of the path

OLDEST_TORCH = (2, 11)


def find_tool(name):
    """The path of a program that may lie beside this Python, outside of PATH; None if there is none."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def build_requirements():
    """Directories and versions of what the build needs, or a SystemExit that names what is missing."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit(
            "lstmfast is built against the torch that it will run with: install torch first, then run "
            "`pip install --no-build-isolation .` (with build isolation pip hides the installed torch)."
        )
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        sys.exit(f"lstmfast needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, found {torch.__version__}.")
    try:
        import pybind11
    except ImportError:
        sys.exit("lstmfast needs pybind11 to build: `pip install pybind11`.")
    ninja = find_tool("ninja")
    if ninja is None:
        sys.exit("lstmfast needs ninja to build: `pip install ninja`.")
    if find_tool("cmake") is None:
        sys.exit("lstmfast needs cmake 3.20 or newer to build: `pip install cmake` or your system's package.")
    try:
        cuda = cuda_build.choose(os.environ, torch)
    except (cuda_build.Unavailable, ValueError) as reason:
        sys.exit(f"lstmfast cannot be built with CUDA: {reason}")
    return {
        "CMAKE_MAKE_PROGRAM": ninja,
        "TORCH_INCLUDE_DIRS": ";".join(cpp_extension.include_paths()),
        "TORCH_LIBRARY_DIRS": ";".join(cpp_extension.library_paths()),
        "TORCH_VERSION": torch.__version__,
        "TORCH_CXX11_ABI": int(torch.compiled_with_cxx11_abi()),
        "PYBIND11_INCLUDE_DIR": pybind11.get_include(),
        "PYTHON_INCLUDE_DIR": sysconfig.get_paths()["include"],
        "PYTHON_MODULE_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        **({"LSTMFAST_CUDA": "OFF"} if cuda is None else cuda.definitions()),
    }


class CMakeBuild(build_ext):
    """Runs cmake and ninja, then puts the module where setuptools expects it."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # A build folder of this project's own, kept between builds: ninja then compiles only what changed. Builds for
        # another Python or torch name another, lest each undoes the other's.
        build = Path(os.environ.get("LSTMFAST_BUILD_DIR") or ROOT / "build" / "python").resolve()
        build.mkdir(parents=True, exist_ok=True)
        definitions = [f"-D{name}={value}" for name, value in build_requirements().items()]
        extra = os.environ.get("LSTMFAST_CMAKE_ARGS", "").split()
        cmake = find_tool("cmake")
        subprocess.run([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *definitions, *extra], check=True)
        subprocess.run([cmake, "--build", str(build), "--target", "_C"], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # A rename, since a running process may have the old module mapped.
        fresh = target.with_suffix(".new")
        shutil.copy2(build / target.name, fresh)
        fresh.replace(target)


setup(ext_modules=[Extension("lstmfast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
