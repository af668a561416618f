"""What setup.py needs to know to build with CUDA: the compiler, headers that a toolkit may lack, and for which GPUs.

LSTMFAST_CUDA=1 asks for CUDA and makes an error of whatever is missing, 0 builds without it; unset, CUDA is built if
torch is a CUDA build and nvcc of the same major version is found. No GPU is needed. CUDA_HOME (or CUDA_PATH) names the
toolkit, else nvcc is looked for in PATH and in /usr/local/cuda. TORCH_CUDA_ARCH_LIST names the compute capabilities as
for torch's own extensions ("8.0;9.0+PTX"); without it, those of the GPUs that are present, or else ALL_ARCHITECTURES.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ALL_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
OLDEST_CAPABILITY = (8, 0)

# cuda_runtime_api.h comes with nvcc. The others are included by torch's headers, and a toolkit without its libraries,
# as pip installs it, has them in the packages of torch's own dependencies.
LIBRARY_HEADERS = ("cublas_v2.h", "cublasLt.h", "cusparse.h", "cusolverDn.h")


class Unavailable(Exception):
    """CUDA cannot be built here; the message says why and what would help."""


@dataclass(frozen=True)
class CudaBuild:
    """nvcc, the include folders of CUDA and its libraries, the cuBLAS to link, architectures as CMake writes them."""

    nvcc: Path
    include_dirs: list[Path]
    cublas: Path
    architectures: list[str]

    def definitions(self) -> dict[str, str]:
        return {
            "LSTMFAST_CUDA": "ON",
            "CMAKE_CUDA_COMPILER": str(self.nvcc),
            "LSTMFAST_CUDA_ARCHITECTURES": ";".join(self.architectures),
            "CUDA_INCLUDE_DIRS": ";".join(map(str, self.include_dirs)),
            "CUBLAS_LIBRARY": str(self.cublas),
        }


def choose(environment: Mapping[str, str], torch: ModuleType) -> CudaBuild | None:
    """The build for this torch and environment, or None for one without CUDA. Raises Unavailable if CUDA is asked for
    and impossible, and ValueError if a variable cannot be understood."""
    wish = environment.get("LSTMFAST_CUDA", "auto").strip().lower()
    if wish not in ("0", "off", "1", "on", "auto"):
        raise ValueError(f"LSTMFAST_CUDA must be 1, 0 or auto, got '{wish}'")
    if wish in ("0", "off"):
        return None
    try:
        return _find(environment, torch)
    except Unavailable as reason:
        if wish in ("1", "on"):
            raise
        if torch.version.cuda is not None:
            print(f"lstmfast: building without CUDA kernels, although torch has CUDA: {reason}")
        return None


def _find(environment: Mapping[str, str], torch: ModuleType) -> CudaBuild:
    if torch.version.cuda is None:
        raise Unavailable(f"torch {torch.__version__} is not a CUDA build")
    nvcc = find_nvcc(environment)
    version = nvcc_version(nvcc)
    major = version.split(".")[0]
    if major != torch.version.cuda.split(".")[0]:
        raise Unavailable(
            f"torch was built with CUDA {torch.version.cuda}, but {nvcc} is of CUDA {version}: the major versions must "
            "be the same; CUDA_HOME can name another toolkit"
        )
    home = nvcc.parent.parent
    wheels = wheel_folders(Path(torch.__file__).resolve().parent.parent, major)
    return CudaBuild(
        nvcc,
        # The toolkit's first: its headers are the ones that nvcc sees.
        [home / "include", *library_include_dirs(home, [folder / "include" for folder in wheels])],
        find_cublas([*(folder / "lib" for folder in wheels), home / "lib64", home / "lib"], major),
        architectures(environment.get("TORCH_CUDA_ARCH_LIST") or present_capabilities(torch) or ALL_ARCHITECTURES),
    )


def find_nvcc(environment: Mapping[str, str]) -> Path:
    """The compiler itself, in the bin folder of its toolkit. Raises Unavailable."""
    named = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if named:
        nvcc = Path(named) / "bin" / "nvcc"
        if not nvcc.exists():
            raise Unavailable(f"CUDA_HOME (or CUDA_PATH) is {named}, where there is no bin/nvcc")
        return nvcc
    found = shutil.which("nvcc", path=environment.get("PATH")) or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if found is None:
        raise Unavailable("nvcc is not in PATH, nor in /usr/local/cuda/bin, and CUDA_HOME is not set")
    # What is in PATH may be a link or a script: nvcc itself tells the folder that its toolkit is in.
    steps = subprocess.run([found, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", steps.stdout + steps.stderr, re.MULTILINE)
    if steps.returncode != 0 or top is None:
        raise Unavailable(f"{found} --dryrun does not tell where its toolkit is: {steps.stderr.strip()[-300:]}")
    return Path(top[1].strip()).resolve() / "bin" / "nvcc"


def nvcc_version(nvcc: Path) -> str:
    """Such as "13.0". Raises Unavailable."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise Unavailable(f"{nvcc} --version names no release")
    return found[1]


def wheel_folders(site: Path, major: str) -> list[Path]:
    """Where the packages that a CUDA build of torch depends on keep headers and libraries: one folder since CUDA 13,
    before that one for each library."""
    folders = [site / "nvidia" / f"cu{major}", *(site / "nvidia" / name for name in ("cublas", "cusparse", "cusolver"))]
    return [folder for folder in folders if folder.is_dir()]


def library_include_dirs(home: Path, candidates: Iterable[Path]) -> list[Path]:
    """Folders with the headers that the toolkit lacks; none if it has them all. Raises Unavailable."""
    candidates = list(candidates)
    chosen: list[Path] = []
    for header in LIBRARY_HEADERS:
        if (home / "include" / header).exists():
            continue
        folder = next((c for c in candidates if (c / header).exists()), None)
        if folder is None:
            raise Unavailable(f"{header} is neither in {home / 'include'} nor in the packages that came with torch")
        if folder not in chosen:
            chosen.append(folder)
    return chosen


def find_cublas(folders: Iterable[Path], major: str) -> Path:
    """The library torch uses, by its full path: packages have no libcublas.so to link by name. Raises Unavailable."""
    for folder in folders:
        for name in (f"libcublas.so.{major}", "libcublas.so"):
            if (folder / name).exists():
                return folder / name
    raise Unavailable(f"libcublas.so.{major} is neither in the toolkit nor in the packages that came with torch")


def present_capabilities(torch: ModuleType) -> str | None:
    """Of this machine's GPUs, as TORCH_CUDA_ARCH_LIST writes them; None if there are none."""
    if not torch.cuda.is_available():
        return None
    found = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    usable = [f"{major}.{minor}" for major, minor in found if (major, minor) >= OLDEST_CAPABILITY]
    return ";".join(usable) or None


def architectures(text: str) -> list[str]:
    """CMake's names for a list such as "8.0;9.0a 12.0+PTX". Raises ValueError."""
    names = []
    for word in re.split(r"[;,\s]+", text.strip()):
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", word)
        if found is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: '{word}' is not a compute capability such as 9.0 or 9.0+PTX")
        major, minor, suffix, ptx = found.groups()
        if (int(major), int(minor)) < OLDEST_CAPABILITY:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: lstmfast needs compute capability 8.0 or newer, got {word}")
        name = f"{major}{minor}{suffix}" + ("" if ptx else "-real")
        if name not in names:
            names.append(name)
    return names
